"""Calibration and its error against NumPy and SciPy."""

from dataclasses import astuple

import numpy as np
import pytest
from scipy import stats

from nasdeploy.latency.calibration import LatencyCalibration, fit, held_out_error, relative_deviation


def networks(noise, n=40, seed=0):
    rng = np.random.default_rng(seed)
    terms = np.stack([rng.uniform(5e-3, 50e-3, n), rng.integers(10, 40, n), rng.uniform(1e6, 2e7, n)], axis=1)
    seconds = (terms @ [1.02, -4e-6, 1e-10] + 1e-4) * (1 + noise * rng.standard_normal(n))
    return terms, seconds


def test_exact_data_give_the_exact_terms():
    found = fit(*networks(noise=0))
    assert found.slope == pytest.approx(1.02, rel=1e-9)
    assert found.per_block == pytest.approx(-4e-6, rel=1e-6)
    assert found.per_param == pytest.approx(1e-10, rel=1e-6)
    assert found.offset == pytest.approx(1e-4, rel=1e-6)


def test_small_noise_gives_relative_least_squares():
    terms, seconds = networks(noise=1e-4)
    matrix = np.column_stack([terms, np.ones(len(terms))]) / seconds[:, None]
    # Columns of one size: numpy takes what is very small beside the largest for zero.
    scale = matrix.max(axis=0)
    expected, *_ = np.linalg.lstsq(matrix / scale, np.ones(len(terms)), rcond=None)
    found = fit(terms, seconds)
    np.testing.assert_allclose(astuple(found), expected / scale, rtol=2e-3)
    np.testing.assert_allclose(found(terms) / seconds, matrix / scale @ expected, rtol=1e-6)


def test_no_term_can_be_moved_to_a_smaller_loss():
    networks_terms, seconds = networks(noise=0.05)
    found = np.array(astuple(fit(networks_terms, seconds)))
    columns = np.column_stack([networks_terms, np.ones(len(seconds))]).T

    def loss(terms):
        residuals = (terms @ columns - seconds) / seconds / 0.02
        return (2 * (np.sqrt(1 + residuals**2) - 1)).sum()

    for term in range(4):
        for step in (-1e-3, 1e-3):
            moved = found.copy()
            moved[term] *= 1 + step
            assert loss(moved) > loss(found)


def test_a_network_far_off_hardly_tilts_the_fit():
    terms, seconds = networks(noise=0.005)
    clean = fit(terms, seconds)
    disturbed = seconds.copy()
    disturbed[np.argmax(terms[:, 0])] *= 2
    robust = fit(terms, disturbed)
    assert np.abs(robust(terms) / clean(terms) - 1).max() < 0.02


def alike(entries, blocks=1, params=1):
    return np.array([(seconds, blocks, params) for seconds in entries])


def test_slope_and_seconds_for_a_parameter_are_never_negative():
    assert fit(alike([1.0, 2.0, 3.0, 4.0]), [4.0, 3.0, 2.0, 1.0]).slope >= 0
    terms, seconds = networks(noise=0)
    assert fit(terms, seconds - 3e-10 * terms[:, 2]).per_param == pytest.approx(0, abs=1e-20)
    for wrong in ({"slope": -1.0}, {"per_param": -1.0}):
        with pytest.raises(ValueError, match="no faster by slower blocks or by more parameters"):
            LatencyCalibration(**{"slope": 1.0, "per_block": 0.0, "per_param": 0.0, "offset": 0.0, **wrong})


def test_what_a_parameter_costs_may_be_given():
    terms, seconds = networks(noise=0)
    found = fit(terms, seconds, per_param=1e-10)
    assert astuple(found) == pytest.approx((1.02, -4e-6, 1e-10, 1e-4), rel=1e-6)
    assert fit(terms, 2 * seconds, per_param=1e-10).per_param == 1e-10


def test_a_scaled_calibration_gives_scaled_latencies():
    terms, seconds = networks(noise=0)
    found = fit(terms, seconds)
    np.testing.assert_allclose(found.scaled(1.5)(terms), 1.5 * found(terms))


@pytest.mark.parametrize("number", [1, 2])
def test_few_networks_are_met_exactly(number):
    terms, seconds = alike([1.0, 2.0][:number], 3), [2.0, 4.0][:number]
    np.testing.assert_allclose(fit(terms, seconds)(terms), seconds)


def test_networks_of_one_depth_leave_the_plain_sum_where_it_fits():
    found = fit(alike([1.0, 2.0, 3.0], 5, 0), [1.0, 2.0, 3.0])
    assert astuple(found) == pytest.approx((1, 0, 0, 0), abs=1e-9)


def test_statistics_are_scipys():
    rng = np.random.default_rng(3)
    measured = rng.permutation(np.linspace(1.0, 9.0, 30))
    predicted = measured * (1 + rng.normal(0, 0.06, 30))
    found = held_out_error(predicted, measured)
    errors = [abs(p - m) / m for p, m in zip(predicted, measured, strict=True)]
    assert found.n == 30
    assert found.mean_absolute == pytest.approx(sum(errors) / 30)
    assert found.p95 == pytest.approx(np.quantile(errors, 0.95))
    assert found.within_5_percent == sum(e <= 0.05 for e in errors) / 30
    assert found.within_10_percent == sum(e <= 0.10 for e in errors) / 30
    ranks = np.corrcoef(stats.rankdata(predicted), stats.rankdata(measured))[0, 1]
    assert found.spearman == pytest.approx(ranks)
    pairs = [(i, j) for i in range(30) for j in range(i)]
    concordant = sum(np.sign((predicted[i] - predicted[j]) * (measured[i] - measured[j])) for i, j in pairs)
    assert found.kendall == pytest.approx(concordant / len(pairs))
    fast = [e for e, m in zip(errors, measured, strict=True) if m < 3.7]
    assert found.mean_absolute_by_third[0] == pytest.approx(sum(fast) / 10)


def test_too_few_networks_have_no_statistics():
    assert held_out_error([], []) is None
    assert held_out_error([1.0, 2.0], [1.0, 2.0]) is None
    assert held_out_error([1.0, 1.0, 1.0], [1.0, 2.0, 3.0]) is None


def test_the_deviation_is_the_root_mean_square_of_relative_errors():
    measured = np.geomspace(1.0, 64.0, 30)
    errors = np.where(np.arange(30) % 2, 1, -1) * np.repeat([0.04, 0.02, 0.01], 10)
    expected = ((0.04**2 + 0.02**2 + 0.01**2) / 3) ** 0.5
    assert relative_deviation(measured * (1 + errors), measured) == pytest.approx(expected)
