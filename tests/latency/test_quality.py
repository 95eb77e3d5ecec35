"""The reference graph: where it is measured, and what follows from it."""

from dataclasses import replace
from math import inf

import pytest

from nasdeploy.core.progress import Progress
from nasdeploy.latency import campaign as module
from nasdeploy.latency.calibration import reference_block
from nasdeploy.latency.campaign import Campaign, Journal
from nasdeploy.latency.measure import Instruments, measure
from nasdeploy.latency.protocol import (
    MeasurementProtocol,
    Rounds,
    corrected,
    disturbances,
    disturbed_by,
    drifted,
    flagged,
    quality,
)
from nasdeploy.latency.table import Conditions
from tests.latency.tables import CONDITIONS, SPACE, timing
from tests.latency.test_protocol import MS, World, runs


def at(reference):
    return replace(timing(1e-3), reference=reference)


def test_the_reference_is_in_the_middle_by_macs():
    macs = sorted(block.macs for block in SPACE.distinct_blocks().values())
    assert reference_block(SPACE).macs == macs[len(macs) // 2]


def test_drift_is_told_from_the_usual_speed():
    found = drifted({"a": at(1.0), "b": at(1.04), "c": at(0.94), "d": at(1.08), "e": timing(9.0)}, 1.05)
    # The usual is 1.02.
    assert found == pytest.approx({"c": 0.94 / 1.02, "d": 1.08 / 1.02})


def test_no_reference_no_drift():
    assert drifted({"a": timing(1.0), "b": timing(2.0)}, 1.05) == {}


def test_the_first_reason_stays():
    spread = replace(at(2.0), noise="spread")
    found = flagged({"a": at(1.0), "b": at(1.0), "c": at(1.0), "d": at(2.0), "e": spread}, 1.05)
    assert [t.noise for t in found.values()] == ["", "", "", "drift", "spread"]


def test_a_better_timing_is_less_disturbed_else_of_more_runs_else_faster_else_later():
    quiet, varied = at(1.0), replace(timing(1e-3), noise="spread", p90=2e-3, p95=2e-3)
    slow, hot = at(1.3), replace(at(1.0), noise="throttling")
    more, later = replace(quiet, n=quiet.n + 1), replace(quiet, at="2099-01-01T00:00:00+00:00")
    faster = replace(quiet, p10=9e-4)
    worst_first = [hot, varied, slow, quiet, later, faster, more]
    shuffled = [later, hot, more, quiet, faster, slow, varied]
    assert sorted(shuffled, key=lambda timing: quality(timing, 1.0, 1.05)) == worst_first
    # Without a usual speed a quiet timing is one whose runs do not vary.
    assert quality(slow) == quality(quiet)
    # With one, runs that vary are no worse: the undisturbed ones count, which are among them.
    assert quality(replace(varied, reference=1.0), 1.0, 1.05) == quality(quiet, 1.0, 1.05)
    assert quality(replace(varied, reference=1.3), 1.0, 1.05) == quality(slow, 1.0, 1.05)


def test_a_correction_divides_by_a_power_of_the_drift():
    slow = at(1.21)
    found = corrected(slow, 1.0, 0.5)
    assert (found.p10, found.median, found.p90, found.p95) == pytest.approx(
        tuple(seconds / 1.1 for seconds in (slow.p10, slow.median, slow.p90, slow.p95))
    )
    assert corrected(at(1.21), None, 0.5) == at(1.21)
    assert corrected(timing(1e-3), 1.0, 0.5) == timing(1e-3)


def test_timings_of_a_group_know_its_reference():
    world = World()
    reference = world.opener("reference", lambda call: 5 * MS if call <= 10 else 4 * MS)
    openers = {"a": world.opener("a", 3 * MS), "b": world.opener("b", 2 * MS)}
    plain = MeasurementProtocol(warmup=2, discarded=1, kept=3, shortest_group_s=0)
    (found,) = measure(openers, Rounds(3, 2), plain, reference=reference, instruments=Instruments(lambda: world.now))
    assert [timing.reference for timing in found.values()] == [pytest.approx(5e-3)] * 2
    assert world.open == 0


def test_the_reference_is_visited_all_over_a_round():
    world = World()
    openers = {f"s{number}": world.opener(f"s{number}", 2 * MS) for number in range(19)}
    found = world.measure(
        openers,
        Rounds(20, 2),
        MeasurementProtocol(warmup=1, discarded=1, kept=3, shortest_group_s=0),
        reference=world.opener("reference", MS),
    )
    visits = [key for key, calls in runs(world.log) if calls == 4]
    assert [index for index, key in enumerate(visits) if key == "reference"] == [0, 8, 17, 22, 30, 39]
    assert (found.keys(), found["s0"].n) == (openers.keys(), 6)


# -- measuring again


class SlowFor:
    """A runner that is slower than usual while it makes its first measurements of some models, by their references."""

    def __init__(self, slow, attempts):
        self.slow, self.attempts, self.asked = slow, attempts, []

    def measure(self, models, rounds, protocol, *, on_visits, reference=None):
        self.asked.append(list(models))
        disturbed = len(self.asked) <= self.attempts
        yield {key: at(self.slow.get(key, 1e-4) if disturbed else 1e-4) for key in models}


def measuring(runner, folder, ends=inf, **changes):
    conditions = Conditions.of(SPACE, CONDITIONS.device, CONDITIONS.fingerprint, MeasurementProtocol(**changes))
    journal = Journal(folder / "journal.jsonl", conditions)
    return Campaign(runner, conditions.protocol, journal, Progress(), lambda: b"", ends, pause=lambda seconds: None)


MODELS = {key: lambda: b"" for key in "abcde"}


def test_what_was_disturbed_is_measured_again_though_it_looked_quiet(tmp_path, capsys):
    runner = SlowFor({"b": 2e-4, "d": 2e-4}, attempts=1)
    work = measuring(runner, tmp_path)
    found = work.timings("blocks", MODELS, Rounds(6, 1))
    assert runner.asked == [list("abcde"), ["b", "d"]]
    assert {t.noise for t in found.values()} == {""}
    assert found == work.journal.outcomes["blocks"]
    said = capsys.readouterr().err
    assert "measuring 2 blocks again: the reference graph took up to 2.00 times as long as usual" in said


def test_what_stays_disturbed_is_flagged(tmp_path):
    runner = SlowFor({"b": 2e-4}, attempts=9)
    found = measuring(runner, tmp_path, retries=2).timings("blocks", MODELS, Rounds(6, 1))
    assert runner.asked[1:] == [["b"], ["b"]]
    assert {key: t.noise for key, t in found.items() if t.noisy} == {"b": "drift"}


@pytest.mark.parametrize(
    ("ends", "again", "said"),
    [
        (8.0, ["d", "b"], "measuring 2 blocks again"),
        (7.9, ["d"], "measuring 1 of 2 blocks again"),
        (6.9, None, "no time is left to measure 2 blocks again, which are flagged"),
        (1.0, None, "no time is left"),
    ],
)
def test_what_was_disturbed_most_is_measured_again_in_the_time_that_is_left(
    ends, again, said, tmp_path, capsys, monkeypatch
):
    """Five blocks take a second each, and one second has to be left for networks."""
    now = iter([0.0, *[5.0] * 2])
    monkeypatch.setattr(module, "perf_counter", lambda: next(now))
    runner = SlowFor({"b": 2e-4, "d": 3e-4}, attempts=1)
    found = measuring(runner, tmp_path, ends, retries=1).timings("blocks", MODELS, Rounds(6, 1), later_s=1.0)
    assert runner.asked[1:] == ([again] if again else [])
    assert {key for key, t in found.items() if t.noisy} == {"b", "d"} - set(again or ())
    assert said in capsys.readouterr().err


def test_without_retries_nothing_is_measured_again(tmp_path):
    runner = SlowFor({"b": 2e-4}, attempts=9)
    found = measuring(runner, tmp_path, retries=0).timings("blocks", MODELS, Rounds(6, 1))
    assert runner.asked == [list("abcde")]
    assert {key: t.noise for key, t in found.items() if t.noisy} == {"b": "drift"}


class Varying:
    """A runner where the runs of some models vary, as much as is said for each time that they are measured.

    It takes no reference graph, unless it is given its seconds. `undisturbed` are the milliseconds of a run that
    nothing disturbs, each time.
    """

    def __init__(self, spreads, reference=None, undisturbed=None):
        self.spreads, self.seconds = {key: iter(values) for key, values in spreads.items()}, reference
        self.undisturbed = {key: iter(values) for key, values in (undisturbed or {}).items()}
        self.asked, self.references = [], []

    def measure(self, models, rounds, protocol, *, on_visits, reference=None):
        self.asked.append(list(models))
        self.references.append(reference)
        yield {key: self.outcome(key) for key in models}

    def outcome(self, key):
        spread = next(self.spreads.get(key, iter([1.0])))
        slow, fast = 1e-3 * spread, 1e-3 * next(self.undisturbed.get(key, iter([1.0])))
        return replace(at(self.seconds), p10=fast, p90=slow, p95=slow, noise="spread" if spread > 1.2 else "")


def test_where_the_reference_was_as_fast_as_usual_what_varied_is_flagged_but_not_measured_again(tmp_path):
    runner = Varying({"b": [1.5, 1.0]}, reference=1e-4)
    found = measuring(runner, tmp_path).timings("blocks", MODELS, Rounds(6, 1))
    assert runner.asked == [list("abcde")]
    assert {key: timing.noise for key, timing in found.items() if timing.noisy} == {"b": "spread"}


def test_whole_networks_that_varied_are_measured_again_once_and_the_faster_timing_is_kept(tmp_path, capsys):
    undisturbed = {"b": [0.8, 0.9], "d": [0.9, 0.8]}
    runner = Varying({"b": [1.5, 1.3, 1.0], "d": [1.3, 1.5, 1.0]}, reference=1e-4, undisturbed=undisturbed)
    found = measuring(runner, tmp_path).timings("networks", MODELS, Rounds(6, 1))
    assert runner.asked == [list("abcde"), ["b", "d"]]
    assert {key: round(timing.undisturbed * 1e3, 6) for key, timing in found.items() if timing.noisy} == {
        "b": 0.8,
        "d": 0.8,
    }
    assert all(timing.reference == 1e-4 for timing in found.values())
    assert "measuring 2 networks again: runs varied (p90/p50 up to 1.50)" in capsys.readouterr().err


@pytest.mark.parametrize(("a_network_s", "again"), [(40.0, "bcd"), (50.0, "db"), (130.0, "")])
def test_of_slow_networks_that_varied_those_that_varied_most_are_measured_again(
    a_network_s, again, tmp_path, monkeypatch
):
    """Two minutes are enough for two or three of them, or for none."""
    now = iter([0.0, *[5 * a_network_s] * 2])
    monkeypatch.setattr(module, "perf_counter", lambda: next(now))
    runner = Varying({"b": [1.5, 1.0], "c": [1.3, 1.0], "d": [1.6, 1.0]}, reference=1e-4)
    found = measuring(runner, tmp_path, retries=1).timings("networks", MODELS, Rounds(6, 1))
    assert [sorted(keys) for keys in runner.asked[1:]] == ([sorted(again)] if again else [])
    assert {key for key, timing in found.items() if timing.noisy} == set("bcd") - set(again)


@pytest.mark.parametrize(("a_run_s", "again"), [(5.7, 3), (5.8, 2), (17.0, 1), (17.2, 0)])
def test_networks_that_an_earlier_process_measured_have_two_minutes_as_well(a_run_s, again, tmp_path):
    """Each has seven runs: three to warm up, and a visit of four."""
    runner = Varying({}, reference=1e-4)
    work = measuring(runner, tmp_path, retries=1)
    varied = replace(at(1e-4), p10=a_run_s, median=a_run_s, p90=2 * a_run_s, p95=2 * a_run_s, noise="spread")
    work.journal.add("networks", dict.fromkeys(MODELS, varied))
    work.timings("networks", MODELS, Rounds(6, 1))
    assert sum(map(len, runner.asked)) == again


def test_what_varied_without_a_reference_is_measured_again_once_and_its_quietest_timing_is_kept(tmp_path, capsys):
    runner = Varying({"b": [1.5, 1.0], "e": [1.3, 1.6, 1.0]})
    work = measuring(runner, tmp_path, wait_s=7.0)
    paused = []
    found = replace(work, pause=paused.append).timings("blocks", MODELS, Rounds(6, 1))
    assert runner.asked == [list("abcde"), ["b", "e"]]
    assert paused == [7.0]
    assert {key: (t.noise, round(t.spread, 6)) for key, t in found.items() if key in "be"} == {
        "b": ("", 1.0),
        "e": ("spread", 1.3),
    }
    assert runner.references == [work.reference] * 2
    assert "measuring 2 blocks again: runs varied (p90/p50 up to 1.50)" in capsys.readouterr().err
    # A measurement that goes on from the journal knows the same.
    assert measuring(runner, tmp_path, wait_s=7.0).journal.outcomes["blocks"] == found


def test_where_most_vary_all_of_them_are_measured_again(tmp_path):
    runner = Varying({key: [1.5, 1.4] for key in "abd"})
    found = measuring(runner, tmp_path).timings("blocks", MODELS, Rounds(6, 1))
    assert runner.asked == [list("abcde"), list("abd")]
    spreads = {key: round(timing.spread, 6) for key, timing in found.items() if timing.noise == "spread"}
    assert spreads == dict.fromkeys("abd", 1.4)


def test_what_the_sensors_saw_is_said_and_comes_first():
    hot = replace(at(1.0), noise="throttling")
    found = {"a": at(1.0), "b": at(1.0), "c": hot, "d": replace(at(1.0), noise="frequency"), "e": at(1.3)}
    factors = disturbances(found, 1.05)
    assert factors == {"c": inf, "d": inf, "e": pytest.approx(1.3)}
    said = "the reference graph took up to 1.30 times as long as usual meanwhile and "
    assert disturbed_by(found, 1.05) == said + "the processor's frequency changed and the processor was throttled"


def test_measure_without_references_gives_none():
    world = World()
    openers = {"a": world.opener("a", 2 * MS)}
    (group,) = measure(openers, Rounds(2, 1), MeasurementProtocol(), instruments=Instruments(lambda: world.now))
    assert group["a"].reference is None
