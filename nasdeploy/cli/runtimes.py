"""`nasdeploy runtimes`: one network in several runtimes."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from nasdeploy.cli import completion
from nasdeploy.cli.output import (
    JsonFlag,
    QuietFlag,
    RunOption,
    chosen_run,
    device_names,
    emit,
    listing,
    load_torch,
    wrapped,
)
from nasdeploy.cli.space import CLASSES, find_space
from nasdeploy.cli.wording import typed
from nasdeploy.core.errors import UserError

if TYPE_CHECKING:
    from nasdeploy.workflows.runtimes import RuntimeComparison, RuntimeResult

app = typer.Typer(no_args_is_help=True)


@app.callback()
def _runtimes() -> None:
    """Compare runtimes."""


@app.command()
def compare(
    network: Annotated[
        str,
        typer.Argument(
            metavar="BUNDLE|ARCH",
            help="What 'nasdeploy export' wrote, or a network of a space or run.",
            autocompletion=completion.networks,
        ),
    ],
    device: Annotated[
        list[str] | None,
        typer.Option(
            "--device",
            metavar="NAME|FILE",
            help="Where to measure; several [default: all that can be used here].",
            autocompletion=completion.devices,
        ),
    ] = None,
    space: Annotated[
        str | None,
        typer.Option(
            "--space",
            metavar="NAME|RECIPE",
            help="Space of ARCH [default: the run's].",
            autocompletion=completion.spaces,
        ),
    ] = None,
    classes: Annotated[
        int | None,
        typer.Option(
            "--classes", min=1, help=f"Number of classes, with --space [default: {CLASSES}, or the recipe's]."
        ),
    ] = None,
    run: RunOption = None,
    plot: Annotated[Path | None, typer.Option("--plot", metavar="FILE", help="Draw the latencies, into a PNG.")] = None,
    as_json: JsonFlag = False,
    quiet: QuietFlag = False,
) -> None:
    """Measure one network in every runtime.

    Latency, size of the file, and how far outputs are from PyTorch's are compared.
    """
    import nasdeploy
    from nasdeploy.core.progress import Progress

    if space is None and classes is not None:
        raise UserError("--classes belongs to --space: a run has its own classes")
    progress = Progress(quiet, typed)
    load_torch(progress, "torch")
    found = nasdeploy.compare_runtimes(
        network,
        device_names(device),
        space=None if space is None else find_space(space, classes),
        run=None if run is None else chosen_run(run),
        plot=plot,
        progress=progress,
    )
    emit(_content(found), as_json, lambda: _text(found))
    found.require_agreement()


def _content(found: "RuntimeComparison") -> dict[str, Any]:
    """Return a comparison as JSON, in which reasons advise what can be typed."""
    content = found.to_json()
    for each in content["results"]:
        each["reason"] = each["reason"] and typed(each["reason"])
    return content


def _text(found: "RuntimeComparison") -> str:
    results = found.results
    least, most = min(each.threads for each in results), max(each.threads for each in results)
    about = (
        f"{found.macs / 1e6:.4g} M MACs, {found.params / 1e6:.4g} M parameters, batch {found.batch}, "
        f"threads {least if least == most else f'{least} to {most}'}; latency in ms"
    )
    remarks = [
        *(f"{each.device}: {typed(each.reason)}" for each in results if each.reason is not None),
        *(f"{each.device}: {each.problem}" for each in results if each.problem is not None),
        *(f"{each.device}: not to be trusted: {each.noise}" for each in results if each.noise),
        *(
            f"within the processes' spread of {each.device}: {', '.join(each.ties)}"
            for each in results[:1]
            if each.ties
        ),
    ]
    told = (part for remark in remarks for part in wrapped(remark))
    return "\n".join([*wrapped(f"network {found.network}"), *wrapped(about), _table(found), *told])


def _table(found: "RuntimeComparison") -> str:
    headings = ("device", "runtime", "MB", "median", "p10", "p90", "times", "difference")
    fastest = found.measured[0].median_ms if found.measured else None
    return listing(headings, ([each.device, each.runtime, *_figures(each, fastest)] for each in found.results), texts=2)


def _figures(each: "RuntimeResult", fastest: float | None) -> list[str]:
    if each.median_ms is None or fastest is None:
        return ["-"] * 6
    sizes = (each.megabytes, *(each.median_ms, each.p10_ms, each.p90_ms))
    difference = "-" if each.difference is None else f"{each.difference:.1e}"
    return [*(f"{size:.4g}" for size in sizes), f"{each.median_ms / fastest:.2f}", difference]
