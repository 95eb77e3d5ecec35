"""The processes of a run that `torchrun` started: how they meet, what they average once a step, how they fail."""

import os
import socket
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import timedelta
from time import monotonic, sleep, time_ns

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.distributed_c10d import Store
from torch.distributed.rendezvous import rendezvous

from nasdeploy.core.errors import NasdeployError, UserError
from nasdeploy.distributed import FailedElsewhere, exit_code_of, first_of_host, processes, reported_once

MEETING_S = 300
"""The longest wait for the other processes at the start, in seconds: hosts do not all load PyTorch equally fast."""
_REDUCTION = timedelta(minutes=30)
"""The longest wait in a reduction: for NCCL as long as for gloo, because one process validates while others wait."""


@dataclass(frozen=True)
class Ranks:
    """The place of this process among those of a training, which all draw the same networks and share each batch."""

    device: torch.device
    rank: int = 0
    world: int = 1

    @property
    def first(self) -> bool:
        """Whether this process is the one that writes and reports."""
        return self.rank == 0

    def average(self, parameters: Iterable[nn.Parameter], extras: Tensor) -> Tensor:
        """Average gradients in place, and `extras` `[n]`, which are returned, over the processes in one reduction.

        Parameters without a gradient are left out; as all processes train the same networks, they are the same ones.
        Every step waits for the slowest process once, and sends each gradient once, whatever the number of networks
        that it was summed over. The price is memory: the gradients are copied into one flat tensor, so that they take
        twice their size while they are reduced.
        """
        if self.world == 1:
            return extras
        gradients = [parameter.grad for parameter in parameters if parameter.grad is not None]
        parts = [*gradients, extras.to(gradients[0]) if gradients else extras]
        flat = torch.cat([part.reshape(-1) for part in parts])
        dist.all_reduce(flat)
        flat /= self.world
        *averages, averaged = torch.split(flat, [part.numel() for part in parts])
        for gradient, average in zip(gradients, averages, strict=True):
            gradient.copy_(average.view_as(gradient))
        return averaged.to(extras.dtype)

    def wait(self) -> None:
        """Wait until all processes are here."""
        if self.world > 1:
            dist.barrier()

    def told(self, number: int) -> int:
        """Return the number that the first process gives; they go on when all are here."""
        if self.world == 1:
            return number
        given = torch.tensor([number], device=self.device)
        dist.broadcast(given, 0)
        return int(given)

    def share(self, tensors: Iterable[Tensor]) -> None:
        """Let tensors be, in place, those of the first process."""
        if self.world > 1:
            for tensor in tensors:
                # What is sent has to lie in order, which a channels-last tensor does not.
                sent = tensor.contiguous()
                dist.broadcast(sent, 0)
                tensor.copy_(sent)

    def same(self, number: int) -> bool:
        """Return whether all processes have the same number; they go on when all are here."""
        if self.world == 1:
            return True
        ends = torch.tensor([number, -number], device=self.device)
        dist.all_reduce(ends, dist.ReduceOp.MAX)
        largest, negated_smallest = ends.tolist()
        return bool(largest == -negated_smallest)

    @contextmanager
    def agreed(self) -> Iterator[None]:
        """Let all processes leave a block together, or none: where one fails, the others raise `FailedElsewhere`."""
        if self.world == 1:
            yield
            return
        try:
            yield
        except Exception as error:
            # Whoever does not hear of it any more has failed by itself.
            with suppress(RuntimeError):
                self._worst(exit_code_of(error))
            raise
        code = self._worst(0)
        if code:
            raise FailedElsewhere(code)

    def _worst(self, code: int) -> int:
        codes = torch.tensor([code], device=self.device)
        dist.all_reduce(codes, dist.ReduceOp.MAX)
        return int(codes)


