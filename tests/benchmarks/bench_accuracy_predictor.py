"""How well accuracy is predicted, and how fast a search on a predictor is.

Trains the supernet of a recipe, by default `digits`, unless the output folder holds it, evaluates sub-networks drawn
uniformly as a search does, fits each kind of predictor on the first of them and judges it on the others, which took no
part. Then it times 500 generations of 100 on the `alphanet` space with a predictor of each kind. What is evaluated is
kept.

python tests/benchmarks/bench_accuracy_predictor.py [--recipe NAME] [--data DIR] [--out DIR] [--fit 200] [--judge 100]
    [--no-training]
"""

import subprocess
import sys
from argparse import ArgumentParser, Namespace
from pathlib import Path
from time import perf_counter

import numpy as np

from nasdeploy.core.costs import Floats
from nasdeploy.core.progress import Progress
from nasdeploy.core.randomness import generator
from nasdeploy.core.space import Codes, SearchSpace
from nasdeploy.recipe import recipe_of, space_of
from nasdeploy.searching.predictors import KINDS
from nasdeploy.searching.predictors.predictor import evolve, fit, quality_of
from nasdeploy.searching.problem import Problem
from nasdeploy.searching.search import evaluated
from nasdeploy.spaces import load_space
from nasdeploy.store.checkpoints import trained_weights
from nasdeploy.store.evaluations import Evaluation, Evaluations
from nasdeploy.store.run import Run
from nasdeploy.tasks.metrics import TOP1
from nasdeploy.workflows.evaluator import open_evaluator, supernet_id
from tests.searching.budgets import budget_of


def main() -> None:
    """Print both tables."""
    arguments = _arguments()
    if arguments.training:
        _quality(arguments)
    _speed()


def _arguments() -> Namespace:
    parser = ArgumentParser(description=__doc__)
    parser.add_argument("--recipe", default="digits")
    parser.add_argument("--data", help="the images of a recipe that has none itself")
    parser.add_argument("--out", type=Path, default=Path("runs/accuracy-predictor"))
    parser.add_argument("--fit", type=int, default=200)
    parser.add_argument("--judge", type=int, default=100)
    parser.add_argument("--no-training", dest="training", action="store_false", help="time the search alone")
    return parser.parse_args()


def _quality(arguments: Namespace) -> None:
    run = _trained(arguments)
    space = space_of(run)
    codes, found = _evaluated(run, space, arguments.fit + arguments.judge)
    targets = {
        "top-1 in points": np.array([100 * one.score.value for one in found]),
        "cross-entropy in nats": np.array([one.cross_entropy for one in found]),
    }
    print(f"{len(found)} networks on {found[0].images} images; fitted on {arguments.fit}, judged on {arguments.judge}")
    print(f"{'predicted':24}{'kind':8}{'RMSE':>8}{'Kendall tau':>13}{'seconds to fit':>16}")
    for target, values in targets.items():
        for kind in KINDS:
            began = perf_counter()
            predictor = fit(space, kind, codes[: arguments.fit], values[: arguments.fit], generator(0, "predictor"))
            seconds = perf_counter() - began
            quality = quality_of(predictor(codes[arguments.fit :]), values[arguments.fit :])
            print(f"{target:24}{kind:8}{quality.rmse:8.4f}{quality.tau:13.3f}{seconds:16.2f}")
        print(f"{target}: from {values.min():.3f} to {values.max():.3f}, standard deviation {values.std():.4f}")


def _trained(arguments: Namespace) -> Run:
    path: Path = arguments.out
    if not (path / "manifest.json").exists() or not Run.open(path).is_finished("train"):
        data = ["--data", arguments.data] if arguments.data else []
        program = str(Path(sys.executable).with_name("nasdeploy"))
        command = [program, "train", arguments.recipe, *data, "--run", str(path), "--quiet"]
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
    return Run.open(path)


def _evaluated(run: Run, space: SearchSpace, count: int) -> tuple[Codes, list[Evaluation]]:
    """Codes `[count, choices]` drawn uniformly, each network once, and their accuracies."""
    recipe, weights = recipe_of(run), trained_weights(run)
    drawn = space.decode(space.sample_codes(2 * count, generator(0, "accuracy predictor")))
    archs = list(dict.fromkeys(drawn))[:count]
    evaluator = open_evaluator(run, recipe, space, weights.path)
    with (
        Evaluations(run.path / "predictor-bench.sqlite", supernet_id(recipe, weights.facts), TOP1) as known,
        Progress().task("evaluating", count) as task,
    ):
        found = []
        for arch in archs:
            found.append(evaluated(arch, evaluator, known))
            task.advance()
    return space.encode(archs), found


def _speed() -> None:
    space = load_space("alphanet")
    problem = Problem(space, budget_of(macs=600e6))
    rng = generator(0, "speed")
    codes = space.sample_codes(2000, rng)
    costs = problem.costs(codes)
    start = codes[problem.feasible(costs)][:100]
    print(f"500 generations of 100 on {space.name}, at most 600 M MACs:")
    for kind in KINDS:
        predictor = fit(space, kind, codes[:300], _made_up(costs[:300, 0]), rng)
        began = perf_counter()
        found = evolve(problem, predictor, start, rng)
        print(f"  {kind:8} {perf_counter() - began:6.2f} s, {len(found)} different networks")


def _made_up(macs: Floats) -> Floats:
    """Accuracies that rise with MACs."""
    return 0.7 + 0.03 * np.log(macs / 1e9)


if __name__ == "__main__":
    main()
