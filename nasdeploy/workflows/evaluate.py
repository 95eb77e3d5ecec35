"""Comparing supernets: sub-networks of runs, drawn from regimes of MACs, and their scores regime by regime.

Equally many are drawn from each regime, as the papers compare supernets. Torch-free until networks are evaluated.
"""

from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from math import isfinite
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from nasdeploy.core.arch import Arch
from nasdeploy.core.cost_registry import macs
from nasdeploy.core.costs import Costs, Floats
from nasdeploy.core.counting.chain import extremes
from nasdeploy.core.errors import UserError
from nasdeploy.core.progress import Progress
from nasdeploy.core.randomness import generator
from nasdeploy.core.space import Codes, SearchSpace
from nasdeploy.recipe import Recipe, recipe_of, space_of
from nasdeploy.report.figures import Series, box_of, draw_boxes
from nasdeploy.store.checkpoints import Weights, trained_weights
from nasdeploy.store.evaluations import Evaluation, Evaluations, openable
from nasdeploy.store.files import require_writable, write_json
from nasdeploy.store.run import Run
from nasdeploy.tasks import task_of

if TYPE_CHECKING:
    from nasdeploy.supernet.evaluate import Evaluator


@dataclass(frozen=True)
class Contender:
    """A run and the architectures drawn from its space, by regime."""

    run: Run
    recipe: Recipe
    space: SearchSpace
    regimes: tuple[tuple[Arch, ...], ...]
    weights: Weights

    @property
    def networks(self) -> int:
        """Number of architectures."""
        return sum(len(regime) for regime in self.regimes)


@dataclass(frozen=True)
class Comparison:
    """Runs of the same classes, and the regimes of MACs between ascending `edges` `[regimes + 1]`."""

    contenders: tuple[Contender, ...]
    edges: Floats


def request_comparison(
    paths: Sequence[Path], sample: int, regimes: int, assignments: Sequence[str] = (), data: str | None = None
) -> Comparison:
    """`sample` architectures of each run (without paths: the latest), equally many from each regime.

    `assignments` and `data` change the recipes for this once. Runs of one space are compared on the same architectures,
    whatever their seeds. Raises `UserError` for a run that is missing, not a trained supernet or given twice, and for
    runs whose classes differ.
    """
    if sample < max(2, regimes):
        raise UserError(f"`sample={sample}`: give {max(2, regimes)} or more, one for each of the {regimes} regimes")
    runs = [Run.open(path) for path in paths] or [Run.latest()]
    _check(runs)
    spaces = [space_of(run) for run in runs]
    edges = regime_edges(spaces, regimes)
    drawn = [sample_regimes(space, edges, sample, generator(0, "evaluate")) for space in spaces]
    contenders = [
        Contender(run, recipe_of(run, assignments, data), space, tuple(map(tuple, archs)), trained_weights(run))
        for run, space, archs in zip(runs, spaces, drawn, strict=True)
    ]
    return Comparison(tuple(contenders), edges)


def _check(runs: Sequence[Run]) -> None:
    first, seen = runs[0], set()
    for run in runs:
        run.facts("train")
        if recipe_of(run).train.last.sampling.kind == "alone":
            raise UserError(f"{run.path}: one network was trained alone there, so there are no sub-networks to compare")
        if run.path.resolve() in seen:
            raise UserError(f"{run.path}: given twice; name each run once")
        seen.add(run.path.resolve())
        if run.manifest.classes != first.manifest.classes:
            raise UserError(
                f"{run.path}: learned other classes than {first.path}, so that their accuracies cannot be compared; "
                "evaluate them one by one"
            )


_POOL = 20_000


def regime_edges(spaces: Sequence[SearchSpace], count: int) -> Floats:
    """Ascending MACs `[count + 1]` at equal ratios, from the cheapest to the dearest network of any of the spaces."""
    ends = [extreme.cost for space in spaces for extreme in extremes(space, macs)]
    edges = np.geomspace(min(ends), max(ends), count + 1)
    # Exact at the ends, where rounding would leave the extremes outside.
    edges[0], edges[-1] = min(ends), max(ends)
    return edges


