import io
import sys
from collections.abc import Callable
from threading import Timer
from time import sleep

import pytest

from nasdeploy.core import progress
from nasdeploy.core.progress import Progress, counting, quantity


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    now = [0.0]
    monkeypatch.setattr(progress, "monotonic", lambda: now[0])
    return now


def test_plain_lines_come_at_intervals_and_at_the_end(clock: list[float], capsys: pytest.CaptureFixture[str]) -> None:
    with Progress().task("training", total=100) as task:
        for _ in range(100):
            clock[0] += 0.5
            task.advance(note="loss 2.30")
    shown = capsys.readouterr()
    lines = shown.err.splitlines()
    assert shown.out == ""
    assert lines[0] == "training: 20/100, 2/s, 0:40 left  loss 2.30"
    assert len(lines) == 5
    assert lines[-1] == "training: 100/100, 2/s, 0:00 left  loss 2.30"


def test_a_resumed_task_counts_its_rate_from_where_it_resumed(
    clock: list[float], capsys: pytest.CaptureFixture[str]
) -> None:
    with Progress().task("training", total=200, done=100) as task:
        clock[0] = 10.0
        task.advance(50)
    assert capsys.readouterr().err == "training: 150/200, 5/s, 0:10 left\n"


def test_what_precedes_the_first_of_many_steps_does_not_slow_the_others(
    clock: list[float], capsys: pytest.CaptureFixture[str]
) -> None:
    with Progress().task("measuring, visits", total=1920, done=1500) as task:
        for clock[0] in (44.0, 45.0, 55.0):
            task.advance(10)
    expected = "measuring, visits: 1510/1920\nmeasuring, visits: 1530/1920, 1.82/s, 3:34 left\n"
    assert capsys.readouterr().err == expected


def test_quiet_says_nothing(capsys: pytest.CaptureFixture[str]) -> None:
    quiet = Progress(quiet=True)
    quiet.say("hello")
    with quiet.task("training", total=1) as task:
        task.advance()
    assert capsys.readouterr() == ("", "")


def test_say_goes_to_stderr(capsys: pytest.CaptureFixture[str]) -> None:
    Progress().say("hello")
    assert capsys.readouterr() == ("", "hello\n")


def test_a_terminal_gets_a_bar_with_rate_and_note(monkeypatch: pytest.MonkeyPatch) -> None:
    terminal = Terminal()
    monkeypatch.setattr(sys, "stderr", terminal)
    monkeypatch.setenv("COLUMNS", "120")
    with Progress().task("training [a0]", total=8, done=3) as task:
        for _ in range(5):
            task.advance(note="loss [/x] 2.3")
    shown = terminal.getvalue()
    assert "training [a0]" in shown
    assert "8/8" in shown
    assert "/s" in shown
    assert "loss [/x] 2.3" in shown


def test_the_time_left_is_in_sight_whatever_the_name_and_the_note(
    clock: list[float], monkeypatch: pytest.MonkeyPatch
) -> None:
    terminal = Terminal()
    monkeypatch.setattr(sys, "stderr", terminal)
    monkeypatch.setenv("COLUMNS", "80")
    with Progress().task("a long name " * 5, total=100_000) as task:
        task.advance(1)
        clock[0] = 8.0
        task.advance(10, note="a long note " * 9)
    lines = terminal.getvalue().splitlines()
    assert any("11/100000, 1.25/s, 1333:11 left" in line for line in lines)
    assert any("a long note a long note" in line for line in lines)


def test_an_error_inside_a_task_is_not_swallowed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stderr", Terminal())
    with pytest.raises(ZeroDivisionError), Progress().task("x", total=1):
        raise ZeroDivisionError


def test_a_terminal_gets_a_table_below_the_bar(monkeypatch: pytest.MonkeyPatch) -> None:
    terminal = Terminal()
    monkeypatch.setattr(sys, "stderr", terminal)
    monkeypatch.setenv("COLUMNS", "120")
    rows: list[list[str]] = []
    with Progress().task("search", total=2, table=lambda: rows) as task:
        task.advance()
        rows += [["network", "top-1"], ["[bold]0123", "97.5"]]
        task.advance()
    lines = terminal.getvalue().splitlines()
    assert any("network" in line and "top-1" in line for line in lines)
    assert any("[bold]0123" in line and "97.5" in line for line in lines)


