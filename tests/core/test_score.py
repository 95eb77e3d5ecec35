"""Which of two networks is better, in either direction, and what parts of the samples say about all."""

from dataclasses import replace
from fractions import Fraction
from math import exp, inf, nan, sqrt

import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from nasdeploy.core.score import Criterion, Metric, Score, mean_score, proportion, together

ACCURACY = Metric("accuracy", "accuracy", True, 1.0, "proportion", scale=100, unit="%", samples="images")
ERROR = Metric("rmse", "root mean squared error", False, 0.0, "whole", unit="m", decimals=1)
DISTANCE = Metric("mae", "mean absolute error", False, 0.0, "mean")


def score(metric: Metric, value: float, loss: float = 1.0, error: float = 0.1) -> Score:
    return Score(metric, value, error, 10, loss)


def test_the_better_network_has_the_larger_rank_in_either_direction() -> None:
    assert max([score(ACCURACY, 0.7), score(ACCURACY, 0.9)], key=lambda s: s.rank).value == 0.9
    assert max([score(ERROR, 0.7), score(ERROR, 0.9)], key=lambda s: s.rank).value == 0.7


@pytest.mark.parametrize("metric", [ACCURACY, ERROR])
def test_among_equals_the_smaller_loss_is_better_and_no_number_is_worst(metric: Metric) -> None:
    losses = [nan, 2.0, 1.0, inf]
    assert max((score(metric, 0.5, loss) for loss in losses), key=lambda s: s.rank).loss == 1.0
    assert score(metric, 0.5, nan).rank == score(metric, 0.5, inf).rank


@given(st.floats(0, 1), st.floats(0, 1))
def test_less_regret_is_more_gain(a: float, b: float) -> None:
    for metric in (ACCURACY, ERROR):
        assert (metric.gain(a) >= metric.gain(b)) == (metric.regret(a) <= metric.regret(b)) or abs(a - b) < 1e-15
        assert metric.regret(metric.best) == 0.0


@given(st.integers(1, 400), st.integers(0, 400), st.integers(0, 400))
def test_what_is_lost_is_a_whole_number_of_samples(samples: int, right: int, before: int) -> None:
    """As decimals have it: of 300 images 3 are one point, and not more than one."""
    percent = Metric("part", "part", maximise=True, best=1.0, aggregate="proportion", scale=100.0, unit="%")
    found = percent.lost(right / samples, before / samples)
    assert found == float(round(Fraction(100 * (before - right), samples), 9))
    fewer_is_better = replace(percent, maximise=False, best=0.0)
    assert fewer_is_better.lost(right / samples, before / samples) == -found


def test_values_within_the_better_ones_standard_error_tie() -> None:
    assert score(ACCURACY, 0.9).ties(score(ACCURACY, 0.8125))
    assert not score(ACCURACY, 0.9).ties(score(ACCURACY, 0.7))
    assert score(ERROR, 0.5).ties(score(ERROR, 0.5625))
    assert not score(ERROR, 0.5).ties(score(ERROR, 0.75))


def test_values_are_shown_in_their_unit() -> None:
    assert score(ACCURACY, 0.91254).text == "91.25 %"
    assert score(ERROR, 3.24).text == "3.2 m"
    assert score(DISTANCE, 3.0).text == "3.00"


@given(st.lists(st.tuples(st.integers(1, 400), st.floats(0, 1)), min_size=1, max_size=6))
def test_proportions_of_parts_are_that_of_all(parts: list[tuple[int, float]]) -> None:
    counts = [(round(share * samples), samples) for samples, share in parts]
    right, samples = sum(r for r, _ in counts), sum(n for _, n in counts)
    assert together([proportion(ACCURACY, r, n, 2.0) for r, n in counts]) == proportion(
        ACCURACY,
        right,
        samples,
        pytest.approx(2.0),  # type: ignore[arg-type]
    )


def test_means_of_parts_are_that_of_all() -> None:
    parts = [[1.0, 2.0, 4.0], [3.0, 5.0]]
    found = together([mean_score(DISTANCE, values, 1.0) for values in parts])
    assert found.value == pytest.approx(3.0)
    assert found.samples == 5
    errors = [float(stats.sem(values)) for values in parts]
    assert found.error == pytest.approx(sqrt((3 * errors[0]) ** 2 + (2 * errors[1]) ** 2) / 5)


def test_what_is_no_mean_cannot_be_added_up() -> None:
    with pytest.raises(ValueError, match="root mean squared error of parts"):
        together([score(ERROR, 1.0), score(ERROR, 2.0)])


def test_the_error_of_a_single_sample_is_not_known() -> None:
    assert mean_score(DISTANCE, [2.0], 1.0).error == inf


def test_a_proportion_of_all_or_nothing_has_an_error() -> None:
    all_right, none_right = (proportion(ACCURACY, right, 10, 0.0).error for right in (10, 0))
    assert 0 < all_right == pytest.approx(none_right)


@pytest.mark.parametrize(("criterion", "best"), [("metric", 0), ("loss", 1), ("divergence", 2), ("both", 3)])
def test_networks_are_ranked_by_a_criterion(criterion: Criterion, best: int) -> None:
    rows = [(0.9, 3.0, 3.0), (0.8, 1.0, 3.0), (0.7, 3.0, 0.5), (0.6, 1.5, 1.5), (1.0, nan, nan)]
    networks = [Score(ACCURACY, value, 0.1, 10, loss, divergence, criterion) for value, loss, divergence in rows]
    ordered = sorted(networks[:4], key=lambda s: s.rank, reverse=True)
    assert ordered[0] == networks[best]
    assert [s.gain for s in ordered] == sorted((s.gain for s in ordered), reverse=True)
    assert [s.regret for s in ordered] == sorted(s.regret for s in ordered)
    assert all(0 <= s.gain <= 1 and s.regret == pytest.approx(1 - s.gain) for s in ordered)
    # The metric alone does not tell that outputs were no numbers.
    assert criterion == "metric" or (networks[4].gain, networks[4].rank) == (0.0, (-inf, 1.0))


def test_what_is_maximised_is_the_mean_probability_of_what_is_right() -> None:
    assert score(ACCURACY, 0.5, 1.25).gain == 0.5
    assert replace(score(ACCURACY, 0.5, 1.25), criterion="loss").gain == pytest.approx(exp(-1.25))


def test_divergences_of_parts_are_that_of_all() -> None:
    parts = [
        Score(ACCURACY, 0.5, 0.1, samples, 1.0, divergence, "both") for samples, divergence in ((10, 1.0), (30, 2.0))
    ]
    found = together(parts)
    assert (found.divergence, found.penalty) == (1.75, 2.75)
    assert together([parts[0], replace(parts[1], divergence=None)]).divergence is None
