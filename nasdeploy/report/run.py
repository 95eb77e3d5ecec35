"""Everything that a report shows of a run, as far as it has got: each part is None or empty where there is nothing.

All values are plain: numbers are finite, texts may hold anything (names of classes and files are a stranger's), and
times are in milliseconds where the name ends in `_ms`. `RunReport.to_json` is what `--json` prints.
"""

import shlex
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from io import StringIO
from math import isfinite
from typing import Any

from nasdeploy.core.cost_registry import COSTS, split_name
from nasdeploy.core.score import Metric
from nasdeploy.core.settings import Settings
from nasdeploy.report.architecture import DrawnNetwork
from nasdeploy.report.artefacts import PredictionReport, ShownExport
from nasdeploy.report.latency import TableReport
from nasdeploy.report.networks import FrontReport, SubNetworks
from nasdeploy.report.training import TrainingCurves
from nasdeploy.searching.result import SearchResult
from nasdeploy.store.networks import FinetuneRecord

SCHEMA_VERSION = 1


@dataclass(frozen=True)
class RunSummary:
    """What a run is, and how far it has got."""

    name: str
    """The name of the run."""
    path: str
    """The directory, as it was given."""
    created: str
    """UTC, ISO 8601."""
    task: str
    """The task that its networks are trained for."""
    space: str
    """The name of the search space."""
    space_kind: str
    """The kind of the search space: `table`, `ofa`, `grown`, ..."""
    space_digest: str
    """The digest of the search space."""
    networks: int
    """The number of different networks in the space, which may be of any size."""
    classes: tuple[str, ...]
    """The names of the outputs, where they have any."""
    outputs: int
    """The number of outputs."""
    images: Mapping[str, int]
    """The number of images by what they are for: `train`, `search`, `val`, `test`, `unused`; empty in old runs."""
    start: str | None
    """The pretrained network that it started from, such as `timm:efficientnet_b0`; None for random weights."""
    device: str
    """The device of the recipe."""
    finished: tuple[str, ...]
    """The steps that are finished, in their order: `train`, `profile`, `search`, `export`."""


@dataclass(frozen=True)
class FinetunedNetwork:
    """What the training of one network alone came to."""

    digest: str
    """The digest of the architecture."""
    epochs: int
    """The epochs that it was trained for alone."""
    before: float
    """The score with the weights that it began with; times the metric's `scale` for what is shown."""
    before_error: float
    """The standard error of `before`."""
    after: float
    """The score with the weights that it was trained to; times the metric's `scale` for what is shown."""
    after_error: float
    """The standard error of `after`."""
    samples: int
    """The number of held-out samples."""
    kept: bool
    """Whether its new weights are those that are delivered."""


@dataclass(frozen=True)
class Reproduction:
    """How to make the run again."""

    commands: tuple[str, ...]
    """The commands in their order, as they are typed in a shell."""
    recipe_file: str
    """The name of the recipe that the commands read: one that comes with nasdeploy, or a file to write `recipe` to."""
    is_shipped: bool
    """Whether that recipe comes with nasdeploy, so that nothing has to be written."""
    recipe: str
    """The recipe as YAML, defaults included."""
    seed: int
    """The seed of all that is drawn at random."""
    versions: Mapping[str, str]
    """The versions of packages when the run was begun."""
    data_digest: str | None
    """The digest of all images, their classes and what they are for; None in runs of earlier versions."""


