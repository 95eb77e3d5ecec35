"""Static networks: a plan with weights, whose parts are run one by one; and where and how PyTorch computes them.

What latency is measured on is another matter (`runtimes.device`).
"""

import ctypes
import platform
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Protocol

import torch
from torch import Tensor, nn

from nasdeploy.core.cpus import parallelism
from nasdeploy.core.plan import Block, Part, Plan, Step
from nasdeploy.nn import FAMILIES, cover, tensors_of
from nasdeploy.nn.functional import BATCH, RUNNING, Context, rescale
from nasdeploy.runtimes.runtime import Session


def compute_device() -> torch.device:
    """Return a GPU if PyTorch finds one, else the CPU."""
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def set_threads(given: int | None) -> None:
    """Have PyTorch compute with `given` threads; by default with no more than may work at the same time.

    It counts the processors that this process is bound to, and knows no quota: threads beyond it use it up early in
    each period, and then all of them stand still.
    """
    threads = min(torch.get_num_threads(), parallelism()) if given is None else given
    if threads != torch.get_num_threads():
        torch.set_num_threads(threads)


@contextmanager
def one_thread() -> Iterator[None]:
    """Have PyTorch compute with one thread meanwhile, and leave the other processors to what runs beside."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def keep_freed_memory() -> None:
    """Have this process keep the memory of tensors that are gone for those that come, where its allocator is glibc's.

    Otherwise tensors of more than 32 MiB are fetched from the system and given back each time, page by page. With
    EfficientNet-Lite0 at 96 pixels that is 0.6 of a forward pass of 256 images, and 0.2 of a training step of 64, at
    the same peak of memory (tests/benchmarks/bench_memory.py). Processes that only measure latency do not do so.
    """
    if platform.libc_ver()[0] == "glibc":
        allocator = ctypes.CDLL(None)
        allocator.mallopt(_M_MMAP_MAX, 0)
        allocator.mallopt(_M_TRIM_THRESHOLD, -1)


_M_TRIM_THRESHOLD, _M_MMAP_MAX = -1, -4
"""Parameters of glibc's `mallopt`: from how much on free memory is given back, and how many blocks are fetched each by
itself."""


def layout_for(device: torch.device) -> torch.memory_format:
    """Return the layout of weights and images in which networks that are computed a few times each take the least time.

    On a CPU channels-last takes about 0.7 of the time. On a GPU cuDNN then plans each shape of a convolution that it
    has not met before, for milliseconds, and most networks of a search have such shapes: on an H200 recalibrating
    one of `alphanet` took 2.0 s at first instead of 0.13 s, and 0.07 s instead of 0.09 s from then on.
    """
    return torch.channels_last if device.type == "cpu" else torch.contiguous_format


class PartRunner(Protocol):
    """A network of which any part can be computed: by PyTorch, inside a supernet, or by a deployment runtime."""

    @property
    def plan(self) -> Plan:
        """The network's parts and steps."""

    def run(self, part: str, *inputs: Tensor) -> tuple[Tensor, ...]:
        """Return the outputs of a part, in the plan's order, for inputs of its types with a batch dimension first.

        Square images of another side are rescaled to that of the part.
        """


def fit_images(part: Part, inputs: Sequence[Tensor]) -> list[Tensor]:
    """Return inputs for a part: square images `[N, C, S, S]` at the side that it takes, anything else as it is."""
    return [
        rescale(x, wanted.shape[-1]) if len(wanted.shape) == 3 and wanted.shape[-1] == wanted.shape[-2] else x
        for x, (_, wanted) in zip(inputs, part.inputs, strict=True)
    ]


def run_part(
    part: Part, inputs: Sequence[Tensor], compute: Callable[[Step, Sequence[Tensor]], Tensor]
) -> tuple[Tensor, ...]:
    """Return the outputs of a part, by computing its steps in order, each on what it takes."""
    values = {name: tensor for (name, _), tensor in zip(part.inputs, inputs, strict=True)}
    for step in part.steps:
        values[step.name] = compute(step, [values[name] for name in step.takes])
    return tuple(values[name] for name in part.outputs)


