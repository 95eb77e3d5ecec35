"""`nasdeploy profile`."""

from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from nasdeploy.cli import completion
from nasdeploy.cli.output import JsonFlag, QuietFlag, RunOption, chosen_run, emit, facts, load_torch, onward
from nasdeploy.cli.space import CLASSES, find_space
from nasdeploy.cli.wording import typed
from nasdeploy.core.errors import UserError

if TYPE_CHECKING:
    from nasdeploy.core.progress import Progress
    from nasdeploy.core.space import SearchSpace
    from nasdeploy.latency.table import LatencyTable

DeviceOption = Annotated[
    str | None,
    typer.Option(
        "--device",
        metavar="NAME|FILE",
        help="Where to measure [default: the run's device, else cpu].",
        autocompletion=completion.devices,
    ),
]
SpaceOption = Annotated[
    str | None,
    typer.Option(
        "--space",
        metavar="NAME|RECIPE",
        help="Space to measure [default: the run's, with its classes].",
        autocompletion=completion.spaces,
    ),
]
ClassesOption = Annotated[
    int | None,
    typer.Option("--classes", min=1, help=f"Number of classes, with --space [default: {CLASSES}, or the recipe's]."),
]
BudgetOption = Annotated[
    float | None,
    typer.Option(
        "--budget-min",
        metavar="MINUTES",
        help="Take about so long, start included: fewer visits, then fewer whole networks [default: the protocol].",
    ),
]
RestartFlag = Annotated[bool, typer.Option("--restart", help="Measure everything anew.")]


def profile(
    device: DeviceOption = None,
    space: SpaceOption = None,
    classes: ClassesOption = None,
    run: RunOption = None,
    budget_min: BudgetOption = None,
    restart: RestartFlag = False,
    as_json: JsonFlag = False,
    quiet: QuietFlag = False,
) -> None:
    """Measure a latency table of a search space on a device.

    The same command resumes.
    """
    import nasdeploy
    from nasdeploy.core.progress import Progress
    from nasdeploy.latency.table import table_path
    from nasdeploy.runtimes.device import load_device

    if space is not None and run is not None:
        raise UserError("--space and --run exclude each other: a run has its own space")
    if space is None and classes is not None:
        raise UserError("--classes belongs to --space: a run has its own classes")
    if budget_min is not None and not 0 < budget_min < float("inf"):
        raise UserError(f"--budget-min {budget_min:g}: give a positive number of minutes")
    progress = Progress(quiet, typed)
    if space is not None:
        chosen, default_device = find_space(space, classes), "cpu"
    else:
        chosen, default_device = _of_run(run, progress)
    target = load_device(device or default_device)
    path = table_path(chosen, target)
    progress.say(f"profile: space {chosen.name} on device {target.name}, into {path}")

    load_torch(progress, "nasdeploy.latency.profile")
    table = nasdeploy.profile(
        chosen, device or default_device, budget_min=budget_min, restart=restart, progress=progress
    )
    result = _result(table, chosen, path)
    then = onward(f"search --device {device or default_device} --latency 40%{f' --run {run}' if run else ''}")
    emit(result, as_json, lambda: f"{_text(result)}\n{then}" if space is None else _text(result))


def _of_run(directory: str | None, progress: "Progress") -> tuple["SearchSpace", str]:
    """Return the space and the device of a run."""
    from nasdeploy.recipe import recipe_of, space_of

    run = chosen_run(directory)
    progress.say(f"run: {run.path}")
    return space_of(run), recipe_of(run).device


def _result(table: "LatencyTable", space: "SearchSpace", path: Path) -> dict[str, Any]:
    fastest, slowest = table.range(space)
    return {
        "table": str(path),
        "device": table.conditions.device.name,
        "space": space.name,
        "space_digest": space.digest,
        "classes": table.conditions.classes,
        "blocks": len(table.entries),
        "networks": len(table.networks),
        "noisy_blocks": sum(timing.noisy for timing in table.entries.values()),
        "noisy_networks": sum(network.timing.noisy for network in table.networks),
        "noise": table.noise,
        "steadied": table.steadied,
        "fastest_ms": 1e3 * fastest,
        "slowest_ms": 1e3 * slowest,
        "uncertainty": {"relative": [table.uncertainty]},
        "p95_ratio": table.p95_ratio,
        "median_ratio": table.median_ratio,
        "held_out": asdict(table.held_out) if table.held_out else None,
        "held_out_undisturbed": asdict(table.held_out_undisturbed) if table.held_out_undisturbed else None,
    }


def _text(result: dict[str, Any]) -> str:
    noise = ", ".join(f"{number} for {reason}" for reason, number in result["noise"].items())
    if result["steadied"]:
        noise += " (corrected by the reference graph)" if "drift" in result["noise"] else ""
    rows = [
        ("entries", f"{result['blocks']} blocks and {result['networks']} whole networks"),
        ("not to be trusted", noise or "none"),
        ("reachable latency", f"{result['fastest_ms']:.4g} ms to {result['slowest_ms']:.4g} ms"),
    ]
    error = result["held_out"]
    if error:
        fast, middle, slow = (f"{100 * third:.1f}" for third in error["mean_absolute_by_third"])
        calm = result["held_out_undisturbed"]
        rows += [
            (
                "error",
                f"mean {100 * error['mean_absolute']:.1f} % (fast third {fast}, middle {middle}, slow {slow}), 95 % of "
                f"them below {100 * error['p95']:.1f} %, on {error['n']} networks not used for fitting",
            ),
            (
                "",
                f"on their undisturbed calls mean {100 * calm['mean_absolute']:.1f} %, 95 % of them below "
                f"{100 * calm['p95']:.1f} %",
            ),
            ("rank correlation", f"Spearman {error['spearman']:.4f}, Kendall {error['kendall']:.4f}"),
        ]
    return "\n".join([f"measured {result['table']}", *facts(rows)])
