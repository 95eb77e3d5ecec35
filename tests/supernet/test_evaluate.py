"""An architecture is extracted, recalibrated and scored, also in parts and where memory is short."""

import pytest
import torch
from torch import Tensor

from nasdeploy.core.plan import Plan
from nasdeploy.nn.functional import rescale
from nasdeploy.nn.network import Network
from nasdeploy.supernet.evaluate import Evaluator, calibrate
from nasdeploy.supernet.supernet import Supernet, extract, input_side
from nasdeploy.tasks.classification import Classification
from nasdeploy.tasks.image_data import score_of
from nasdeploy.tasks.task import Batch, Inputs
from tests.nn.reference import randomise
from tests.small_spaces import two_stages


def test_an_architecture_is_extracted_recalibrated_and_scored() -> None:
    torch.manual_seed(0)
    supernet = Supernet(two_stages())
    randomise(supernet)
    calibration = [torch.randn(8, 3, 8, 8) for _ in range(2)]
    images: list[Batch] = [((torch.randn(8, 3, 8, 8),), torch.randint(3, (8,))) for _ in range(3)]
    passes: list[int] = []

    def batches(plan: Plan, first: int, end: int | None) -> list[Batch]:
        passes.append(1)
        return images

    evaluator = Evaluator(supernet, Classification(), lambda plan: [(batch,) for batch in calibration], batches)
    for arch in (supernet.space.smallest(), supernet.space.largest()):
        network = calibrate(extract(supernet, arch), calibration)
        side = input_side(network.plan)
        expected = score_of(lambda x, network=network, side=side: network(rescale(x[0], side)), images)
        found = evaluator(arch)
        assert (found.value, found.samples) == (expected.value, 24)
        assert found.loss == pytest.approx(expected.loss, rel=1e-4)
    assert len(passes) == 2


class Divided:
    """An evaluator of the tiny space whose images can be divided; `calibrations` counts passes."""

    def __init__(self) -> None:
        torch.manual_seed(0)
        supernet = Supernet(two_stages())
        randomise(supernet)
        self.space, self.calibrations = supernet.space, 0
        self._calibration = [torch.randn(8, 3, 8, 8) for _ in range(2)]
        self._images, self._labels = torch.randn(24, 3, 8, 8), torch.randint(3, (24,))
        self.evaluator = Evaluator(supernet, Classification(), self._calibrate, self._batches, 24)

    def _calibrate(self, plan: Plan) -> list[Inputs]:
        self.calibrations += 1
        return [(batch,) for batch in self._calibration]

    def _batches(self, plan: Plan, first: int, end: int | None) -> list[Batch]:
        return [((self._images[first:end],), self._labels[first:end])]


def test_parts_of_the_images_add_up_and_calibrate_once() -> None:
    divided = Divided()
    arch = divided.space.largest()
    parts = [divided.evaluator(arch, 0, 6), divided.evaluator(arch, 6, None)]
    assert divided.calibrations == 1
    whole = divided.evaluator(arch)
    assert divided.calibrations == 2
    assert sum(part.value * part.samples for part in parts) == pytest.approx(24 * whole.value)
    total = sum(part.loss * part.samples for part in parts)
    assert total == pytest.approx(24 * whole.loss, rel=1e-5)


def test_a_batch_that_does_not_fit_into_memory_is_halved(monkeypatch: pytest.MonkeyPatch) -> None:
    divided = Divided()
    arch = divided.space.smallest()
    expected, run, sizes = divided.evaluator(arch), Network.run, []

    def small(self: Network, part: str, x: Tensor) -> tuple[Tensor, ...]:
        sizes.append(len(x))
        if len(x) > 8:
            raise torch.OutOfMemoryError("out of memory")
        return run(self, part, x)

    monkeypatch.setattr(Network, "run", small)
    for _ in range(2):
        found = divided.evaluator(arch)
        assert (found.value, found.samples) == (expected.value, 24)
        assert found.loss == pytest.approx(expected.loss, rel=1e-5)
    assert sizes == [24, 12, 6, 6, 6, 6, 6, 6, 6, 6]
