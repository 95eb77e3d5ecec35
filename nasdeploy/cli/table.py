"""`nasdeploy table show|check|merge|diff`."""

from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from nasdeploy.cli import completion
from nasdeploy.cli.output import JsonFlag, QuietFlag, emit, facts, load_torch
from nasdeploy.cli.space import find_space
from nasdeploy.cli.wording import typed
from nasdeploy.core.errors import CheckFailed, UserError

if TYPE_CHECKING:
    from nasdeploy.core.space import SearchSpace
    from nasdeploy.latency.table import LatencyTable

app = typer.Typer(no_args_is_help=True)

TableArgument = Annotated[
    Path, typer.Argument(metavar="TABLE", help="A file of profiles/tables.", autocompletion=completion.tables)
]
SpaceOption = Annotated[
    str | None,
    typer.Option(
        "--space",
        metavar="NAME|RECIPE",
        help="The table's space [default: by its name, or the latest run's].",
        autocompletion=completion.spaces,
    ),
]
_SLOWEST = 5


@app.callback()
def _table() -> None:
    """Look at a latency table, check it, merge or compare two."""


@app.command()
def show(table: TableArgument, space: SpaceOption = None, as_json: JsonFlag = False, quiet: QuietFlag = False) -> None:
    """Show device, protocol, error, range and slowest blocks."""
    from nasdeploy.latency.table import LatencyTable

    loaded = LatencyTable.load(table)
    result = _shown(loaded, _space_of(loaded, space))
    emit(result, as_json, lambda: _show_text(result))


@app.command()
def check(
    table: TableArgument,
    space: SpaceOption = None,
    entries: Annotated[int, typer.Option("--entries", min=1, help="Blocks to measure again.")] = 24,
    networks: Annotated[int, typer.Option("--networks", min=1, help="Whole networks to measure again.")] = 8,
    strict: Annotated[bool, typer.Option("--strict", help="Refuse a device that differs from the table's.")] = False,
    as_json: JsonFlag = False,
    quiet: QuietFlag = False,
) -> None:
    """Measure a sample of a table again, to see if it still holds.

    Exit code 4 if it does not.
    """
    from nasdeploy.core.progress import Progress
    from nasdeploy.latency.table import LatencyTable

    loaded = LatencyTable.load(table)
    found = _required(loaded, space)
    progress = Progress(quiet, typed)
    load_torch(progress, "nasdeploy.workflows.table")

    from nasdeploy.latency.runners.open_runner import open_runner
    from nasdeploy.workflows.table import RecheckSize
    from nasdeploy.workflows.table import check as measure_again

    with open_runner(loaded.conditions.device, progress.say) as runner:
        outcome = measure_again(loaded, found, runner, progress, sample=RecheckSize(entries, networks), strict=strict)
    result = {"table": str(table), "holds": outcome.holds, **asdict(outcome)}
    emit(result, as_json, lambda: _check_text(result))
    if not outcome.holds:
        raise CheckFailed(f"{table}: the table no longer holds; measure again with 'nasdeploy profile --restart'")


@app.command()
def merge(
    first: TableArgument,
    second: TableArgument,
    out: Annotated[Path, typer.Option("--out", metavar="FILE", help="The table that is written.")],
    space: SpaceOption = None,
    as_json: JsonFlag = False,
    quiet: QuietFlag = False,
) -> None:
    """Write two tables of the same conditions into one."""
    from nasdeploy.latency.compare import merge as merged_table
    from nasdeploy.latency.table import LatencyTable

    if out.exists():
        raise UserError(f"{out}: is there already; choose another name")
    one, other = LatencyTable.load(first), LatencyTable.load(second)
    merged = merged_table(one, other, _required(one, space))
    merged.save(out)
    counts = {"blocks": len(merged.entries), "networks": len(merged.networks)}
    emit({"table": str(out), **counts}, as_json, lambda: f"merged {out}: {_counted(counts)}")


@app.command()
def diff(
    first: TableArgument,
    second: TableArgument,
    space: SpaceOption = None,
    as_json: JsonFlag = False,
    quiet: QuietFlag = False,
) -> None:
    """Show what a second table says otherwise than a first one."""
    from nasdeploy.latency.compare import difference
    from nasdeploy.latency.table import LatencyTable

    one, other = LatencyTable.load(first), LatencyTable.load(second)
    common = one.conditions.space_digest == other.conditions.space_digest
    result = asdict(difference(one, other, _space_of(one, space) if common else None))
    emit(result, as_json, lambda: _diff_text(result))


def _space_of(table: "LatencyTable", given: str | None) -> "SearchSpace | None":
    """Return the table's space if it can be found; raises `UserError` if the one that was given is another."""
    from nasdeploy.spaces import SPACES, load_space

    measured = table.conditions
    if given is not None:
        space = find_space(given, measured.classes)
        table.require_space(space)
        return space
    candidates = [load_space(measured.space, measured.classes)] if measured.space in SPACES else []
    return next((space for space in [*candidates, *_of_latest_run()] if space.digest == measured.space_digest), None)


def _of_latest_run() -> "list[SearchSpace]":
    from nasdeploy.recipe import space_of
    from nasdeploy.store.run import Run

    try:
        return [space_of(Run.latest())]
    except UserError:
        return []


def _required(table: "LatencyTable", given: str | None) -> "SearchSpace":
    space = _space_of(table, given)
    if space is None:
        measured = table.conditions
        raise UserError(
            f"the table is of a space {measured.space} ({measured.space_digest}) that is neither nasdeploy's own nor "
            "the latest run's; give its recipe with --space"
        )
    return space


