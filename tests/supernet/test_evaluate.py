"""Scores against NumPy, and their standard error against a binomial's."""

from math import isnan, sqrt

import numpy as np
import pytest
import torch
from torch import Tensor

from nasdeploy.core.score import proportion
from nasdeploy.nn.functional import rescale
from nasdeploy.nn.network import Network
from nasdeploy.supernet.evaluate import Evaluator, calibrate, score
from nasdeploy.supernet.supernet import Supernet, extract, input_side
from nasdeploy.tasks.metrics import TOP1
from tests.nn.reference import randomise
from tests.small_spaces import two_stages


@pytest.mark.parametrize(("right", "images"), [(0, 10), (1, 10), (5, 10), (10, 10), (970, 1000)])
def test_standard_error_of_top1(right: int, images: int) -> None:
    share = (right + 1) / (images + 2)
    error = proportion(TOP1, right, images, 0.0).error
    assert error == pytest.approx(sqrt(share * (1 - share) / images))
    assert error > 0


def test_the_standard_error_is_the_spread_of_repeated_measurements() -> None:
    shares = np.random.default_rng(0).binomial(400, 0.9, size=20_000) / 400
    assert proportion(TOP1, 360, 400, 0.0).error == pytest.approx(shares.std(), rel=0.03)


def test_top1_and_cross_entropy_count_images_not_batches() -> None:
    rng = np.random.default_rng(0)
    logits, labels = rng.normal(size=(10, 4)), rng.integers(4, size=10)
    batches = [(torch.tensor(logits[a:b]).float(), torch.tensor(labels[a:b])) for a, b in ((0, 4), (4, 8), (8, 10))]
    found = score(lambda images: images, batches)
    probabilities = np.exp(logits) / np.exp(logits).sum(1, keepdims=True)
    assert found.samples == 10
    assert found.value == (logits.argmax(1) == labels).mean()
    assert found.loss == pytest.approx(-np.log(probabilities[range(10), labels]).mean(), rel=1e-5)


def test_logits_that_are_no_numbers_count_as_wrong() -> None:
    logits = torch.tensor([[1.0, 0.0], [float("nan"), 0.0], [float("inf"), 0.0], [0.0, 1.0]])
    found = score(lambda images: images, [(logits, torch.tensor([0, 0, 0, 0]))])
    assert found.value == 0.25
    assert isnan(found.loss)


def test_no_images_are_refused() -> None:
    with pytest.raises(ValueError, match="no images"):
        score(lambda images: images, [])


def test_an_architecture_is_extracted_recalibrated_and_scored() -> None:
    torch.manual_seed(0)
    supernet = Supernet(two_stages())
    randomise(supernet)
    calibration = [torch.randn(8, 3, 8, 8) for _ in range(2)]
    images = [(torch.randn(8, 3, 8, 8), torch.randint(3, (8,))) for _ in range(3)]
    passes: list[int] = []

    def batches(side: int, first: int, end: int | None) -> list[tuple[Tensor, Tensor]]:
        passes.append(1)
        return images

    evaluator = Evaluator(supernet, lambda side: calibration, batches)
    for arch in (supernet.space.smallest(), supernet.space.largest()):
        network = calibrate(extract(supernet, arch), calibration)
        side = input_side(network.plan)
        expected = score(lambda x, network=network, side=side: network(rescale(x, side)), images)
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
        self.evaluator = Evaluator(supernet, self._calibrate, self._batches, 24)

    def _calibrate(self, side: int) -> list[Tensor]:
        self.calibrations += 1
        return self._calibration

    def _batches(self, side: int, first: int, end: int | None) -> list[tuple[Tensor, Tensor]]:
        return [(self._images[first:end], self._labels[first:end])]


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
    expected, forward, sizes = divided.evaluator(arch), Network.forward, []

    def small(self: Network, x: Tensor) -> Tensor:
        sizes.append(len(x))
        if len(x) > 8:
            raise torch.OutOfMemoryError("out of memory")
        return forward(self, x)

    monkeypatch.setattr(Network, "forward", small)
    for _ in range(2):
        found = divided.evaluator(arch)
        assert (found.value, found.samples) == (expected.value, 24)
        assert found.loss == pytest.approx(expected.loss, rel=1e-5)
    assert sizes == [24, 12, 6, 6, 6, 6, 6, 6, 6, 6]
