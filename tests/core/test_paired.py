"""Differences between two networks on the same samples, and their standard errors."""

from math import inf, sqrt
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from nasdeploy.core.paired import PairedDifference, SampleScores, paired_difference
from nasdeploy.core.score import Metric

ACCURACY = Metric("accuracy", "accuracy", True, 1.0, "proportion", scale=100, unit="%", samples="images")
DISTANCE = Metric("mae", "mean absolute error", False, 0.0, "mean")


def worth(metric: Metric, values: Any, losses: Any = None) -> SampleScores:
    found = np.asarray(values, float)
    return SampleScores(metric, found, np.zeros(len(found)) if losses is None else np.asarray(losses, float))


@given(st.lists(st.tuples(st.floats(-9, 9), st.floats(-9, 9)), min_size=2, max_size=30))
def test_means_have_the_standard_error_of_their_differences(pairs: list[tuple[float, float]]) -> None:
    mine, others = np.array(pairs).T
    found = paired_difference(worth(DISTANCE, mine, others), worth(DISTANCE, others, mine))
    assert (found.value, found.loss) == pytest.approx(((mine - others).mean(), (others - mine).mean()))
    assert (found.error, found.loss_error) == pytest.approx((stats.sem(mine - others), stats.sem(others - mine)))


def test_only_samples_that_change_sides_count_for_a_proportion() -> None:
    """By hand, for 5 of 100 that one alone has right and 2 that the other has: half a sample added to each cell."""
    mine, others = np.ones(100), np.ones(100)
    others[:5], mine[5:7] = 0.0, 0.0
    found = paired_difference(worth(ACCURACY, mine), worth(ACCURACY, others))
    assert found.value == pytest.approx(0.03)
    assert found.error == pytest.approx(sqrt((5.5 + 2.5) - (5.5 - 2.5) ** 2 / 102) / 102)
    # The scores' own errors are 2.0 and 1.4 points: they could not be told apart by a difference of 3 either way.
    assert found.error < 0.028
    same = paired_difference(worth(ACCURACY, mine), worth(ACCURACY, mine))
    assert same.value == 0.0 < same.error < found.error


def test_the_error_of_one_sample_is_not_known() -> None:
    assert paired_difference(worth(DISTANCE, [1.0]), worth(DISTANCE, [2.0])).error == inf


@pytest.mark.parametrize(("metric", "sign"), [(ACCURACY, 1), (DISTANCE, -1)])
def test_no_worse_is_in_the_metrics_direction_and_of_the_loss_too_where_that_ranks(metric: Metric, sign: int) -> None:
    def difference(value: float, loss: float = 0.0) -> PairedDifference:
        return PairedDifference(metric, sign * value, 0.25, loss, 0.125)

    assert [difference(value).is_no_worse("metric") for value in (1.0, -0.25, -0.5)] == [True, True, False]
    assert [difference(0.0, loss).is_no_worse("both") for loss in (-1.0, 0.125, 0.25)] == [True, True, False]
    assert difference(0.0, 0.25).is_no_worse("metric")
