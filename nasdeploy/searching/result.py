"""What a search found, as JSON. Torch-free."""

from collections.abc import Mapping
from math import inf
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field, SerializerFunctionWrapHandler, model_serializer, model_validator

from nasdeploy.core.cost_registry import COSTS, NETWORK_COSTS, Cost, on_device, split_name
from nasdeploy.core.errors import UserError
from nasdeploy.core.paired import PairedDifference
from nasdeploy.core.score import Criterion, Metric
from nasdeploy.core.settings import Settings
from nasdeploy.runtimes.runtime import Precision
from nasdeploy.searching.budget import ANY, Budget, Range
from nasdeploy.store.checkpoints import WeightsFacts
from nasdeploy.store.records import read_object, read_record
from nasdeploy.tasks.metrics import UNNAMED

SCHEMA_VERSION: Literal[2] = 2


class LatencyRecord(Settings):
    """Latency of a network on one device, in milliseconds; None for what was not measured."""

    predicted_ms: float
    """The median in milliseconds, by the table as it was corrected by the end of the search."""
    uncertainty_ms: float
    """The standard deviation of the prediction, in milliseconds."""
    measured_ms: float | None = None
    """The median of the whole network on the device, in milliseconds."""
    measured_p10_ms: float | None = None
    """The milliseconds that 10 % of the calls took at most."""
    measured_p90_ms: float | None = None
    """The milliseconds that 90 % of the calls took at most."""
    measured_p95_ms: float | None = None
    """The milliseconds that 95 % of the calls took at most."""
    measured_spread: float | None = None
    """The largest by the smallest median of the processes that it was measured in."""


class DifferenceRecord(Settings):
    """The score and the loss of a finalist less the winner's, on the same held-out samples.

    The standard errors are those of differences sample by sample, which are far smaller than those of the scores.
    """

    value: float
    """The score less the winner's."""
    error: float
    """The standard error of `value`."""
    loss: float
    """The label loss less the winner's."""
    loss_error: float
    """The standard error of `loss`."""

    @classmethod
    def of(cls, found: PairedDifference) -> "DifferenceRecord":
        """Return the difference `found` as JSON holds it."""
        return cls(value=found.value, error=found.error, loss=found.loss, loss_error=found.loss_error)


class NetworkRecord(Settings):
    """One architecture with what is known of it.

    In JSON its costs stand beside the other fields, and those of its score have the metric's keys.
    """

    digest: str
    """The digest of the architecture."""
    arch: dict[str, Any]
    """The values of the architecture's choices."""
    value: float
    """The score on training samples that were held out."""
    error: float
    """The standard error of `value`."""
    loss: float | None
    """The mean label loss; None if the network's outputs were no numbers."""
    deployed_value: float | None = None
    """The score of the network in the first device's precision, as its runtime computes it; None where that was not
    measured: in fp32 and fp16, and of networks that are no finalists within the budget."""
    penalty: float | None = None
    """What the network, as it is deployed, was ranked by, smaller for better ones; left out of JSON where that is the
    metric, and of a network whose outputs were no numbers."""
    difference: DifferenceRecord | None = None
    """How the network compares with the winner; left out of JSON where that is not known: of the winner, of what is no
    finalist that meets the budget, in int8, and for a metric that is no mean over samples."""
    original: bool = False
    """Whether it is the run's original, with weights of its own; left out of JSON if it is not."""
    costs: dict[str, int | float]
    """The network's costs by the names of `COSTS`: counts, and everything else in the cost's unit."""
    latency: dict[str, LatencyRecord] = Field(default_factory=dict)
    """Latencies by device; empty for a search without latency."""

    @classmethod
    def costs_of(cls, costs: Mapping[str, float]) -> dict[str, int | float]:
        """Return the network's own among costs by name, in the units of `costs`."""
        return {
            name: int(costs[name]) if cost.is_count else cost.scale * costs[name]
            for name, cost in NETWORK_COSTS.items()
        }

    @model_validator(mode="before")
    @classmethod
    def _gathered(cls, data: Any) -> Any:
        return gathered(data, "costs", _NETWORK_KEYS)

    @model_serializer(mode="wrap")
    def _spread(self, handler: SerializerFunctionWrapHandler) -> dict[str, Any]:
        fields = handler(self)
        for name, default in _LEFT_OUT.items():
            if fields.get(name) == default:
                del fields[name]
        return spread(fields, "costs", {name: key for name, key in _NETWORK_KEYS.items() if name in self.costs})

    def in_unit(self, name: str) -> float | None:
        """Return the cost called `name` in its unit; None in results of versions that did not know it."""
        value, cost = self.costs.get(name), NETWORK_COSTS[name]
        return cost.scale * value if value is not None and cost.is_count else value

    @property
    def predicted_ms(self) -> float | None:
        """The predicted latency on the first device, in milliseconds."""
        return next((one.predicted_ms for one in self.latency.values()), None)

    @property
    def final_value(self) -> float:
        """The score of what is deployed."""
        return self.value if self.deployed_value is None else self.deployed_value

    @property
    def measured_ms(self) -> float | None:
        """The measured latency on the first device, in milliseconds."""
        return next((one.measured_ms for one in self.latency.values()), None)


