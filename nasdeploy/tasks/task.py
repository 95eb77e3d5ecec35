"""What a task is: all that nasdeploy has to know of samples, targets and scores. Torch-free until it computes.

A task says what the data is and how it comes in batches, what is learned from it, how a network is scored, and what the
deliverable takes and gives. Everything else (supernets, costs, latency, search, conversion, proof) is the same for all.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from nasdeploy.core.errors import UserError
from nasdeploy.core.plan import Plan
from nasdeploy.core.score import Metric, Score
from nasdeploy.core.settings import Settings

if TYPE_CHECKING:
    import torch
    from torch import Tensor

    from nasdeploy.data.batches import Memory
    from nasdeploy.nn.network import PartRunner
    from nasdeploy.store.run import RememberedData, Run
    from nasdeploy.training.settings import TrainSettings

Inputs = tuple["Tensor", ...]
"""The tensors of some samples as data gives them, each with the batch dimension first."""
Outputs = Any
"""What a task computes from inputs: a tensor, or nested tuples of tensors, each with the batch dimension first."""
Targets = Any
"""What outputs are compared with, e.g. labels `[N]`."""
Batch = tuple[Inputs, Targets]
Delivery = Literal["tensors", "pictures"]
"""What goes out beside a network's files: tensors, or pictures with their preprocessing and the names of classes."""


@dataclass(frozen=True)
class Objective:
    """What a network learns by."""

    label: Callable[[Outputs, Targets], "Tensor"]
    """The loss against targets: a scalar, the mean over the batch."""
    distillation: Callable[[Outputs, Outputs], "Tensor"] | None = None
    """The loss of a student's outputs against a teacher's, a scalar; None where all learn from the targets."""
    beta: float = 1.0
    """The weight of the distillation."""
    label_weight: float | None = None
    """The weight of the label loss beside it; None for 1 - beta (AlphaNet, Eq. 8)."""

    def student(self, outputs: Outputs, targets: Targets, teacher: Outputs | None) -> "Tensor":
        """Return the loss of a network that learns from a teacher's outputs, or from targets if it has no teacher."""
        if self.distillation is None or teacher is None:
            return self.label(outputs, targets)
        weight = 1.0 - self.beta if self.label_weight is None else self.label_weight
        distilled = self.beta * self.distillation(outputs, teacher)
        return distilled + weight * self.label(outputs, targets) if weight else distilled


class CalibrationInputs(ABC):
    """Batches of training inputs that the statistics of a network are computed over, the same for every network."""

    samples: int
    """How many there are in all batches."""

    @abstractmethod
    def __call__(self, plan: Plan) -> Iterable[Inputs]:
        """Return the batches for the network of a plan; they must not be changed."""


class HeldOutSamples(ABC):
    """The samples that networks are scored on in a search."""

    unreadable: int = 0
    """How many were left out beside them, because they cannot be read."""

    @abstractmethod
    def __len__(self) -> int:
        """Return how many there are."""

    @abstractmethod
    def __call__(self, plan: Plan, first: int = 0, end: int | None = None) -> Iterable[Batch]:
        """Return batches for the network of a plan, from sample `first` up to `end`, by default all."""


