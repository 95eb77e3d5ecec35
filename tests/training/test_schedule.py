"""Learning rate by iteration: AlphaNet's (appendix B), BigNAS's (section 3.3), and what recipes may say."""

import math
from fractions import Fraction
from math import ceil, floor

import pytest

from nasdeploy.spaces import load_space
from nasdeploy.spaces.mobilenet import drop_rates
from nasdeploy.training.optimizer import learning_rate
from nasdeploy.training.settings import TrainSettings
from tests.families.space import Writer
from tests.small_spaces import grown

STEPS = 10


def settings(**changes: object) -> TrainSettings:
    return TrainSettings.model_validate({"epochs": 20, "warmup_epochs": 2.5, "batch_size": 64, **changes})


@pytest.mark.parametrize("step", [0, 1, 12, 24, 25, 26, 100, 150, 199])
def test_the_rate_is_a_warm_up_times_a_cosine(step: int) -> None:
    base, total, warmup = 0.1 * 64 / 256, 20 * STEPS, 2.5 * STEPS
    expected = base * min(1, 0.001 + 0.999 * step / warmup) * (1 + math.cos(math.pi * step / total)) / 2
    assert learning_rate(settings(), step, STEPS) == pytest.approx(expected, rel=1e-12)


def test_milestones_by_hand() -> None:
    assert learning_rate(settings(), 0, STEPS) == pytest.approx(0.025e-3)
    assert learning_rate(settings(), 100, STEPS) == pytest.approx(0.0125)
    assert learning_rate(settings(), 200, STEPS) == pytest.approx(0, abs=1e-15)
    assert learning_rate(settings(batch_size=2048), 100, STEPS) == pytest.approx(0.4)


def test_without_warm_up_the_first_rate_is_the_base() -> None:
    assert learning_rate(settings(warmup_epochs=0), 0, STEPS) == pytest.approx(0.025)


def test_the_rate_rises_through_the_warm_up_and_falls_afterwards() -> None:
    rates = [learning_rate(settings(), step, STEPS) for step in range(201)]
    assert rates[:25] == sorted(rates[:25])
    assert rates[25:] == sorted(rates[25:], reverse=True)


@pytest.mark.parametrize("epoch", [0, 2.3, 2.4, 4.7, 4.8, 100, 236.3, 300])
def test_bignas_decays_by_steps_down_to_a_twentieth(epoch: float) -> None:
    bignas = settings(
        epochs=360,
        warmup_epochs=0,
        learning_rate=0.256,
        reference_batch=4096,
        batch_size=2048,
        decay="step",
        lowest=0.05,
    )
    expected = 0.128 * max(0.05, 0.97 ** int(epoch / 2.4))
    assert learning_rate(bignas, round(epoch * STEPS), STEPS) == pytest.approx(expected, rel=1e-12)


@pytest.mark.parametrize("steps_per_epoch", [5, 10, 1251])
@pytest.mark.parametrize("step_epochs", [0.1, 0.2, 0.4, 2.4])
def test_a_step_of_the_decay_falls_on_its_iteration(steps_per_epoch: int, step_epochs: float) -> None:
    decaying = settings(warmup_epochs=0, decay="step", step_epochs=step_epochs, step_factor=0.5)
    for number in range(1, 20):
        first = ceil(Fraction(str(step_epochs)) * number * steps_per_epoch)
        steps = [learning_rate(decaying, step, steps_per_epoch) for step in (first - 1, first)]
        # Several steps of the decay may fall between two iterations.
        passed = floor(first / (Fraction(str(step_epochs)) * steps_per_epoch))
        assert steps[1] == pytest.approx(0.025 * 0.5**passed)
        assert steps[0] > steps[1]


def test_a_cosine_may_end_above_zero() -> None:
    rates = [learning_rate(settings(lowest=0.1), step, STEPS) for step in range(201)]
    assert rates[-1] == pytest.approx(0.0025)
    assert min(rates[25:]) == rates[-1]
    assert rates[100] == learning_rate(settings(), 100, STEPS)


@pytest.mark.parametrize(("start", "first"), [(0.0, 0.0), (1 / 32, 1 / 32), (1.0, 1.0)])
def test_warm_up_begins_where_the_recipe_says(start: float, first: float) -> None:
    assert learning_rate(settings(warmup_start=start), 0, STEPS) == pytest.approx(0.025 * first)
    assert learning_rate(settings(warmup_start=start), 25, STEPS) == learning_rate(settings(), 25, STEPS)


def test_the_rate_grows_with_the_batch_and_falls_with_the_one_that_it_is_for() -> None:
    ofa = settings(learning_rate=2.6, reference_batch=2048, batch_size=512, warmup_epochs=0)
    assert learning_rate(ofa, 0, STEPS) == pytest.approx(0.65)


def test_drop_rates_of_alphanet_grow_over_the_last_two_stages() -> None:
    space = load_space("alphanet")
    blocks = [slot.name for slot in space.slots if slot.name not in ("stem", "head")]
    assert len(blocks) == 37
    late = {name: 0.2 * index / 37 for index, name in enumerate(blocks) if name.startswith(("stage6", "stage7"))}
    assert len(late) == 8 + 2
    assert drop_rates(space, dropout=0.3, drop_connect=0.2) == pytest.approx({**late, "head": 0.3})
    assert max(late.values()) == late["stage7_block2"] == pytest.approx(0.2 * 36 / 37)


def test_grown_spaces_are_regularised_in_their_last_two_stages() -> None:
    space = grown()
    blocks = [slot.name for slot in space.slots if slot.name not in ("stem", "head")]
    late = {name: 0.2 * index / 6 for index, name in enumerate(blocks) if name.startswith(("stage2", "stage3"))}
    assert (len(blocks), len(late)) == (6, 5)
    assert drop_rates(space, dropout=0.3, drop_connect=0.2) == pytest.approx({**late, "head": 0.3})
    assert drop_rates(Writer(), dropout=0.3, drop_connect=0.2) == {}
