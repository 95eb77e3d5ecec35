"""The finished searches of a run, and what another one would come to. Torch-free until a network is evaluated.

Each is kept in RUN/searches/ID.json, the latest in search.json too. A forecast evaluates one network at most.
"""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import fmean
from typing import Any

from nasdeploy.core.errors import UserError
from nasdeploy.core.progress import Progress
from nasdeploy.core.randomness import generator
from nasdeploy.latency.protocol import MeasurementProtocol
from nasdeploy.runtimes.device import Device
from nasdeploy.searching.feasibility import FeasibleSize, feasible_size, reachable_range
from nasdeploy.searching.problem import Problem
from nasdeploy.searching.proposals import Proposals
from nasdeploy.searching.result import SearchResult, load_result
from nasdeploy.store.files import write_json
from nasdeploy.store.networks import FinetuneRecord, finetune_record
from nasdeploy.store.run import Run
from nasdeploy.workflows.request import SearchRequest


def keep(run: Run, result: SearchResult) -> None:
    """Write a result into a run; the run has to be locked."""
    run.require_there()
    content = result.model_dump(mode="json")
    write_json(_folder(run) / f"{result.id}.json", content)
    write_json(run.search_result, content)


def next_id(run: Run) -> str:
    """Return the number of the next search of a run: they are numbered from 1."""
    return str(1 + max((int(path.stem) for path in _files(run)), default=0))


def results(run: Run) -> list[SearchResult]:
    """All finished searches, in their order; raises `UserError` if one is damaged."""
    return [load_result(path) for path in sorted(_files(run), key=lambda path: int(path.stem))]


def result(run: Run, id: str | None) -> SearchResult:
    """One of them, by default the latest; raises `UserError` if there is none."""
    if id is None:
        return load_result(run.search_result)
    path = _folder(run) / f"{id}.json"
    if path not in _files(run):
        known = ", ".join(sorted((path.stem for path in _files(run)), key=int)) or "none"
        raise UserError(
            f"{run.path}: no search '{id}' in this run; there are: {known} (see `workflows.searches.results()`)"
        )
    return load_result(path)


def finetuned(run: Run, found: Sequence[SearchResult]) -> list[FinetuneRecord]:
    """Return what became of networks of some searches that were trained further alone, each once.

    Winners come first. Raises `UserError` if a record is damaged.
    """
    networks = [*(one.winner for one in found), *(each for one in found for each in (*one.finalists, *one.front))]
    records = (finetune_record(run, digest) for digest in dict.fromkeys(each.digest for each in networks))
    return [record for record in records if record is not None]


def _folder(run: Run) -> Path:
    return run.path / "searches"


def _files(run: Run) -> list[Path]:
    return [path for path in _folder(run).glob("*.json") if path.stem.isdecimal()]


@dataclass(frozen=True)
class CostReach:
    """What the networks of a space cost, and what of that is asked for."""

    name: str
    unit: str
    low: float
    high: float
    asked: str
    """Empty where it is not bounded."""


@dataclass(frozen=True)
class Forecast:
    """The forecast of a search; times in seconds."""

    reaches: tuple[CostReach, ...]
    """The range of every latency, and of what else is bounded."""
    feasible: FeasibleSize
    evaluations: int
    """The evaluations in a round at most."""
    known: int
    """Networks of this run that were evaluated already, and are not evaluated again."""
    seconds_each: float
    """The seconds of an evaluation."""
    measuring: float
    """Seconds for the finalists on all devices, a round."""

    @property
    def seconds(self) -> float:
        """The seconds for one round; a further one is only needed where no finalist meets the budget."""
        return self.evaluations * self.seconds_each + self.measuring

    def to_json(self) -> dict[str, Any]:
        """Plain values."""
        return {**asdict(self), "seconds": self.seconds}


def forecast(request: SearchRequest, progress: Progress) -> Forecast:
    """What the search of `request` would come to.

    Its time is that of earlier evaluations; in a run without any, one network is evaluated, and kept.
    """
    problem = Problem(request.space, request.budget, *request.tables)
    settings = request.recipe.search
    seconds = _evaluated(request) or _trial(request, problem, progress)
    return Forecast(
        reaches=tuple(_reaches(problem)),
        feasible=feasible_size(problem),
        evaluations=settings.evaluations,
        known=len(seconds),
        seconds_each=fmean(seconds),
        measuring=sum(settings.finalists * _seconds_to_measure(problem, device) for device in request.devices),
    )


def _reaches(problem: Problem) -> list[CostReach]:
    found = []
    for quantity in problem.quantities:
        if quantity.shown:
            low, high = (quantity.cost.scale * end for end in reachable_range(problem, quantity))
            found.append(CostReach(str(quantity), quantity.cost.unit, low, high, quantity.bound.text(quantity.cost)))
    return found


def _evaluated(request: SearchRequest) -> list[float]:
    """Seconds of each evaluation in the run's database; none where there is no database."""
    from nasdeploy.workflows.evaluator import supernet_of

    run = request.run
    if not run.search_database.exists():
        return []
    supernet = supernet_of(request.run, request.recipe, request.weights.facts)
    with request.evaluations(supernet) as evaluations:
        return [evaluation.seconds for evaluation in evaluations.all()]


def _trial(request: SearchRequest, problem: Problem, progress: Progress) -> list[float]:
    """Seconds of one evaluation that is made now."""
    from nasdeploy.distributed.jobs import InTurn
    from nasdeploy.searching.search import Evaluating
    from nasdeploy.workflows.evaluator import open_evaluator, supernet_of

    run, recipe, weights = request.run, request.recipe, request.weights
    progress.say("search: nothing was evaluated in this run; one network is, to see how long it takes")
    archs = Proposals(problem, generator(recipe.seed, "forecast")).random(1)
    with run.lock():
        with progress.stage("search: opening data and weights"):
            evaluator = open_evaluator(run, recipe, request.space, weights.path, recipe.search.score)
        with request.evaluations(supernet_of(run, recipe, weights.facts)) as evaluations:
            evaluate = Evaluating(InTurn(lambda job: evaluator(job.arch, job.first, job.end)), evaluations)
            return [evaluation.seconds for evaluation in evaluate(archs)]


def _seconds_to_measure(problem: Problem, device: Device) -> float:
    """Return the seconds of one network on a device: runs and gaps by the protocol, and about a second to make and open
    it."""
    protocol = MeasurementProtocol().with_idle(device.idle_ms)
    visits = protocol.networks.visits
    slowest = max((bound for bound in problem.upper[: len(problem.tables)] if bound < float("inf")), default=0.0)
    gaps = visits * protocol.kept * protocol.networks.idle_s
    return 1.0 + protocol.running_s(float(slowest), visits) + gaps
