"""Images of a folder on the device where networks are trained, how they are prepared there, and training on them.

Scripts that train many small networks on a GPU would wait for a loader of files: all images stand in memory as bytes,
and crops are made of them where they stand.
"""

import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor, nn

BATCH = 64
"""The images of a training step."""
SHOWN = 96 / 110
"""The part of an image's side that networks are tested on."""


class Photographs(NamedTuple):
    """Images `[N, 3, height, width]` of bytes and their classes `[N]`, on the device."""

    images: Tensor
    labels: Tensor


def read(folder: Path, device: str, limit: int | None) -> Photographs:
    """Return a folder's images, or some of them at random; those of another size than the first become of its size."""
    classes = sorted(each.name for each in folder.iterdir())
    files = [(file, label) for label, name in enumerate(classes) for file in sorted((folder / name).iterdir())]
    order = torch.randperm(len(files), generator=torch.Generator().manual_seed(0))[:limit].tolist()
    size = Image.open(files[0][0]).size
    arrays = []
    for index in order:
        image = Image.open(files[index][0]).convert("RGB")
        arrays.append(np.asarray(image if image.size == size else image.resize(size, Image.Resampling.BICUBIC)))
    images = torch.from_numpy(np.stack(arrays)).permute(0, 3, 1, 2).contiguous()
    return Photographs(images.to(device), torch.tensor([files[index][1] for index in order], device=device))


def some(data: Photographs, part: slice | Tensor) -> Photographs:
    """Return some of the images with their classes."""
    return Photographs(data.images[part], data.labels[part])


def normalised(images: Tensor) -> Tensor:
    """Return bytes as the network expects them."""
    return images.float() / 127.5 - 1


def augmented(images: Tensor, side: int, generator: torch.Generator) -> Tensor:
    """Return random crops of 35 to 100 per cent of the area, mirrored at random, `[N, 3, side, side]`."""
    area, stretch, across, down, mirror = torch.rand(5, len(images), device=images.device, generator=generator)
    area, stretch = 0.35 + 0.65 * area, torch.exp((2 * stretch - 1) * math.log(4 / 3) / 2)
    width, height = (area.sqrt() * stretch).clamp(max=1), (area.sqrt() / stretch).clamp(max=1)
    theta = torch.zeros(len(images), 2, 3, device=images.device)
    theta[:, 0, 0] = width * torch.where(mirror < 0.5, -1.0, 1.0)
    theta[:, 1, 1] = height
    theta[:, 0, 2] = (2 * across - 1) * (1 - width)
    theta[:, 1, 2] = (2 * down - 1) * (1 - height)
    grid = F.affine_grid(theta, [len(images), 3, side, side], align_corners=False)
    return F.grid_sample(normalised(images), grid, "bilinear", "reflection", align_corners=False)


def central(images: Tensor, side: int) -> Tensor:
    """Return the centre of the images, enlarged as little as training enlarges them, `[N, 3, side, side]`."""
    whole = round(side / SHOWN)
    images = F.interpolate(normalised(images), (whole, whole), mode="bilinear", antialias=True)
    start = (whole - side) // 2
    return images[..., start : start + side, start : start + side]


def for_calibration(data: Photographs, side: int) -> list[Tensor]:
    """Return the batches that statistics of batch normalisation are taken of: 256 training images, as in testing."""
    return [central(batch, side) for batch in data.images[:256].split(BATCH)]


def batches(data: Photographs, steps: int, side: int, seed: int) -> Iterator[tuple[Tensor, Tensor]]:
    """Yield augmented images and their labels for some steps; each epoch goes through all images in another order."""
    device = data.images.device
    order, random = torch.Generator().manual_seed(seed), torch.Generator(device)
    random.manual_seed(seed)
    left: list[Tensor] = []
    for _ in range(steps):
        if not left:
            left = list(torch.randperm(len(data.labels), generator=order).to(device).split(BATCH))
            left = left[: per_epoch(data)]
        chosen = left.pop()
        yield augmented(data.images[chosen], side, random), data.labels[chosen]


def per_epoch(data: Photographs) -> int:
    """Return the number of whole batches that an epoch has, at least one."""
    return max(1, len(data.labels) // BATCH)


def rate_at(step: int, steps: int) -> float:
    """Return the factor of the learning rate at a step (from 0): 8 per cent of warm-up, then a cosine."""
    warm = max(1, round(0.08 * steps))
    return min((step + 1) / warm, 0.5 + 0.5 * math.cos(math.pi * max(0, step - warm) / max(1, steps - warm)))


Rates = Sequence[tuple[Sequence[nn.Parameter], float]]
"""Parameters with the highest learning rate of each group."""


class Trainer:
    """AdamW with warm-up and a cosine, whose step is one CUDA graph where there is a GPU and always the same network.

    A step of a small network on 64 images is hundreds of kernels of some microseconds each: a graph starts them at
    once, which makes an epoch several times faster.
    """

    def __init__(self, rates: Rates, steps: int, cuda: bool) -> None:
        self._rates, self._steps, self._cuda = [rate for _, rate in rates], steps, cuda
        groups = [{"params": list(group), "lr": torch.zeros((), device="cuda") if cuda else 0.0} for group, _ in rates]
        self.optimizer = torch.optim.AdamW(groups, weight_decay=0.01, fused=cuda, capturable=cuda)

    def set_rate(self, step: int) -> None:
        """Set the learning rates of a step."""
        for group, rate in zip(self.optimizer.param_groups, self._rates, strict=True):
            now = rate * rate_at(step, self._steps)
            if self._cuda:
                group["lr"].fill_(now)
            else:
                group["lr"] = now

    def step(self, loss_of: Callable[[Tensor, Tensor], Tensor], images: Tensor, labels: Tensor) -> None:
        """Make one step."""
        self.optimizer.zero_grad(set_to_none=True)
        loss_of(images, labels).backward()
        self.optimizer.step()

    def fit(self, loss_of: Callable[[Tensor, Tensor], Tensor], given: Iterable[tuple[Tensor, Tensor]]) -> None:
        """Train one network on all batches, which are of one size."""
        graph: torch.cuda.CUDAGraph | None = None
        for number, (images, labels) in enumerate(given):
            if self._cuda and graph is None:
                held = images.clone(), labels.clone()
                graph = self._captured(loss_of, *held)
            self.set_rate(number)
            if graph is None:
                self.step(loss_of, images, labels)
            else:
                for into, tensor in zip(held, (images, labels), strict=True):
                    into.copy_(tensor)
                graph.replay()

    def _captured(self, loss_of: Callable[[Tensor, Tensor], Tensor], images: Tensor, labels: Tensor) -> Any:
        """Return the graph of a step.

        The steps before it, which capturing takes, have the learning rate 0 and are forgotten.
        """
        stream = torch.cuda.Stream()
        stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(stream):
            for _ in range(3):
                self.step(loss_of, images, labels)
        torch.cuda.current_stream().wait_stream(stream)
        for state in self.optimizer.state.values():
            for value in state.values():
                value.zero_()
        graph = torch.cuda.CUDAGraph()
        self.optimizer.zero_grad(set_to_none=True)
        with torch.cuda.graph(graph):
            loss_of(images, labels).backward()
            self.optimizer.step()
        return graph
