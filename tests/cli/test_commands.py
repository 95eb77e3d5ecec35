"""What every command has: both flags for scripts, help that is not cut off, and texts that fit a terminal."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import typer
from typer.testing import CliRunner

from nasdeploy.cli.app import app

WITHOUT_FLAGS: dict[str, str] = {}
"""Commands for which `--json` or `--quiet` makes no sense, with the reason."""


def commands(group: Any, path: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], Any]]:
    """All commands by the words that call them; groups that do something by themselves, too."""
    for name, command in group.commands.items():
        words = (*path, name)
        if not hasattr(command, "commands") or command.invoke_without_command:
            yield words, command
        if hasattr(command, "commands"):
            yield from commands(command, words)


ALL = dict(commands(typer.main.get_command(app)))
QUICK = [
    *(["devices"], ["formats"], ["doctor"], ["space", "list"], ["space", "show", "digits"]),
    ["space", "show", "alphanet", "--arch", "smallest"],
]
"""Commands that need no run."""


def run(*words: str, columns: int = 80) -> Any:
    return CliRunner().invoke(app, words, env={"COLUMNS": str(columns)}, catch_exceptions=False)


@pytest.mark.parametrize("words", ALL, ids=" ".join)
def test_results_are_had_as_json_and_without_progress(words: tuple[str, ...]) -> None:
    options = {option for parameter in ALL[words].params for option in parameter.opts}
    if " ".join(words) not in WITHOUT_FLAGS:
        assert {"--json", "--quiet"} <= options


def test_reasons_are_given_for_commands_that_there_are() -> None:
    assert set(WITHOUT_FLAGS) <= {" ".join(words) for words in ALL}


@pytest.mark.parametrize("words", QUICK, ids=" ".join)
def test_json_is_one_object_and_quiet_says_nothing_else(
    words: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    done = run(*words, "--json", "--quiet")
    assert isinstance(json.loads(done.stdout), dict)
    assert done.stderr == ""


@pytest.mark.parametrize("words", QUICK, ids=" ".join)
def test_texts_fit_eighty_columns_and_use_more_where_there_are(
    words: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    narrow, wide = run(*words).stdout, run(*words, columns=400).stdout
    assert max(map(len, narrow.splitlines())) <= 80
    assert len(wide.splitlines()) <= len(narrow.splitlines())
    assert not {"\x1b", "…"} & {*narrow, *wide}


@pytest.mark.parametrize("words", [(), *{words[:-1] for words in ALL if len(words) > 1}], ids=" ".join)
def test_help_is_not_cut_off(words: tuple[str, ...]) -> None:
    listed = run(*words, "--help").stdout.partition("Commands:")[2]
    assert listed and "..." not in listed
    assert max(map(len, listed.splitlines())) <= 80
