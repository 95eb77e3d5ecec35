"""Networks that come in step after step, recorded as CUDA graphs and replayed.

A GPU computes a small network in less time than the host takes to start its thousands of operations one by one. A CUDA
graph is started as a whole. Recorded is all that a network does in a step: its slices are taken, its outputs, its loss,
its backward pass, and its gradients are added to those of the parameters. It reads the weights, the scale of the loss
and the state of the random numbers where they lie, so that a replay computes what the host would have started, bit for
bit where the kernels are deterministic.

The largest and the smallest network come in every step, or the only one of a phase; random ones are computed as before.
"""

from collections import OrderedDict
from collections.abc import Callable, Hashable, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from nasdeploy.core.errors import one_line
from nasdeploy.nn import kernels
from nasdeploy.nn.functional import each_tensor, tensors_in
from nasdeploy.tasks.task import Outputs

_TIMES = 3
"""The times that a network is computed before it is recorded: libraries prepare themselves in the first of them, and
the last one is computed with the kernels that the recording has."""
_REMEMBERED = 64
"""The networks that are counted, those met last."""
_MOST = 8
"""The most recordings: each keeps the memory of a network's inputs and outputs."""


@dataclass(frozen=True)
class Learned:
    """What a network leaves in a step beside gradients."""

    outputs: Outputs
    """What it computed, without a gradient."""
    loss: Tensor
    """The loss, a scalar without a gradient."""
    parameters: Sequence[nn.Parameter]
    """The parameters that it learned by."""


Learn = Callable[..., Learned]
"""The function that computes a network and adds its gradients to those of its parameters, from nested tensors."""
Capture = Callable[[Callable[[], Learned]], tuple[Callable[[], None], Learned]]
"""What records a computation, without doing it: what replays it, and the tensors that hold its results then."""


@dataclass(frozen=True)
class _RecordedNetwork:
    given: Any
    """The nested tensors that it reads."""
    replay: Callable[[], None]
    learned: Learned
    before: Sequence[Tensor | None]
    """The gradients of the parameters that it adds to: None where there are none yet."""
    after: Sequence[Tensor | None]

    @property
    def fits(self) -> bool:
        """Whether the gradients are those that it adds to."""
        parameters = self.learned.parameters
        return all(parameter.grad is grad for parameter, grad in zip(parameters, self.before, strict=True))

    def __call__(self, given: Any) -> Learned:
        torch._foreach_copy_([*tensors_in(self.given)], [*tensors_in(given)])
        self.replay()
        for parameter, grad in zip(self.learned.parameters, self.after, strict=True):
            parameter.grad = grad
        # The next replay writes to the same memory.
        outputs = each_tensor(torch.clone, self.learned.outputs)
        return Learned(outputs, self.learned.loss.clone(), self.learned.parameters)


class Graphs:
    """Computes networks, and replays those that it has met often enough.

    Where a network cannot be recorded, because something of it asks the GPU for numbers or memory does not suffice,
    `say` is told once, and all are computed one operation after the other from then on.
    """

    def __init__(self, parameters: Sequence[nn.Parameter], capture: Capture, say: Callable[[str], None]) -> None:
        self._parameters, self._capture, self._say = parameters, capture, say
        self._recordings: dict[Hashable, _RecordedNetwork] = {}
        self._met: OrderedDict[Hashable, int] = OrderedDict()
        self._works = True

    def __call__(self, network: Hashable, learn: Learn, given: tuple[Any, ...]) -> Learned:
        """Return what `learn(*given)` does, which is the same function of nested tensors for a network each time."""
        key = (network, *((tensor.shape, tensor.stride(), tensor.dtype) for tensor in tensors_in(given)))
        times = _TIMES if key in self._recordings else self._met_before(key)
        with kernels.everywhere() if times >= _TIMES - 1 and self._works else nullcontext():
            if times >= _TIMES and self._works and key not in self._recordings:
                self._record(key, learn, given)
            recording = self._recordings.get(key)
            return learn(*given) if recording is None or not recording.fits else recording(given)

    def _met_before(self, key: Hashable) -> int:
        """Count a meeting; return how many there were before, or that there was none if all recordings are made."""
        if len(self._recordings) >= _MOST:
            return 0
        times = self._met.pop(key, 0)
        self._met[key] = times + 1
        if len(self._met) > _REMEMBERED:
            self._met.popitem(last=False)
        return times

    def _record(self, key: Hashable, learn: Learn, given: tuple[Any, ...]) -> None:
        """Keep the recording of a network; gradients are as before then."""
        before = {parameter: parameter.grad for parameter in self._parameters}
        try:
            kept = each_tensor(torch.clone, given)
            replay, learned = self._capture(lambda: learn(*kept))
            grads = [before[parameter] for parameter in learned.parameters]
            after = [parameter.grad for parameter in learned.parameters]
            self._recordings[key] = _RecordedNetwork(kept, replay, learned, grads, after)
        except RuntimeError as error:
            # Random numbers of recordings may hang together: none is used any more.
            self._works = False
            self._recordings.clear()
            self._say(f"train: networks are not recorded as CUDA graphs, which would be faster: {one_line(error)}")
        for parameter, grad in before.items():
            parameter.grad = grad


def cuda_capture(device: torch.device) -> Capture:
    """Return what records on a GPU; recordings share their memory, since one is replayed after the other."""
    pool = torch.cuda.graph_pool_handle()

    def capture(compute: Callable[[], Learned]) -> tuple[Callable[[], None], Learned]:
        _, total = torch.cuda.mem_get_info(device)
        if 2 * torch.cuda.max_memory_allocated(device) > total:
            raise RuntimeError("the GPU has not twice the memory that a step takes")
        generator = torch.cuda.default_generators[device.index or 0]
        random = generator.clone_state()
        graph = torch.cuda.CUDAGraph()
        try:
            # Other threads may load data meanwhile.
            with torch.cuda.graph(graph, pool=pool, capture_error_mode="thread_local"):
                learned = compute()
        except RuntimeError:
            # A recording that broke off leaves the generator waiting for its end.
            generator.graphsafe_set_state(random)
            raise
        return graph.replay, learned

    return capture
