"""Progress as a user sees it: a bar with rate and time left on a terminal, plain lines elsewhere. All on stderr.

A task has steps that are counted from the beginning. A stage is known by its name alone until something inside it
counts: whatever is called there may do so by `counting`, without being told where progress is shown.
"""

import logging
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from threading import Timer
from time import monotonic
from typing import TYPE_CHECKING

from nasdeploy.core.escaping import escaped

if TYPE_CHECKING:
    from rich.console import RenderableType

_PLAIN_INTERVAL_S = 10.0
_TABLE_INTERVAL_S = 0.5
_SILENT_S = 2.0
"""The time that a stage may take before a plain line says what goes on."""

Rows = Sequence[Sequence[str]]
"""The rows of a table, the heading first."""


def duration(seconds: float) -> str:
    """Return a duration in the unit that suits it, e.g. `2.5 hours`."""
    for unit, length in (("days", 86400), ("hours", 3600), ("minutes", 60)):
        if seconds >= 1.5 * length:
            return f"{seconds / length:.1f} {unit}"
    return f"{seconds:.2g} seconds"


def quantity(number: int) -> str:
    """Return a number of things, e.g. `248,832`; rounded where nobody would read the digits, e.g. `5.44e+20`."""
    return f"{number:,}" if number < 1_000_000_000 else f"{number:.3g}"


@contextmanager
def without_logs() -> Iterator[None]:
    """Leave out what libraries log meanwhile, warnings included."""
    level = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        yield
    finally:
        logging.disable(level)


class Work:
    """One piece of work with a known number of steps; `show(done, note)` is called after each."""

    def __init__(self, done: int, show: Callable[[int, str], None]) -> None:
        self._done, self.show = done, show

    def advance(self, steps: int = 1, note: str = "") -> None:
        """Count finished steps; `note` is shown beside the bar, e.g. the current loss."""
        self._done += steps
        self.show(self._done, note)


Counter = Callable[[str, int], Work]
"""Makes the work that shows a number of steps of a stage, by their name."""


def _uncounted(name: str, total: int) -> Work:
    return Work(0, lambda done, note: None)


_COUNTER: ContextVar[Counter] = ContextVar("counter", default=_uncounted)
"""The counter of the stage that goes on in this context."""


def counting(name: str, total: int) -> Work:
    """Return work of `total` steps, such as `images`, that the present stage shows, if there is one."""
    return _COUNTER.get()(name, total)


class Progress:
    """Where commands report what they are doing.

    `quiet` leaves out everything but errors and results; `wording` is how a message reads where it is shown.
    """

    def __init__(self, quiet: bool = False, wording: Callable[[str], str] = str) -> None:
        self._quiet, self._wording = quiet, wording

    def say(self, text: str) -> None:
        """Say one line, `text`, to the user."""
        if not self._quiet:
            print(escaped(self._wording(text)), file=sys.stderr, flush=True)

    @contextmanager
    def stage(self, name: str) -> Iterator[None]:
        """Show that `name` goes on, and for how long, where its steps are not known before; see `counting`.

        Inside another stage nothing more is shown: what is counted there is that one's.
        """
        if self._quiet or _COUNTER.get() is not _uncounted:
            yield
            return
        with _spun(name) if sys.stderr.isatty() else _said(self, name) as counter:
            token = _COUNTER.set(counter)
            try:
                yield
            finally:
                _COUNTER.reset(token)

    @contextmanager
    def task(self, name: str, total: int, done: int = 0, table: Callable[[], Rows] = lambda: ()) -> Iterator[Work]:
        """Yield the task called `name`, of `total` steps of which `done` were finished before (a resumed run).

        A terminal shows `table` below the bar, made anew now and then; nothing where it has no rows.
        """
        if self._quiet:
            yield Work(done, lambda done, note: None)
        elif (counter := _COUNTER.get()) is not _uncounted:
            yield Work(done, counter(name, total).show)
        elif sys.stderr.isatty():
            with _bar(name, total, done, table) as task:
                yield task
        else:
            yield _lines(self, name, total, done)


@contextmanager
def _said(progress: Progress, name: str) -> Iterator[Counter]:
    """Say what goes on if it takes seconds, and how far it has got."""
    start = monotonic()
    late = Timer(_SILENT_S, progress.say, [f"{name} ..."])
    late.daemon = True

    def counter(what: str, total: int) -> Work:
        work = _lines(progress, f"{name}, {what}", total, 0)
        return Work(0, lambda done, note: work.show(done, note) if monotonic() - start > _SILENT_S else None)

    late.start()
    try:
        yield counter
    finally:
        late.cancel()


