"""Whether a model file computes what its network computes, at several batch sizes."""

from nasdeploy.errors import one_line
from nasdeploy.export.difference import Disagreement, Yardstick
from nasdeploy.export.figures import Agreement
from nasdeploy.export.reference import SAMPLE, Reference
from nasdeploy.runtimes.runtime import Array, Session

BATCHES = (1, 2, 7, SAMPLE)


def compare_batches(session: Session, reference: Reference, yardstick: Yardstick) -> Agreement:
    """Logits of the file beside PyTorch's at several batch sizes, on images from all over the test set.

    Raises `Disagreement` if they differ by more than the tolerance.
    """
    inputs = reference.sample()
    sizes = sorted({min(size, len(inputs)) for size in BATCHES})
    largest = 0.0
    for size in sizes:
        rows = yardstick.rows(reference.logits(inputs[:size]), logits_of(session, inputs[:size].numpy()))
        largest = max(largest, yardstick.within(rows, f"logits in a batch of {size} differ"))
    return Agreement(batches=tuple(sizes), difference=largest, tolerance=yardstick.tolerance)


def logits_of(session: Session, inputs: Array) -> Array:
    """The file's logits `[N, classes]` of images; raises `Disagreement` if the runtime does not get that far."""
    (name,) = session.inputs
    try:
        (logits,) = session.run({name: inputs})
    # Every runtime has errors of its own.
    except Exception as error:
        raise Disagreement(f"a batch of {len(inputs)} stops the runtime: {one_line(error)}") from None
    return logits
