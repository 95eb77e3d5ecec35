"""What a model file has to agree with: its network in PyTorch, and the test images."""

from collections.abc import Iterable, Iterator
from copy import deepcopy
from dataclasses import dataclass, field
from functools import cached_property

import numpy as np
import torch
from torch import Tensor

from nasdeploy.data.batches import evaluation_batches
from nasdeploy.data.images import Images
from nasdeploy.data.preprocessing import Preprocessing
from nasdeploy.data.settings import DataSettings
from nasdeploy.data.transforms import prepare
from nasdeploy.exporting.difference import Disagreement, difference, within
from nasdeploy.exporting.figures import TOLERANCE
from nasdeploy.nn.network import Network
from nasdeploy.nn.rescale import rescale
from nasdeploy.runtimes.runtime import Array

SAMPLE = 32
"""Test images that are looked at first."""
_TEST_BATCH = 32


@dataclass(frozen=True)
class TestBatch:
    """Some test images, and what PyTorch makes of them."""

    inputs: Array
    """`[N, 3, side, side]`, prepared as the manifest says."""
    labels: Array
    logits: Array


@dataclass(frozen=True)
class Reference:
    """A network in evaluation mode on the CPU, and test images."""

    network: Network
    preprocessing: Preprocessing
    images: Images
    data: DataSettings
    unreadable: int = 0
    """Test images that are not among them, because they cannot be read."""
    _known: list[tuple[Array, Array]] = field(default_factory=list, init=False, repr=False, compare=False)
    """Labels and logits of the test set, once they are known: several files are compared with them."""

    @cached_property
    def _fast(self) -> Network:
        """In channels-last layout, in which it takes about 0.7 of the time on a CPU; exporters want the other one."""
        return deepcopy(self.network).to(memory_format=torch.channels_last)

    def prepared(self, indices: Iterable[int]) -> Tensor:
        """The images at `indices`, read anew and prepared as the manifest says."""
        return prepare(self.preprocessing, [self.images.image(index) for index in indices])

    def logits(self, inputs: Tensor) -> Array:
        """PyTorch's logits `[N, classes]`; raises `Disagreement` if they are no numbers."""
        with torch.no_grad():
            logits: Array = self._fast(inputs.to(memory_format=torch.channels_last)).numpy()
        if not np.isfinite(logits).all():
            raise Disagreement("PyTorch's own logits are not finite: recalibrate, or train further")
        return logits

    def sample(self) -> Tensor:
        """Images from all over the test set, at most `SAMPLE`."""
        count = len(self.images)
        indices = np.linspace(0, count - 1, min(count, SAMPLE)).round().astype(int)
        return self.prepared(indices.tolist())

    def test_set(self) -> Iterator[TestBatch]:
        """All test images in order, read from their files by the manifest's preprocessing.

        PyTorch sees them as evaluation reads them. Raises `Disagreement` if the two differ.
        """
        places = [range(at, min(at + _TEST_BATCH, len(self.images))) for at in range(0, len(self.images), _TEST_BATCH)]
        if self._known:
            for place, (labels, logits) in zip(places, self._known, strict=True):
                yield TestBatch(self.prepared(place).numpy(), labels, logits)
            return
        found = []
        batches = evaluation_batches(self.images, self.data, _TEST_BATCH)
        for place, (pixels, truth) in zip(places, batches, strict=True):
            evaluated, inputs = rescale(pixels, self.preprocessing.resolution), self.prepared(place).numpy()
            within(
                difference(evaluated.numpy(), inputs), TOLERANCE, "inputs made by the manifest's preprocessing differ"
            )
            found.append((truth.numpy(), self.logits(evaluated)))
            yield TestBatch(inputs, *found[-1])
        self._known.extend(found)
