"""`nasdeploy evaluate`."""

from pathlib import Path
from typing import Annotated, Any

import typer

from nasdeploy.cli.output import JsonFlag, QuietFlag, emit
from nasdeploy.cli.runs import ChangeOption, MovedDataOption
from nasdeploy.cli.wording import typed


def evaluate(
    runs: Annotated[
        list[Path] | None, typer.Argument(metavar="[RUN]...", help="Run directories [default: the latest in runs/].")
    ] = None,
    sample: Annotated[int, typer.Option("--sample", metavar="N", help="Sub-networks of each run.")] = 50,
    bins: Annotated[int, typer.Option("--bins", metavar="B", min=1, max=50, help="Regimes of MACs.")] = 5,
    out: Annotated[
        Path | None, typer.Option("--out", metavar="DIR", help="Where picture and JSON go [default: the first run].")
    ] = None,
    assignments: ChangeOption = None,
    data: MovedDataOption = None,
    as_json: JsonFlag = False,
    quiet: QuietFlag = False,
) -> None:
    """Compare supernets: accuracy of sampled sub-networks by regime of MACs, as box plots."""
    from nasdeploy.core.progress import Progress
    from nasdeploy.workflows.comparison import request_comparison

    comparison = request_comparison(runs or [], sample, bins, assignments or (), data)

    from nasdeploy.workflows import evaluate as step

    result = step.evaluate(comparison, out, Progress(quiet, typed))
    picture = (out or comparison.contenders[0].run.path) / step.PICTURE
    emit({**result, "picture": str(picture)}, as_json, lambda: _text(picture, result))


def _text(picture: Path, result: dict[str, Any]) -> str:
    edges = result["edges_macs_m"]
    heading = (
        f"{'M MACs':>16} {'networks':>9} {'minimum':>8} {'quartile':>9} {'median':>8} {'quartile':>9} {'maximum':>8}"
    )
    lines = []
    for entry in result["runs"]:
        unreadable = f", {entry['unreadable']} unreadable left out" if entry["unreadable"] else ""
        lines += [f"{entry['run']}: top-1 in % on {result['images']}{unreadable}", heading]
        rows = zip(edges, edges[1:], entry["regimes"], strict=False)
        lines += [_row(low, high, box) for low, high, box in rows if box is not None]
    return "\n".join([*lines, f"drawn in {picture}"])


def _row(low: float, high: float, box: dict[str, Any]) -> str:
    names = ("minimum", "first_quartile", "median", "third_quartile", "maximum")
    figures = (f"{100 * box[name]:.2f}" for name in names)
    return "{:>16} {:>9} {:>8} {:>9} {:>8} {:>9} {:>8}".format(f"{low:.3g} to {high:.3g}", box["count"], *figures)
