"""Classes of unequal size made to count equally: by how often images are drawn, or by weights of the loss."""

import numpy as np
import numpy.typing as npt

from nasdeploy.data.images import Indices

Weights = npt.NDArray[np.float64]


def balanced_draws(labels: Indices, rng: np.random.Generator) -> Indices:
    """As many indices as there are `labels` `[N]`, with replacement, in random order: each class is as likely."""
    counts = np.bincount(labels)
    chances = 1.0 / (np.count_nonzero(counts) * counts[labels])
    drawn: Indices = rng.choice(len(labels), size=len(labels), p=chances).astype(np.int64)
    return drawn


def class_weights(labels: Indices, classes: int) -> Weights:
    """Weights `[classes]` with which the images of each class weigh as much together; 0 for a class without any.

    They are inversely proportional to the number of images, and their mean over all images is 1.
    """
    counts = np.bincount(labels, minlength=classes)
    weights = np.zeros(classes)
    np.divide(len(labels) / np.count_nonzero(counts), counts, out=weights, where=counts > 0)
    return weights