class StaticBlock(nn.Module):
    """One block with weights, by default of its own shapes."""

    def __init__(self, block: Block, weights: nn.Module | None = None) -> None:
        super().__init__()
        self.block = block
        self.family = FAMILIES[type(block)]
        self.weights = cover(type(block).__name__, [block]) if weights is None else weights

    def compute(self, *inputs: Tensor, context: Context) -> Tensor:
        """Return the block's output, normalised as the context says."""
        return self.family.forward(self.block, tensors_of(self.weights, self.block), *inputs, context=context)

    def forward(self, *inputs: Tensor) -> Tensor:
        """Return the block's output: batch statistics in training mode, running ones in evaluation mode."""
        return self.compute(*inputs, context=_TRAINING if self.training else _INFERENCE)


class Network(nn.Module):
    """The network of a plan, as an ordinary module.

    In training mode batch normalisation uses the batch's statistics and leaves the running ones alone (as a supernet
    does); in evaluation mode it uses the running ones, which `calibrate` sets.
    """

    def __init__(self, plan: Plan) -> None:
        super().__init__()
        self.plan = plan
        self._parts = {part.name: part for part in plan.parts}
        weights = {slot: cover(slot, blocks[:1], blocks[1:]) for slot, blocks in _by_slot(plan).items()}
        self.blocks = nn.ModuleDict({step.name: StaticBlock(step.block, weights[step.slot]) for step in plan.steps})

    def block(self, name: str) -> StaticBlock:
        """Return the module of the step called `name`."""
        block = self.blocks[name]
        assert isinstance(block, StaticBlock)
        return block

    def compute(self, part: str, *inputs: Tensor, context: Context) -> tuple[Tensor, ...]:
        """Return the outputs of a part, normalised as the context says."""

        def compute(step: Step, inputs: Sequence[Tensor]) -> Tensor:
            return self.block(step.name).compute(*inputs, context=context)

        return run_part(self._parts[part], inputs, compute)

    def run(self, part: str, *inputs: Tensor) -> tuple[Tensor, ...]:
        """Return the outputs of a part: batch statistics in training mode, running ones in evaluation mode.

        Square images of another side are rescaled to that of the part.
        """
        fitting = fit_images(self._parts[part], inputs)
        return self.compute(part, *fitting, context=_TRAINING if self.training else _INFERENCE)

    def forward(self, *inputs: Tensor) -> Tensor | tuple[Tensor, ...]:
        """Return the output of a network of one part, a tuple of them if there are several.

        Raises `ValueError` for a network of several parts.
        """
        context = _TRAINING if self.training else _INFERENCE
        return _plain(self.compute(self.plan.only.name, *inputs, context=context))


class NetworkPart(nn.Module):
    """A part of a network as a module of its own, with the network's weights: what is exported and measured."""

    def __init__(self, network: Network, name: str) -> None:
        super().__init__()
        self.part = network.plan.part(name)
        self.blocks = nn.ModuleDict({step.name: network.block(step.name) for step in self.part})
        self.train(network.training)

    def forward(self, *inputs: Tensor) -> Tensor | tuple[Tensor, ...]:
        """Return the part's output, a tuple of them if there are several."""
        return _plain(run_part(self.part, inputs, lambda step, given: self.blocks[step.name](*given)))


class SessionRunner:
    """Sessions of a network's exported parts as what computes them, on the CPU."""

    def __init__(self, plan: Plan, sessions: Mapping[str, Session]) -> None:
        """The sessions are those of the plan's parts, by name."""
        self.plan, self._sessions = plan, sessions

    def run(self, part: str, *inputs: Tensor) -> tuple[Tensor, ...]:
        """Return the outputs of a part; its inputs are handed over in the order of the session's."""
        session, fitting = self._sessions[part], fit_images(self.plan.part(part), inputs)
        feeds = {name: tensor.numpy(force=True) for name, tensor in zip(session.inputs, fitting, strict=True)}
        return tuple(torch.from_numpy(array) for array in session.run(feeds))


_TRAINING, _INFERENCE = Context(BATCH), Context(RUNNING)


def _plain(outputs: tuple[Tensor, ...]) -> Tensor | tuple[Tensor, ...]:
    return outputs[0] if len(outputs) == 1 else outputs


def _by_slot(plan: Plan) -> dict[str, list[Block]]:
    """Return the blocks that compute with each slot's weights, in the order of the steps."""
    found: dict[str, list[Block]] = {}
    for step in plan:
        found.setdefault(step.slot, []).append(step.block)
    return found
