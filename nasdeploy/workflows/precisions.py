"""One budget in several precisions, checked before anything heavy is loaded. Torch-free.

A precision has a device of its own, with a latency table of its own: `cpu` and `cpu-int8`, `board.yaml` and
`board-int8.yaml`.
"""

from collections.abc import Sequence
from pathlib import Path

from nasdeploy.core.cost_registry import COSTS
from nasdeploy.core.errors import InfeasibleBudget, UserError
from nasdeploy.core.progress import Progress
from nasdeploy.core.registry import listed
from nasdeploy.distributed import processes
from nasdeploy.exporting.jobs import parse_precision
from nasdeploy.recipe import Recipe
from nasdeploy.runtimes.device import Device, load_device
from nasdeploy.runtimes.runtime import Precision
from nasdeploy.searching.budget import Asked, split_device
from nasdeploy.store.run import Run
from nasdeploy.workflows.request import SearchRequest, asked_or_recipes, latency_texts, request_search


def parse_precisions(text: str) -> list[Precision]:
    """`fp32,int8` as a list, each once; raises `UserError` for what is no precision."""
    words = listed([text])
    if not words:
        raise UserError("`precision`: none given; write e.g. fp32,int8")
    return [parse_precision(word) for word in words]


def request_searches(
    run: Run, recipe: Recipe, asked: Asked, precisions: Sequence[Precision], strict: bool, progress: Progress
) -> list[SearchRequest]:
    """Return a search for each precision in which the budget can be met; without bounds, the recipe's latency.

    Without precisions it is one search, in that of its device. Raises `InfeasibleBudget` if it can be met in none, and
    `UserError` for a budget that is not the same in all.
    """
    if not precisions:
        return [request_search(run, recipe, asked, strict, progress)]
    asked = asked_or_recipes(asked, recipe)
    _check(asked, precisions)
    requests, refusals = [], []
    for precision in precisions:
        try:
            requests.append(request_search(run, recipe, _within(asked, recipe, precision), strict, progress))
        except InfeasibleBudget as error:
            refusals.append(error)
            progress.say(f"search: not in {precision}: {error}")
    if not requests:
        raise refusals[0]
    return requests


def _check(asked: Asked, precisions: Sequence[Precision]) -> None:
    latencies = latency_texts(asked)
    if not latencies:
        raise UserError("`precision`: a precision is chosen by its latency; give a budget with `latency_ms=X`")
    if len(precisions) == 1:
        return
    if processes() > 1:
        raise UserError("`precision`: several precisions are searched by one process; leave out torchrun, or name one")
    for text in latencies:
        if "%" in text:
            raise UserError(
                f"latency budget '{text}': a part of the range is another budget in each precision; give milliseconds"
            )


def _within(asked: Asked, recipe: Recipe, precision: Precision) -> Asked:
    """Return the bounds, those on devices on the ones of a precision."""

    def moved(texts: Sequence[str]) -> tuple[str, ...]:
        pairs = ((given or recipe.device, bound) for given, bound in map(split_device, texts))
        return tuple(f"{_in_precision(given, precision)}={bound}" for given, bound in pairs)

    return {name: moved(texts) if COSTS[name].of_device else texts for name, texts in asked.items()}


def _in_precision(given: str, precision: Precision) -> str:
    """Return name or file of the device `given` in a precision; raises `UserError` if there is none that is like it."""
    device = load_device(given)
    if device.precision == precision:
        return given
    base = device.name.removesuffix(f"-{device.precision}")
    name = base if precision == "fp32" else f"{base}-{precision}"
    is_file = Path(given).suffix in (".yaml", ".yml")
    other = str(Path(given).with_name(f"{name}.yaml")) if is_file else name
    try:
        found = load_device(other)
    except UserError as error:
        raise UserError(f"`precision={precision}`: device {device.name} would be {other} in it: {error}") from None
    _require_alike(device, found, precision)
    return other


def _require_alike(device: Device, other: Device, precision: Precision) -> None:
    if other.precision != precision:
        raise UserError(f"`precision={precision}`: device {other.name} is in {other.precision}; correct its file")
    for field in ("batch", "threads", "host", "hosts"):
        here, there = getattr(device, field), getattr(other, field)
        if here != there:
            raise UserError(
                f"`precision={precision}`: {field} of device {other.name} is {there}, of {device.name} {here}, so that "
                "their latencies do not compare; make them alike"
            )
