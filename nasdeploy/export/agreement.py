"""Whether a model file computes what its network computes, at several batch sizes."""

from nasdeploy.export.difference import Yardstick, logits_of
from nasdeploy.export.figures import Agreement
from nasdeploy.export.reference import SAMPLE, Reference
from nasdeploy.runtimes.runtime import Session

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
