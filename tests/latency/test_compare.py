"""Merging and comparing tables of the toy space."""

from dataclasses import replace

import numpy as np
import pytest
from scipy.stats import kendalltau

from nasdeploy.core.errors import UserError
from nasdeploy.latency.compare import difference, merge, merged_entries
from nasdeploy.latency.table import LatencyTable
from nasdeploy.spaces import load_space
from tests.latency.tables import AT, CONDITIONS, FINGERPRINT, SPACE, archs, entries, table, timing, true_seconds

LATER = "2026-11-25T00:00:00+00:00"


def with_entries(original, known):
    return original.model_copy(update={"entries": known})


def with_fingerprint(original, **changes):
    conditions = original.conditions.model_copy(update={"fingerprint": replace(FINGERPRINT, **changes)})
    return original.model_copy(update={"conditions": conditions})


# -- merging


def test_disjoint_halves_give_the_whole():
    whole = table(noise=0.01)
    keys = list(whole.entries)
    halves = [with_entries(whole, {k: whole.entries[k] for k in part}) for part in (keys[::2], keys[1::2])]
    merged = merge(*halves, SPACE)
    assert merged.entries == whole.entries
    assert merged.networks == whole.networks
    assert merged.calibration == whole.calibration


def test_a_table_with_itself_is_itself():
    whole = table(noise=0.01)
    assert merge(whole, whole, SPACE) == whole


def test_the_quieter_then_the_longer_then_the_later_timing_is_kept():
    plain = timing(1.0)
    noisy, more = replace(plain, noise="drift", n=99), replace(plain, n=26)
    later = replace(plain, at=LATER)
    assert merged_entries({"a": noisy, "b": plain, "c": plain}, {"a": plain, "b": more, "c": later}) == {
        "a": plain,
        "b": more,
        "c": later,
    }
    assert merged_entries({"a": plain, "b": more, "c": later}, {"a": noisy, "b": plain, "c": plain})["a"] == plain


def test_networks_are_summed_from_the_merged_entries():
    first = table()
    slower = {key: replace(timing(2 * t.median), n=99) for key, t in first.entries.items()}
    merged = merge(first, with_entries(first, slower), SPACE)
    for before, after in zip(first.networks, merged.networks, strict=True):
        assert after.entries == pytest.approx(2 * before.entries)
    assert merged.calibration.slope == pytest.approx(first.calibration.slope / 2, rel=1e-3)


def test_networks_of_both_are_kept_once():
    first = table()
    arch = next(a for a in archs() if a.to_json() not in [n.arch for n in first.networks])
    second = first.with_measured(SPACE, {arch: timing(true_seconds(arch, first.entries))})
    merged = merge(first, second, SPACE)
    assert len(merged.networks) == len(first.networks) + 1


def test_other_conditions_are_refused_by_name():
    other = with_fingerprint(table(), threads=2, runtime="onnxruntime 2")
    with pytest.raises(UserError, match=r"runtime: measured with onnxruntime 1.*threads: measured with 1, here 2"):
        merge(table(), other, SPACE)


def test_blocks_that_neither_has_are_named():
    whole = table()
    poor = with_entries(whole, dict(list(whole.entries.items())[:3]))
    with pytest.raises(UserError, match="no entry for Square"):
        merge(poor, poor, SPACE)


def test_tables_of_another_space_are_refused():
    with pytest.raises(UserError, match="not of digits"):
        merge(table(), table(), load_space("digits", 10))


# -- comparing


def test_nothing_differs_from_itself():
    found = difference(table(), table(), SPACE)
    assert (found.conditions, found.only_first, found.only_second) == ([], [], [])
    assert (found.entries.median, found.networks.median, found.kendall) == (1.0, 1.0, 1.0)


def test_ratios_order_and_conditions():
    first = table(seed=0)
    draw = np.random.default_rng(1)
    ratios = {key: float(draw.uniform(0.8, 1.4)) for key in first.entries}
    changed = {key: timing(ratio * first.entries[key].median) for key, ratio in ratios.items()}
    second = with_fingerprint(with_entries(first, changed), governor="powersave")
    found = difference(first, second, SPACE)
    assert found.conditions == ["governor: measured with performance, here powersave"]
    assert found.entries.median == pytest.approx(np.median(list(ratios.values())))
    assert (found.entries.p5, found.entries.p95) == pytest.approx(np.percentile(list(ratios.values()), [5, 95]))
    worst = max(ratios, key=lambda key: abs(np.log(ratios[key])))
    assert next(iter(found.most_changed.items())) == (worst, pytest.approx(ratios[worst]))
    everything = [SPACE.plan(arch) for arch in archs()]
    predicted = [[t.predict(plan).seconds for plan in everything] for t in (first, second)]
    # The drawn networks are not all, and each only once: about the same.
    assert found.kendall == pytest.approx(kendalltau(*predicted).statistic, abs=0.05)
    assert found.kendall < 0.95


def test_what_only_one_has_and_without_a_space_no_order():
    first = table()
    keys = list(first.entries)
    found = difference(
        with_entries(first, {k: first.entries[k] for k in keys[1:]}),
        with_entries(first, {k: first.entries[k] for k in keys[:-1]}),
        None,
    )
    assert (found.only_first, found.only_second) == ([keys[-1]], [keys[0]])
    assert (found.kendall, found.prediction) == (None, None)


def test_tables_with_nothing_in_common():
    empty = LatencyTable.fitted(CONDITIONS, AT, {"other": timing(1.0)}, table().networks[:1])
    assert difference(table(), empty, None).entries is None
    assert len(difference(table(), empty, None).only_first) == len(entries())
