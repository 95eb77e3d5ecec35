"""An architecture is extracted, recalibrated and scored, also in parts and where memory is short."""

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from nasdeploy.core.arch import Arch
from nasdeploy.core.plan import Plan
from nasdeploy.core.score import Criterion
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
    weighted = calibrate(extract(supernet, supernet.space.smallest()), calibration, average="image-weighted")
    averaging = evaluator.averaging("image-weighted")
    for same in (averaging, averaging.having({}), averaging.ranking_by("loss")):
        assert_equal_statistics(same.network(supernet.space.smallest()), weighted)
    with pytest.raises(AssertionError):
        assert_equal_statistics(evaluator.network(supernet.space.smallest()), weighted)


def assert_equal_statistics(found: Network, expected: Network) -> None:
    for buffer, other in zip(found.buffers(), expected.buffers(), strict=True):
        torch.testing.assert_close(buffer, other, rtol=1e-5, atol=1e-6)


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


def with_original() -> tuple[Divided, Arch]:
    """An evaluator whose largest network has weights of its own."""
    divided = Divided()
    supernet, largest = Supernet(divided.space), divided.space.largest()
    randomise(supernet, 1)
    divided.evaluator = divided.evaluator.having({largest: extract(supernet, largest)})
    return divided, largest


@pytest.mark.parametrize("criterion", ["divergence", "both"])
def test_outputs_are_compared_with_the_originals_in_the_pass_that_scores(criterion: Criterion) -> None:
    divided, largest = with_original()
    plain, smallest = divided.evaluator, divided.space.smallest()
    compared = plain.ranking_by(criterion)
    found, expected = compared(smallest), plain(smallest)
    p, q = (
        torch.cat([logits for _, logits in plain.outputs(plain.network(arch))]).log_softmax(1)
        for arch in (largest, smallest)
    )
    assert found.divergence == pytest.approx(float(F.kl_div(q, p, log_target=True, reduction="batchmean")), rel=1e-5)
    assert (found.value, found.loss, found.error) == (expected.value, expected.loss, expected.error)
    assert found.penalty == pytest.approx(found.divergence + (expected.loss if criterion == "both" else 0.0))
    assert compared(largest).divergence == pytest.approx(0.0, abs=1e-6)
    assert (expected.divergence, expected.penalty) == (None, None)


def test_the_originals_outputs_are_computed_once_for_each_part() -> None:
    divided, _ = with_original()
    compared, arch = divided.evaluator.ranking_by("both"), divided.space.smallest()
    parts = [compared(arch, 0, 6), compared(arch, 6, None)]
    divided.calibrations = 0
    again = [compared(arch, 0, 6), compared(arch, 6, None)]
    assert divided.calibrations == 1
    assert again == parts
    assert sum(part.samples * (part.divergence or 0.0) for part in parts) == pytest.approx(
        24 * (compared(arch).divergence or 0.0), rel=1e-5
    )


def test_comparing_takes_one_original() -> None:
    evaluator = Divided().evaluator
    assert evaluator.ranking_by("loss")(evaluator.space.smallest()).criterion == "loss"
    with pytest.raises(ValueError, match="ranking by both takes one original, and there are 0"):
        evaluator.ranking_by("both")
