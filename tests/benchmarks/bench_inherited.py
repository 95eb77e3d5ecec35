"""Inherited weights against the same networks trained alone, and the kinds of distillation side by side.

Trains the supernet of `alphanet-cifar10-small` with alpha-divergence (for each seed), with KL divergence and without
distillation, and its smallest, median and largest network alone (the smallest for each seed), for as many epochs on
the same images. All are scored on the data's test images after recalibration. Finished trainings are kept in the
output folder, and the script goes on from there; two run side by side on two cores.

python tests/benchmarks/bench_inherited.py --data DIR [--kind cifar10|folder] [--out DIR] [--seeds N] [--set KEY=VALUE]
"""

import json
import subprocess
import sys
from argparse import ArgumentParser, Namespace
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from statistics import mean, stdev
from time import perf_counter

import numpy as np

from nasdeploy.core.arch import Arch
from nasdeploy.core.cost_registry import macs
from nasdeploy.core.costs import Costs
from nasdeploy.core.randomness import generator
from nasdeploy.core.score import Score
from nasdeploy.core.space import SearchSpace
from nasdeploy.recipe import load_recipe, recipe_of, space_of
from nasdeploy.store.run import Run
from nasdeploy.supernet.evaluate import Evaluator
from nasdeploy.supernet.weights import load_supernet
from nasdeploy.tasks import task_of
from nasdeploy.training.checkpoint import Checkpoints

RECIPE = "alphanet-cifar10-small"
DRAWS = 1001


@dataclass(frozen=True)
class Training:
    """A training, and the `train` options that make it."""

    name: str
    seed: int
    options: tuple[str, ...] = ()


def main() -> None:
    """Train what is missing, then print the tables and draw the box plot."""
    arguments = _arguments()
    space = load_recipe(RECIPE).load_space(10)
    networks = {"smallest": space.smallest(), "median": median_network(space), "largest": space.largest()}
    with ThreadPoolExecutor(arguments.jobs) as pool:
        list(pool.map(lambda training: _train(training, arguments), _trainings(arguments.seeds, networks)))
    began = perf_counter()
    accuracies = {
        path.name: _test_scores(Run.open(path), networks)
        for path in sorted(arguments.out.iterdir())
        if (path / "manifest.json").exists()
    }
    _print(accuracies, networks, space, arguments.seeds)
    print(f"scored in {perf_counter() - began:.0f} s")
    runs = [str(arguments.out / name) for name in ("alpha-0", "kl-0", "none-0")]
    _nasdeploy("evaluate", *runs, "--sample", "60", "--out", str(arguments.out))


def median_network(space: SearchSpace) -> Arch:
    """Of networks drawn uniformly the one with the median number of MACs, chosen before anything is trained."""
    codes = space.sample_codes(DRAWS, generator(0, "median network"))
    costs = Costs(space, [macs])(codes)[:, 0]
    return space.decode(codes[np.argsort(costs)[DRAWS // 2]][None])[0]


def _arguments() -> Namespace:
    parser = ArgumentParser(description=__doc__)
    parser.add_argument("--data", required=True)
    parser.add_argument("--kind", default="cifar10")
    parser.add_argument("--out", type=Path, default=Path("runs/inherited"))
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--jobs", type=int, default=2)
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE")
    arguments = parser.parse_args()
    arguments.out.mkdir(parents=True, exist_ok=True)
    return arguments


def _trainings(seeds: int, networks: Mapping[str, Arch]) -> list[Training]:
    """The longest first, so that two processes end at about the same time."""
    kinds = [Training(f"{kind}-0", 0, ("--set", f"train.distillation.kind={kind}")) for kind in ("kl", "none")]
    alpha = [Training(f"alpha-{seed}", seed) for seed in range(seeds)]
    alone = [
        Training(f"{name}-{seed}", seed, ("--alone", json.dumps(arch.to_json())))
        for name, arch in reversed(list(networks.items()))
        for seed in range(seeds if name == "smallest" else 1)
    ]
    return [*alpha, *kinds, *alone]


def _train(training: Training, arguments: Namespace) -> None:
    path = arguments.out / training.name
    if (path / "manifest.json").exists() and Run.open(path).is_finished("train"):
        return
    began = perf_counter()
    settings = [f"data.kind={arguments.kind}", f"seed={training.seed}", *arguments.set]
    options = [word for setting in settings for word in ("--set", setting)]
    _nasdeploy("train", RECIPE, "--data", arguments.data, "--run", str(path), *options, *training.options, "--quiet")
    print(f"{training.name}: trained in {(perf_counter() - began) / 60:.1f} minutes", flush=True)


def _nasdeploy(*words: str) -> None:
    subprocess.run([Path(sys.executable).with_name("nasdeploy"), *words], check=True, stdout=subprocess.DEVNULL)


def _test_scores(run: Run, networks: Mapping[str, Arch]) -> dict[str, Score]:
    """Scores on the test images of the networks that were trained in a run."""
    recipe = recipe_of(run)
    task, settings = task_of(recipe.task), recipe.recalibration
    data = task.open(recipe.data, recipe.seed, run)
    calibration = data.calibration(settings.batch_size, settings.batches, recipe.seed)
    supernet = load_supernet(Checkpoints(run.checkpoints).latest(), space_of(run))
    evaluator = Evaluator(supernet, task, calibration, lambda plan, first, end: data.test(500))
    alone = recipe.train.sampling.kind == "alone"
    name = run.path.name.rpartition("-")[0]
    return {key: evaluator(arch) for key, arch in networks.items() if not alone or key == name}


def _print(
    accuracies: Mapping[str, Mapping[str, Score]], networks: Mapping[str, Arch], space: SearchSpace, seeds: int
) -> None:
    print(f"{'network':10} {'M MACs':>6} {'training':24} {'test top-1 in %':>15}")
    for name, arch in networks.items():
        rows = {
            f"alone, {seeds if name == 'smallest' else 1} seeds": f"{name}-",
            f"inherited, alpha, {seeds} seeds": "alpha-",
            "inherited, KL": "kl-",
            "inherited, none": "none-",
        }
        for text, prefix in rows.items():
            found = [100 * scores[name].value for run, scores in accuracies.items() if run.startswith(prefix)]
            spread = f" +- {stdev(found):.2f} ({', '.join(f'{x:.2f}' for x in found)})" if len(found) > 1 else ""
            print(f"{name:10} {space.plan(arch).macs / 1e6:6.2f} {text:24} {mean(found):9.2f}{spread}")
    error = max(score.error for scores in accuracies.values() for score in scores.values())
    print(f"standard error of one network's accuracy by the number of test images: {100 * error:.2f} points")


if __name__ == "__main__":
    main()