def regimes_of(costs: Floats, edges: Floats) -> npt.NDArray[np.intp]:
    """Index of the regime of each of the MACs `[n]`; an inner edge belongs to the regime above it."""
    return np.clip(np.searchsorted(edges, costs, side="right") - 1, 0, len(edges) - 2)


def sample_regimes(space: SearchSpace, edges: Floats, number: int, rng: np.random.Generator) -> list[list[Arch]]:
    """Up to `number` different architectures by regime, equally many from each regime that the space reaches.

    The cheapest and the dearest network are among them. Those of a smaller number are among those of a larger one if
    both divide evenly. A regime has fewer if no more were found in it.
    """
    cheapest, dearest = extremes(space, macs)
    first, last = regimes_of(np.array([cheapest.cost, dearest.cost]), edges)
    reached = range(first, last + 1)
    costs = Costs(space, [macs])
    regimes: list[list[Arch]] = [[] for _ in edges[1:]]
    for codes in _pools(space, space.encode([cheapest.arch, dearest.arch]), rng):
        places = regimes_of(costs(codes)[:, 0], edges)
        for n, place in enumerate(reached):
            share = number // len(reached) + (n < number % len(reached))
            _fill(regimes[place], share, codes[places == place], space)
    return regimes


def _pools(space: SearchSpace, ends: Codes, rng: np.random.Generator) -> Iterator[Codes]:
    """First both ends, then uniform draws, then draws blended with the ends, which reach the outer regimes."""
    yield ends
    uniform = space.sample_codes(_POOL, rng)
    yield uniform
    yield space.blend(uniform, ends, rng)


def _fill(regime: list[Arch], share: int, codes: Codes, space: SearchSpace) -> None:
    """Append new architectures of `codes`, in their order, until the regime has its share."""
    seen = set(regime)
    # Twice as many as are missing, because some may come twice.
    size = 2 * share + 1
    for start in range(0, len(codes), size):
        for arch in space.decode(codes[start : start + size]):
            if len(regime) >= share:
                return
            if arch not in seen:
                seen.add(arch)
                regime.append(arch)


PICTURE, RESULT = "evaluate.png", "evaluate.json"

Regimes = list[list[Evaluation]]


@dataclass(frozen=True)
class _Found:
    """The figures of a run: evaluations by regime, and how many held-out images were left out as unreadable."""

    regimes: Regimes
    unreadable: int
    original: str | None
    """The digest of the network that was scored with weights of its own; None where there is none."""


def evaluate(comparison: Comparison, out: Path | None, progress: Progress) -> dict[str, Any]:
    """Evaluate, and write evaluate.json and evaluate.png into `out`, by default the first run; what the JSON holds.

    Accuracies are those of the search: on its held-out training images, after recalibration. What a run's database
    knows is not evaluated again.
    """
    contenders, edges = comparison.contenders, comparison.edges
    directory = contenders[0].run.path if out is None else out
    require_writable(directory / RESULT)
    directory.mkdir(parents=True, exist_ok=True)
    if len({_images_of(contender) for contender in contenders}) > 1:
        progress.say("evaluate: the runs hold out different images (their seeds or data differ)")
    found = [_evaluations(contender, directory, progress) for contender in contenders]
    entries = [_entry(contender, each) for contender, each in zip(contenders, found, strict=True)]
    result = {
        "schema_version": 1,
        "images": "training images held out for the search",
        "edges_macs_m": [edge / 1e6 for edge in edges],
        "runs": entries,
    }
    with contenders[0].run.reading():
        contenders[0].run.require_there()
        write_json(directory / RESULT, result)
        _draw(contenders, [each.regimes for each in found], edges, directory / PICTURE)
    return result


