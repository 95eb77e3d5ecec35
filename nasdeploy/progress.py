"""Progress as a user sees it: a bar with rate and time left on a terminal, plain lines elsewhere. All on stderr."""

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from time import monotonic

_PLAIN_INTERVAL_S = 10.0


def duration(seconds: float) -> str:
    """A duration in the unit that suits it, e.g. `2.5 hours`."""
    for unit, length in (("days", 86400), ("hours", 3600), ("minutes", 60)):
        if seconds >= 1.5 * length:
            return f"{seconds / length:.1f} {unit}"
    return f"{seconds:.2g} seconds"


class Task:
    """One piece of work with a known number of steps; `show(done, note)` is called after each."""

    def __init__(self, done: int, show: Callable[[int, str], None]) -> None:
        self._done, self._show = done, show

    def advance(self, steps: int = 1, note: str = "") -> None:
        """Count finished steps; `note` is shown beside the bar, e.g. the current loss."""
        self._done += steps
        self._show(self._done, note)


class Progress:
    """Where commands report what they are doing. `quiet` leaves out everything but errors and results."""

    def __init__(self, quiet: bool = False) -> None:
        self._quiet = quiet

    def say(self, text: str) -> None:
        """One line for the user."""
        if not self._quiet:
            print(text, file=sys.stderr, flush=True)

    @contextmanager
    def task(self, name: str, total: int, done: int = 0) -> Iterator[Task]:
        """A task of `total` steps of which `done` were finished before (a resumed run)."""
        if self._quiet:
            yield Task(done, lambda done, note: None)
        elif sys.stderr.isatty():
            with _bar(name, total, done) as task:
                yield task
        else:
            yield _lines(self, name, total, done)


def _lines(progress: Progress, name: str, total: int, first: int) -> Task:
    start = shown = monotonic()

    def show(done: int, note: str) -> None:
        nonlocal shown
        now = monotonic()
        if now - shown < _PLAIN_INTERVAL_S and done < total:
            return
        shown = now
        rate = (done - first) / max(now - start, 1e-9)
        left = int((total - done) / rate) if rate else 0
        progress.say(f"{name}: {done}/{total}, {rate:.3g}/s, {left // 60}:{left % 60:02d} left  {note}".rstrip())

    return Task(first, show)


@contextmanager
def _bar(name: str, total: int, first: int) -> Iterator[Task]:
    from rich import progress as bars
    from rich.console import Console

    columns = (
        bars.TextColumn("{task.description}", markup=False),
        bars.BarColumn(),
        bars.MofNCompleteColumn(),
        bars.TextColumn("{task.fields[rate]}"),
        bars.TimeRemainingColumn(),
        bars.TextColumn("{task.fields[note]}", markup=False),
    )
    start = monotonic()
    with bars.Progress(*columns, console=Console(stderr=True)) as shown:
        bar = shown.add_task(name, total=total, completed=first, rate="", note="")

        def show(done: int, note: str) -> None:
            rate = (done - first) / max(monotonic() - start, 1e-9)
            shown.update(bar, completed=done, rate=f"{rate:.3g}/s", note=note)

        yield Task(first, show)
