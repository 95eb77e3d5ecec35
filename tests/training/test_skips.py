"""What is skipped is counted and told; what fp16 skips to find its range is no fault."""

import pytest
import torch
from torch.amp import GradScaler

from nasdeploy.cli.wording import typed
from nasdeploy.core.errors import UserError
from nasdeploy.training.optimizer import gradient_scaler
from nasdeploy.training.sandwich import LOSS_SCALE, Cause, Losses, Skips, StepGuard, skipped_text
from nasdeploy.training.settings import TrainSettings

FINE, BROKEN = Losses({"largest": 1.0, "smallest": 2.0}), Losses({"largest": 1.0, "smallest": float("nan")})
INF = float("inf")
SLOW = Cause("gradient", "lower it")


def scaler(scale: float = 65536.0) -> GradScaler:
    made = gradient_scaler(TrainSettings(autocast="fp16"), torch.device("cpu"))
    made.load_state_dict({**made.state_dict(), "scale": scale})
    return made


def guard(total: int, most_in_a_row: int = 10, scale: float | None = None) -> StepGuard:
    off = gradient_scaler(TrainSettings(), torch.device("cpu"))
    return StepGuard(total, most_in_a_row, off if scale is None else scaler(scale))


def made(of: StepGuard, skips: Skips, losses: Losses = FINE, norm: float = 1.0, epoch: int = 1) -> bool:
    return of.makes(losses, norm, epoch, skips, lambda: SLOW)


def test_steps_are_made_and_others_counted_by_epoch_and_reason() -> None:
    skips, of = Skips(), guard(100)
    assert made(of, skips)
    assert not made(of, skips, norm=INF)
    assert not made(of, skips, BROKEN, epoch=2)
    assert of.in_a_row == 2
    assert made(of, skips, epoch=2) and of.in_a_row == 0
    assert (skips.of_epoch(1), skips.of_epoch(2), skips.of_epoch(3)) == ({"gradient": 1}, {"gradient": 1}, {})
    assert Skips.from_plain(skips.to_plain()) == skips
    assert skipped_text(skips.to_plain(), 100) == "2 of 100 steps were skipped: 2 in epochs 1 to 2 (gradient)"
    assert skipped_text([], 100) is None


@pytest.mark.parametrize(("total", "most"), [(10, 3), (300, 3), (1000, 10), (250_000, 2500)])
def test_as_many_as_may_be_in_any_order(total: int, most: int) -> None:
    skips, of = Skips(), guard(total)
    for _ in range(most):
        assert not made(of, skips, norm=INF)
        assert made(of, skips)
    with pytest.raises(UserError) as caught:
        made(of, skips, norm=INF, epoch=7)
    assert typed(caught.value) == (
        f"training diverged in epoch 7: {most + 1} of {total} steps were skipped: {most + 1} in epochs 1 to 7 "
        f"(gradient), and at most {most} may be; lower it"
    )


def test_in_a_row_fewer_may_be() -> None:
    skips, of = Skips(), guard(10_000, most_in_a_row=1)
    assert not made(of, skips, BROKEN)
    with pytest.raises(UserError, match="epoch 1: not finite for 2 steps in a row: gradient; lower it"):
        made(of, skips, BROKEN)


def test_the_range_of_a_loss_scale_is_no_fault_and_a_loss_that_is_no_number_is_none_of_its_doing() -> None:
    skips, of = Skips(), guard(20, scale=65536.0)
    for _ in range(16):
        assert not made(of, skips, norm=INF)
    assert (skips.faults, of.in_a_row, skips.of_epoch(1)) == (0, 0, {LOSS_SCALE: 16})
    assert not made(of, skips, BROKEN, norm=float("nan"))
    assert (skips.faults, of.in_a_row) == (1, 1)
    low = guard(20, scale=1.0)
    assert not made(low, skips, norm=INF)
    assert skips.faults == 2
    assert skipped_text(skips.to_plain(), 20) == (
        f"18 of 20 steps were skipped: 16 in epoch 1 ({LOSS_SCALE}), 2 in epoch 1 (gradient)"
    )
