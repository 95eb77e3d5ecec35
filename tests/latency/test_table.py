"""Latency tables: prediction, range, refitting, files."""

import json
import subprocess
import sys
from dataclasses import astuple, replace
from datetime import UTC
from hashlib import sha256
from typing import get_args

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from nasdeploy.cli.wording import typed
from nasdeploy.core.errors import UserError
from nasdeploy.latency.protocol import Noise, Timing
from nasdeploy.latency.runners.open_runner import check_device
from nasdeploy.latency.table import LatencyTable, network_terms
from nasdeploy.spaces import load_space
from tests.latency.tables import AT, CONDITIONS, DEVICE, FINGERPRINT, SPACE, archs, entries, table, timing, true_seconds
from tests.wording import assert_stops


def test_prediction_is_the_true_latency_where_that_is_affine():
    exact = table()
    for arch in archs()[::13]:
        predicted = exact.predict(SPACE.plan(arch))
        assert predicted.seconds == pytest.approx(true_seconds(arch, exact.entries), rel=1e-6)
        assert predicted.uncertainty == pytest.approx(0, abs=1e-9)


def test_a_batch_is_scored_like_single_plans():
    noisy = table(noise=0.03)
    everything = archs()
    one_by_one = [noisy.predict(SPACE.plan(arch)).seconds for arch in everything]
    np.testing.assert_allclose(noisy.latencies(SPACE)(SPACE.encode(everything)), one_by_one, rtol=1e-12)


def test_range_is_that_of_all_predictions():
    noisy = table(noise=0.03)
    seconds = [noisy.predict(SPACE.plan(arch)).seconds for arch in archs()]
    assert noisy.range(SPACE) == pytest.approx((min(seconds), max(seconds)), rel=1e-12)


def test_a_copy_with_other_entries_predicts_by_these():
    exact, plan = table(), SPACE.plan(archs()[0])
    before = exact.predict(plan).seconds, exact.range(SPACE)
    double = {key: timing(2 * one.undisturbed) for key, one in exact.entries.items()}
    copy = exact.model_copy(update={"entries": double})
    codes = SPACE.encode([archs()[0]])
    assert copy.latencies(SPACE)(codes)[0] == pytest.approx(copy.predict(plan).seconds, rel=1e-12)
    assert copy.predict(plan).seconds > 1.5 * before[0]
    assert copy.range(SPACE)[0] > 1.5 * before[1][0]


def test_p95_is_the_median_times_what_whole_networks_show():
    known = table()
    ratios = [1.02, 1.5, 1.04, 1.03, 1.05]
    networks = [
        replace(network, timing=replace(network.timing, p95=ratio * network.timing.median))
        for network, ratio in zip(known.networks, ratios, strict=False)
    ]
    predicted = LatencyTable.fitted(CONDITIONS, AT, known.entries, networks).predict(SPACE.plan(SPACE.largest()))
    assert predicted.p95 == pytest.approx(1.04 * predicted.seconds)


def test_what_adds_up_is_what_nothing_disturbed():
    """Medians of blocks and of networks are noise; a network's median is predicted by what networks show of it."""
    draw, quiet = np.random.default_rng(0), table()
    entries = {key: disturbed(one, draw.uniform(1, 2)) for key, one in quiet.entries.items()}
    ratios = iter(draw.permutation(np.linspace(1.1, 1.5, len(quiet.networks))))
    networks = [replace(network, timing=disturbed(network.timing, next(ratios))) for network in quiet.networks]
    found = LatencyTable.fitted(CONDITIONS, AT, entries, networks)
    known = [n.timing.median / n.timing.p10 for n in networks if n.role == "calibration"]
    assert found.median_ratio == pytest.approx(np.median(known))
    for arch in archs()[::13]:
        undisturbed = 0.99 * true_seconds(arch, quiet.entries)
        assert found.predict(SPACE.plan(arch)).seconds == pytest.approx(found.median_ratio * undisturbed, rel=1e-6)
    assert found.held_out_undisturbed.mean_absolute < 1e-6 < 0.05 < found.held_out.mean_absolute
    # Of what budgets are held against.
    assert found.uncertainty < 1e-6


def disturbed(timing, factor):
    """The same but for all that is slower than the 10th percentile."""
    slow = dict.fromkeys(("median", "p90", "p95"), factor * timing.p10)
    return replace(timing, **slow)