@contextmanager
def _spun(name: str) -> Iterator[Counter]:
    """Show what goes on and for how long it has, and how far it has got once something is counted."""
    from rich import progress as bars
    from rich.console import Console
    from rich.table import Column

    whole = Column(no_wrap=True, overflow="ellipsis")
    columns = (
        bars.SpinnerColumn(),
        bars.TimeElapsedColumn(),
        bars.TextColumn("{task.description}", markup=False, table_column=whole),
    )
    with bars.Progress(*columns, console=Console(stderr=True), transient=True) as shown:
        stage = shown.add_task(name, total=None)

        def counter(what: str, total: int) -> Work:
            pace = _Pace(0, total)

            def show(done: int, note: str) -> None:
                shown.update(stage, description=f"{name}, {what}: {pace.figures(done)}")

            return Work(0, show)

        yield counter


_SHORT_BAR, _LONG_BAR, _WIDE = 10, 40, 120
"""The columns of a bar, and of a terminal that has room for a long one."""
_FIGURES = 28
"""The columns of figures beside the two numbers, such as `/, 0.125/s, 123:45 left`, and of what is between columns."""


_MANY = 100
"""A rate counts from the first of more steps than these: most of what precedes it is preparation."""


class _Pace:
    """How fast steps are made, from `first` on, which were made before, to `total`."""

    def __init__(self, first: int, total: int) -> None:
        self._first, self._total, self._start = first, total, monotonic()
        self._prepared = total - first <= _MANY

    def figures(self, done: int) -> str:
        """Return how much is done, how fast, and how long the rest will take; after preparation the first alone."""
        now = monotonic()
        if not self._prepared:
            self._first, self._start, self._prepared = done, now, True
        if done == self._first:
            return f"{done}/{self._total}"
        rate = (done - self._first) / max(now - self._start, 1e-9)
        left = int((self._total - done) / rate)
        return f"{done}/{self._total}, {rate:.3g}/s, {left // 60}:{left % 60:02d} left"


def _lines(progress: Progress, name: str, total: int, first: int) -> Work:
    shown, pace = monotonic(), _Pace(first, total)

    def show(done: int, note: str) -> None:
        nonlocal shown
        now, figures = monotonic(), pace.figures(done)
        if now - shown < _PLAIN_INTERVAL_S and done < total:
            return
        shown = now
        progress.say(f"{name}: {figures}  {note}".rstrip())

    return Work(first, show)


@contextmanager
def _bar(name: str, total: int, first: int, table: Callable[[], Rows]) -> Iterator[Work]:
    from rich import progress as bars
    from rich.console import Console, Group, RenderableType
    from rich.live import Live
    from rich.table import Column
    from rich.text import Text

    console = Console(stderr=True)
    bar_width = _LONG_BAR if console.width >= _WIDE else _SHORT_BAR
    # The name is cut, if anything is: figures and the time left are always there.
    room = max(console.width - bar_width - 2 * len(str(total)) - _FIGURES, _SHORT_BAR)
    shown = bars.Progress(
        bars.TextColumn(
            "{task.description}", markup=False, table_column=Column(no_wrap=True, overflow="ellipsis", max_width=room)
        ),
        bars.BarColumn(bar_width=bar_width),
        bars.TextColumn("{task.fields[figures]}", markup=False),
        console=console,
    )
    drawn, pace = monotonic(), _Pace(first, total)
    bar = shown.add_task(name, total=total, completed=first, figures=f"{first}/{total}")
    noted: list[RenderableType] = []
    below: list[RenderableType] = []

    def show(done: int, note: str) -> None:
        nonlocal drawn, noted, below
        now = monotonic()
        shown.update(bar, completed=done, figures=pace.figures(done))
        # Below the bar, which leaves it no room where the terminal is narrow.
        noted = [Text(note, no_wrap=True, overflow="ellipsis")] if note else []
        # Here rather than where it is drawn, which is another thread.
        if now - drawn >= _TABLE_INTERVAL_S or done >= total:
            drawn, below = now, [_table(table())]

    with Live(get_renderable=lambda: Group(shown, *noted, *below), console=console):
        yield Work(first, show)


def _table(rows: Rows) -> "RenderableType":
    from rich.table import Table
    from rich.text import Text

    heading, *others = rows or [()]
    found = Table.grid(padding=(0, 2))
    for place in range(len(heading)):
        found.add_column(justify="right" if place else "left")
    for row in (heading, *others) if rows else ():
        found.add_row(*map(Text, row))
    return found
