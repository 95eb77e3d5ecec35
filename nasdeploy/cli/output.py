"""What commands share: the run that they work on, the options for it, and how results are printed."""

import json
import sys
from collections.abc import Callable, Iterable, Sequence
from importlib import import_module
from pathlib import Path
from shutil import get_terminal_size
from textwrap import wrap
from typing import TYPE_CHECKING, Annotated, Any

import typer

from nasdeploy.cli import completion
from nasdeploy.core.escaping import as_json as plain

if TYPE_CHECKING:
    from nasdeploy.core.progress import Progress
    from nasdeploy.store.run import Run


RunOption = Annotated[
    str | None,
    typer.Option(
        "--run", metavar="DIR", help="Run directory [default: the latest in runs/].", autocompletion=completion.runs
    ),
]
MovedDataOption = Annotated[
    str | None, typer.Option("--data", metavar="DIR", help="Folder of the run's images, if it was moved.")
]
ChangeOption = Annotated[
    list[str] | None,
    typer.Option("--set", metavar="KEY=VALUE", help="Change the recipe, e.g. data.on_unreadable=skip."),
]
DeviceOption = Annotated[
    str | None,
    typer.Option("--device", metavar="NAME|FILE", help="Over the recipe's.", autocompletion=completion.devices),
]


def load_torch(progress: "Progress", module: str) -> None:
    """Import a module that computes with PyTorch, which takes seconds, where a command is about to use it."""
    with progress.stage("loading PyTorch"):
        import_module(module)


def chosen_run(directory: str | None) -> "Run":
    """The run in a directory, by default the latest; raises `UserError` if there is none."""
    from nasdeploy.store.run import Run

    return Run.open(Path(directory)) if directory else Run.latest()


def changes(assignments: Sequence[str] | None, device: str | None) -> list[str]:
    """What `--set` and `--device` change in a recipe, as `key.key=value`."""
    return [*(assignments or ()), *([f"device={json.dumps(device)}"] if device else ())]


def device_names(given: Sequence[str] | None) -> list[str]:
    """Return the names that are given to an option for several devices, also with commas between them."""
    return [word.strip() for text in given or () for word in text.split(",") if word.strip()]


WIDTH = 80
"""The columns that texts and tables keep to, but for terminals that are wider."""
_STYLES = {"note": "yellow", "problem": "bold red"}
"""The colours of words that are cells by themselves, on a terminal."""
_GAP, _SHORTEST = 2, 8
"""The blanks between columns of a table, and the width that columns keep where there is too little room."""


def width() -> int:
    """Return the columns that there are: those of a terminal that is wider than `WIDTH`, which it is elsewhere."""
    return max(WIDTH, get_terminal_size((WIDTH, 24)).columns)


def wrapped(text: str, indent: str = "  ") -> list[str]:
    """Return a text as lines that fit, all but the first after `indent`.

    Words are not broken: paths and commands can be copied.
    """
    return wrap(text, width(), subsequent_indent=indent, break_long_words=False, break_on_hyphens=False) or [""]


