"""Searches as text, and `nasdeploy search list|show|compare`: the finished searches of a run."""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Annotated

import typer

from nasdeploy.cli import completion
from nasdeploy.cli.output import JsonFlag, QuietFlag, RunOption, aligned, chosen_run, emit, facts, listing, wrapped
from nasdeploy.core.cost_registry import COSTS, NETWORK_COSTS, front_axis, split_name
from nasdeploy.core.errors import UserError

if TYPE_CHECKING:
    from nasdeploy.core.score import Criterion, Metric
    from nasdeploy.searching.result import BudgetRecord, Fidelity, LatencyRecord, NetworkRecord, SearchResult
    from nasdeploy.store.networks import FinetuneRecord
    from nasdeploy.workflows.device_searches import DeviceSearches
    from nasdeploy.workflows.searches import CostReach, Forecast


def describe(result: "SearchResult") -> str:
    """A search: its front, its finalists, what was chosen, and how good predictions were."""
    devices = result.devices
    heading = ["network", result.metric.heading, *(cost.label for cost in NETWORK_COSTS.values())]
    heading += [f"{what} ms{f' on {name}' if len(devices) > 1 else ''}" for name in devices for what in _LATENCIES]
    groups = {"front": result.front, "finalists": result.finalists, "chosen": (result.winner,)}
    if _is_deployed(result):
        heading.append(f"{result.metric.name} in {result.precision}")
    rows = [heading]
    for name, group in groups.items():
        rows += [[f"{name}:", *[""] * (len(heading) - 1)], *(_row(found, result) for found in group)]
    bounded = {split_name(name)[0] for name in result.budget.bounds}
    optional = [cost.label for name, cost in NETWORK_COSTS.items() if name not in bounded][::-1]
    lines = []
    if result.ties:
        paired = " (paired)" if any(one.difference for one in result.finalists) else ""
        lines.append(f"within one standard error of it{paired}: {', '.join(result.ties)}")
    lines += choice_lines(result)
    if result.as_fast:
        lines.append(f"as fast, within what processes differ by: {', '.join(result.as_fast)}")
    lines += [*_spreads(result), *_fidelities(result)]
    told = [part for line in lines for part in wrapped(line)]
    return "\n".join([*wrapped(_summary(result)), *aligned(rows, optional), *told])


def by_device(found: "DeviceSearches") -> str:
    """Searches for several devices below each other: what each lets in, the result that is kept, and refusals."""
    best = found.best
    heading = ["device", "search", "network", best.metric.heading, "predicted ms", "measured ms"]
    rows = [[each.device.name, *_let_in(each.result)] for each in found.searches]
    lines = [
        *(f"{each.device.name}: {each.reason}" for each in found.searches if each.reason is not None),
        f"the result is search {best.id}, for device {best.device}, budget {budget_text(best.budget)}",
        *choice_lines(best),
    ]
    return "\n".join([*aligned([heading, *rows]), *(part for line in lines for part in wrapped(line))])


def _let_in(result: "SearchResult | None") -> list[str]:
    """Return a search's number, and its winner with score and latencies; lines where there is none."""
    if result is None or result.device is None:
        return ["-"] * 5
    winner = result.winner
    score = result.metric.with_error(winner.final_value, winner.error)
    return [result.id, _name(winner), score, *_latency(winner.latency[result.device])]


def choice_lines(result: "SearchResult") -> list[str]:
    """Return what else could be chosen, or was not: the faster finalist that is no worse, or the best one."""
    finalists, lines = {one.digest: one for one in result.finalists}, []
    best = finalists.get(result.best or "")
    if best is not None:
        less, how_much = _less(result, result.winner, best), _compared(result, best, -1)
        lines.append(f"{less} than {best.digest}, the best by rank, and is not told to be worse: {how_much}")
    # One that is no worse than the preferred network may well be worse than the best, and is not taken.
    elif faster := finalists.get(result.faster or ""):
        less, how_much = _less(result, faster, result.winner), _compared(result, faster, 1)
        lines.append(f"{less} and is not told to be worse: {how_much}; --prefer fast takes it")
    return lines


def _less(result: "SearchResult", network: "NetworkRecord", than: "NetworkRecord") -> str:
    """Return how much less a network takes than another, on the first device or of what the front is drawn over."""
    if result.devices:
        what, here, there = "time", network.measured_ms, than.measured_ms
    else:
        axis = front_axis(result.budget.costs)
        what, here, there = NETWORK_COSTS[axis].title, network.costs[axis], than.costs[axis]
    return f"{network.digest} takes {100 * (1 - here / there):.0f} % less {what}" if here and there else network.digest


def _compared(result: "SearchResult", finalist: "NetworkRecord", sign: int) -> str:
    """Return how far a finalist's score is above the winner's, below it with a `sign` of -1, and how sure that is."""
    metric, found = result.metric, finalist.difference
    if found is not None:
        return f"{_points(metric, sign * found.value, found.error)} (paired)"
    value = finalist.final_value - result.winner.final_value
    return f"{_points(metric, sign * value, result.winner.error)}"