@pytest.fixture
def late(monkeypatch: pytest.MonkeyPatch) -> list[tuple[float, Callable[[], None]]]:
    """What would be done later, with the seconds until then; nothing waits."""
    planned: list[tuple[float, Callable[[], None]]] = []

    class Planned(Timer):
        def start(self) -> None:
            planned.append((self.interval, lambda: self.function(*self.args)))

    monkeypatch.setattr(progress, "Timer", Planned)
    return planned


def test_a_stage_is_named_only_if_it_takes_seconds(
    late: list[tuple[float, Callable[[], None]]], capsys: pytest.CaptureFixture[str]
) -> None:
    with Progress().stage("loading PyTorch"):
        assert capsys.readouterr().err == ""
        ((seconds, say),) = late
        say()
    assert (seconds, capsys.readouterr().err) == (2.0, "loading PyTorch ...\n")
    with Progress(quiet=True).stage("loading PyTorch"):
        assert len(late) == 1


def test_a_stage_that_is_over_is_not_named(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(progress, "_SILENT_S", 0.05)
    with pytest.raises(ZeroDivisionError), Progress().stage("loading PyTorch"):
        raise ZeroDivisionError
    sleep(0.1)
    assert capsys.readouterr().err == ""
    with Progress().stage("loading PyTorch"):
        sleep(0.1)
    assert capsys.readouterr().err == "loading PyTorch ...\n"


@pytest.mark.usefixtures("late")
def test_what_is_counted_in_a_stage_has_the_time_left(clock: list[float], capsys: pytest.CaptureFixture[str]) -> None:
    with Progress().stage("opening the data"):
        work = counting("files", 100)
        for _ in range(100):
            clock[0] += 0.25
            work.advance()
    assert capsys.readouterr().err.splitlines() == [
        "opening the data, files: 40/100, 4/s, 0:15 left",
        "opening the data, files: 80/100, 4/s, 0:05 left",
        "opening the data, files: 100/100, 4/s, 0:00 left",
    ]
    with Progress().stage("opening the data"):
        counting("files", 1).advance()
    counting("files", 1).advance()
    assert capsys.readouterr().err == ""


@pytest.mark.usefixtures("late")
def test_a_task_or_stage_inside_a_stage_is_the_stage_s(clock: list[float], capsys: pytest.CaptureFixture[str]) -> None:
    shown = Progress()
    with shown.stage("outer"), shown.stage("inner"), shown.task("images", 2) as task:
        clock[0] = 3.0
        task.advance(2)
    assert capsys.readouterr().err == "outer, images: 2/2, 0.667/s, 0:00 left\n"


def test_a_terminal_gets_a_stage_with_its_time_and_a_bar_once_something_counts(monkeypatch: pytest.MonkeyPatch) -> None:
    terminal = Terminal()
    monkeypatch.setattr(sys, "stderr", terminal)
    monkeypatch.setenv("COLUMNS", "120")
    with Progress().stage("opening [the data]"):
        counting("files", 2).advance(2)
    shown = terminal.getvalue()
    assert "opening [the data], files" in shown and "2/2" in shown
    assert "0:00:0" in shown


def test_other_outputs_never_make_the_table(capsys: pytest.CaptureFixture[str]) -> None:
    def table() -> list[list[str]]:
        raise AssertionError

    with Progress().task("search", total=1, table=table) as task:
        task.advance()
    with Progress(quiet=True).task("search", total=1, table=table) as task:
        task.advance()
    assert capsys.readouterr().err.startswith("search: 1/1")


@pytest.mark.parametrize(("number", "shown"), [(7, "7"), (1020, "1,020"), (999_999_999, "999,999,999")])
def test_numbers_that_are_read_are_whole(number: int, shown: str) -> None:
    assert quantity(number) == shown


def test_numbers_that_nobody_reads_are_rounded() -> None:
    assert quantity(544_195_584_000_000_000_000) == "5.44e+20"