_LEFT_OUT = {"original": False, "penalty": None, "difference": None}
"""What is left out of the JSON of a network where it has these values."""
_NETWORK_KEYS = {name: name if cost.is_count else cost.key for name, cost in NETWORK_COSTS.items()}
"""The names of costs in the JSON of a network."""
_BUDGET_KEYS = {name: cost.key for name, cost in NETWORK_COSTS.items()}
"""The names of costs in the JSON of a budget."""


def gathered(data: Any, field: str, keys: Mapping[str, str]) -> Any:
    """Return JSON whose values under `keys` are put together, by name, as the `field`; what is None is left out."""
    if not isinstance(data, dict) or field in data:
        return data
    inside = {name: data[key] for name, key in keys.items() if data.get(key) is not None}
    return {**{key: value for key, value in data.items() if key not in keys.values()}, field: inside}


def spread(data: dict[str, Any], field: str, keys: Mapping[str, str]) -> dict[str, Any]:
    """Return JSON with the values inside `field` in its place, under `keys`; undoes `gathered`."""
    found: dict[str, Any] = {}
    for key, value in data.items():
        found |= {other: value.get(name) for name, other in keys.items()} if key == field else {key: value}
    return found


Bounds = Annotated[tuple[float | None, float | None], Field(strict=False)]
"""A lower and an upper bound, None where there is none."""


class LatencyBounds(Settings):
    """Bounds on the latency on one device."""

    median_ms: Bounds | None
    """The bounds of the median call in milliseconds; None where there are none."""
    p95_ms: Bounds | None
    """The bounds of the 95th percentile of calls in milliseconds; None where there are none."""


class BudgetRecord(Settings):
    """The bounds that were asked for, in the costs' units."""

    latency: dict[str, LatencyBounds]
    """The records by device, the one that the front is drawn over first."""
    costs: dict[str, Bounds] = Field(default_factory=dict)
    """The costs by the names of `NETWORK_COSTS`, those that are bounded; in JSON beside `latency`."""

    @classmethod
    def of(cls, budget: Budget) -> "BudgetRecord":
        """Return `budget` in the units that users write."""
        latency = {device: _latency(budget.on(device)) for device in budget.devices}
        costs = {name: bounds for name, cost in NETWORK_COSTS.items() if (bounds := _bounds(budget[name], cost))}
        return cls(latency=latency, costs=costs)

    @model_validator(mode="before")
    @classmethod
    def _gathered(cls, data: Any) -> Any:
        return gathered(data, "costs", _BUDGET_KEYS)

    @model_serializer(mode="wrap")
    def _spread(self, handler: SerializerFunctionWrapHandler) -> dict[str, Any]:
        return spread(handler(self), "costs", _BUDGET_KEYS)

    @property
    def bounds(self) -> dict[str, Bounds]:
        """Return what is bounded, by the names that it has in a budget."""
        found: dict[str, Bounds] = {}
        for device, limit in self.latency.items():
            both = {"latency": limit.median_ms, "latency_p95": limit.p95_ms}
            found |= {on_device(name, device): bounds for name, bounds in both.items() if bounds is not None}
        return found | self.costs

    def upper(self, device: str) -> dict[str, float]:
        """Return the upper bounds by their keys, such as `latency_ms`; of latencies those on `device`."""
        found = {}
        for name, (_, high) in self.bounds.items():
            cost, of = split_name(name)
            if high is not None and of in (None, device):
                found[COSTS[cost].key] = high
        return found


def _latency(bounds: Mapping[str, Range]) -> LatencyBounds:
    median, p95 = (_bounds(bounds.get(name, ANY), COSTS[name]) for name in ("latency", "latency_p95"))
    return LatencyBounds(median_ms=median, p95_ms=p95)


def _bounds(bound: Range, cost: Cost) -> Bounds | None:
    if not bound.bounded:
        return None
    low = cost.scale * bound.low if bound.low > 0 else None
    return low, cost.scale * bound.high if bound.high < inf else None


class Fidelity(Settings):
    """How well predictions order networks: Kendall's tau, None with fewer than three networks of different values."""

    networks: int
    """The number of networks."""
    tau: float | None
    """Kendall's tau of predicted and found values; None with fewer than three networks of different values."""
    mean_absolute: float | None = None
    """Mean of |measured / predicted - 1|, for latencies."""
    rmse: float | None = None
    """Root of the mean squared error, for accuracies (0..1)."""


