"""The measuring protocol, with sessions that move a clock of their own."""

import gc
from dataclasses import replace
from datetime import UTC, datetime, timedelta

import numpy as np
import pytest

from nasdeploy.core.errors import UserError
from nasdeploy.latency.machine import SensorReading
from nasdeploy.latency.measure import Instruments, in_groups, measure
from nasdeploy.latency.protocol import MeasurementProtocol, Rounds, SustainedCalls, Timing

MS = 1_000_000


class World:
    """A clock, sessions that take fake time, and a log of what happens."""

    def __init__(self):
        self.now = 0
        self.log = []
        self.pauses = []
        self.open = 0
        self.most_open = 0

    def opener(self, key, nanoseconds):
        def opened():
            self.open += 1
            self.most_open = max(self.most_open, self.open)
            return Session(self, key, nanoseconds)

        return opened

    def measure(self, openers, rounds, protocol, sense=SensorReading, **options):
        instruments = Instruments(lambda: self.now, self.pauses.append, sense)
        found = measure(openers, rounds, protocol, instruments=instruments, **options)
        return {key: timing for group in found for key, timing in group.items()}


class Session:
    def __init__(self, world, key, nanoseconds):
        self.world, self.key, self.nanoseconds = world, key, nanoseconds
        self.calls = 0

    def call(self):
        self.calls += 1
        self.world.log.append(self.key)
        self.world.now += self.nanoseconds(self.calls) if callable(self.nanoseconds) else self.nanoseconds

    def close(self):
        self.world.open -= 1


PLAIN = MeasurementProtocol(warmup=2, discarded=1, kept=3, shortest_group_s=0)


def runs(log):
    """Consecutive calls of one session, as (key, calls)."""
    found = []
    for key in log:
        if found and found[-1][0] == key:
            found[-1][1] += 1
        else:
            found.append([key, 1])
    return [tuple(run) for run in found]


def test_sessions_are_visited_in_turn():
    world = World()
    world.measure({"a": world.opener("a", 2 * MS), "b": world.opener("b", 3 * MS)}, Rounds(2, 3), PLAIN)
    warm_up, visits = [("a", 2), ("b", 2)], [("a", 4), ("b", 4)] * 3
    assert runs(world.log) == warm_up + visits


def test_times_are_the_sessions():
    world = World()
    found = world.measure({"a": world.opener("a", 2 * MS), "b": world.opener("b", 3 * MS)}, Rounds(2, 5), PLAIN)
    assert (found["a"].p10, found["a"].median, found["a"].p90) == pytest.approx((2e-3, 2e-3, 2e-3))
    assert (found["a"].n, found["a"].noisy) == (15, False)
    assert found["b"].median == pytest.approx(3e-3)


def test_first_run_of_a_visit_does_not_count():
    world = World()
    # After the two runs of warm-up, the first of every four runs is cold.
    cold = world.opener("a", lambda call: 9 * MS if call > 2 and (call - 3) % 4 == 0 else 2 * MS)
    assert world.measure({"a": cold}, Rounds(1, 5), PLAIN)["a"].p90 == pytest.approx(2e-3)
    world = World()
    cold = world.opener("a", lambda call: 9 * MS if call > 2 and (call - 3) % 4 == 0 else 2 * MS)
    assert world.measure({"a": cold}, Rounds(1, 5), replace(PLAIN, discarded=0))["a"].p90 > 8e-3


