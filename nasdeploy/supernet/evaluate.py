"""Accuracy of an architecture: extract it, recalibrate it, score it.

Training, search and export recalibrate in the same way; the accuracy that an export states is that of its file.
"""

from collections import Counter
from collections.abc import Callable, Iterable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from nasdeploy.core.arch import Arch
from nasdeploy.core.score import Score, proportion
from nasdeploy.nn import needs_calibration
from nasdeploy.nn.device import layout_for
from nasdeploy.nn.functional import Context, Statistics, rescale
from nasdeploy.nn.network import Network, PartRunner, fit_images
from nasdeploy.supernet.supernet import Supernet, extract, input_side
from nasdeploy.tasks.metrics import TOP1

Calibration = Callable[[int], Iterable[Tensor]]
"""Starts a pass over the batches `[N, 3, S, S]` for networks of some side; S is the side or will be rescaled to it."""
Batches = Callable[[int, int, int | None], Iterable[tuple[Tensor, Tensor]]]
"""Starts a pass over images `[N, 3, S, S]` and labels `[N]` for networks of some side, from one image up to another."""


def score(logits_of: Callable[[Tensor], Tensor], batches: Iterable[tuple[Tensor, Tensor]]) -> Score:
    """The score of a function from images `[N, 3, S, S]` to logits `[N, classes]`.

    Logits that are not finite are no answer: they count as wrong, whatever the largest of them is.
    """
    correct, loss, count = 0, 0.0, 0
    with torch.no_grad():
        for images, labels in batches:
            logits, labels = logits_of(images).float().cpu(), labels.cpu()
            right = (logits.argmax(1) == labels) & logits.isfinite().all(1)
            correct += int(right.sum())
            loss += float(F.cross_entropy(logits, labels, reduction="sum"))
            count += len(labels)
    if not count:
        raise ValueError("no images to score on")
    return proportion(TOP1, correct, count, loss / count)


def calibrate(
    network: Network, batches: Iterable[Any], drive: Callable[[PartRunner, Any], object] | None = None
) -> Network:
    """Set running statistics to the cumulative average over batches (BigNAS, section 3.4; AlphaNet).

    `drive` takes a batch through the network's parts; by default a batch is the one input of the one part. Square
    images of another size are rescaled. The network is returned in evaluation mode; one without running statistics
    draws no batch. Raises ValueError if there is no batch.
    """
    if not needs_calibration(network.plan):
        return network.eval()
    runner, calibrated = _Calibrating(network), False
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

    def __init__(self, network: Network) -> None:
        self.plan, self._network = network.plan, network
        self._runs: Counter[str] = Counter()

    def run(self, part: str, *inputs: Tensor) -> tuple[Tensor, ...]:
        """Return the outputs of a part, normalised by the batch."""
        self._runs[part] += 1
        fitting = fit_images(self.plan.part(part), inputs)
        # The first average has weight 1 and so replaces whatever was there.
        statistics = Statistics(batch=True, momentum=1.0 / self._runs[part])
        return self._network.compute(part, *fitting, context=Context(statistics))


def recalibrated(supernet: Supernet, arch: Arch, batches: Iterable[Tensor]) -> Network:
    """The sub-network `arch` with statistics of `batches` `[N, 3, S, S]`, in evaluation mode, where the supernet is.

    It is in the layout that is fastest there.
    """
    network = _extracted(supernet, arch)
    return calibrate(network, (_place(batch, network) for batch in batches))


def _extracted(supernet: Supernet, arch: Arch) -> Network:
    network = extract(supernet, arch)
    return network.to(memory_format=layout_for(_device(network)))


def _device(network: Network) -> torch.device:
    return next(network.parameters()).device


def _place(images: Tensor, network: Network) -> Tensor:
    device = _device(network)
    return images.to(device, memory_format=layout_for(device))


class Evaluator:
    """Scores architectures of a supernet, all with the same calibration batches and the same images.

    `calibration` and `batches` are started once for each architecture. Where a batch does not fit into the memory of a
    GPU it is halved, and stays halved for networks of that side; calibration's batches are never divided, because their
    statistics depend on it.
    """

    def __init__(
        self, supernet: Supernet, calibration: Calibration, batches: Batches, images: int = 0, unreadable: int = 0
    ) -> None:
        """`images` is how many there are; 0 if it is not known, or they cannot be divided.

        `unreadable` is how many were left out beside them, because they cannot be read.
        """
        self._supernet, self._calibration, self._batches, self.images = supernet, calibration, batches, images
        self.unreadable = unreadable
        self._at_once: dict[int, int] = {}
        self._statistics: dict[Arch, dict[str, Tensor]] = {}

    def network(self, arch: Arch) -> Network:
        """The recalibrated sub-network, in evaluation mode; one that needs no calibration starts no pass for it."""
        plan = self._supernet.space.plan(arch)
        batches = self._calibration(input_side(plan)) if needs_calibration(plan) else ()
        return recalibrated(self._supernet, arch, batches)

    def __call__(self, arch: Arch, first: int = 0, end: int | None = None) -> Score:
        """The score of one architecture on the images from `first` up to `end`, by default on all.

        Statistics of architectures that were scored on a part are remembered until they are scored on the rest.
        """
        network = self._again(arch) if arch in self._statistics else self.network(arch)
        if end is not None and len(self._statistics) < _MOST_REMEMBERED:
            self._statistics[arch] = {name: value.cpu() for name, value in network.named_buffers()}
        side = input_side(network.plan)
        return score(
            lambda images: self._logits(network, rescale(_place(images, network), side)),
            self._batches(side, first, end),
        )

    def score_of(self, logits_of: Callable[[Tensor], Tensor], side: int) -> Score:
        """The score, on all images, of what else computes logits from images `[N, 3, side, side]` on the CPU."""
        return score(lambda images: logits_of(rescale(images, side).cpu()), self._batches(side, 0, None))

    def _again(self, arch: Arch) -> Network:
        """The sub-network with the statistics that were remembered."""
        network = _extracted(self._supernet, arch)
        network.load_state_dict(self._statistics.pop(arch), strict=False)
        return network.eval()

    def _logits(self, network: Network, images: Tensor) -> Tensor:
        """Logits `[N, classes]`, of as many images at once as fit into memory."""
        side = images.shape[-1]
        size = min(self._at_once.get(side, len(images)), len(images))
        while True:
            try:
                return torch.cat([network(part) for part in torch.split(images, size)])
            except torch.OutOfMemoryError:
                if size == 1:
                    raise
            size = self._at_once[side] = (size + 1) // 2


_MOST_REMEMBERED = 1024
"""Architectures; each takes 0.1 to 0.3 MB for spaces of photographs."""