def _points(metric: "Metric", value: float, error: float | None = None) -> str:
    """Return a difference of scores as people read it, with its standard error if that is given."""
    shown = f"{metric.scale * value:+.{metric.decimals}f}" + ("" if error is None else f" +- {metric.number(error)}")
    return f"{shown} points" if metric.unit == "%" else f"{shown} {metric.unit}".strip()


def forecast_text(expected: "Forecast") -> str:
    """What a search would come to."""
    from nasdeploy.core.progress import duration

    feasible = expected.feasible
    count = f"{feasible.count:.4g}" if feasible.count >= _COUNTED else str(feasible.count)
    if feasible.standard_error:
        count = f"about {count} (+- {feasible.standard_error:.2g})"
    left = max(expected.evaluations - expected.known, 0)
    rows = [
        *((reach.name, _reach(reach)) for reach in expected.reaches),
        ("within the budget", f"{count} combinations of choices, {100 * feasible.share:.3g} % of the space"),
        ("evaluations", f"{expected.evaluations} at most in a round, {expected.known} networks are known already"),
        ("time", f"about {duration(expected.seconds)} at {duration(expected.seconds_each)} each"),
        ("", f"of it {duration(expected.measuring)} to measure finalists" if expected.measuring else ""),
    ]
    if expected.known:
        fewest = left * expected.seconds_each + expected.measuring
        rows.append(("", f"about {duration(fewest)} if all that is known comes up again"))
    return "\n".join(facts(rows, indent=""))


_COUNTED = 1e7
"""Smaller numbers are written out."""


def _reach(reach: "CostReach") -> str:
    asked = f", asked for: {reach.asked}" if reach.asked else ""
    return f"{reach.low:.4g} to {reach.high:.4g} {reach.unit}{asked}"


def listed(results: "Sequence[SearchResult]") -> str:
    """Searches below each other, a line each."""
    heading = ["search", "finished", "strategy", "budget", "winner", "evaluated", "rounds", _heading(results)]
    rows = map(_listed, results)
    return listing([*heading, "latency in ms"], rows, texts=5, optional=("rounds", "evaluated", "strategy"))


def compared(results: "Sequence[SearchResult]") -> str:
    """Searches below each other with what sets their winners apart from the first one's."""
    first = results[0].winner
    heading = ["search", "strategy", "budget", "winner", "evaluated", _heading(results), "to the first"]
    rows = [
        [
            result.id,
            result.strategy,
            budget_text(result.budget),
            _name(result.winner),
            str(result.evaluated),
            result.metric.with_error(result.winner.final_value, result.winner.error),
            "same network" if result.winner.digest == first.digest else _difference(result, first),
            _measured(result),
        ]
        for result in results
    ]
    return listing([*heading, "latency in ms"], rows, texts=4, optional=("evaluated", "strategy"))


def budget_text(budget: "BudgetRecord") -> str:
    """The bounds that were asked for, e.g. `cpu 5 ms, 300 M MACs`."""
    parts = []
    for name, bounds in budget.bounds.items():
        cost, device = split_name(name)
        parts.append(f"{device or ''} {_bounds(bounds)} {COSTS[cost].label}".strip())
    return ", ".join(parts)


_LATENCIES = ("predicted", "measured")


def _is_deployed(result: "SearchResult") -> bool:
    """Whether accuracies were measured in the device's precision."""
    return result.winner.deployed_value is not None


def _row(found: "NetworkRecord", result: "SearchResult") -> list[str]:
    costs = ["-" if (cost := found.in_unit(name)) is None else f"{cost:.4g}" for name in NETWORK_COSTS]
    latencies = [text for name in result.devices for text in _latency(found.latency[name])]
    cells = [_name(found), result.metric.with_error(found.value, found.error), *costs, *latencies]
    if _is_deployed(result):
        cells.append("-" if found.deployed_value is None else result.metric.number(found.deployed_value))
    return cells


def _name(found: "NetworkRecord") -> str:
    """Return what a network is called in tables."""
    return f"{found.digest} (original)" if found.original else found.digest


def _latency(found: "LatencyRecord") -> tuple[str, str]:
    measured = "-" if found.measured_ms is None else f"{found.measured_ms:.4g}"
    return f"{found.predicted_ms:.4g} +- {found.uncertainty_ms:.2g}", measured


def _heading(results: "Sequence[SearchResult]") -> str:
    """Return the heading of the scores of several searches: those of a run measure the same."""
    return results[0].metric.heading if results else ""


def _difference(result: "SearchResult", first: "NetworkRecord") -> str:
    """Return how far a winner's score is from that of the first one."""
    return _points(result.metric, result.winner.final_value - first.final_value)


def _listed(result: "SearchResult") -> list[str]:
    return [
        result.id,
        # To the minute.
        result.finished[:16].replace("T", " "),
        result.strategy,
        budget_text(result.budget),
        _name(result.winner),
        str(result.evaluated),
        str(result.rounds),
        result.metric.with_error(result.winner.final_value, result.winner.error),
        _measured(result),
    ]