def test_uncertainty_is_the_deviation_on_held_out_networks():
    noisy = table(noise=0.03)
    held_out = [network for network in noisy.networks if network.role == "held-out"]
    predicted = [noisy.predict(SPACE.plan(SPACE.arch(network.arch))).seconds for network in held_out]
    errors = [p / network.timing.median - 1 for p, network in zip(predicted, held_out, strict=True)]
    deviation = (sum(e**2 for e in errors) / len(errors)) ** 0.5
    assert 0.02 < deviation < 0.04
    predicted = noisy.predict(SPACE.plan(SPACE.largest()))
    assert noisy.uncertainty == pytest.approx(deviation)
    assert predicted.uncertainty == pytest.approx(deviation * predicted.seconds)
    assert noisy.held_out.mean_absolute == pytest.approx(np.abs(errors).mean())
    assert noisy.held_out.n == len(held_out)


def test_a_plan_with_unknown_blocks_is_refused_by_name():
    known = table()
    plan = SPACE.plan(SPACE.largest())
    keys = list(dict.fromkeys(plan.keys))
    without = known.model_copy(update={"entries": {k: t for k, t in known.entries.items() if k not in keys[:1]}})
    with pytest.raises(UserError) as caught:
        without.predict(plan)
    assert keys[0] in typed(caught.value)
    with pytest.raises(UserError, match="no entry for Square"):
        without.latencies(SPACE)
    with pytest.raises(UserError, match=f"and {len(set(keys)) - 3} more"):
        known.model_copy(update={"entries": {}}).predict(plan)


# -- networks measured during a search


def test_measured_networks_move_the_prediction_towards_them():
    before = table()
    slower = {arch: timing(1.1 * true_seconds(arch, before.entries)) for arch in archs()[::3]}
    after = before.with_measured(SPACE, slower)
    plan = SPACE.plan(archs()[3])
    assert before.predict(plan).seconds < after.predict(plan).seconds < 1.1 * before.predict(plan).seconds
    assert sum(network.role == "search" for network in after.networks) == len(slower)
    assert after.held_out.mean_absolute > before.held_out.mean_absolute
    assert after.entries == before.entries


def test_networks_of_a_search_do_not_change_what_a_parameter_costs():
    before = table()
    large = sorted(archs(), key=lambda arch: SPACE.plan(arch).params)[-8:]
    after = before.with_measured(SPACE, {arch: timing(50 * true_seconds(arch, before.entries)) for arch in large})
    assert after.calibration.per_param == pytest.approx(before.calibration.per_param)
    assert after.range(SPACE)[0] > before.range(SPACE)[0] / 2


@pytest.mark.parametrize(("power", "seconds"), [(0.0, 2e-3), (0.5, 2e-3 / 2**0.5), (1.0, 1e-3)])
def test_what_is_measured_later_is_brought_to_the_speed_of_the_table(power, seconds):
    """The machine is half as fast as when the table was measured, as a network of an earlier search saw already."""
    usual = {key: replace(one, reference=1e-4) for key, one in entries(0).items()}
    slow = replace(timing(2e-3), reference=2e-4)
    networks = [
        network_terms(usual, SPACE, arch, role, slow if role == "search" else replace(timing(1e-3), reference=1e-4))
        for arch, role in zip(archs(), ("calibration", "calibration", "search"), strict=False)
    ]
    table = LatencyTable.fitted(CONDITIONS, AT, usual, networks, steadied=power)
    assert table.at_usual_speed(slow).median == pytest.approx(seconds)
    assert table.at_usual_speed(timing(2e-3)) == timing(2e-3)


def test_what_is_measured_later_is_brought_to_the_quiet_of_the_table():
    """Networks' medians were 1.1 and their 95th percentiles 1.2 x 1.1 times their undisturbed seconds."""
    quiet = Timing(1.1e-3, 1e-3, 1.2e-3, 1.2 * 1.1e-3, 25, AT)
    known = entries(0)
    networks = [network_terms(known, SPACE, arch, "calibration", quiet) for arch in archs()[:4]]
    table = LatencyTable.fitted(CONDITIONS, AT, known, networks)
    busy = Timing(3.5e-3, 2e-3, 3.9e-3, 4.5e-3, 25, AT, "spread")
    usual = table.as_when_profiled(busy)
    assert (usual.median, usual.p95) == (pytest.approx(2.2e-3), pytest.approx(2.64e-3))
    assert (usual.p10, usual.n, usual.noise) == (2e-3, 25, "spread")
    assert usual.median <= usual.p90 <= usual.p95
    assert astuple(table.as_when_profiled(quiet))[:4] == pytest.approx(astuple(quiet)[:4])
    after = table.with_measured(SPACE, {archs()[5]: usual})
    assert (after.median_ratio, after.p95_ratio) == (pytest.approx(1.1), pytest.approx(1.2))


