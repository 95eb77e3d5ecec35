"""The library speaks of what is wrong; options and commands are the command line's to name."""

import ast
import re
from collections.abc import Iterator

import pytest
import typer

from nasdeploy.cli.app import app
from tests.layers import modules

COMMANDS = "|".join(typer.main.get_command(app).commands)  # type: ignore[attr-defined]
TYPED = re.compile(rf"(?<![\w-])--[a-z]|nasdeploy ({COMMANDS})\b|'nasdeploy \{{")
OF_USERS = ("nasdeploy.cli", "nasdeploy.initial_recipe", "nasdeploy.exporting.bundle", "nasdeploy.report")
"""Rooms that write for those who type commands: the command line, recipes, the files of a bundle, and reports."""
OTHER_PROGRAMS = ("pip",)
"""What else is typed, with options of its own."""


def texts(source: str) -> Iterator[str]:
    """All texts in a module but its docstrings; of f-strings the parts that stand there, with `{` for the others."""
    tree = ast.parse(source)
    statements = {id(node.value) for node in ast.walk(tree) if isinstance(node, ast.Expr)}
    inside = {id(part) for node in ast.walk(tree) if isinstance(node, ast.JoinedStr) for part in node.values}
    for node in ast.walk(tree):
        if isinstance(node, ast.JoinedStr):
            yield "".join(str(part.value) if isinstance(part, ast.Constant) else "{" for part in node.values)
        elif isinstance(node, ast.Constant) and isinstance(node.value, str) and id(node) not in statements | inside:
            yield node.value


def named(source: str) -> list[str]:
    """Texts that name an option or a command of nasdeploy."""
    found = [text for text in texts(source) if TYPED.search(text)]
    return [text for text in found if not any(f"{program} " in text for program in OTHER_PROGRAMS)]


@pytest.mark.parametrize("module", [name for name in modules() if not name.startswith(OF_USERS)])
def test_the_library_names_no_options_and_no_commands(module: str) -> None:
    assert named(modules()[module].read_text(encoding="utf-8")) == []


def test_the_check_would_notice() -> None:
    assert named("raise UserError(f'{path}: damaged; start anew with --restart')") != []
    assert named("x = f\"run 'nasdeploy {step}' first\"") != []
    assert named('def f():\n    """`nasdeploy train --restart`."""\n    return "pip install --upgrade x"') == []