def _evaluations(contender: Contender, out: Path, progress: Progress) -> _Found:
    from nasdeploy.workflows.evaluator import open_evaluator, supernet_of

    run, recipe = contender.run, contender.recipe
    weights = contender.weights
    supernet = supernet_of(run, recipe, weights.facts)
    with run.reading() as kept:
        # First, so that a database is of images that can be read.
        with progress.stage("evaluate: opening data and weights"):
            evaluator = open_evaluator(run, recipe, contender.space, weights.path)
        if kept:
            database = run.search_database
        else:
            database = _beside(out, run.search_database, f"{run.path.name}-{supernet}")
        with Evaluations(database, supernet, task_of(recipe.task).metric) as evaluations:
            regimes = _evaluated(contender, evaluator, evaluations, progress)
            return _Found(regimes, evaluator.unreadable, next((arch.digest for arch in evaluator.own), None))


def _beside(out: Path, database: Path, name: str) -> Path:
    """Return the database of a run that cannot be written, where the results go: what it holds, and what comes to
    it."""
    folder = out / f"evaluations-{name}"
    folder.mkdir(exist_ok=True)
    return openable(database, folder)


def _evaluated(contender: Contender, evaluator: "Evaluator", kept: Evaluations, progress: Progress) -> Regimes:
    from nasdeploy.searching.search import evaluated

    run, weights = contender.run, contender.weights
    known = sum(kept.get(arch.digest) is not None for regime in contender.regimes for arch in regime)
    progress.say(f"evaluate: {run.path}, {weights.path.name}, {contender.networks} networks, {known} known already")
    with progress.task("evaluate", contender.networks) as task:

        def one(arch: Arch) -> Evaluation:
            evaluation = evaluated(arch, evaluator, kept)
            task.advance(note=f"{kept.metric.name} {evaluation.score.text}")
            return evaluation

        return [[one(arch) for arch in regime] for regime in contender.regimes]


def _entry(contender: Contender, found: _Found) -> dict[str, Any]:
    """Return a run's part of the JSON."""
    boxes = [box_of([evaluation.score.value for evaluation in regime]) for regime in found.regimes]
    return {
        "run": str(contender.run.path),
        "space": contender.space.digest,
        "weights": contender.weights.facts.model_dump(),
        "unreadable": found.unreadable,
        "original": found.original,
        "regimes": [asdict(box) if box else None for box in boxes],
        "networks": [
            _network(contender.space, arch, evaluation)
            for archs, regime in zip(contender.regimes, found.regimes, strict=True)
            for arch, evaluation in zip(archs, regime, strict=True)
        ],
    }


def _network(space: SearchSpace, arch: Arch, evaluation: Evaluation) -> dict[str, Any]:
    score = evaluation.score
    metric = score.metric
    return {
        "digest": arch.digest,
        "arch": arch.to_json(),
        "macs": space.plan(arch).macs,
        "params": space.plan(arch).params,
        metric.key: score.value,
        metric.error_key: score.error,
        metric.loss_key: score.loss if isfinite(score.loss) else None,
        metric.samples: score.samples,
    }


def _draw(contenders: Sequence[Contender], found: Sequence[Regimes], edges: Floats, path: Path) -> None:
    series = [
        Series(
            f"{contender.run.path} ({contender.networks} networks)",
            tuple(box_of([evaluation.score.value for evaluation in regime]) for regime in regimes),
        )
        for contender, regimes in zip(contenders, found, strict=True)
    ]
    metric = task_of(contenders[0].recipe.task).metric
    counts = sorted({evaluation.score.samples for regimes in found for regime in regimes for evaluation in regime})
    shown = " or ".join(map(str, counts))
    draw_boxes(series, edges, path, f"{metric.heading} on {shown} held-out training {metric.samples}", metric.scale)


def _images_of(contender: Contender) -> str:
    """Return what is equal for runs that hold out the same images."""
    recipe = contender.recipe
    return f"{recipe.seed} {recipe.images.model_dump_json(exclude={'workers', 'augment'})}"