@dataclass(frozen=True)
class RunReport:
    """Everything that a report shows of one run."""

    summary: RunSummary
    """What the run is, and how far it has got."""
    metric: Metric
    """What scores measure: shown are `scale` times the values, in `unit`, with `decimals`."""
    training: tuple[TrainingCurves, ...]
    """The curves of the supernet, then those of networks that were trained further alone."""
    finetuned: tuple[FinetunedNetwork, ...]
    """The networks that were trained further alone."""
    sub_networks: SubNetworks | None
    """The scored sub-networks, by cost; None where nothing was scored."""
    search: FrontReport | None
    """The latest search; None where there is none."""
    tables: tuple[TableReport, ...]
    """The latency tables of the space that were found, those of the search's devices first."""
    networks: tuple[DrawnNetwork, ...]
    """The smallest, the chosen (after a search) and the largest network, in this order."""
    exports: tuple[ShownExport, ...]
    """The exported networks, the chosen one first."""
    predictions: PredictionReport | None
    """What the deliverable makes of the test images; None where that is not known."""
    reproduction: Reproduction
    """How to make the run again."""
    remarks: tuple[str, ...]
    """What could not be shown, and why, one line each."""

    def to_json(self) -> dict[str, Any]:
        """Return all of it as plain values: mappings, lists, texts and finite numbers."""
        return {"schema_version": SCHEMA_VERSION, **_finite(asdict(self))}

    @property
    def chosen(self) -> DrawnNetwork | None:
        """The network that the search chose; None before a search."""
        return next((network for network in self.networks if network.role == "chosen"), None)


def _finite(value: Any) -> Any:
    """Return plain values in which numbers that are not finite, which JSON does not know, are None."""
    if isinstance(value, dict):
        return {key: _finite(each) for key, each in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(each) for each in value]
    if isinstance(value, Settings):
        return _finite(value.model_dump(mode="json"))
    return None if isinstance(value, float) and not isfinite(value) else value


@dataclass(frozen=True)
class StepsTaken:
    """What was done in a run after its training."""

    devices: Sequence[str]
    """The devices whose latency tables were measured."""
    result: SearchResult | None
    """The latest search."""
    finetuned: Sequence[FinetuneRecord]
    exports: Sequence[ShownExport]


def commands_of(recipe: str, name: str, imported: Mapping[str, Any] | None, steps: StepsTaken) -> tuple[str, ...]:
    """Return the commands that make the run of that name again by a recipe, each by the results of those before.

    `recipe` is its name or file. `imported` tells from which published file the weights were taken instead of being
    trained.
    """
    return tuple(shlex.join(["nasdeploy", *words]) for words in _commands(recipe, name, imported, steps))


def _commands(recipe: str, name: str, imported: Mapping[str, Any] | None, steps: StepsTaken) -> Iterator[list[str]]:
    if imported is None:
        yield ["train", recipe]
    else:
        yield ["import", str(imported.get("kind")), str(imported.get("file")), "--out", f"runs/{name}"]
    for device in steps.devices:
        yield ["profile", "--device", device]
    if steps.result is not None:
        yield ["search", *_bounds(steps.result)]
    for one in steps.finetuned:
        yield ["finetune", "--arch", one.digest, "--epochs", str(one.epochs)]
    for each in steps.exports:
        for precision in dict.fromkeys(made.precision for made in each.artefacts):
            formats = dict.fromkeys(made.format for made in each.artefacts if made.precision == precision)
            named = [] if precision == "fp32" else ["--precision", precision]
            chosen = [] if each.chosen else ["--arch", each.digest]
            yield ["export", *chosen, "--format", ",".join(formats), *named]


def _bounds(result: SearchResult) -> Iterator[str]:
    """Yield the options of a search for its bounds, in the order in which the result has them."""
    for name, (low, high) in result.budget.bounds.items():
        cost, device = split_name(name)
        bound = f"{high:.6g}" if low is None and high is not None else f"{_number(low)}..{_number(high)}"
        yield f"--{COSTS[cost].key.replace('_', '-')}"
        yield bound if device is None else f"{device}={bound}"
    if result.precision != "fp32":
        yield from ("--precision", result.precision)


def _number(bound: float | None) -> str:
    return "" if bound is None else f"{bound:.6g}"


def yaml_text(content: Mapping[str, Any]) -> str:
    """Return plain values as YAML, a key a line, in their order."""
    from ruamel.yaml import YAML

    writer, text = YAML(typ="rt", pure=True), StringIO()
    writer.default_flow_style = None
    writer.width = 110
    writer.dump(dict(content), text)
    return text.getvalue()
