"""Lists of what there is, as tables for people."""

from collections.abc import Iterable, Sequence


def listing(headings: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A table without lines, as wide as the terminal and at least 100 columns."""
    from io import StringIO
    from shutil import get_terminal_size

    from rich.console import Console
    from rich.table import Table

    table = Table(*headings, box=None)
    for row in rows:
        table.add_row(*row)
    text = StringIO()
    Console(file=text, width=max(100, get_terminal_size((160, 24)).columns), markup=False).print(table)
    return "\n".join(line.rstrip() for line in text.getvalue().splitlines())
