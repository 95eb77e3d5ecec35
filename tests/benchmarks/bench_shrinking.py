"""Progressive shrinking, the sandwich rule, and the phases of a first recipe, in one space and in the same time.

    OMP_NUM_THREADS=1 python -m tests.benchmarks.bench_shrinking --data DIR [--minutes 30] [--seeds 0 1 2]

Trains on CIFAR-10 in the space of `ofa-mbv3-cifar10`, with its data, batches and optimizer, for each seed:

- `shrinking`: the recipe's six phases, each with as large a part of all epochs as there;
- `sandwich`: one phase of the largest, two random and the smallest network, with in-place distillation (AlphaNet's);
- `init`: what `nasdeploy init --from` writes: the largest network alone for a third of the time, whose channels are
  then sorted; smaller ones are merely cut out of it. A network that is chosen is trained alone for the rest, from the
  cut weights and with the largest as its teacher: `init, alone`, which every further network costs that long again.

Time is the processor time of this process (`time.process_time`), reading of images included, so that other work on the
machine does not count; with one thread it is the wall time of an idle machine. How long a step takes is found in a few
steps of a copy, which are not counted, and decides the number of steps, so that each learning rate ends where it
should. What the trainings really took stands in the table.

Scored are, on the test images and after recalibration, the smallest, the largest, some networks of about the median of
MACs (their mean), and random ones by regime of MACs, as box plots over all seeds. Results are kept in a file of JSON
lines, which a second call goes on from: several seeds may run side by side, each with a file of its own, and files may
be joined.
"""

import argparse
from collections.abc import Iterator, Sequence
from copy import deepcopy
from dataclasses import dataclass
from functools import cached_property
from itertools import islice
from math import ceil
from pathlib import Path
from statistics import mean, stdev
from time import process_time
from typing import Any

import numpy as np
import torch
from torch import nn

from nasdeploy.core.arch import Arch
from nasdeploy.core.cost_registry import macs
from nasdeploy.core.costs import Costs
from nasdeploy.core.randomness import generator, seed_for
from nasdeploy.core.space import SearchSpace
from nasdeploy.nn.inverted_residual import zero_last_scales
from nasdeploy.nn.network import Network, set_threads
from nasdeploy.recipe import Recipe, load_recipe
from nasdeploy.report.figures import Series, box_of, draw_boxes
from nasdeploy.spaces.fixed import FixedSpace
from nasdeploy.spaces.mobilenet import drop_rates
from nasdeploy.store.files import append_json_line, read_json_lines
from nasdeploy.supernet.evaluate import Evaluator
from nasdeploy.supernet.importance import sort_channels
from nasdeploy.supernet.networks import inherit
from nasdeploy.supernet.supernet import Supernet, extract
from nasdeploy.tasks import task_of
from nasdeploy.tasks.task import Batch, TaskData
from nasdeploy.training.optimizer import (
    clip_gradients,
    give_zero_gradients,
    learning_rate,
    make_optimizer,
    set_learning_rate,
)
from nasdeploy.training.phase import Phase, trained_blocks
from nasdeploy.training.sampling import SamplerContext, sampler_from
from nasdeploy.training.sandwich import SandwichStep
from nasdeploy.training.settings import TrainSettings
from nasdeploy.training.teacher import SizedTeacher, Teacher, without_gradient
from nasdeploy.workflows.evaluate import regime_edges, sample_regimes

RECIPE = "ofa-mbv3-cifar10"
WAYS = ("shrinking", "sandwich", "init")
_TEST_BATCH = 250
PILOT, PILOT_S = 4, 20.0
"""The steps, and the seconds of them, by which the time of a step is found; the first one is not counted."""
REGIMES = 4
MEDIANS = 5
"""The networks of about the median of MACs."""
SANDWICH = {
    "learning_rate": 0.05,
    "warmup": "times-decay",
    "warmup_start": 0.001,
    "unused_weights": "rest",
    "random_networks": 2,
    "sampling": {"kind": "sandwich"},
    "distillation": {"kind": "alpha"},
}
"""What `alphanet-cifar10` says of a step of 64 images."""
OF_INIT = {
    "optimizer": "adamw",
    "momentum": 0.9,
    "weight_decay": 0.01,
    "label_smoothing": 0.0,
    "warmup": "times-decay",
    "warmup_start": 0.001,
    "clip_value": None,
    "unused_weights": "rest",
}
ORIGINAL_SHARE = 1 / 3
"""The part of the time that a first recipe gives to the largest network."""