@contextmanager
def joined() -> Iterator[Ranks]:
    """Join the processes that `torchrun` started, which leave together; without it this process is alone.

    Raises `UserError` if the others cannot be reached. An error that several processes raise is left as it is in the
    first one only, and becomes `FailedElsewhere` in the others.
    """
    world, gpu = processes(), torch.cuda.is_available()
    device = torch.device("cuda", int(os.environ.get("LOCAL_RANK", "0"))) if gpu else torch.device("cpu")
    if world == 1:
        yield Ranks(device)
        return
    if gpu:
        torch.cuda.set_device(device)
    with reported_once(first_of_host), _losses_named():
        store = _met("nccl" if gpu else "gloo")
        # The store may be that of an earlier attempt still, with the keys of then.
        attempt = torch.tensor([time_ns()], device=device)
        dist.broadcast(attempt, 0)
        key = f"failed-{int(attempt)}"
    try:
        with reported_once(lambda: _claimed(store, key)), _losses_named():
            yield Ranks(device, dist.get_rank(), world)
    finally:
        dist.destroy_process_group()


@dataclass(frozen=True)
class Meeting:
    """The place of this process among those that share a store and reduce nothing; a single one has no store."""

    store: Store | None = None
    rank: int = 0
    world: int = 1


@contextmanager
def met() -> Iterator[Meeting]:
    """Meet the processes that `torchrun` started, which may come and go; without it this process is alone.

    Raises `UserError` if the others cannot be reached. Of errors in several processes the first is left as it is, and
    the others become `FailedElsewhere`.
    """
    if processes() == 1:
        yield Meeting()
        return
    if torch.cuda.is_available():
        torch.cuda.set_device(int(os.environ.get("LOCAL_RANK", "0")))
    with reported_once(first_of_host), _losses_named():
        store, rank, world = _rendezvous()
    with reported_once(lambda: _claimed(store, "failed")), _losses_named():
        yield Meeting(store, rank, world)


def _claimed(store: Store, key: str) -> bool:
    """Return whether this process is the first that wants to report; where nobody can be asked, every one is."""
    try:
        return int(store.add(key, 1)) == 1
    except RuntimeError:
        return True


@contextmanager
def _losses_named() -> Iterator[None]:
    """Turn what PyTorch raises when other processes are gone, a RuntimeError of no particular kind, into one line."""
    try:
        yield
    except RuntimeError as error:
        text = str(error)
        if not isinstance(error, dist.DistError) and "gloo" not in text:
            raise
        raise NasdeployError(
            f"lost another process of this run ({text.splitlines()[0]}); see what it said, and repeat the command, "
            "which resumes, unless the launcher does"
        ) from None


def _met(backend: str) -> Store:
    """Form the group of processes; return the store that they share. Raises `UserError` if they do not meet in time."""
    store, rank, world = _rendezvous()
    with _not_met():
        dist.init_process_group(backend, store=store, rank=rank, world_size=world, timeout=_REDUCTION)
    return store


def _rendezvous() -> tuple[Store, int, int]:
    """Return a store that the processes share, the number of this one, and how many there are; raises `UserError`."""
    missing = [name for name in ("RANK", "MASTER_ADDR", "MASTER_PORT") if not os.environ.get(name)]
    if missing:
        raise UserError(f"WORLD_SIZE is set and {missing[0]} is not; start with torchrun, or unset WORLD_SIZE")
    with _not_met():
        if os.environ["RANK"] != "0" or os.environ.get("TORCHELASTIC_USE_AGENT_STORE") == "True":
            _await(os.environ["MASTER_ADDR"], int(os.environ["MASTER_PORT"]))
        met: tuple[Store, int, int] = next(iter(rendezvous("env://", timeout=timedelta(seconds=MEETING_S))))
    return met


@contextmanager
def _not_met() -> Iterator[None]:
    try:
        yield
    except (RuntimeError, ValueError, OSError) as error:
        raise UserError(
            f"rendezvous at {os.environ['MASTER_ADDR']}:{os.environ['MASTER_PORT']}: the processes did not meet within "
            f"{MEETING_S} s ({str(error).splitlines()[0]}); check that this host is up and reachable from all others, "
            "and that all were started"
        ) from None


def _await(host: str, port: int) -> None:
    """Wait until somebody listens there; raises OSError if nobody does in time.

    PyTorch would wait itself, but up to twice as long as it is told, with a stack trace at each attempt.
    """
    deadline = monotonic() + MEETING_S
    while True:
        try:
            socket.create_connection((host, port), timeout=5).close()
        except OSError:
            if monotonic() >= deadline:
                raise
            sleep(0.2)
        else:
            return