def test_short_calls_are_timed_together():
    world = World()
    found = world.measure({"a": world.opener("a", MS // 10)}, Rounds(1, 2), PLAIN)
    # Warm-up: one call, then as many as last a millisecond; two visits of four runs of ten calls.
    assert len(world.log) == 1 + 10 + 2 * 4 * 10
    assert found["a"].median == pytest.approx(1e-4)
    assert found["a"].n == 6


def test_run_lasts_a_millisecond_even_if_the_first_call_was_slow():
    world = World()
    world.measure({"a": world.opener("a", lambda call: 50 * MS if call == 1 else MS // 4)}, Rounds(1, 1), PLAIN)
    assert len(world.log) == 1 + 1 + 4 * 4


def test_a_group_is_visited_until_it_has_lasted_long_enough():
    world, visits = World(), []
    openers = {"a": world.opener("a", 2 * MS), "b": world.opener("b", 3 * MS)}
    longer = replace(PLAIN, shortest_group_s=0.1)
    found = world.measure(openers, Rounds(2, 2), longer, on_visit=lambda: visits.append(world.now))
    # The three runs that count of each visit make 15 ms a round, so it takes seven rounds.
    assert (found["a"].n, found["b"].n) == (3 * 7, 3 * 7)
    assert len(visits) == 2 * 2
    assert world.log.count("a") == 2 + 4 * 7


def test_every_group_has_the_reference_and_the_order_stays():
    models = {str(number): number for number in range(7)}
    groups = list(in_groups(models, 4, -1))
    assert [list(group.models.values()) for group in groups] == [[0, 1, 2], [3, 4, 5], [6]]
    assert {group.reference for group in groups} == {-1}
    assert {key: model for group in groups for key, model in group.models.items()} == models


def test_groups_of_one_have_no_reference():
    assert [(dict(group.models), group.reference) for group in in_groups({"a": 1, "b": 2}, 1, -1)] == [
        ({"a": 1}, None),
        ({"b": 2}, None),
    ]
    assert list(in_groups({}, 4, -1)) == []


def test_only_a_group_is_open_at_once():
    world = World()
    openers = {str(number): world.opener(str(number), 2 * MS) for number in range(7)}
    groups = list(measure(openers, Rounds(3, 1), PLAIN, instruments=Instruments(lambda: world.now)))
    assert [list(group) for group in groups] == [["0", "1", "2"], ["3", "4", "5"], ["6"]]
    assert world.most_open == 3
    assert world.open == 0


def test_what_varies_is_flagged():
    world = World()
    restless = world.opener("noisy", lambda call: 8 * MS if call % 2 else 2 * MS)
    found = world.measure({"quiet": world.opener("quiet", 3 * MS), "noisy": restless}, Rounds(2, 2), PLAIN)
    assert {key: timing.noise for key, timing in found.items()} == {"quiet": "", "noisy": "spread"}
    assert found["noisy"].undisturbed == pytest.approx(2e-3)


@pytest.mark.parametrize(
    ("readings", "noise"),
    [
        ([SensorReading(), SensorReading()], ""),
        ([SensorReading(), SensorReading(capped=True)], "throttling"),
        ([SensorReading(throttles=3), SensorReading(throttles=9)], "throttling"),
        ([SensorReading(stops=7), SensorReading(stops=7)], ""),
        ([SensorReading(stops=7), SensorReading(stops=8, throttles=1)], "quota"),
    ],
)
def test_what_the_sensors_say_is_kept_as_the_reason(readings, noise):
    world = World()
    told = iter([*readings, *[readings[-1]] * 9])
    found = world.measure({"a": world.opener("a", 2 * MS)}, Rounds(1, 2), PLAIN, sense=lambda: next(told))
    assert found["a"].noise == noise


def test_a_run_during_which_the_clock_jumped_back_is_made_again():
    world = World()
    found = world.measure(
        {"a": world.opener("a", lambda call: -500 * MS if call in (2, 5) else 2 * MS)}, Rounds(1, 2), PLAIN
    )
    assert (found["a"].median, found["a"].n, found["a"].noise) == (pytest.approx(2e-3), 6, "")


def test_after_gaps_each_call_counts_alone_and_the_reference_has_none():
    world = World()
    openers, reference = {"a": world.opener("a", MS // 10)}, world.opener("reference", MS // 4)
    found = world.measure(openers, Rounds(2, 2, idle_s=0.1), PLAIN, reference=reference)
    # Three runs that count in each of two visits: nothing is discarded, and no run is of several calls.
    assert world.pauses == [0.1] * 6
    assert (found["a"].n, found["a"].median) == (6, pytest.approx(1e-4))
    assert runs(world.log)[-4:] == [("reference", 4 * 4), ("a", 3), ("reference", 4 * 4), ("a", 3)]


def test_gaps_count_for_the_shortest_time_of_a_group():
    world = World()
    longer = replace(PLAIN, shortest_group_s=1.0)
    found = world.measure({"a": world.opener("a", MS // 10)}, Rounds(1, 1, idle_s=0.1), longer)
    assert found["a"].n == 12


def test_throughput_is_what_was_done_by_the_clock_whatever_calls_take():
    world = World()

    class Stopped(Session):
        """Half of the time it stands still, between calls: no call is slow, and half as many are done."""

        def call(self):
            super().call()
            if self.calls % 50 == 0:
                self.world.log.append("stop")
                self.world.stopped += 50 * MS

    world.stopped = 0
    clock = {"a": lambda: Stopped(world, "a", MS)}
    (found,) = measure(
        clock,
        Rounds(1, 2),
        replace(PLAIN, sustained_s=2.0),
        instruments=Instruments(lambda: world.now + world.stopped, sense=SensorReading),
    )
    throughput = found["a"].throughput
    assert throughput.per_s == pytest.approx(500, rel=0.03)
    assert 2.0 <= throughput.seconds < 2.1
    assert 1 / found["a"].p10 == pytest.approx(1000)


def test_throughput_is_not_measured_unless_asked_for_nor_of_the_reference():
    world = World()
    openers, reference = {"a": world.opener("a", MS)}, world.opener("reference", MS)
    assert world.measure(openers, Rounds(2, 1), PLAIN, reference=reference)["a"].throughput is None
    before = world.log.count("reference")
    found = world.measure(openers, Rounds(2, 1), replace(PLAIN, sustained_s=0.01), reference=reference)
    assert {key: timing.throughput for key, timing in found.items()} == {"a": SustainedCalls(10, 0.01)}
    assert world.log.count("reference") == 2 * before


def of_processes(*medians, factor=1.0):
    middle = factor * float(np.median(medians))
    at = datetime.now(UTC).isoformat()
    return Timing(middle, middle, middle, middle, 5, at, processes=tuple(sorted(medians)))


def test_what_processes_do_not_tell_apart_is_a_tie():
    wide, fast, slow = of_processes(0.9, 1.0, 1.5), of_processes(0.8, 0.85, 0.89), of_processes(1.4, 1.6, 1.7)
    assert wide.process_spread == pytest.approx(1.5 / 0.9)
    assert wide.ties(slow)
    assert slow.ties(wide)
    assert not wide.ties(fast)
    # A correction of the median moves the band with it.
    assert replace(slow, median=2.0, p90=2.0, p95=2.0).band == pytest.approx((1.75, 2.125))


def test_of_one_process_a_tie_is_what_two_usually_differ_by():
    at = datetime.now(UTC).isoformat()
    one, near, far = (Timing(s, s, s, s, 5, at) for s in (1.0, 1.05, 1.08))
    assert one.process_spread is None
    assert one.ties(near)
    assert not one.ties(far)


@pytest.mark.parametrize("step", [0, -MS])
def test_a_clock_that_does_not_go_forwards_is_one_line(step):
    world = World()
    with pytest.raises(UserError, match="the clock of the machine that measures stands still or runs backwards"):
        world.measure({"a": world.opener("a", step)}, Rounds(1, 2), PLAIN)
    assert world.open == 0


def test_percentiles_are_numpys_and_the_time_is_now():
    world = World()
    single = replace(PLAIN, retries=0)
    found = world.measure({"a": world.opener("a", lambda call: call * 2 * MS)}, Rounds(1, 4), single)["a"]
    runs = [2e-3 * call for call in range(3, 19) if call % 4 != 3]
    assert [found.p10, found.median, found.p90, found.p95] == pytest.approx(np.percentile(runs, [10, 50, 90, 95]))
    assert abs(datetime.now(UTC) - datetime.fromisoformat(found.at)) < timedelta(minutes=1)


def test_every_visit_is_announced_but_no_retry():
    world = World()
    heard = []
    openers = {"a": world.opener("a", lambda call: 8 * MS if call % 2 else 2 * MS), "b": world.opener("b", MS)}
    world.measure(openers, Rounds(2, 4), PLAIN, on_visit=lambda: heard.append(1))
    assert len(heard) == 8


def test_garbage_collection_is_off_while_timing_and_on_again_afterwards():
    world = World()
    seen = []

    class Watching(Session):
        def call(self):
            super().call()
            seen.append(gc.isenabled())

    assert gc.isenabled()
    world.measure({"a": lambda: Watching(world, "a", 2 * MS)}, Rounds(1, 1), PLAIN)
    assert gc.isenabled()
    assert seen == [True, True, False, False, False, False]


def test_sessions_are_closed_and_collection_restored_when_stopped():
    world = World()

    def stop(call):
        if call > 3:
            raise KeyboardInterrupt
        return MS

    openers = {"a": world.opener("a", MS), "b": world.opener("b", stop)}
    with pytest.raises(KeyboardInterrupt):
        world.measure(openers, Rounds(2, 2), PLAIN)
    assert world.open == 0
    assert gc.isenabled()


@pytest.mark.parametrize(
    "wrong",
    [
        {"median": 0.0, "p10": 0.0},
        {"p10": -1.0},
        {"p10": 2.5},
        {"p90": 1.5},
        {"p95": 2.5},
        {"median": float("nan")},
        {"p95": float("inf")},
        {"n": 0},
        {"reference": 0.0},
        {"at": "2026-11-24T00:00:00"},
    ],
)
def test_impossible_timings_are_refused(wrong):
    sound = Timing(median=2.0, p10=1.0, p90=3.0, p95=4.0, n=1, at="2026-11-24T00:00:00+00:00")
    with pytest.raises(ValueError, match="a timing"):
        replace(sound, **wrong)


@pytest.mark.parametrize(
    "wrong",
    [
        {"kept": 0},
        {"warmup": 0},
        {"retries": -1},
        {"wait_s": -1.0},
        {"noisy_above": 1.0},
        {"drift_above": 0.9},
        {"shortest_run_s": 0},
        {"sustained_s": -1.0},
    ],
)
def test_impossible_protocols_are_refused(wrong):
    with pytest.raises(ValueError, match="a protocol"):
        replace(PLAIN, **wrong)
    with pytest.raises(ValueError, match="a group and a visit"):
        Rounds(group=0, visits=1)
    with pytest.raises(ValueError, match="a group and a visit"):
        Rounds(group=1, visits=1, group_with_room=-1)
