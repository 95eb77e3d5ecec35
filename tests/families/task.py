"""How to add a task: one that is nothing like the classification of images, from its data to its score.

A writer reads frames and writes tokens one by one; its score is the perplexity of what should have been written, which
is better the smaller it is and is no mean over samples. A task is these three classes and a line in
`nasdeploy.tasks.TASKS`; its spaces are a class of settings and a line in `nasdeploy.spaces.KINDS`, its blocks lines in
`nasdeploy.nn.FAMILIES`. `registered()` enters all of them for a test.
"""

from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from math import exp, sqrt
from typing import TYPE_CHECKING, Any, Literal

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor

from nasdeploy.core.plan import Plan
from nasdeploy.core.randomness import generator
from nasdeploy.core.score import Metric, Score
from nasdeploy.core.settings import Settings
from nasdeploy.core.space import SearchSpace
from nasdeploy.nn.network import PartRunner
from nasdeploy.spaces import KINDS
from nasdeploy.spaces.kind import SpaceSettings
from nasdeploy.store.run import RememberedData
from nasdeploy.tasks import TASKS
from nasdeploy.tasks.task import Batch, CalibrationInputs, HeldOutSamples, Inputs, Objective, Task, TaskData
from tests.families.families import registered as families_registered
from tests.families.space import CONTEXT, FEATURES, FRAMES, WRITTEN, Writer

if TYPE_CHECKING:
    from nasdeploy.training.settings import TrainSettings

PERPLEXITY = Metric(
    key="perplexity",
    name="perplexity",
    maximise=False,
    best=1.0,
    aggregate="whole",
    loss_key="nats",
    samples="sequences",
)


class WritingSettings(Settings):
    """Sequences made by a rule: each token follows from the one before and the mean of one feature of the frames."""

    kind: Literal["counting"] = "counting"
    vocabulary: int = Field(default=7, ge=2)
    train: int = Field(default=192, ge=8)
    others: int = Field(default=64, ge=2)
    """The sequences for the search, for watching the training, and for the test, each."""


class Sequences:
    """Frames `[n, FRAMES, FEATURES]` and the tokens `[n, WRITTEN]` that should be written."""

    def __init__(self, settings: WritingSettings, count: int, seed: int, purpose: str) -> None:
        rng = generator(seed, purpose)
        self.frames = torch.from_numpy(rng.normal(size=(count, FRAMES, FEATURES))).float()
        steps = (self.frames[:, :, 0].mean(1) > 0).long() + 1
        self.tokens = (steps[:, None] * torch.arange(1, WRITTEN + 1)) % settings.vocabulary

    def __len__(self) -> int:
        return len(self.tokens)

    def inputs(self, places: slice | Tensor) -> Inputs:
        """The frames, and what was written before each token: `CONTEXT` tokens, 0 where nothing was."""
        before = F.pad(self.tokens[places], (CONTEXT, 0))
        windows = before.unfold(1, CONTEXT, 1)[:, :WRITTEN]
        return self.frames[places], windows

    def batches(self, size: int, first: int = 0, end: int | None = None) -> Iterator[Batch]:
        """The sequences in order."""
        end = len(self) if end is None else end
        for at in range(first, end, size):
            part = slice(at, min(at + size, end))
            yield self.inputs(part), self.tokens[part]


class HeldOutSequences(HeldOutSamples):
    """The sequences that a search scores networks on."""

    def __init__(self, sequences: Sequences, batch_size: int) -> None:
        self._sequences, self._batch_size = sequences, batch_size

    def __len__(self) -> int:
        return len(self._sequences)

    def __call__(self, plan: Plan, first: int = 0, end: int | None = None) -> Iterable[Batch]:
        return self._sequences.batches(self._batch_size, first, end)


class TrainingFrames(CalibrationInputs):
    """Batches of training inputs; the writer's blocks have no statistics, so that none are ever drawn in training."""

    def __init__(self, sequences: Sequences, batch_size: int, count: int) -> None:
        self._sequences, self._size, self._count = sequences, batch_size, count
        self.samples = min(batch_size, len(sequences)) * count

    def __call__(self, plan: Plan) -> Iterable[Inputs]:
        for number in range(self._count):
            yield self._sequences.inputs((torch.arange(self._size) + number * self._size) % len(self._sequences))