def facts(rows: Iterable[tuple[str, str]], indent: str = "  ") -> list[str]:
    """Return lines of names beside texts, after `indent`.

    An empty name goes on with the one above it; one with an empty text is left out.
    """
    known = [(name, text) for name, text in rows if text]
    longest = max((len(name) for name, _ in known), default=0)
    lines = []
    for name, text in known:
        before = f"{indent}{name:<{longest}}  "
        room = max(width() - len(before), WIDTH // 3)
        first, *others = wrap(text, room, break_on_hyphens=False) or [""]
        lines += [f"{before}{first}".rstrip(), *(f"{'':<{len(before)}}{line}" for line in others)]
    return lines


def listing(
    headings: Sequence[str],
    rows: Iterable[Sequence[str]],
    *,
    texts: int | None = None,
    optional: Sequence[str] = (),
    below: str | None = None,
) -> str:
    """Return a table that fits: its cells are wrapped, after columns that are `optional` were left out, in that order.

    The first `texts` columns, by default all, are to the left; the others hold figures, which are to the right and not
    wrapped. The last column may hold sentences, of which those that are not `below` stand below a table that is too
    wide.
    """
    content = list(rows)
    columns = [list(column) for column in zip(headings, *content, strict=True)]
    after: list[str] = []
    texts = len(columns) if texts is None else texts
    if below is not None and _total(map(_natural, columns)) > width():
        sentences = columns.pop()
        told = [(row[0], text) for row, text in zip(content, sentences[1:], strict=True) if text != below]
        after = ["", sentences[0], *facts(told)] if told else []
    omitted = []
    for name in optional:
        if _total(_least(columns, texts)) > width() and name in headings:
            columns = [column for column in columns if column[0] != name]
            omitted.append(name)
    if omitted:
        after = [*wrapped(_omission(omitted), ""), *after]
    return "\n".join([_drawn(columns, texts), *after])


def _omission(names: Sequence[str]) -> str:
    return f"(not shown for want of room: {', '.join(names)}; a wider terminal or --json has them)"


def aligned(rows: Sequence[Sequence[str]], optional: Sequence[str] = ()) -> list[str]:
    """Return lines of a table that fits, whose first row are the headings and first column texts, and others figures.

    See `listing`.
    """
    return listing(rows[0], rows[1:], texts=1, optional=optional).splitlines()


def _natural(column: Sequence[str]) -> int:
    from rich.cells import cell_len

    return max(map(cell_len, column))


def _total(widths: Iterable[int]) -> int:
    return sum(each + _GAP for each in widths) - _GAP


def _drawn(columns: Sequence[Sequence[str]], texts: int) -> str:
    from io import StringIO

    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    table = Table(box=None, pad_edge=False, padding=(0, _GAP, 0, 0))
    for place, (column, room) in enumerate(zip(columns, _widths(columns, texts), strict=True)):
        table.add_column(column[0], width=room, overflow="fold", justify="left" if place < texts else "right")
    for row in list(zip(*columns, strict=True))[1:]:
        table.add_row(*(Text(cell, style=_STYLES.get(cell, "")) for cell in row))
    text = StringIO()
    # Its own detection would look at the file. What it marks is bold, and NO_COLOR and TERM=dumb count.
    console = Console(file=text, width=width(), markup=False, highlight=False, force_terminal=_is_terminal())
    console.print(table)
    return "\n".join(line.rstrip() for line in text.getvalue().splitlines())


def _is_terminal() -> bool:
    return sys.stdout.isatty()


def _widths(columns: Sequence[Sequence[str]], texts: int) -> list[int]:
    """Return the columns' widths: the widest gives way first, and words are broken only where nothing else helps."""
    widths = [_natural(column) for column in columns]
    for least in (_least(columns, texts), [_longest_word(column) for column in columns], [_SHORTEST] * len(columns)):
        while _total(widths) > width():
            able = [place for place, now in enumerate(widths) if now > least[place]]
            if not able:
                break
            widths[max(able, key=widths.__getitem__)] -= 1
    return widths


def _least(columns: Sequence[Sequence[str]], texts: int) -> list[int]:
    """Return the widths at which no word is broken and no figure wrapped."""
    return [
        _longest_word(column) if place < texts else max(_natural(column[1:] or column), _longest_word(column[:1]))
        for place, column in enumerate(columns)
    ]


def _longest_word(cells: Sequence[str]) -> int:
    from rich.cells import cell_len

    return max((cell_len(word) for cell in cells for word in cell.split()), default=1)


def onward(*commands: str) -> str:
    """Return what a result ends with: a line for each command that may be typed next."""
    before = ("continue with", *["or"] * (len(commands) - 1))
    return "\n".join(f"{word:>13}: nasdeploy {command}" for word, command in zip(before, commands, strict=True))


JsonFlag = Annotated[bool, typer.Option("--json", help="Print the result as one JSON object.")]
QuietFlag = Annotated[bool, typer.Option("--quiet", help="No progress, only the result.")]


def emit(result: dict[str, Any], as_json: bool, text: Callable[[], str]) -> None:
    """Print a command's result.

    Names that are not UTF-8 are escaped, and so is what the output's encoding lacks. Typer's own function would write
    UTF-8 where it takes the encoding for a mistake.
    """
    print(json.dumps(plain(result)) if as_json else text())
    sys.stdout.flush()
