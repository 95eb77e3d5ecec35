"""The processes of a run that `torchrun` started: who they are, and what they average once a step."""

import os
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch
import torch.distributed as dist
from torch import Tensor, nn


@dataclass(frozen=True)
class Ranks:
    """This process among those of the run. All of them draw the same architectures and share each batch."""

    device: torch.device
    rank: int = 0
    world: int = 1

    @property
    def first(self) -> bool:
        """Whether this process is the one that writes and reports."""
        return self.rank == 0

    def average(self, parameters: Iterable[nn.Parameter], extras: Tensor) -> Tensor:
        """Average gradients in place, and `extras` `[n]`, which is returned, over the processes: one reduction.

        Parameters without a gradient are left out; as all processes train the same networks, they are the same ones.
        """
        if self.world == 1:
            return extras
        gradients = [parameter.grad for parameter in parameters if parameter.grad is not None]
        flat = torch.cat([*(gradient.reshape(-1) for gradient in gradients), extras.to(gradients[0])])
        dist.all_reduce(flat)
        flat /= self.world
        *parts, averaged = torch.split(flat, [*(gradient.numel() for gradient in gradients), extras.numel()])
        for gradient, part in zip(gradients, parts, strict=True):
            gradient.copy_(part.view_as(gradient))
        return averaged.to(extras.dtype)

    def wait(self) -> None:
        """Go on when all processes are here."""
        if self.world > 1:
            dist.barrier()


@contextmanager
def joined() -> Iterator[Ranks]:
    """This process among those that `torchrun` started, which leave together; a process of its own otherwise."""
    world, gpu = int(os.environ.get("WORLD_SIZE", "1")), torch.cuda.is_available()
    device = torch.device("cuda", int(os.environ.get("LOCAL_RANK", "0"))) if gpu else torch.device("cpu")
    if world == 1:
        yield Ranks(device)
        return
    if gpu:
        torch.cuda.set_device(device)
    dist.init_process_group("nccl" if gpu else "gloo")
    try:
        yield Ranks(device, dist.get_rank(), dist.get_world_size())
    finally:
        dist.destroy_process_group()
