"""Scores of architectures: extract one, recalibrate it, and let the task score it.

Training, search and export recalibrate in the same way; the score that an export states is that of its file.
"""

from collections import Counter
from collections.abc import Callable, Hashable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor

from nasdeploy.core.arch import Arch
from nasdeploy.core.paired import SampleScores
from nasdeploy.core.plan import Plan
from nasdeploy.core.score import Criterion, Score, compares
from nasdeploy.core.space import SearchSpace
from nasdeploy.nn import needs_calibration
from nasdeploy.nn.functional import Context, Statistics
from nasdeploy.nn.network import Network, PartRunner, fit_images, layout_for
from nasdeploy.supernet.networks import copied
from nasdeploy.supernet.settings import Average
from nasdeploy.supernet.supernet import Supernet, extract
from nasdeploy.tasks.task import Batch, Inputs, Outputs, Targets, Task

Calibrating = Callable[[Plan], Iterable[Inputs]]
"""Starts a pass over the batches that statistics are computed over, for the network of a plan."""
Scored = Callable[[Plan, int, int | None], Iterable[Batch]]
"""Starts a pass over batches for the network of a plan, from one sample up to another (None: to the last)."""


def calibrate(
    network: Network,
    batches: Iterable[Any],
    drive: Callable[[PartRunner, Any], object] | None = None,
    average: Average = "cumulative",
) -> Network:
    """Set running statistics to an average over batches, by default the cumulative one (BigNAS, section 3.4; AlphaNet).

    `drive` takes a batch through the network's parts; by default a batch is the one input of the one part. Square
    images of another size are rescaled. The network is returned in evaluation mode; one without running statistics
    draws no batch. Raises ValueError if there is no batch.
    """
    if not needs_calibration(network.plan):
        return network.eval()
    runner, calibrated = _Calibrating(network, average), False
    with torch.no_grad():
        for batch in batches:
            calibrated = True
            if drive is None:
                runner.run(network.plan.only.name, batch)
            else:
                drive(runner, batch)
    if not calibrated:
        raise ValueError("calibration needs at least one batch")
    return network.eval()


class _Calibrating:
    """A network whose running statistics become the average over all runs of each part."""

    def __init__(self, network: Network, average: Average) -> None:
        self.plan, self._network, self._weighted = network.plan, network, average == "image-weighted"
        self._counted: Counter[str] = Counter()

    def run(self, part: str, *inputs: Tensor) -> tuple[Tensor, ...]:
        """Return the outputs of a part, normalised by the batch."""
        weight = len(inputs[0]) if self._weighted else 1
        self._counted[part] += weight
        fitting = fit_images(self.plan.part(part), [_placed(tensor, self._network) for tensor in inputs])
        # The first average has weight 1 and so replaces whatever was there.
        statistics = Statistics(batch=True, momentum=weight / self._counted[part], biased=self._weighted)
        return self._network.compute(part, *fitting, context=Context(statistics))


class _WithinMemory:
    """A network that computes a batch in parts where it does not fit into the memory of a GPU.

    A batch is halved until it fits, and stays halved for all inputs of those types.
    """

    def __init__(self, network: Network, at_once: dict[Hashable, int]) -> None:
        self.plan, self._network, self._at_once = network.plan, network, at_once

    def run(self, part: str, *inputs: Tensor) -> tuple[Tensor, ...]:
        """Return the outputs of a part, computed for as many samples at once as fit into memory."""
        placed = fit_images(self.plan.part(part), [_placed(tensor, self._network) for tensor in inputs])
        kind = self.plan.part(part).inputs
        size = min(self._at_once.get(kind, len(placed[0])), len(placed[0]))
        while True:
            try:
                chunks = zip(*(torch.split(tensor, size) for tensor in placed), strict=True)
                outputs = [self._network.run(part, *chunk) for chunk in chunks]
                return tuple(torch.cat(each) for each in zip(*outputs, strict=True))
            except torch.OutOfMemoryError:
                if size == 1:
                    raise
            size = self._at_once[kind] = (size + 1) // 2


