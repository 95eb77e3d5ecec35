"""Which phases make a short training of a supernet pay: inherited networks against the same trained alone.

    OMP_NUM_THREADS=1 python -m tests.benchmarks.bench_phases --data DIR [--minutes 45] [--seeds 0 1 2] [--ways ...]

Trains on a fifth of CIFAR-10 with the recipe `alphanet-cifar10` but for its phases, equally long in each way:

- `paper`: the sandwich rule with AlphaNet's in-place distillation, from the first step on;
- `labels`: the sandwich rule without distillation;
- `in-place-S`, `frozen-S`: the largest network alone for a part S of the time, then the sandwich rule, where the others
  learn half from the labels and half from the largest network: of the same step, or as the first phase left it, by the
  statistics of each batch. In the second phase the learning rate begins at `--second-rate` of the first one's;
- `sorted-S`: as `frozen-S`, with channels sorted between the phases;
- `grown-S`: the smallest network alone for a part S of the time, then all, which begin with what it learned: in each
  step a random network by labels, or for `--largest-share` of the steps the largest, and the smallest, which learns
  half from it; the first phase ends at `--second-rate` of its learning rate, and the second goes on from there;
- `smallest`, `median`, `largest`: that network alone, by labels;
- `smallest-third`, ...: the same for a third of the time.

Time is the processor time of this process, as in `bench_shrinking`: with one thread it is that of an idle core.
Networks are scored on the test images after recalibration. Results are kept in a file of JSON lines, which a second
call goes on from; files of several calls may be joined.
"""

import argparse
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from statistics import mean, stdev
from typing import Any

from nasdeploy.core.arch import Arch
from nasdeploy.nn.network import keep_freed_memory, set_threads
from nasdeploy.recipe import load_recipe
from nasdeploy.spaces.fixed import FixedSpace
from nasdeploy.store.files import append_json_line, read_json_lines
from nasdeploy.supernet.growth import grow
from nasdeploy.tasks import task_of
from nasdeploy.training.settings import TrainSettings
from nasdeploy.training.teacher import SizedTeacher
from tests.benchmarks.bench_inherited import median_network
from tests.benchmarks.bench_shrinking import Experiment, Training, changed, frozen

RECIPE = "alphanet-cifar10"
WAYS = ("paper", "labels", "in-place-0.3", "frozen-0.3", "sorted-0.3", "grown-0.55")
ALONE = ("smallest", "median", "largest")
THIRD = "-third"
CRITERION = "variation"


def second_phase(experiment: Experiment, kind: str, rate: float) -> TrainSettings:
    """Return the settings of the sandwich rule after the largest network was trained alone."""
    teacher = {"teacher": "largest"} if kind == "in-place" else {"teacher": "original", "teacher_statistics": "batch"}
    first = {"name": "largest", "epochs": 12, "sampling": {"kind": "largest"}, "distillation": {"kind": "none"}}
    second = {
        "name": "all",
        "epochs": 12,
        "distillation": {"kind": "kl", "beta": 0.5, "label_weight": 0.5, **teacher},
        "learning_rate": rate * experiment.recipe.train.learning_rate,
    }
    content = {**experiment.recipe.train.model_dump(mode="json"), "phases": [first, second], "warmup_epochs": 1.0}
    content.pop("epochs", None)
    return TrainSettings.model_validate(content, strict=False).last


def in_phases(experiment: Experiment, kind: str, share: float, rate: float) -> Training:
    """Train the largest network alone for a share of the time, then all of them."""
    training = Training(experiment, experiment.begun())
    alone = {"sampling": {"kind": "largest"}, "distillation": {"kind": "none"}}
    training.learn_for(changed(experiment.recipe, alone), share * experiment.seconds)
    if kind == "sorted":
        training.sort(CRITERION, [])
    teacher = None
    if kind != "in-place":
        teacher = SizedTeacher(frozen(training.supernet), experiment.space, task_of(experiment.recipe.task))
    training.learn_for(second_phase(experiment, kind, rate), (1 - share) * experiment.seconds, teacher)
    return training


def grown(experiment: Experiment, share: float, rate: float, largest_share: float) -> Training:
    """Train the smallest network alone for a share of the time, then let all others grow from it."""
    training, space = Training(experiment, experiment.begun()), experiment.space
    first = {"sampling": {"kind": "smallest"}, "distillation": {"kind": "none"}, "lowest": rate}
    training.learn_for(changed(experiment.recipe, first), share * experiment.seconds)
    grow(training.supernet, {step.slot: {step.block} for step in space.plan(space.smallest())})
    second = {
        "sampling": {"kind": "sandwich", "largest_share": largest_share},
        "random_networks": 0,
        "distillation": {"kind": "kl", "beta": 0.5, "label_weight": 0.5},
        "learning_rate": rate * experiment.recipe.train.learning_rate,
        "warmup_epochs": 0.3,
    }
    training.learn_for(changed(experiment.recipe, second), experiment.seconds - training.took)
    return training