def test_measuring_an_architecture_again_replaces_it():
    arch = archs()[1]
    once = table().with_measured(SPACE, {arch: timing(1.0)})
    twice = once.with_measured(SPACE, {arch: timing(2.0), archs()[2]: timing(3.0)})
    assert [n.timing.median for n in twice.networks if n.role == "search"] == [2.0, 3.0]


def test_one_wild_measurement_does_not_spoil_the_table():
    before = table(noise=0.005)
    after = before.with_measured(SPACE, {SPACE.largest(): timing(5 * true_seconds(SPACE.largest(), before.entries))})
    assert after.held_out.mean_absolute < 2 * before.held_out.mean_absolute


# -- files

seconds = st.floats(1e-9, 1e3)
timings = st.builds(
    lambda four, *rest: Timing(*(sorted(four)[place] for place in (1, 0, 2, 3)), *rest),
    st.tuples(seconds, seconds, seconds, seconds),
    st.integers(1, 1000),
    st.datetimes(timezones=st.just(UTC)).map(lambda time: time.isoformat(timespec="seconds")),
    st.sampled_from(get_args(Noise)),
    st.none() | seconds,
)


@given(st.dictionaries(st.text(), timings, max_size=5), st.lists(timings, min_size=1, max_size=5))
def test_round_trip(tmp_path_factory, known, measured):
    path = tmp_path_factory.mktemp("tables") / "table.json"
    networks = [replace(network, timing=t) for network, t in zip(table().networks, measured, strict=False)]
    networks[0] = replace(networks[0], role="calibration")
    written = LatencyTable.fitted(CONDITIONS, "now", known, networks)
    written.save(path)
    assert LatencyTable.load(path) == written


def test_file_has_a_line_for_each_entry(tmp_path):
    table().save(tmp_path / "table.json")
    lines = (tmp_path / "table.json").read_text().splitlines()
    for key in entries():
        assert sum(line.strip().startswith(json.dumps(key)) for line in lines) == 1


@pytest.fixture
def saved(tmp_path):
    path = tmp_path / "table.json"
    table(noise=0.01).save(path)
    return path


def edited(path, change, *, honest):
    """Change the JSON; `honest` writes the checksum that belongs to the changed content."""
    data = json.loads(path.read_text())
    change(data)
    if honest:
        checksum = data.pop("sha256")
        checksum = sha256(json.dumps(data, sort_keys=True).encode()).hexdigest()
        data["sha256"] = checksum
    path.write_text(json.dumps(data))


def first_entry(data):
    return next(iter(data["entries"].values()))


@pytest.mark.parametrize("size", [0, 1, 500, -3])
def test_truncated_file_is_refused(saved, size):
    saved.write_bytes(saved.read_bytes()[:size])
    with pytest.raises(UserError, match=r"table\.json"):
        LatencyTable.load(saved)


@pytest.mark.parametrize("content", ["[]", "3", '"text"', "{}", "null"])
def test_other_json_is_refused(saved, content):
    saved.write_text(content)
    with assert_stops(UserError, match=r"table\.json: damaged.*nasdeploy profile --restart"):
        LatencyTable.load(saved)


