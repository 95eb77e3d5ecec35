"""Commands in pages are typed by a test, or say what they need that no test has; there is no third kind."""

import ast
import inspect
import re
import shlex
import tomllib
from collections.abc import Iterator
from textwrap import dedent

import click
import pytest
import typer

import nasdeploy as nd
from nasdeploy.cli.app import app
from tests.docs.pages import NEEDS, PAGES, ROOT, fences, hardware, mentioned, stray, typed

EVERYTHING = typer.main.get_command(app)
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]


def found(words: list[str]) -> tuple[click.Command, list[str]]:
    """Return the command that words begin with, and the words behind it."""
    command: click.Command = EVERYTHING
    # `search` is a command itself and has commands.
    while words and words[0] in getattr(command, "commands", {}):
        command, words = command.commands[words[0]], words[1:]  # type: ignore[attr-defined]
    return command, words


def distinct(commands: Iterator[str]) -> list[str]:
    return sorted(set(commands))


def of_nasdeploy() -> Iterator[str]:
    """Commands of nasdeploy that need something, without the launcher in front of them."""
    for page in PAGES.values():
        for _, command in hardware(page):
            if (at := re.search(r"(?:^|\s)nasdeploy ", command)) and not command.startswith(("pip ", "git ")):
                yield command[at.start() :].strip()


def scripts() -> Iterator[str]:
    """Commands that run a script of the repository."""
    for page in PAGES.values():
        yield from (command for _, command in hardware(page) if re.search(r"python (?:-m )?tests[./]", command))


@pytest.mark.parametrize("name", PAGES)
def test_there_is_no_third_kind(name: str) -> None:
    page = PAGES[name]
    assert stray(page) == []
    assert {needs for needs, _ in hardware(page)} <= NEEDS
    assert [command for command in typed(page) if not command.startswith("nasdeploy ")] == []


def test_a_third_kind_would_be_seen() -> None:
    page = "\n```console\nnasdeploy devices\n```\n\n```\n$ pip install x\n```\n\n    nasdeploy formats\n"
    assert stray(page) == ["nasdeploy devices", "$ pip install x", "    nasdeploy formats"]
    assert stray("```console\n$ nasdeploy devices\n```\n\nSee `nasdeploy formats`, and\nnasdeploy itself.\n") == []


@pytest.mark.parametrize("command", distinct(of_nasdeploy()))
def test_commands_that_need_hardware_have_these_options(command: str) -> None:
    command_found, words = found(shlex.split(command, comments=True)[1:])
    with command_found.make_context(command, words) as context:
        assert "as_json" in context.params


@pytest.mark.parametrize("command", distinct(each for page in PAGES.values() for each in mentioned(page)))
def test_mentioned_commands_have_these_options(command: str) -> None:
    # In a sentence what is given stands in capitals, or is left out.
    words = command.split()[1:]
    command_found, rest = found(words)
    assert len(rest) < len(words) or words[0].startswith("--")
    known = {option for each in command_found.params for option in (*each.opts, *each.secondary_opts)}
    known |= {"--help"}
    assert {word.partition("=")[0] for word in rest if word.startswith("--")} <= known


def test_calls_in_python_have_these_arguments() -> None:
    texts = [fence.text for page in PAGES.values() for fence in fences(page, "python")]
    texts += [found for page in PAGES.values() for found in re.findall(r"(?<!`)`(nd\.[a-z_]+\([^`]*\))`", page)]
    calls = [node for text in texts for node in ast.walk(ast.parse(dedent(text))) if isinstance(node, ast.Call)]
    ours = [call for call in calls if ast.unparse(call.func).startswith("nd.")]
    assert ours
    for call in ours:
        taken = inspect.signature(getattr(nd, ast.unparse(call.func).removeprefix("nd."))).parameters
        free = any(each.kind is each.VAR_KEYWORD for each in taken.values())
        assert free or {each.arg for each in call.keywords} <= set(taken), ast.unparse(call)


@pytest.mark.parametrize("command", distinct(scripts()))
def test_scripts_are_there_and_have_these_options(command: str) -> None:
    words = shlex.split(command, comments=True)
    place = next(word for word in words if word.startswith(("tests.", "tests/")))
    path = ROOT / (place if "/" in place else f"{place.replace('.', '/')}.py")
    text = path.read_text(encoding="utf-8")
    assert [word for word in words[words.index(place) :] if word.startswith("--") and f'"{word}"' not in text] == []


def test_extras_that_are_installed_are_there() -> None:
    pages = "\n".join(PAGES.values())
    named = {name for names in re.findall(r"pip install .*'\.\[([\w,-]+)\]'", pages) for name in names.split(",")}
    named |= set(re.findall(r"extra `([\w-]+)`", pages))
    assert named
    assert named <= set(PROJECT["optional-dependencies"])


def test_files_that_pages_name_are_those_of_the_repository() -> None:
    pages = "\n".join(PAGES.values())
    named = set(re.findall(r"`((?:examples|tests|recipes)/[\w/.-]+\.\w+)`", pages))
    assert named
    assert sorted(each for each in named if not (ROOT / each).exists()) == []


def test_languages_of_fences_are_known() -> None:
    for name, page in PAGES.items():
        assert not fences(page, "bash") + fences(page, "shell") + fences(page, "sh"), name