def _measured(result: "SearchResult") -> str:
    return ", ".join(f"{one.measured_ms:.4g}" for one in result.winner.latency.values() if one.measured_ms) or "-"


def _summary(result: "SearchResult") -> str:
    rounds = "one round" if result.rounds == 1 else f"{result.rounds} rounds"
    return (
        f"search {result.id}, {result.strategy}, budget {budget_text(result.budget)}: {result.evaluated} networks "
        f"within it after {rounds}"
        + ("" if result.score == "metric" else f", ranked by {_CRITERIA[result.score]}")
        + (f"; accuracy on {_images(result)}" if result.unreadable else "")
    )


_CRITERIA: Mapping["Criterion", str] = {
    "loss": "their loss",
    "divergence": "the divergence of their outputs from the original's",
    "both": "their loss and the divergence of their outputs from the original's",
}
"""What networks are ranked by, where that is not the metric that is shown."""


def _spreads(result: "SearchResult") -> list[str]:
    """How far processes were apart that measured the same networks."""
    lines = []
    for name in result.devices:
        found = [one.latency[name].measured_spread for one in result.finalists]
        known = [spread for spread in found if spread is not None]
        if known:
            lines.append(
                f"latency on {name}, of one network in several processes: medians up to {max(known):.2f} times apart"
            )
    return lines


def _images(result: "SearchResult") -> str:
    from nasdeploy.exporting.record import counted

    return counted(result.samples, result.unreadable, f"held-out {result.metric.samples}")


def _fidelities(result: "SearchResult") -> list[str]:
    lines = [_fidelity(f"latency on {name}", found, "measured") for name, found in result.latency_fidelity.items()]
    if result.accuracy_fidelity is not None:
        what = "accuracy" if result.score == "metric" else f"e^-x, x being {_CRITERIA[result.score]}"
        lines.append(_fidelity(what, result.accuracy_fidelity, "evaluated"))
    return lines


def _fidelity(what: str, found: "Fidelity", known: str) -> str:
    tau = "too few to tell their order" if found.tau is None else f"Kendall tau {found.tau:.3f}"
    error = "" if found.mean_absolute is None else f", {100 * found.mean_absolute:.1f} % apart on average"
    if found.rmse is not None:
        error = f", RMSE {100 * found.rmse:.2f} points"
    return f"{what}, predicted against {known} of {found.networks} networks: {tau}{error}"


def _bounds(bounds: tuple[float | None, float | None]) -> str:
    low, high = bounds
    if low is None:
        return f"{high:.4g}"
    return f"{low:.4g}.." + ("" if high is None else f"{high:.4g}")


def _with_networks(text: str, result: "SearchResult", records: "Sequence[FinetuneRecord]") -> str:
    """Return a text with what came of networks that were trained further, below it."""
    return "\n".join([text, *(line for each in records for line in wrapped(each.text(result.metric)))])


def list_searches(run_directory: RunOption = None, as_json: JsonFlag = False, quiet: QuietFlag = False) -> None:
    """List the finished searches of a run."""
    from nasdeploy.workflows.searches import results

    run = chosen_run(run_directory)
    found = results(run)
    result = {"run": str(run.path), "searches": [one.model_dump(mode="json") for one in found]}
    emit(result, as_json, lambda: listed(found) if found else f"{run.path}: no search has finished yet")


def show(
    search: Annotated[
        str | None,
        typer.Argument(
            metavar="[SEARCH]", help="Its number [default: the latest].", autocompletion=completion.searches
        ),
    ] = None,
    run_directory: RunOption = None,
    as_json: JsonFlag = False,
    quiet: QuietFlag = False,
) -> None:
    """Show one search: front, finalists, and what was chosen.

    How good predictions were is told, too.
    """
    from nasdeploy.workflows.searches import finetuned, result

    run = chosen_run(run_directory)
    found = result(run, search)
    records = finetuned(run, [found])
    content = {
        "run": str(run.path),
        **found.model_dump(mode="json"),
        "finetuned": [record.model_dump(mode="json") for record in records],
    }
    emit(content, as_json, lambda: _with_networks(describe(found), found, records))


def compare(
    searches: Annotated[
        list[str],
        typer.Argument(
            metavar="SEARCH...", help="Numbers of two or more searches.", autocompletion=completion.searches
        ),
    ],
    run_directory: RunOption = None,
    as_json: JsonFlag = False,
    quiet: QuietFlag = False,
) -> None:
    """Show the winners of several searches beside each other."""
    from nasdeploy.workflows.searches import finetuned, result

    if len(searches) < 2:
        raise UserError("one search has nothing to be compared with; give the numbers of two or more")
    run = chosen_run(run_directory)
    found = [result(run, search) for search in searches]
    records = finetuned(run, found)
    content = {
        "run": str(run.path),
        "searches": [one.model_dump(mode="json") for one in found],
        "finetuned": [record.model_dump(mode="json") for record in records],
    }
    emit(content, as_json, lambda: _with_networks(compared(found), found[0], records))