@dataclass(frozen=True)
class Experiment:
    """What all ways have in common."""

    recipe: Recipe
    space: SearchSpace
    data: TaskData
    seconds: float
    """The processor time of a training."""
    test_images: int
    """The most test images that networks are scored on."""

    @cached_property
    def test(self) -> list[Batch]:
        """The test images in batches, decoded once; if they are limited equally many of each, to have all classes."""
        batches = list(self.data.test(_TEST_BATCH))
        share = ceil(self.test_images / len(batches))
        return [(tuple(each[:share] for each in inputs), labels[:share]) for inputs, labels in batches]

    @property
    def seed(self) -> int:
        """The seed of the weights, the batches and the networks of a step."""
        return self.recipe.seed

    @cached_property
    def edges(self) -> Any:
        """The MACs between regimes, `[REGIMES + 1]`."""
        return regime_edges([self.space], REGIMES)

    def begun(self) -> Supernet:
        """Return a supernet with its first weights."""
        torch.manual_seed(seed_for(self.seed, "weights"))
        supernet = Supernet(self.space)
        zero_last_scales(supernet)
        return supernet

    def batches(self, step: int) -> Iterator[Batch]:
        """Yield augmented batches from a step of a training on, without an end."""
        size = self.recipe.train.batch_size
        epoch, first = divmod(step, self.data.steps_per_epoch(size))
        while True:
            yield from self.data.train_batches(size, self.seed, (epoch, first))
            epoch, first = epoch + 1, 0

    def evaluator(self, supernet: Supernet) -> Evaluator:
        """Return what scores networks on the test images."""
        settings, task = self.recipe.recalibration, task_of(self.recipe.task)
        calibration = self.data.calibration(settings.batch_size, settings.batches, self.seed)
        found = Evaluator(supernet, task, calibration, lambda plan, first, end: self.test)
        return found.averaging(settings.average)


@dataclass
class Training:
    """One training: a supernet, what it learns in turn, and the processor time that its steps took."""

    experiment: Experiment
    supernet: Supernet
    took: float = 0.0
    steps: int = 0

    def step_s(self, settings: TrainSettings, teacher: Teacher | None) -> float:
        """Return the processor time of a step, from a few of a copy."""
        copy = Training(self.experiment, deepcopy(self.supernet))
        copy.learn(settings, 1, teacher)
        copy.took, copy.steps = 0.0, 0
        while copy.steps < PILOT or copy.took < PILOT_S:
            copy.learn(settings, PILOT, teacher)
        return copy.took / copy.steps

    def learn(self, settings: TrainSettings, steps: int, teacher: Teacher | None = None) -> None:
        """Make the steps of a phase, whose schedule is stretched over them."""
        experiment, supernet, task = self.experiment, self.supernet, task_of(self.experiment.recipe.task)
        sampler = sampler_from(SamplerContext(supernet.space, settings, experiment.seed))
        optimizer = make_optimizer(supernet, settings)
        objective = task.objective(settings, experiment.data)
        rates = drop_rates(supernet.space, settings.dropout, settings.drop_connect)
        gradients_of = SandwichStep(supernet, task, objective, rates, teacher)
        batches, began = islice(experiment.batches(self.steps), steps), process_time()
        for number, (inputs, targets) in enumerate(batches):
            torch.manual_seed(seed_for(experiment.seed, "step", self.steps))
            set_learning_rate(optimizer, learning_rate(settings, number * settings.epochs, steps))
            optimizer.zero_grad(set_to_none=True)
            rng = generator(experiment.seed, "sandwich", self.steps)
            gradients_of(sampler.draw(rng, 0, lambda archs: []), inputs, targets)
            if settings.unused_weights == "coast":
                give_zero_gradients(optimizer)
            clip_gradients(supernet.parameters(), settings)
            optimizer.step()
            self.steps += 1
        self.took += process_time() - began

    def learn_for(self, settings: TrainSettings, seconds: float, teacher: Teacher | None = None) -> None:
        """Make as many steps of a phase as take so long."""
        self.learn(settings, max(1, round(seconds / self.step_s(settings, teacher))), teacher)

    def sort(self, criterion: str, before: Sequence[TrainSettings]) -> None:
        """Put important channels first, between the widths of what phases before have trained."""
        space = self.supernet.space
        samplers = [sampler_from(SamplerContext(space, settings, self.experiment.seed)) for settings in before]
        phases = [Phase(None, settings, sampler, {}) for settings, sampler in zip(before, samplers, strict=True)]
        trained = trained_blocks(space, phases, range(1, 1 + len(phases)))
        task, settings = task_of(self.experiment.recipe.task), self.experiment.recipe.recalibration
        calibration = self.experiment.data.calibration(settings.batch_size, settings.batches, self.experiment.seed)
        batches = calibration(space.plan(space.largest()))
        sort_channels(self.supernet, criterion, batches, task.outputs, trained)


