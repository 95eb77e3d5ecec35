"""`nasdeploy search`."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from nasdeploy.cli.budget import (
    LatencyMsOption,
    LatencyOption,
    LatencyP95Option,
    MacsOption,
    MemoryOption,
    ParamsOption,
    SizeOption,
    bounds_of,
)
from nasdeploy.cli.output import JsonFlag, QuietFlag, emit
from nasdeploy.cli.runs import DeviceOption, MovedDataOption, RunOption, changes, chosen_run
from nasdeploy.errors import UserError
from nasdeploy.registry import suggestion

if TYPE_CHECKING:
    from nasdeploy.search.result import Found, SearchResult

StrategyOption = Annotated[
    str | None, typer.Option("--strategy", metavar="NAME", help="How to search, over the recipe's search.strategy.")
]
StrictFlag = Annotated[bool, typer.Option("--strict", help="Refuse a latency table that was measured elsewhere.")]


def search(
    latency_ms: LatencyMsOption = None,
    latency_p95_ms: LatencyP95Option = None,
    latency: LatencyOption = None,
    macs_m: MacsOption = None,
    params_m: ParamsOption = None,
    size_mb: SizeOption = None,
    memory_mb: MemoryOption = None,
    device: DeviceOption = None,
    strategy: StrategyOption = None,
    assignments: Annotated[
        list[str] | None, typer.Option("--set", metavar="KEY=VALUE", help="Change the recipe, e.g. search.rounds=5.")
    ] = None,
    data: MovedDataOption = None,
    run_directory: RunOption = None,
    strict: StrictFlag = False,
    as_json: JsonFlag = False,
    quiet: QuietFlag = False,
) -> None:
    """Find the most accurate network that measurably meets a budget."""
    from nasdeploy.progress import Progress
    from nasdeploy.recipe import recipe_of
    from nasdeploy.steps.request import request_search

    bounds = bounds_of(latency_ms, latency_p95_ms, latency, macs_m, params_m, size_mb, memory_mb)
    run = chosen_run(run_directory)
    recipe = recipe_of(run, [*changes(assignments, device), *strategy_of(strategy)], data)
    progress = Progress(quiet)
    request = request_search(run, recipe, bounds, strict, progress)

    from nasdeploy.steps import search as step

    result = step.search(request, progress)
    emit({"run": str(run.path), **result.model_dump(mode="json")}, as_json, lambda: _text(run.path, result))


def strategy_of(name: str | None) -> list[str]:
    """What `--strategy` changes in a recipe, as `key.key=value`; raises `UserError` for an unknown name."""
    from nasdeploy.search.settings import STRATEGY_NAMES

    if name is None:
        return []
    if name not in STRATEGY_NAMES:
        raise UserError(f"--strategy {name}: unknown search strategy{suggestion(name, STRATEGY_NAMES)}")
    return [f"search.strategy={name}"]


def _text(path: Path, result: "SearchResult") -> str:
    lines = [
        f"{'network':14} {'top-1 in %':>14} {'M MACs':>8} {'M params':>9} {'predicted ms':>13} {'measured ms':>12}"
    ]
    lines += [_row(found) for found in result.front]
    lines += ["finalists:", *(_row(found) for found in result.finalists), "chosen:", _row(result.winner)]
    if result.ties:
        lines.append(f"within one standard error of it: {', '.join(result.ties)}")
    return "\n".join([f"{path}: {result.evaluated} networks within the budget; Pareto front:", *lines])


def _row(found: "Found") -> str:
    top1 = f"{100 * found.top1:.2f} +- {100 * found.top1_error:.2f}"
    predicted, measured = (f"{v:.4g}" if v is not None else "-" for v in (found.predicted_ms, found.measured_ms))
    macs, params = f"{found.macs / 1e6:.2f}", f"{found.params / 1e6:.3f}"
    return f"{found.digest:14} {top1:>14} {macs:>8} {params:>9} {predicted:>13} {measured:>12}"
