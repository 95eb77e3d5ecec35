"""Whether a model file computes what its network computes, at several batch sizes."""

import numpy as np

from nasdeploy.exporting.difference import Yardstick, logits_of
from nasdeploy.exporting.figures import Agreement
from nasdeploy.exporting.reference import SAMPLE, Reference
from nasdeploy.runtimes.runtime import Session

BATCHES = (1, 2, 7, SAMPLE, SAMPLE + 1)
"""Some runtimes choose another way of computing from a power of 2 on."""


def compare_batches(
    session: Session, reference: Reference, yardstick: Yardstick, largest_batch: int | None = None
) -> Agreement:
    """Logits of the file beside PyTorch's at several batch sizes, on images from all over the test set.

    The first size is tried again after the others. Raises `Disagreement` if they differ by more than the tolerance.
    """
    inputs = reference.sample()
    expected, images = reference.logits(inputs), inputs.numpy()
    sizes = tuple(size for size in BATCHES if largest_batch is None or size <= largest_batch)
    largest = 0.0
    for size in (*sizes, sizes[0]):
        # There may be fewer images.
        places = np.arange(size) % len(images)
        rows = yardstick.rows(expected[places], logits_of(session, images[places]))
        largest = max(largest, yardstick.within(rows, f"logits in a batch of {size} differ"))
    return Agreement(batches=sizes, difference=largest, tolerance=yardstick.tolerance)