def shrunk(experiment: Experiment) -> Training:
    """Train by progressive shrinking: the phases have parts of the time as by the recipe's epochs."""
    training, task = Training(experiment, experiment.begun()), task_of(experiment.recipe.task)
    phases, teacher = experiment.recipe.train.of_phases, None
    weights, step_s = frozen(training.supernet), []
    for settings in phases:
        given = None if settings.distillation.kind == "none" else SizedTeacher(weights, experiment.space, task)
        step_s.append(training.step_s(settings, given))
    epoch_s = sum(settings.epochs * each for settings, each in zip(phases, step_s, strict=True))
    for number, settings in enumerate(phases):
        if settings.sort_channels is not None:
            training.sort(settings.sort_channels, phases[:number])
        training.learn(settings, max(1, round(experiment.seconds * settings.epochs / epoch_s)), teacher)
        if teacher is None:
            teacher = SizedTeacher(frozen(training.supernet), experiment.space, task)
    return training


def frozen(supernet: Supernet) -> nn.ModuleDict:
    """Return a copy of a supernet's weights that learns no more."""
    return nn.ModuleDict({slot: deepcopy(each) for slot, each in supernet.weights.items()}).requires_grad_(False)


def sandwiched(experiment: Experiment) -> Training:
    """Train by the sandwich rule."""
    training = Training(experiment, experiment.begun())
    training.learn_for(changed(experiment.recipe, SANDWICH), experiment.seconds)
    return training


def original_first(experiment: Experiment) -> Training:
    """Train the largest network alone, for its part of the time, and sort its channels."""
    training = Training(experiment, experiment.begun())
    alone = {"sampling": {"kind": "largest"}, "distillation": {"kind": "none"}, "learning_rate": 1.2e-3}
    training.learn_for(changed(experiment.recipe, {**OF_INIT, **alone}), ORIGINAL_SHARE * experiment.seconds)
    return training


def alone_after(training: Training, arch: Arch, original: Network) -> Training:
    """Train a network alone for the rest of the time, from the weights that it is cut out with."""
    experiment, task = training.experiment, task_of(training.experiment.recipe.task)
    supernet = Supernet(FixedSpace(experiment.space, arch))
    inherit(supernet, extract(training.supernet, arch))
    found = Training(experiment, supernet)
    taught = {"kind": "kl", "temperature": 2.0, "beta": 0.5, "teacher": "run:original"}
    own = {"sampling": {"kind": "alone", "arch": arch.to_json()}, "distillation": taught, "learning_rate": 1e-3}
    teacher = without_gradient(lambda *inputs: task.outputs(original, inputs))
    settings = changed(experiment.recipe, {**OF_INIT, **own})
    found.learn_for(settings, (1 - ORIGINAL_SHARE) * experiment.seconds, teacher)
    found.took += training.took
    return found


def changed(recipe: Recipe, changes: dict[str, Any]) -> TrainSettings:
    """Return a single phase with the recipe's settings but for changes; a twelfth of it is warm-up."""
    content = recipe.train.model_dump(mode="json")
    whole = {**content, "phases": [], "epochs": 12, "warmup_epochs": 1.0, **changes}
    return TrainSettings.model_validate(whole, strict=False)


def networks_of(space: SearchSpace, count: int) -> tuple[dict[str, list[Arch]], list[list[Arch]]]:
    """Return the networks that are named, and random ones by regime of MACs; the same for all trainings."""
    codes = space.canonical(space.sample_codes(2001, generator(0, "median networks")))
    costs = Costs(space, [macs])(codes)[:, 0]
    nearest = np.argsort(np.abs(costs - np.median(costs)), kind="stable")[:MEDIANS]
    named = {"smallest": [space.smallest()], "median": space.decode(codes[nearest]), "largest": [space.largest()]}
    edges = regime_edges([space], REGIMES)
    return named, sample_regimes(space, edges, count, generator(0, "box plots"))