class WritingData(TaskData):
    """All sequences of a run."""

    def __init__(self, settings: WritingSettings, seed: int) -> None:
        made = {name: Sequences(settings, settings.others, seed, name) for name in ("search", "val", "test")}
        self.train = Sequences(settings, settings.train, seed, "train")
        self.search, self.val, self.other = made["search"], made["val"], made["test"]
        self.outputs, self.train_samples = settings.vocabulary, settings.train

    def record(self) -> RememberedData:
        return {}

    def train_batches(
        self,
        batch_size: int,
        seed: int,
        position: tuple[int, int],
        share: tuple[int, int] = (0, 1),
        device: torch.device | None = None,
    ) -> Iterator[Batch]:
        (epoch, first), (place, parts) = position, share
        order = torch.from_numpy(generator(seed, "order", epoch).permutation(self.train_samples))
        for step in range(first, self.steps_per_epoch(batch_size)):
            chosen = order[step * batch_size : (step + 1) * batch_size][place::parts]
            yield tuple(x.to(device) for x in self.train.inputs(chosen)), self.train.tokens[chosen].to(device)

    def validation(self, batch_size: int) -> Iterator[Batch]:
        return self.val.batches(batch_size)

    def test(self, batch_size: int) -> Iterator[Batch]:
        return self.other.batches(batch_size)

    def calibration(
        self, batch_size: int, count: int, seed: int, device: torch.device | None = None, memory: Any = None
    ) -> CalibrationInputs:
        return TrainingFrames(self.train, batch_size, count)

    def held_out(self, batch_size: int, seed: int | None, device: torch.device, memory: Any) -> HeldOutSamples:
        return HeldOutSequences(self.search, batch_size)


class Writing(Task):
    """Writing tokens after reading frames, scored by perplexity."""

    name = "writing"
    metric = PERPLEXITY
    data_settings = WritingSettings

    def open(self, settings: WritingSettings, seed: int, run: Any = None) -> TaskData:
        return WritingData(settings, seed)

    def outputs(self, network: PartRunner, inputs: Inputs) -> Tensor:
        """Logits `[N, WRITTEN, vocabulary]`: the encoder runs once, the step once for each token."""
        frames, windows = inputs
        memory, summary = network.run("encoder", frames)
        steps = [network.run("step", memory, summary, windows[:, step].contiguous()) for step in range(WRITTEN)]
        return torch.stack([logits for (logits,) in steps], dim=1)

    def objective(self, settings: "TrainSettings", data: TaskData) -> Objective:
        """Cross-entropy over all tokens, and the divergence of the distributions of tokens."""

        def label(logits: Tensor, tokens: Tensor) -> Tensor:
            return F.cross_entropy(logits.flatten(0, 1).float(), tokens.flatten())

        def distillation(student: Tensor, teacher: Tensor) -> Tensor:
            log_q, log_p = (F.log_softmax(logits.flatten(0, 1).float(), 1) for logits in (student, teacher.detach()))
            return F.kl_div(log_q, log_p, reduction="batchmean", log_target=True)

        return Objective(label, None if settings.distillation.kind == "none" else distillation)

    def divergence(self, outputs: Tensor, reference: Tensor) -> Tensor:
        """The divergence of the distributions of tokens, in nats a token."""
        log_q, log_p = (F.log_softmax(logits.flatten(0, 1).float(), 1) for logits in (outputs, reference))
        return F.kl_div(log_q, log_p, reduction="batchmean", log_target=True)

    def score_outputs(self, batches: Iterable[tuple[Tensor, Tensor]]) -> Score:
        """exp of the mean cross-entropy of sequences, with the standard error by the delta method."""
        with torch.no_grad():
            losses = torch.cat([_nats(logits.cpu(), tokens.cpu()) for logits, tokens in batches])
        mean, error = float(losses.mean()), float(losses.std()) / sqrt(len(losses))
        return Score(PERPLEXITY, exp(mean), exp(mean) * error, len(losses), mean)

    def tensor_names(self, plan: Plan) -> Mapping[str, tuple[tuple[str, ...], tuple[str, ...]]]:
        return {
            "encoder": (("frames",), ("memory", "summary")),
            "step": (("memory", "summary", "tokens"), ("logits",)),
        }


def _nats(logits: Tensor, tokens: Tensor) -> Tensor:
    """The mean cross-entropy `[N]` of each sequence's tokens."""
    return F.cross_entropy(logits.transpose(1, 2).float(), tokens, reduction="none").mean(1)


class WriterSettings(SpaceSettings):
    """The writer's space in a recipe: `{kind: writer, name: ...}`."""

    kind: Literal["writer"] = "writer"

    def build(self, output_size: int) -> SearchSpace:
        return Writer(output_size)


@contextmanager
def registered() -> Iterator[None]:
    """The writer's task, space and families, as those that come with nasdeploy are registered."""
    with families_registered():
        TASKS["writing"], KINDS["writer"] = Writing(), WriterSettings
        try:
            yield
        finally:
            del TASKS["writing"], KINDS["writer"]