class TaskData(ABC):
    """The data of a run, opened and split: what is learned from, searched on, watched and tested on."""

    outputs: int
    """How many numbers a network gives for one decision, e.g. classes: what a space needs to know of the data."""
    labels: tuple[str, ...] = ()
    """The names of the outputs, where they have any."""
    notes: tuple[str, ...] = ()
    """What a user should know about the data, one line each."""
    train_samples: int
    """How many samples are learned from."""
    advice: str = "check the data"
    """What to do where inputs hold what is no number."""

    @abstractmethod
    def record(self) -> "RememberedData":
        """Return what a run remembers of this data, so that it is told from other data."""

    @abstractmethod
    def train_batches(
        self,
        batch_size: int,
        seed: int,
        position: tuple[int, int],
        share: tuple[int, int] = (0, 1),
        device: "torch.device | None" = None,
    ) -> Iterator[Batch]:
        """Yield batches of an epoch for training; they follow from `seed` and the position alone.

        `position` is the epoch and the first batch in it; `share` is the place of this process among how many that
        share each batch: (1, 4) gets its samples 1, 5, 9, ...
        """

    @abstractmethod
    def validation(self, batch_size: int) -> Iterator[Batch]:
        """Yield the samples that training is watched on, in order."""

    @abstractmethod
    def test(self, batch_size: int) -> Iterator[Batch]:
        """Yield the samples for final figures, in order."""

    @abstractmethod
    def calibration(
        self,
        batch_size: int,
        count: int,
        seed: int,
        device: "torch.device | None" = None,
        memory: "Memory | None" = None,
    ) -> CalibrationInputs:
        """Return `count` batches of training inputs as they are learned from: what statistics are computed over.

        They lie on `device`; what plans make of them is kept while there is `memory` for it.
        """

    @abstractmethod
    def held_out(
        self, batch_size: int, seed: int | None, device: "torch.device", memory: "Memory | None"
    ) -> HeldOutSamples:
        """Return the samples that a search scores networks on, taken from the training samples and never learned from.

        They are in an order drawn by `seed`, in which the first ones stand for all; in their own order if it is None.
        """

    def steps_per_epoch(self, batch_size: int) -> int:
        """Return the number of batches of an epoch: whole ones only, but one for a set smaller than a batch."""
        return max(1, self.train_samples // batch_size)

    def names(self, batch_size: int, seed: int, position: tuple[int, int], share: tuple[int, int]) -> list[str]:
        """Return what the samples of one batch of `train_batches` are called in messages, e.g. files."""
        return []


class Task(ABC):
    """A kind of work that networks are trained for. A new one is a subclass and a line in `nasdeploy.tasks.TASKS`."""

    name: ClassVar[str]
    """The name in recipes."""
    metric: ClassVar[Metric]
    """What its scores measure."""
    data_settings: ClassVar[type[Settings]]
    """The section `data` of its recipes."""
    delivery: ClassVar[Delivery] = "tensors"
    """What its networks are delivered with, a key of `nasdeploy.exporting.export.DELIVERABLES`."""

    @abstractmethod
    def open(self, settings: Any, seed: int, run: "Run | None" = None) -> TaskData:
        """Return the data that `settings` name, split by `seed`, or as `run` remembers it.

        Raises `UserError` for data that cannot be read, or is not what the run was begun with.
        """

    @abstractmethod
    def outputs(self, network: "PartRunner", inputs: Inputs) -> Outputs:
        """Return what losses and scores are computed from, by running the parts of a network on a batch of inputs."""

    @abstractmethod
    def objective(self, settings: "TrainSettings", data: TaskData) -> Objective:
        """Return the losses that a recipe asks for."""

    def divergence(self, outputs: Outputs, reference: Outputs) -> "Tensor":
        """Return how far outputs are from those of another network on the same samples: a scalar, the mean over them.

        It is 0 for equal ones and never less, e.g. the Kullback-Leibler divergence of their probabilities. Raises
        `UserError` for a task that does not say; only a table of loss needs it, and a search that ranks by it.
        """
        raise UserError(
            f"task {self.name} does not say how far outputs are from others (`Task.divergence`); choose another "
            "search.strategy, and a search.score that does not compare them"
        )

    def score(self, network: "PartRunner", batches: Iterable[Batch]) -> Score:
        """Return the score of a network on all batches."""
        return self.score_outputs((self.outputs(network, inputs), targets) for inputs, targets in batches)

    @abstractmethod
    def score_outputs(self, batches: Iterable[tuple[Outputs, Targets]]) -> Score:
        """Return the score of what a network computed, batch by batch, each with its targets.

        Outputs that are no numbers are wrong, whatever they are.
        """

    def sample_scores(self, outputs: Outputs, targets: Targets) -> "tuple[Tensor, Tensor] | None":
        """Return what outputs are worth on each sample: values and label losses `[N]`, whose means are the score's.

        Networks are compared by them sample by sample. None, as here, for a metric that is no mean over samples.
        """
        return None

    @abstractmethod
    def tensor_names(self, plan: Plan) -> Mapping[str, tuple[tuple[str, ...], tuple[str, ...]]]:
        """Return the names of the deliverable's inputs and outputs, by part, in the plan's order."""