def rows_of(way: str, experiment: Experiment, count: int) -> Iterator[dict[str, Any]]:
    """Train in one way, and yield what its networks reach."""
    named, regimes = networks_of(experiment.space, count)
    training = {"shrinking": shrunk, "sandwich": sandwiched, "init": original_first}[way](experiment)
    original = experiment.evaluator(training.supernet).network(experiment.space.largest()).requires_grad_(False)
    if way == "init":
        training.sort("activation", [])
    score = experiment.evaluator(training.supernet)
    accuracies = {name: [score(arch).value for arch in archs] for name, archs in named.items()}
    boxes = [[score(arch).value for arch in archs] for archs in regimes]
    row = {"minutes": training.took / 60, "steps": training.steps, "named": accuracies, "regimes": boxes}
    yield {"way": way, **row}
    if way == "init":
        found, took, steps = {}, training.took, training.steps
        for name, archs in named.items():
            own = alone_after(training, archs[0], original)
            found[name] = [experiment.evaluator(own.supernet)(own.supernet.space.largest()).value]
            took, steps = own.took, training.steps + own.steps
        yield {"way": "init, alone", "minutes": took / 60, "steps": steps, "named": found, "regimes": None}


def table(rows: Sequence[dict[str, Any]], space: SearchSpace, count: int) -> str:
    """Return mean and deviation over seeds of what each way reaches."""
    named, _ = networks_of(space, count)
    costs = {name: mean(space.plan(arch).macs for arch in archs) / 1e6 for name, archs in named.items()}
    heads = "".join(f"{f'{name}, {cost:.2f} M':>22}" for name, cost in costs.items())
    lines = [f"{'top-1 in %':14}{'seeds':>6}{'minutes':>9}{heads}"]
    for way in dict.fromkeys(row["way"] for row in rows):
        own = [row for row in rows if row["way"] == way]
        cells = ""
        for name in named:
            values = [100 * mean(row["named"][name]) for row in own]
            spread = f" +- {stdev(values):.2f}" if len(values) > 1 else ""
            cells += f"{f'{mean(values):.2f}{spread}':>22}"
        lines.append(f"{way:14}{len(own):>6}{mean(row['minutes'] for row in own):9.2f}{cells}")
    return "\n".join(lines)


def draw(rows: Sequence[dict[str, Any]], edges: Any, images: int, path: Path) -> None:
    """Draw the random networks of all seeds, a box for each way and regime."""
    series = []
    for way in WAYS:
        own = [row["regimes"] for row in rows if row["way"] == way]
        joined = [[value for regimes in own for value in regimes[n]] for n in range(REGIMES)]
        if own:
            series.append(Series(f"{way}, {len(own)} seeds", tuple(box_of(values) for values in joined)))
    draw_boxes(series, edges, path, f"top-1 in % on {images} test images", 100.0)


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", required=True)
    parser.add_argument("--kind", default="folder", choices=("folder", "cifar10"))
    parser.add_argument("--minutes", type=float, default=30.0, help="processor time of a training")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--ways", nargs="+", default=list(WAYS), choices=WAYS)
    parser.add_argument("--networks", type=int, default=40, help="random networks of the box plots")
    parser.add_argument("--test-images", type=int, default=10_000, help="about the most of them that are scored on")
    parser.add_argument("--out", type=Path, default=Path("shrinking.jsonl"))
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", help="a setting of the recipe")
    return parser.parse_args()


def main() -> None:
    """Train what is missing, then print the table and draw the box plots."""
    options = arguments()
    fixed = [f"data.kind={options.kind}", "data.workers=0", *options.set]
    same = {
        "minutes wanted": options.minutes,
        "set": " ".join(options.set),
        "networks": options.networks,
        "test images": options.test_images,
    }
    for seed in options.seeds:
        recipe = load_recipe(RECIPE, [f"seed={seed}", *fixed], options.data)
        set_threads(recipe.train.threads)
        data = task_of(recipe.task).open(recipe.data, recipe.seed)
        space, seconds = recipe.load_space(data.outputs), 60 * options.minutes
        experiment = Experiment(recipe, space, data, seconds, options.test_images)
        for way in options.ways:
            known = {"seed": seed, **same}.items()
            lines = read_json_lines(options.out) if options.out.exists() else []
            if any({"way": way}.items() | known <= row.items() for row in lines):
                continue
            for row in list(rows_of(way, experiment, options.networks)):
                append_json_line(options.out, {"seed": seed, **same, **row})
                print(f"seed {seed}, {row['way']}: {row['minutes']:.2f} min, {row['steps']} steps", flush=True)
    rows = [row for row in read_json_lines(options.out) if same.items() <= row.items()]
    print(table(rows, experiment.space, options.networks))
    images = sum(len(labels) for _, labels in experiment.test)
    draw(rows, experiment.edges, images, options.out.with_suffix(".png"))
    print(f"box plots: {options.out.with_suffix('.png')}")


if __name__ == "__main__":
    main()
