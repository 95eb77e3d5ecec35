"""Whole searches by several processes, started by torchrun and by hand."""

import os
import signal
from pathlib import Path
from time import sleep

import pytest

from tests.benchmarks.bench_search_ranks import TORCHRUN, evaluations
from tests.benchmarks.searches import SearchCommand, trained
from tests.forked import ForkedProcess, of_two

pytestmark = pytest.mark.slow

PATIENCE_S = 300.0


@pytest.fixture(scope="module")
def alone(tmp_path_factory: pytest.TempPathFactory) -> SearchCommand:
    """A finished search by one process, beside the run that it is a copy of."""
    directory = tmp_path_factory.mktemp("alone")
    command = SearchCommand.in_copy(trained(directory), directory / "alone")
    command.finish()
    return command


def copied(alone: SearchCommand, directory: Path) -> SearchCommand:
    return SearchCommand.in_copy(alone.run.with_name("run"), directory / "run")


def told(command: SearchCommand) -> int:
    """Return how often it says what it searches or how far it is, without what only slow starts show."""
    lines = command.said.read_text().splitlines()
    return sum("search: " in line for line in lines if not line.endswith(" ..."))


def test_torchrun_makes_the_same_evaluations_and_says_things_once(alone: SearchCommand, tmp_path: Path) -> None:
    command = copied(alone, tmp_path)
    command.finish(*TORCHRUN)
    assert evaluations(command) == evaluations(alone)
    assert command.winner() == alone.winner()
    assert set(command.begun().values()) == {1}
    assert told(command) == told(alone)


def started_by_hand(command: SearchCommand) -> list[ForkedProcess]:
    """Two processes, as torchrun would start them, without stopping one for the other."""
    return [command.start(environment) for environment in of_two()]


def test_a_second_process_that_is_killed_costs_one_evaluation(alone: SearchCommand, tmp_path: Path) -> None:
    command = copied(alone, tmp_path)
    first, second = started_by_hand(command)
    while first.poll() is None and sum(command.begun().values()) < 6:
        sleep(0.001)
    os.killpg(second.pid, signal.SIGKILL)
    assert first.wait(PATIENCE_S) == 0, command.said.read_text()
    assert second.wait() == -signal.SIGKILL
    assert evaluations(command) == evaluations(alone)
    assert command.winner() == alone.winner()
    assert sum(command.begun().values()) <= len(command.kept()) + 1


def test_without_the_first_process_the_others_end_in_a_line_and_nothing_is_lost(
    alone: SearchCommand, tmp_path: Path
) -> None:
    command = copied(alone, tmp_path)
    first, second = started_by_hand(command)
    while first.poll() is None and len(command.kept()) < 6:
        sleep(0.001)
    os.killpg(first.pid, signal.SIGTERM)
    assert first.wait(PATIENCE_S) != 0
    assert second.wait(PATIENCE_S) == 1
    said = [line for line in command.said.read_text().splitlines() if line.startswith("nasdeploy: ")]
    assert len(said) == 1
    assert said[0].startswith("nasdeploy: lost another process of this run (")
    before = command.kept()
    command.finish()
    assert [row for row in command.kept() if row in before] == before
    assert evaluations(command) == evaluations(alone)


def test_a_mistake_is_said_once(alone: SearchCommand, tmp_path: Path) -> None:
    command = copied(alone, tmp_path)
    with (command.run / "search.sqlite").open("wb") as file:
        file.write(b"no database at all, but long enough to be taken for one" * 100)
    first, second = started_by_hand(command)
    assert [first.wait(PATIENCE_S), second.wait(PATIENCE_S)] == [2, 2]
    said = [line for line in command.said.read_text().splitlines() if line.startswith("nasdeploy: ")]
    assert len(said) == 1
    assert "search.sqlite: damaged" in said[0]