def _shown(table: "LatencyTable", space: "SearchSpace | None") -> dict[str, Any]:
    times = sorted(timing.at for timing in [*table.entries.values(), *(n.timing for n in table.networks)])
    slowest = sorted(table.entries, key=lambda key: -table.entries[key].median)[:_SLOWEST]
    return {
        "device": table.conditions.device.model_dump(mode="json"),
        "fingerprint": asdict(table.conditions.fingerprint),
        "space": table.conditions.space,
        "space_digest": table.conditions.space_digest,
        "classes": table.conditions.classes,
        "protocol": asdict(table.conditions.protocol),
        "measured": [times[0], times[-1]],
        "blocks": len(table.entries),
        "networks": len(table.networks),
        "noise": table.noise,
        "steadied": table.steadied,
        "calibration": asdict(table.calibration),
        "median_ratio": table.median_ratio,
        "held_out": asdict(table.held_out) if table.held_out else None,
        "held_out_undisturbed": asdict(table.held_out_undisturbed) if table.held_out_undisturbed else None,
        "uncertainty": {"relative": [table.uncertainty]},
        "p95_ratio": table.p95_ratio,
        "range_ms": None if space is None else [1e3 * seconds for seconds in table.range(space)],
        "slowest": {key: asdict(table.entries[key]) for key in slowest},
    }


def _show_text(result: dict[str, Any]) -> str:
    fingerprint = {name: value for name, value in result["fingerprint"].items() if value not in ("", None)}
    rounds = {kind: result["protocol"][kind]["visits"] for kind in ("blocks", "networks")}
    range_ms = result["range_ms"]
    rows = [
        ("device", result["device"]["name"]),
        *((f"  {name.replace('_', ' ')}", str(value)) for name, value in fingerprint.items()),
        ("space", f"{result['space']} ({result['space_digest']}) with {result['classes']} classes"),
        ("measured", " to ".join(dict.fromkeys(result["measured"]))),
        ("entries", f"{_counted(result)}; visits {rounds['blocks']} and {rounds['networks']}"),
        ("not to be trusted", ", ".join(f"{n} for {reason}" for reason, n in result["noise"].items()) or "none"),
        ("corrected", f"by the reference graph to the power {result['steadied']:g}" if result["steadied"] else "no"),
        ("error held out", _error_text(result["held_out"])),
        ("  undisturbed", _error_text(result["held_out_undisturbed"])),
        ("uncertainty", f"{100 * result['uncertainty']['relative'][0]:.1f} %"),
        ("p50/p10, p95/p50", f"{result['median_ratio']:.3f}, {result['p95_ratio']:.3f}"),
        ("range", f"{range_ms[0]:.4g} to {range_ms[1]:.4g} ms" if range_ms else "give the space's recipe with --space"),
        *(("slowest", f"{1e3 * t['median']:.4g} ms {t['noise']}  {key}") for key, t in result["slowest"].items()),
    ]
    return "\n".join(facts(rows, indent=""))


def _check_text(result: dict[str, Any]) -> str:
    rows = [
        *(("device differs", line) for line in result["differences"]),
        ("blocks now / then", _ratio_text(result["entries"])),
        ("networks now / then", _ratio_text(result["networks"])),
        (
            "error of predictions",
            f"{100 * result['prediction_error']:.1f} % (up to {100 * result['allowed_error']:.1f} % is allowed)",
        ),
        ("noisy now", f"{result['noisy']} of {result['entries']['n'] + result['networks']['n']}"),
        ("the table", "holds" if result["holds"] else "does not hold"),
    ]
    return "\n".join(facts(rows, indent=""))


def _diff_text(result: dict[str, Any]) -> str:
    kendall = result["kendall"]
    rows = [
        *(("differs", line) for line in result["conditions"]),
        ("blocks second / first", _ratio_text(result["entries"])),
        ("networks second / first", _ratio_text(result["networks"])),
        ("predictions", _ratio_text(result["prediction"])),
        ("order of predictions", "not compared: no common space" if kendall is None else f"Kendall {kendall:.4f}"),
        ("only in the first", f"{len(result['only_first'])} blocks"),
        ("only in the second", f"{len(result['only_second'])} blocks"),
        *(("most changed", f"{ratio:.3f}  {key}") for key, ratio in result["most_changed"].items()),
    ]
    return "\n".join(facts(rows, indent=""))


def _ratio_text(ratios: dict[str, Any] | None) -> str:
    if ratios is None:
        return "nothing in common"
    return (
        f"median {ratios['median']:.4f} (90 % within {ratios['p5']:.3f} to {ratios['p95']:.3f}, {ratios['n']} of them)"
    )


def _error_text(error: dict[str, Any] | None) -> str:
    if error is None:
        return "too few networks to tell"
    return (
        f"mean {100 * error['mean_absolute']:.1f} % ({_percent(error['mean_absolute_by_third'])}), "
        f"95 % below {100 * error['p95']:.1f} %, within 5 %: {100 * error['within_5_percent']:.0f} %, within 10 %: "
        f"{100 * error['within_10_percent']:.0f} %; Spearman {error['spearman']:.4f}, Kendall {error['kendall']:.4f}; "
        f"{error['n']} networks"
    )


def _percent(thirds: Sequence[float]) -> str:
    return ", ".join(
        f"{name} {100 * value:.1f} %" for name, value in zip(("fast", "middle", "slow"), thirds, strict=False)
    )


def _counted(counts: dict[str, Any]) -> str:
    return f"{counts['blocks']} blocks and {counts['networks']} whole networks"
