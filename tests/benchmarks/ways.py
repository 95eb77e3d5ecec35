"""Ways from a pretrained network to a smaller one that bench_ways compares, each trained on a GPU within minutes.

Time is counted in epochs of the original at full size. Of an epoch of a smaller network 15 per cent stay and the rest
goes with its MACs, and a third is added for the teacher; an epoch of the supernet takes what the networks of its steps
take together. So the same times are compared on every machine.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property, partial
from itertools import pairwise
from pathlib import Path
from tempfile import TemporaryDirectory

import torch
import torch.nn.functional as F
from torch import Tensor

from nasdeploy.core.arch import Arch
from nasdeploy.core.counting.chain import best_by_tables
from nasdeploy.core.plan import Plan, Step
from nasdeploy.core.progress import Progress
from nasdeploy.core.randomness import generator
from nasdeploy.importers import IMPORTERS
from nasdeploy.latency.table import LatencyTable
from nasdeploy.nn import FAMILIES
from nasdeploy.nn.functional import BATCH, RUNNING, Context
from nasdeploy.nn.network import Network, run_part
from nasdeploy.searching.loss_table import AdditiveLoss
from nasdeploy.searching.measured_losses import measure_losses
from nasdeploy.spaces.grown import GrownSpace
from nasdeploy.supernet.evaluate import Evaluator, calibrate, recalibrated
from nasdeploy.supernet.supernet import Supernet, extract
from nasdeploy.tasks import TASKS
from nasdeploy.tasks.image_data import kl_divergence
from nasdeploy.tasks.task import Batch, Inputs, Objective
from nasdeploy.training.optimizer import classifier_parameters
from nasdeploy.training.sandwich import RANDOM, Sandwich, SandwichStep
from nasdeploy.training.teacher import without_gradient
from tests.benchmarks.peers import MODEL, pretrained
from tests.benchmarks.photographs import (
    Photographs,
    Rates,
    Trainer,
    batches,
    central,
    for_calibration,
    per_epoch,
    some,
)

CLASSIFICATION = TASKS["classification"]
LEARNING = Objective(F.cross_entropy, partial(kl_divergence, temperature=2.0), 0.5)
"""What networks learn from the original: half from the labels, half from its outputs at temperature 2."""
TEACHER = 0.33
"""The time of the teacher's outputs in a step."""
ELASTIC = {"small": 1.6, "sandwich": 2.6, "features": 1.3}
"""The time of an elastic epoch by what is trained in its steps.

The smallest and two random networks; the largest one as well; or every stage of a random network by itself, for the
original's feature maps.
"""
MEASURED = 500
"""The held-out images that losses of cuts are measured on."""


@dataclass(frozen=True)
class Folder:
    """The images of an experiment: those to train on, those held out to choose by, and those that figures are of."""

    train: Photographs
    held_out: Photographs
    test: Photographs
    side: int
    """The side of the original's images in pixels."""

    @property
    def classes(self) -> int:
        """The number of classes."""
        return int(self.train.labels.max()) + 1

    @cached_property
    def calibration(self) -> list[Tensor]:
        """The batches that statistics are taken of."""
        return for_calibration(self.train, self.side)

    def evaluator(self, supernet: Supernet, data: Photographs, original: Network | None = None) -> Evaluator:
        """Return what scores networks of a supernet on images; the original is the one with weights of its own."""

        def passed(plan: Plan, first: int, end: int | None) -> Iterator[Batch]:
            images, labels = some(data, slice(first, end))
            for part in zip(images.split(500), labels.split(500), strict=True):
                yield (central(part[0], self.side),), part[1]

        def calibrating(plan: Plan) -> Iterator[Inputs]:
            return ((batch,) for batch in self.calibration)

        own = {} if original is None else {supernet.space.largest(): original}
        return Evaluator(supernet, CLASSIFICATION, calibrating, passed, len(data.labels), own=own)

    def accuracy(self, network: Network) -> float:
        """Return the per cent of the test images that a network is right on, which has its statistics."""
        with torch.no_grad():
            found = [network.run(network.plan.only.name, central(x, self.side))[0] for x in self.test.images.split(500)]
        return 100 * float((torch.cat(found).argmax(1) == self.test.labels).float().mean())


