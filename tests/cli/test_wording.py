"""Messages of the library name its own arguments, and the command line its options."""

import re
from collections.abc import Iterator
from importlib import import_module
from typing import Any

import pytest
import typer

import nasdeploy
from nasdeploy.cli.app import app
from nasdeploy.cli.wording import COMMANDS, OPTIONS, typed
from tests.layers import modules


@pytest.mark.parametrize(
    ("said", "shown"),
    [
        ("x: damaged; train anew with `restart=True`", "x: damaged; train anew with --restart"),
        ("give its directory with `run`, or `run=a/b`", "give its directory with --run, or --run a/b"),
        ("leave it out with `data.on_unreadable=skip`", "leave it out with --set data.on_unreadable=skip"),
        ("`macs_m=5 x`: give a number", "--macs-m 5 x: give a number"),
        ("measure it with `nd.profile(device=pi)`", "measure it with 'nasdeploy profile --device pi'"),
        ("`nd.train(RECIPE, run='a b', restart=True)`!", "'nasdeploy train RECIPE --run 'a b' --restart'!"),
        ("see `workflows.table.check()`", "see 'nasdeploy table check'"),
        ("later, with: `workflows.models.predict(BUNDLE, test)`", "later, with: nasdeploy predict BUNDLE test"),
    ],
)
def test_what_the_library_names_is_what_a_user_types(said: str, shown: str) -> None:
    assert typed(said) == shown


@pytest.mark.parametrize(
    "said", ["", "no such file: a`b", "class `cat`", "`a.b`", "`np.sum(x)`", "`nd.sum()`", "``", "`restart"]
)
def test_whatever_else_stands_between_backticks_stays(said: str) -> None:
    assert typed(said) == said


def test_every_function_is_one_of_the_library() -> None:
    for name in COMMANDS:
        home, _, function = name.rpartition(".")
        module = nasdeploy if home == "nd" else import_module(f"nasdeploy.{home}")
        assert callable(getattr(module, function)), name


@pytest.mark.parametrize("module", modules())
def test_every_function_that_is_named_has_a_command(module: str) -> None:
    text = modules()[module].read_text(encoding="utf-8")
    named = (
        set(re.findall(r"`((?:nd|workflows)\.[a-z_.]+)\(", text)) if not module.startswith("nasdeploy.cli") else set()
    )
    assert named <= set(COMMANDS)


def test_every_option_is_one_of_some_command() -> None:
    known = {option for command in commands_of(typer.main.get_command(app)) for option in options_of(command)}
    assert set(OPTIONS.values()) <= known


def commands_of(command: Any) -> Iterator[Any]:
    """A command, and those below it where it is a group."""
    yield command
    for each in getattr(command, "commands", {}).values():
        yield from commands_of(each)


def options_of(command: Any) -> list[str]:
    return [option for parameter in command.params for option in parameter.opts]
