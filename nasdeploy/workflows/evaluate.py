"""Evaluating sub-networks of runs, regime by regime, with everything kept in the runs."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from math import isfinite
from pathlib import Path
from typing import Any

from nasdeploy.core.arch import Arch
from nasdeploy.core.costs import Floats
from nasdeploy.core.progress import Progress
from nasdeploy.core.space import SearchSpace
from nasdeploy.report.boxplot import Series, box_of, draw_boxes
from nasdeploy.searching.successive_halving import evaluated
from nasdeploy.store.evaluations import Evaluation, Evaluations, openable
from nasdeploy.store.files import require_writable, write_json
from nasdeploy.supernet.evaluate import Evaluator
from nasdeploy.tasks import task_of
from nasdeploy.workflows.comparison import Comparison, Contender
from nasdeploy.workflows.evaluator import open_evaluator, supernet_of

PICTURE, RESULT = "evaluate.png", "evaluate.json"

Regimes = list[list[Evaluation]]


@dataclass(frozen=True)
class _Found:
    """The figures of a run: evaluations by regime, and how many held-out images were left out as unreadable."""

    regimes: Regimes
    unreadable: int


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
    run, recipe = contender.run, contender.recipe
    weights = contender.weights
    supernet = supernet_of(run, recipe, weights.facts)
    with run.reading() as kept:
        # First, so that a database is of images that can be read.
        evaluator = open_evaluator(run, recipe, contender.space, weights.path)
        if kept:
            database = run.search_database
        else:
            database = _beside(out, run.search_database, f"{run.path.name}-{supernet}")
        with Evaluations(database, supernet, task_of(recipe.task).metric) as evaluations:
            return _Found(_evaluated(contender, evaluator, evaluations, progress), evaluator.unreadable)


def _beside(out: Path, database: Path, name: str) -> Path:
    """Return the database of a run that cannot be written, where the results go: what it holds, and what comes to
    it."""
    folder = out / f"evaluations-{name}"
    folder.mkdir(exist_ok=True)
    return openable(database, folder)


def _evaluated(contender: Contender, evaluator: Evaluator, kept: Evaluations, progress: Progress) -> Regimes:
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