def alone(experiment: Experiment, arch: Arch, share: float) -> Training:
    """Train one network by labels for a share of the time."""
    own = Experiment(
        experiment.recipe,
        FixedSpace(experiment.space, arch),
        experiment.data,
        experiment.seconds,
        experiment.test_images,
    )
    training = Training(own, own.begun())
    settings = {"sampling": {"kind": "alone", "arch": arch.to_json()}, "distillation": {"kind": "none"}}
    training.learn_for(changed(own.recipe, settings), share * own.seconds)
    return training


def trained(way: str, experiment: Experiment, networks: Mapping[str, Arch], options: argparse.Namespace) -> Training:
    """Train in one way."""
    if (name := way.removesuffix(THIRD)) in networks:
        return alone(experiment, networks[name], 1 / 3 if way.endswith(THIRD) else 1.0)
    if way in ("paper", "labels"):
        training = Training(experiment, experiment.begun())
        distillation = {"distillation": {"kind": "none"}} if way == "labels" else {}
        training.learn_for(changed(experiment.recipe, distillation), experiment.seconds)
        return training
    kind, _, share = way.rpartition("-")
    if kind == "grown":
        return grown(experiment, float(share), options.second_rate, options.largest_share)
    return in_phases(experiment, kind, float(share), options.second_rate)


def row_of(
    way: str, experiment: Experiment, networks: Mapping[str, Arch], options: argparse.Namespace
) -> dict[str, Any]:
    """Train in one way and return what its networks reach."""
    training = trained(way, experiment, networks, options)
    score = training.experiment.evaluator(training.supernet)
    own = {way.removesuffix(THIRD)} & set(networks) or set(networks)
    found = {name: score(arch).value for name, arch in networks.items() if name in own}
    return {"way": way, "minutes": training.took / 60, "steps": training.steps, "top1": found}


def table(rows: Sequence[dict[str, Any]], networks: Mapping[str, Arch]) -> Iterator[str]:
    """Yield a line for each way: mean and deviation over seeds, and the difference from networks trained alone."""
    known = {row["way"]: row for row in rows}
    yield f"{'top-1 in %':18}{'seeds':>6}{'steps':>8}" + "".join(f"{name:>24}" for name in networks)
    for way in known:
        own = [row for row in rows if row["way"] == way]
        cells = ""
        for name in networks:
            values = [100 * row["top1"][name] for row in own if name in row["top1"]]
            beside = [100 * row["top1"][name] for row in rows if row["way"] == name]
            spread = f" +- {stdev(values):.2f}" if len(values) > 1 else ""
            versus = f" ({mean(values) - mean(beside):+.2f})" if values and beside and way != name else ""
            cells += f"{f'{mean(values):.2f}{spread}{versus}' if values else '':>24}"
        yield f"{way:18}{len(own):>6}{mean(row['steps'] for row in own):>8.0f}{cells}"


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", required=True)
    parser.add_argument("--kind", default="folder", choices=("folder", "cifar10"))
    parser.add_argument("--minutes", type=float, default=45.0, help="processor time of a training")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0])
    parser.add_argument("--ways", nargs="+", default=[*WAYS, *ALONE])
    parser.add_argument("--second-rate", type=float, default=0.4)
    parser.add_argument("--largest-share", type=float, default=0.2)
    parser.add_argument("--test-images", type=int, default=10_000, help="about the most of them that are scored on")
    parser.add_argument("--out", type=Path, default=Path("phases.jsonl"))
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", help="a setting of the recipe")
    return parser.parse_args()


def main() -> None:
    """Train what is missing, then print the table."""
    options = arguments()
    same = {
        "minutes wanted": options.minutes,
        "set": " ".join(options.set),
        "test images": options.test_images,
        "second rate": options.second_rate,
        "largest share": options.largest_share,
    }
    for seed in options.seeds:
        overrides = [f"seed={seed}", f"data.kind={options.kind}", "data.workers=0", *options.set]
        recipe = load_recipe(RECIPE, overrides, options.data)
        set_threads(recipe.train.threads)
        keep_freed_memory()
        data = task_of(recipe.task).open(recipe.data, recipe.seed)
        space = recipe.load_space(data.outputs)
        networks = {"smallest": space.smallest(), "median": median_network(space), "largest": space.largest()}
        experiment = Experiment(recipe, space, data, 60 * options.minutes, options.test_images)
        for way in options.ways:
            wanted = {"seed": seed, "way": way, **same}
            lines = read_json_lines(options.out) if options.out.exists() else []
            if any(wanted.items() <= row.items() for row in lines):
                continue
            row = row_of(way, experiment, networks, options)
            append_json_line(options.out, {**wanted, **row})
            reached = ", ".join(f"{name} {100 * value:.2f}" for name, value in row["top1"].items())
            print(f"seed {seed}, {way}: {row['minutes']:.2f} min, {row['steps']} steps, {reached}", flush=True)
    rows = [row for row in read_json_lines(options.out) if same.items() <= row.items()]
    print("\n".join(table(rows, networks)))


if __name__ == "__main__":
    main()