class SearchResult(Settings):
    """A finished search."""

    schema_version: Literal[2] = SCHEMA_VERSION
    """The version of the result's form."""
    id: str
    """The number of the search in its run."""
    finished: str
    """The time when it was finished: UTC, ISO 8601."""
    strategy: str
    """The strategy that proposed architectures."""
    score: Criterion = "metric"
    """What networks were ranked by."""
    supernet: str
    """Digest of the weights and of how they were evaluated."""
    weights: WeightsFacts | None = None
    """The weights that were searched on; None in results of earlier versions."""
    space: str
    """The digest of the search space."""
    devices: tuple[str, ...]
    """The devices of the latency budget; the first is that of the front. Empty for a search without latency."""
    precision: Precision = "fp32"
    """The precision of the first device."""
    budget: BudgetRecord
    """The bounds that were asked for."""
    probability: float
    """The probability with which a network that is predicted to meet the budget does."""
    rounds: int
    """Rounds of search and measurement until a finalist met the budget."""
    evaluated: int
    """Architectures with known score within the budget when it ended."""
    metric: Metric
    """What the scores measure; that of `UNNAMED` in results of earlier versions."""
    samples: int
    """How many held-out samples networks were scored on; in JSON under the metric's name for them."""
    unreadable: int = 0
    """Held-out samples beside these that were left out, because they cannot be read."""
    winner: NetworkRecord
    """The network that was chosen."""
    ties: tuple[str, ...]
    """Digests of finalists that meet the budget and are worse than the winner by no more than one standard error: of
    the difference between the two where their records say it, else of the winner's score."""
    faster: str | None = None
    """The digest of the fastest of these that is told to be faster than the winner (or cheaper, without latencies);
    None if there is none, and in results of earlier versions."""
    best: str | None = None
    """The digest of the best finalist that meets the budget, where the winner is a faster one that was preferred."""
    as_fast: tuple[str, ...] = ()
    """Digests of finalists whose latency on the first device is not told from the winner's by several processes."""
    finalists: tuple[NetworkRecord, ...]
    """The networks that were measured on the devices as a whole."""
    front: tuple[NetworkRecord, ...]
    """Pareto front of the score over predicted latency (or MACs), by rising cost."""
    latency_fidelity: dict[str, Fidelity]
    """The checks by device: predictions of the table before this search against what was measured in it."""
    accuracy_fidelity: Fidelity | None = None
    """Predicted against evaluated accuracy, of networks that the last predictor was not fitted on; None without one."""

    @model_validator(mode="before")
    @classmethod
    def _with_metric(cls, data: Any) -> Any:
        if not isinstance(data, dict):
            return data
        data = {"metric": UNNAMED, **data}
        if isinstance(data.get("winner"), NetworkRecord):
            return data
        if isinstance(data["metric"], dict):
            try:
                data["metric"] = Metric(**data["metric"])
            except TypeError as error:
                raise ValueError(f"metric: {error}") from None
        if not isinstance(data["metric"], Metric):
            return data
        fields = {key: field for field, key in _score_keys(data["metric"]).items()}
        # Strict settings take a list for a tuple only from JSON itself.
        found = {key: tuple(value) if isinstance(value, list) else value for key, value in data.items()}
        return _renamed(found, fields, data["metric"].samples, "samples")

    @model_serializer(mode="wrap")
    def _by_metric(self, handler: SerializerFunctionWrapHandler) -> dict[str, Any]:
        return _renamed(handler(self), _score_keys(self.metric), "samples", self.metric.samples)

    @property
    def device(self) -> str | None:
        """The first device."""
        return self.devices[0] if self.devices else None


def _score_keys(metric: Metric) -> dict[str, str]:
    """Return the names in JSON of the fields of `NetworkRecord` that are of its score."""
    key = metric.key
    return {"value": key, "error": metric.error_key, "loss": metric.loss_key, "deployed_value": f"deployed_{key}"}


def _renamed(data: dict[str, Any], names: Mapping[str, str], samples: str, as_samples: str) -> dict[str, Any]:
    """Return a result whose networks have other names for what they hold, and its `samples` too."""

    def network(values: Any) -> Any:
        return {names.get(key, key): value for key, value in values.items()} if isinstance(values, dict) else values

    found = {as_samples if key == samples else key: value for key, value in data.items()}
    for key in ("finalists", "front"):
        if isinstance(found.get(key), list | tuple):
            found[key] = type(found[key])(map(network, found[key]))
    return found | ({"winner": network(found["winner"])} if "winner" in found else {})


def load_result(path: Path) -> SearchResult:
    """Return the result of a run's latest search; raises `UserError` if there is none or it is damaged."""
    if not path.exists():
        raise UserError(f"{path}: no search result yet; run `nd.search(latency_ms=X)` first")
    remedy = "search again with `nd.search()`"
    version = read_object(path, remedy).get("schema_version")
    if isinstance(version, int) and version != SCHEMA_VERSION:
        raise UserError(
            f"{path}: a search result in version {version} of its form, and this nasdeploy reads version "
            f"{SCHEMA_VERSION}; {remedy}"
        )
    return read_record(SearchResult, path, remedy)