def recalibrated(
    supernet: Supernet,
    arch: Arch,
    batches: Iterable[Any],
    drive: Callable[[PartRunner, Any], object] | None = None,
    average: Average = "cumulative",
) -> Network:
    """Return the sub-network `arch` with statistics of `batches`, in evaluation mode, where the supernet is.

    It is in the layout that is fastest there. See `calibrate` for `drive` and `average`.
    """
    return calibrate(laid_out_for_device(extract(supernet, arch)), batches, drive, average)


def laid_out_for_device(network: Network) -> Network:
    """Return the network in the layout that is fastest where it is."""
    return network.to(memory_format=layout_for(_device(network)))


def _device(network: Network) -> torch.device:
    return next(network.parameters()).device


def _placed(tensor: Tensor, network: Network) -> Tensor:
    """Return a tensor where a network is, images `[N, C, H, W]` in the layout that is fastest there."""
    device = _device(network)
    return tensor.to(device, memory_format=layout_for(device)) if tensor.ndim == 4 else tensor.to(device)


@dataclass(frozen=True, eq=False)
class Evaluator:
    """Scores architectures of a supernet, all with the same calibration batches and the same samples.

    Both passes are started once for each architecture. Where a batch does not fit into the memory of a GPU it is
    halved; calibration's batches are never divided, because their statistics depend on it. Networks that have weights
    of their own are scored with these, recalibrated like all others.
    """

    supernet: Supernet
    task: Task
    calibration: Calibrating
    batches: Scored
    samples: int = 0
    """The number of samples; 0 if it is not known, or they cannot be divided."""
    unreadable: int = 0
    """The number of samples that were left out beside them, because they cannot be read."""
    own: Mapping[Arch, Network] = field(default_factory=dict)
    """The networks that have weights of their own."""
    criterion: Criterion = "metric"
    """What networks are ranked by."""
    average: Average = "cumulative"
    """How statistics are averaged over calibration's batches."""
    _at_once: dict[Hashable, int] = field(default_factory=dict, init=False, repr=False)
    _statistics: dict[Arch, dict[str, Tensor]] = field(default_factory=dict, init=False, repr=False)
    _originals: dict[tuple[int, int | None], list[Outputs]] = field(default_factory=dict, init=False, repr=False)

    @property
    def space(self) -> SearchSpace:
        """The search space of the supernet."""
        return self.supernet.space

    def network(self, arch: Arch, inherited: bool = False) -> Network:
        """Return the recalibrated sub-network, in evaluation mode; one without running statistics needs no pass.

        With `inherited` its weights are the supernet's, also where it has some of its own.
        """
        network = laid_out_for_device(extract(self.supernet, arch)) if inherited else self.extracted(arch)
        batches = self.calibration(network.plan) if needs_calibration(network.plan) else ()
        return calibrate(network, batches, self.task.outputs, self.average)

    def __call__(self, arch: Arch, first: int = 0, end: int | None = None) -> Score:
        """Return the score of one architecture on the samples from `first` up to `end`, by default on all.

        Statistics of architectures that were scored on a part are remembered until they are scored on the rest.
        """
        network = self._again(arch) if arch in self._statistics else self.network(arch)
        if end is not None and len(self._statistics) < _MOST_REMEMBERED:
            self._statistics[arch] = {name: value.cpu() for name, value in network.named_buffers()}
        return self._score(_WithinMemory(network, self._at_once), first, end)

    def outputs(self, network: Network, first: int = 0, end: int | None = None) -> Iterator[tuple[int, Outputs]]:
        """Yield the number of samples and the network's outputs on them, in batches, by default for all samples."""
        for count, outputs, _ in self._computed(_WithinMemory(network, self._at_once), first, end):
            yield count, outputs

    def divergence(
        self, network: Network, original: Iterable[tuple[int, Outputs]], first: int = 0, end: int | None = None
    ) -> float:
        """Return the mean divergence of a network's outputs from an original's on the same samples, as `outputs` gives
        these."""
        comparison = _Comparison(self.task, (outputs for _, outputs in original))
        for _ in comparison.along(self._computed(_WithinMemory(network, self._at_once), first, end)):
            pass
        return comparison.mean

    def score_of(self, runner: PartRunner) -> Score:
        """Return the score, on all samples, of what else computes the parts of a network."""
        return self._score(runner, 0, None)

    def sample_scores(self, arch: Arch) -> SampleScores | None:
        """Return what an architecture is worth on each of the samples; None for a task that does not say."""
        runner, parts = _WithinMemory(self.network(arch), self._at_once), []
        for _, outputs, targets in self._computed(runner, 0, None):
            part = self.task.sample_scores(outputs, targets)
            if part is None:
                return None
            parts.append(part)
        values, losses = (torch.cat(each).double().numpy(force=True) for each in zip(*parts, strict=True))
        return SampleScores(self.task.metric, values, losses)

    def ranking_by(self, criterion: Criterion) -> "Evaluator":
        """Return what scores in the same way, for networks to be ranked by a criterion.

        Where that compares outputs with the original's, these are computed once for each range of samples; the original
        is the one network that has weights of its own. Raises ValueError if there is none, or several.
        """
        if compares(criterion) and len(self.own) != 1:
            raise ValueError(f"ranking by {criterion} takes one original, and there are {len(self.own)}")
        return replace(self, criterion=criterion)

    def having(self, own: Mapping[Arch, Network]) -> "Evaluator":
        """Return what scores in the same way, on the same samples, where others have weights of their own.

        Networks are ranked by the metric then: there may be no original among them to compare outputs with.
        """
        return replace(self, own=own, criterion="metric")

    def averaging(self, average: Average) -> "Evaluator":
        """Return what scores in the same way, with statistics that are such an average over calibration's batches."""
        return replace(self, average=average)

    def _score(self, runner: PartRunner, first: int, end: int | None) -> Score:
        if not compares(self.criterion):
            with torch.no_grad():
                score = self.task.score(runner, self.batches(runner.plan, first, end))
            return replace(score, criterion=self.criterion)
        comparison = _Comparison(self.task, self._original(first, end))
        score = self.task.score_outputs(comparison.along(self._computed(runner, first, end)))
        return replace(score, criterion=self.criterion, divergence=comparison.mean)

    def _original(self, first: int, end: int | None) -> list[Outputs]:
        """Return the original's outputs on samples, by batch."""
        if (first, end) not in self._originals:
            (arch,) = self.own
            self._originals[first, end] = [outputs for _, outputs in self.outputs(self.network(arch), first, end)]
        return self._originals[first, end]

    def _computed(self, runner: PartRunner, first: int, end: int | None) -> Iterator[tuple[int, Outputs, Targets]]:
        """Yield the number of samples, what is computed of them, and their targets, batch by batch."""
        for inputs, targets in self.batches(runner.plan, first, end):
            with torch.no_grad():
                yield len(inputs[0]), self.task.outputs(runner, inputs), targets

    def _again(self, arch: Arch) -> Network:
        """Return the sub-network with the statistics that were remembered."""
        network = self.extracted(arch)
        network.load_state_dict(self._statistics.pop(arch), strict=False)
        return network.eval()

    def extracted(self, arch: Arch) -> Network:
        """Return a copy of the network of its own, or of the supernet's, where that is computed fastest."""
        own = self.own.get(arch)
        return laid_out_for_device(extract(self.supernet, arch) if own is None else copied(own))


class _Comparison:
    """The divergence of outputs from those of an original, taken while they are on their way to be scored."""

    def __init__(self, task: Task, original: Iterable[Outputs]) -> None:
        self._task, self._original = task, original
        self._total, self._count = 0.0, 0

    def along(self, computed: Iterable[tuple[int, Outputs, Targets]]) -> Iterator[tuple[Outputs, Targets]]:
        """Yield outputs with their targets."""
        for (count, outputs, targets), wanted in zip(computed, self._original, strict=True):
            self._total += count * float(self._task.divergence(outputs, wanted))
            self._count += count
            yield outputs, targets

    @property
    def mean(self) -> float:
        """The mean over all samples that have passed."""
        return self._total / self._count


_MOST_REMEMBERED = 1024
"""The most architectures whose statistics are remembered; each takes 0.1 to 0.3 MB for spaces of photographs."""