def test_edited_number_is_refused(saved):
    edited(saved, lambda data: first_entry(data).update(median=first_entry(data)["median"] * 1.001), honest=False)
    with pytest.raises(UserError, match="damaged or edited"):
        LatencyTable.load(saved)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda data: first_entry(data).update(median=float("nan")), "entries"),
        (lambda data: first_entry(data).update(median=-1.0), "entries"),
        (lambda data: first_entry(data).update(p90=float("inf")), "entries"),
        (lambda data: first_entry(data).pop("n"), "n is missing"),
        (lambda data: first_entry(data).update(extra=1), "extra"),
        (lambda data: first_entry(data).update(n="25"), "n is"),
        (lambda data: first_entry(data).update(p95=first_entry(data)["p10"]), "p90 <= p95"),
        (lambda data: first_entry(data).update(at="yesterday"), "at"),
        (lambda data: first_entry(data).update(at="2026-11-24T00:00:00"), "time zone"),
        (lambda data: first_entry(data).update(noise="loud"), "noise is"),
        (lambda data: first_entry(data).update(reference=0.0), "reference"),
        (lambda data: data.update(schema_version="2"), "schema_version is"),
        (lambda data: data.update(networks=[]), "networks"),
        (lambda data: data["calibration"].update(slope=-1.0), "no faster by slower blocks or by more parameters"),
        (lambda data: data.update(uncertainty={"seconds": [], "relative": []}), "uncertainty"),
        (lambda data: data.update(uncertainty=-0.1), "uncertainty"),
        (lambda data: data.update(p95_ratio=0.9), "p95_ratio is 0.9"),
        (lambda data: data.update(median_ratio=0.9), "median_ratio is 0.9"),
        (lambda data: data["networks"][0].update(params=-1), "networks"),
        (lambda data: data["calibration"].update(slope=float("nan")), "slope"),
        (lambda data: data["networks"][0].update(role="guess"), "role"),
        (lambda data: data["conditions"]["device"].update(threads=0), "threads is 0"),
        (lambda data: data["conditions"]["protocol"].update(kept=0), "protocol"),
        (lambda data: data.pop("calibration"), "calibration is missing"),
        (lambda data: data["networks"][0].update(entries=-1.0), "entries"),
    ],
)
def test_nonsense_is_refused_even_with_its_checksum(saved, change, message):
    edited(saved, change, honest=True)
    with pytest.raises(UserError, match=message) as caught:
        LatencyTable.load(saved)
    assert "nasdeploy profile --restart" in typed(caught.value)
    assert "\n" not in typed(caught.value)


@pytest.mark.parametrize("version", [2, 4])
def test_another_version_is_not_called_damaged(saved, version):
    edited(saved, lambda data: data.update(schema_version=version), honest=False)
    with pytest.raises(UserError, match=rf"version {version} of its form.*reads version 3; measure again"):
        LatencyTable.load(saved)


def test_missing_file_is_named(tmp_path):
    with pytest.raises(UserError, match=r"absent\.json"):
        LatencyTable.load(tmp_path / "absent.json")


# -- where it holds


def test_table_of_another_space_is_refused():
    table().require_space(SPACE)
    with pytest.raises(UserError, match=f"of space toy with 10 classes \\({SPACE.digest}\\), not of digits"):
        table().require_space(load_space("digits", 10))


def test_other_device_is_a_warning_or_with_strict_an_error():
    here = replace(FINGERPRINT, cpu="another processor", threads=2)
    expected = ["cpu: measured with a processor, here another processor", "threads: measured with 1, here 2"]
    assert check_device(table(), DEVICE, strict=False, here=here) == expected
    with assert_stops(UserError, match=r"another processor.*nasdeploy profile --device cpu"):
        check_device(table(), DEVICE, strict=True, here=here)


@pytest.mark.parametrize("strict", [False, True])
def test_same_device_is_no_warning(strict):
    assert check_device(table(), DEVICE, strict=strict, here=FINGERPRINT) == []


def test_deviations_by_latency_of_earlier_tables_are_read_as_one(tmp_path):
    data = table().model_dump(mode="json")
    data["uncertainty"] = {"seconds": [1e-3, 2e-3, 4e-3], "relative": [0.04, 0.02, 0.01]}
    earlier = tmp_path / "earlier.json"
    earlier.write_text(json.dumps({**data, "sha256": sha256(json.dumps(data, sort_keys=True).encode()).hexdigest()}))
    assert LatencyTable.load(earlier).uncertainty == pytest.approx(((0.04**2 + 0.02**2 + 0.01**2) / 3) ** 0.5)


def test_reading_a_table_imports_nothing_that_measures():
    script = "import sys; import nasdeploy.latency.table; print(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    imported = set(done.stdout.split())
    assert "nasdeploy.latency.protocol" in imported
    assert {name for name in imported if name.startswith(("nasdeploy.latency.runners", "asyncssh"))} == set()
    assert imported & {"nasdeploy.latency.measure", "nasdeploy.latency.campaign", "torch", "onnxruntime"} == set()