@dataclass(frozen=True)
class Experiment:
    """What all ways have in common."""

    space: GrownSpace
    table: LatencyTable
    folder: Folder
    weights: Path
    """The pretrained weights of the original."""
    device: str
    seed: int
    most_steps: int | None = None
    """The most steps of each training, for a trial."""

    def steps(self, epochs: float) -> int:
        """Return the number of steps of a training."""
        found = max(1, round(epochs * per_epoch(self.folder.train)))
        return found if self.most_steps is None else min(found, self.most_steps)

    def given(self, steps: int, purpose: int) -> Iterator[tuple[Tensor, Tensor]]:
        """Yield images and labels to train on, others for each purpose."""
        return batches(self.folder.train, steps, self.folder.side, 1000 * purpose + self.seed)

    def trainer(self, rates: Rates, steps: int) -> Trainer:
        """Return what trains parameters for some steps."""
        return Trainer(rates, steps, self.device == "cuda")

    def original(self, epochs: float) -> Supernet:
        """Return the supernet whose largest network is the original, fine-tuned."""
        torch.manual_seed(self.seed)
        found = IMPORTERS["timm"].read(pretrained(self.weights, self.folder.classes), MODEL)
        supernet, steps, largest = Supernet(self.space), self.steps(epochs), self.space.largest()
        supernet.load_state_dict(found.weights)
        supernet.to(self.device)
        new = classifier_parameters(supernet)
        rest = [each for each in supernet.parameters() if all(each is not other for other in new)]
        trainer = self.trainer([(rest, 6e-4), (new, 18e-4)], steps)
        trainer.fit(lambda images, labels: F.cross_entropy(supernet(images, largest), labels), self.given(steps, 0))
        return supernet

    def recalibrated(self, supernet: Supernet, arch: Arch) -> Network:
        """Return a network of a supernet, which learns nothing more."""
        return recalibrated(supernet, arch, self.folder.calibration).requires_grad_(False)

    def accuracy(self, supernet: Supernet, arch: Arch) -> float:
        """Return the per cent of the test images that a network of a supernet is right on."""
        return self.folder.accuracy(self.recalibrated(supernet, arch))

    def elastic(self, supernet: Supernet, teacher: Network, epochs: float, kind: str) -> None:
        """Train networks of a supernet for some epochs, see `ELASTIC`."""
        steps, rng = self.steps(epochs), generator(self.seed, "elastic")
        trainer = self.trainer([(list(supernet.parameters()), 1e-3)], steps)
        ends = (self.space.smallest(), *([self.space.largest()] if kind == "sandwich" else []))
        together = SandwichStep(supernet, CLASSIFICATION, LEARNING, {}, without_gradient(teacher))
        for number, (images, labels) in enumerate(self.given(steps, 1)):
            trainer.set_rate(number)
            trainer.optimizer.zero_grad(set_to_none=True)
            drawn = (self.space.sample(rng), self.space.sample(rng))
            if kind == "features":
                loss_by_features(supernet, teacher, drawn[0], images).backward()
            else:
                together(Sandwich({RANDOM: (*ends, *drawn)}, leader=None), (images,), labels)
            trainer.optimizer.step()

    def alone(self, supernet: Supernet, arch: Arch, teacher: Network, time: float) -> tuple[float, float]:
        """Return the epochs that a network of a supernet is trained for alone in some time, and its accuracy after it.

        The time is in epochs of the original, and comes to more of a smaller network's.
        """
        space = supernet.space
        own = 0.15 + 0.85 * space.plan(arch).macs / space.plan(space.largest()).macs
        epochs = max(0.0, time) / (own + TEACHER)
        network, steps = extract(supernet, arch).train(), self.steps(epochs)

        def loss(images: Tensor, labels: Tensor) -> Tensor:
            with torch.no_grad():
                wanted = CLASSIFICATION.outputs(teacher, (images,))
            return LEARNING.student(CLASSIFICATION.outputs(network, (images,)), labels, wanted)

        self.trainer([(list(network.parameters()), 1e-3)], steps).fit(loss, self.given(steps, 2))
        return epochs, self.folder.accuracy(calibrate(network, self.folder.calibration))

    def losses(self, supernet: Supernet, teacher: Network) -> AdditiveLoss:
        """Return the table of loss of a supernet, measured on held-out images."""
        evaluator = self.folder.evaluator(supernet, some(self.folder.held_out, slice(MEASURED)), teacher)
        with TemporaryDirectory() as directory:
            table = measure_losses(evaluator, Path(directory) / "losses.json", "experiment", Progress(quiet=True))
        return AdditiveLoss(self.space, table)

    def winner(self, supernet: Supernet, teacher: Network, losses: AdditiveLoss, share: float) -> Arch:
        """Return the best of the sixteen of least predicted loss within a share of the original's latency.

        Raises `ValueError` if no network is within it.
        """
        whole, table = self.table.predict(self.space.plan(self.space.largest())).seconds, self.table
        bound = share * whole - table.calibration.offset
        found = best_by_tables(self.space, table.calibrated_cost, bound, losses.tables, 16)
        if not found:
            raise ValueError(f"no network takes {share:.0%} of the original's latency")
        ranked = self.folder.evaluator(supernet, self.folder.held_out, teacher).ranking_by("both")
        return max((each.arch for each in found), key=lambda arch: ranked(arch).gain)


def loss_by_features(supernet: Supernet, teacher: Network, drawn: Arch, images: Tensor) -> Tensor:
    """Return how far each stage of a network is from the teacher's feature maps, given its maps before the stage.

    It is the mean squared difference in units of the map's variance, summed over stages; at the full resolution, which
    feature maps are compared at.
    """
    space, maps = supernet.space, {}

    def computed(step: Step, inputs: Sequence[Tensor]) -> Tensor:
        maps[step.name] = teacher.block(step.name).compute(*inputs, context=Context(RUNNING))
        return maps[step.name]

    with torch.no_grad():
        run_part(teacher.plan.only, [images], computed)
    arch = space.arch({**drawn, "resolution": space.largest()["resolution"]})
    total, here = torch.zeros((), device=images.device), maps["stem"]
    for step, following in pairwise(space.plan(arch).steps):
        if step.name == "stem":
            continue
        family, stage = FAMILIES[type(step.block)], step.name.partition("_")[0]
        tensors = family.slice(supernet.weights[step.slot], step.block)
        here = family.forward(step.block, tensors, here, context=Context(BATCH))
        if following.name.partition("_")[0] != stage:
            wanted = [found for name, found in maps.items() if name.partition("_")[0] == stage][-1]
            total = total + F.mse_loss(here, wanted) / wanted.var().clamp(min=1e-6)
            here = wanted
    return total
