"""`nasdeploy report` and `plot`: everything that a run has got to as one page, as JSON, and as pictures."""

import os
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from nasdeploy.cli import completion
from nasdeploy.cli.output import JsonFlag, QuietFlag, emit
from nasdeploy.cli.wording import typed
from nasdeploy.core.errors import UserError

if TYPE_CHECKING:
    from nasdeploy.core.progress import Progress
    from nasdeploy.report.run import RunReport
    from nasdeploy.store.run import Run

PLOTS = "plots"


def report(
    runs: Annotated[
        list[Path] | None,
        typer.Argument(
            metavar="[RUN]...",
            help="Run directories [default: the latest in runs/].",
            autocompletion=completion.runs,
        ),
    ] = None,
    out: Annotated[
        Path | None,
        typer.Option("--out", metavar="FILE", help="The page [default: report.html in the first run]."),
    ] = None,
    open_it: Annotated[bool, typer.Option("--open", help="Show the page in the browser.")] = False,
    as_json: Annotated[
        bool, typer.Option("--json", help="Print every number of it as one JSON object; no page without --out.")
    ] = False,
    quiet: QuietFlag = False,
) -> None:
    """Write one HTML page of a run, or of several.

    It shows each as far as it has got, and several beside each other.
    """
    from nasdeploy.core.progress import Progress
    from nasdeploy.store.files import require_writable
    from nasdeploy.workflows.report import PAGE, write_page

    opened = _opened(runs or [])
    page = (out or opened[0].path / PAGE) if out is not None or open_it or not as_json else None
    if page is not None:
        require_writable(page)
    progress = Progress(quiet, typed)
    reports = reports_of(opened, progress)
    if page is not None:
        with progress.stage("report: drawing the page"):
            write_page(reports, page)
    result: dict[str, Any] = {"page": None if page is None else str(page), "runs": [one.to_json() for one in reports]}
    emit(result, as_json, lambda: f"wrote {page}")
    if open_it and page is not None:
        _show(page)


def plot(
    kind: Annotated[
        str,
        typer.Argument(
            metavar="KIND",
            help="What to draw, e.g. front; all for every picture.",
            autocompletion=completion.pictures,
        ),
    ],
    run: Annotated[
        Path | None,
        typer.Argument(
            metavar="[RUN]", help="Run directory [default: the latest in runs/].", autocompletion=completion.runs
        ),
    ] = None,
    out: Annotated[
        Path | None,
        typer.Option(
            "--out", metavar="FILE|DIR", help=f"A file .png or .svg, or where both go [default: RUN/{PLOTS}]."
        ),
    ] = None,
    as_json: JsonFlag = False,
    quiet: QuietFlag = False,
) -> None:
    """Draw a picture of a run's report as PNG and SVG."""
    from nasdeploy.core.errors import lookup
    from nasdeploy.core.progress import Progress
    from nasdeploy.report.plots import PLOTS as KINDS
    from nasdeploy.report.plots import SUFFIXES, draw, drawable
    from nasdeploy.store.files import require_writable

    if kind != "all":
        lookup("picture", {**KINDS, "all": None}, kind)
    (opened,) = _opened([] if run is None else [run])
    folder = out or opened.path / PLOTS
    is_file = folder.suffix.lower() in SUFFIXES
    if is_file and kind == "all":
        raise UserError(f"--out {out}: all pictures do not go into one file; name a directory")
    require_writable(folder if is_file else folder / f"{kind}.png")
    progress = Progress(quiet, typed)
    (found,) = reports_of([opened], progress)
    kinds = drawable(found) if kind == "all" else [kind]
    paths = [folder] if is_file else [folder / f"{each}{suffix}" for each in kinds for suffix in SUFFIXES]
    with progress.task("pictures", len(paths)) as task:
        for path in paths:
            draw(kind if is_file else path.stem, found, path)
            task.advance()
    emit({"run": str(opened.path), "pictures": list(map(str, paths))}, as_json, lambda: _wrote(paths))


def _wrote(paths: Sequence[Path]) -> str:
    return "\n".join(f"wrote {path}" for path in paths)


def _opened(paths: Sequence[Path]) -> list["Run"]:
    """Return the runs, by default the latest; raises `UserError` for one that is missing or named twice."""
    from nasdeploy.store.run import Run

    known: set[Path] = set()
    for path in paths:
        # A loop of links, too, is left to what opens it.
        place = Path(os.path.realpath(path))
        if place in known:
            raise UserError(f"{path}: given twice; name each run once")
        known.add(place)
    return [Run.open(path) for path in paths] or [Run.latest()]


def reports_of(runs: Sequence["Run"], progress: "Progress") -> list["RunReport"]:
    """Return what a report shows of each run, its remarks as users of the command line read them."""
    from nasdeploy.workflows.report import report_of

    found = [report_of(run, progress=progress) for run in runs]
    return [replace(one, remarks=tuple(map(typed, one.remarks))) for one in found]


def with_page(run: "Run", progress: "Progress") -> str | None:
    """Write the page of a run that is finished, and return its path; None where that fails, which is said."""
    from nasdeploy.core.errors import one_line
    from nasdeploy.workflows.report import PAGE, write_page

    page = run.path / PAGE
    try:
        write_page(reports_of([run], progress), page)
    # The run has got to its end, whatever becomes of a picture of it.
    except Exception as error:
        progress.say(f"report: not written ({one_line(error)})")
        return None
    progress.say(f"report: {page}")
    return str(page)


def _show(page: Path) -> None:
    """Open a page in the browser; raises `UserError` if there is none that has windows."""
    import webbrowser

    # Without a display Python would start a browser in the terminal, which waits for keys.
    windows = sys.platform != "linux" or any(map(os.environ.get, ("DISPLAY", "WAYLAND_DISPLAY", "BROWSER")))
    if not windows or not webbrowser.open(page.resolve().as_uri()):
        raise UserError(f"--open: there is no browser here; the report is in {page}, open it on another machine")
