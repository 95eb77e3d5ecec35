"""A page for each command of the command line, from what Typer knows of it. Torch-free."""

import re
from collections.abc import Iterator
from typing import Any

import typer
from reference_keys import cell
from typer.main import get_command

from nasdeploy.cli.app import app
from nasdeploy.core import errors

_BEGINS = """`nasdeploy COMMAND --help` prints the same in a terminal. Commands that work on a run take the latest one
in `runs/` unless `--run DIR` names another. What they find out goes to stdout, as one JSON object with `--json`;
progress and errors go to stderr."""


def command_line() -> dict[str, str]:
    """Return the pages by file: one that lists all commands, and one for each."""
    program = get_command(app)
    context = typer.Context(program, info_name="nasdeploy")
    commands = {name: command for name, command in _commands(program).items() if not command.hidden}
    found = {f"reference/cli/{name}.md": "\n".join(_page(name, each, context)) for name, each in commands.items()}
    return {"reference/cli.md": "\n".join(_list(commands, program, context)), **found}


def _commands(command: Any) -> dict[str, Any]:
    """Return the commands inside a group by name; none inside another command."""
    return dict(getattr(command, "commands", {}))


def _list(commands: dict[str, Any], program: Any, context: Any) -> Iterator[str]:
    yield from ("# Command line", "", _BEGINS, "", "| Command | |", "|---|---|")
    for name, command in commands.items():
        yield f"| [`nasdeploy {name}`](cli/{name}.md) | {cell(command.help or '')} |"
        for inner, each in _commands(command).items():
            yield f"| [`nasdeploy {name} {inner}`](cli/{name}.md#{inner}) | {cell(each.help or '')} |"
    yield from ("", "## Options of `nasdeploy` {#options}", "", *_parameters(program, context), "")
    yield from ("## Exit codes {#exit-codes}", "", "| Code | Meaning |", "|---|---|", "| 0 | All went well. |")
    for code, meaning in sorted(_exit_codes()):
        yield f"| {code} | {cell(meaning)} |"
    yield ""


def _exit_codes() -> Iterator[tuple[int, str]]:
    """Yield the exit codes that errors have of their own, and what the errors are."""
    for found in vars(errors).values():
        if isinstance(found, type) and issubclass(found, errors.NasdeployError) and "exit_code" in vars(found):
            yield found.exit_code, "Any other error." if found is errors.NasdeployError else found.__doc__ or ""


def _page(name: str, command: Any, context: Any) -> Iterator[str]:
    yield from (f"# nasdeploy {name}", "")
    own = typer.Context(command, info_name=name, parent=context)
    yield from _command(command, own)
    for inner, each in _commands(command).items():
        yield from (f"## nasdeploy {name} {inner} {{#{inner}}}", "")
        yield from _command(each, typer.Context(each, info_name=inner, parent=own))


def _command(command: Any, context: Any) -> Iterator[str]:
    told = " ".join((command.help or "").split("\f")[0].split())
    yield from (told, "", "```text", _usage(command, context), "```", "", *_parameters(command, context), "")


def _usage(command: Any, context: Any) -> str:
    arguments = [each for each in command.params if each.param_type_name == "argument"]
    words = [context.command_path, "[OPTIONS]", *(_name(each.get_help_record(context)[0]) for each in arguments)]
    if _commands(command):
        words.append("[COMMAND]" if command.invoke_without_command else "COMMAND")
    return " ".join(words)


def _parameters(command: Any, context: Any) -> Iterator[str]:
    # Hidden ones have none.
    records = [record for each in command.params if (record := each.get_help_record(context)) is not None]
    if records:
        yield from ("| Argument or option | Meaning |", "|---|---|")
    for name, told in records:
        yield f"| {cell(f'`{_name(name)}`')} | {cell(_told(told))} |"


_TYPE = re.compile(r" <(.*)>$")
_EXTRA = re.compile(r" ?\[((?:default: |required|[^\]]*<=?x|x[<>]=?)[^\]]*)\]")
_RANGE = re.compile(r"(?:([\d.]+)<=?)?x(?:([<>])=?([\d.]+))?")


def _name(name: str) -> str:
    """Return an argument or option; values of options that have no name of their own are numbers or texts."""
    name = name.removeprefix("* ")
    if not name.startswith("-"):
        return _TYPE.sub("", name)
    return _TYPE.sub(lambda found: " NUMBER" if found[1].startswith(("float", "int")) else " TEXT", name)


def _told(text: str) -> str:
    """Return the help of an option, with what stands in brackets behind it in words."""
    told = [_EXTRA.sub("", text)]
    for part in (part for found in _EXTRA.findall(text) for part in found.split("; ")):
        default, bounds = part.removeprefix("default: "), _RANGE.fullmatch(part)
        if part == "required":
            told.append("Required.")
        elif part != default:
            told.append(f"Default: {default}.")
        elif bounds is not None:
            low, high = (bounds[1] or (bounds[2] == ">" and bounds[3]), bounds[2] == "<" and bounds[3])
            told.append(f"From {low} to {high}." if low and high else f"At least {low}." if low else f"At most {high}.")
    return " ".join(told)
