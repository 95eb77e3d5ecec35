"""Depthwise convolutions that learn: PyTorch's output and gradients, up to the order of sums."""

from typing import Any, get_args

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from nasdeploy.blocks.feature_maps import Padding, margins
from nasdeploy.nn.depthwise import depthwise, is_faster
from nasdeploy.nn.functional import pad_and_convolve

MANY = 512
"""Images whose channels, two each, are just enough."""


@pytest.fixture(autouse=True)
def avx2(monkeypatch: pytest.MonkeyPatch) -> None:
    """Have every processor be one with AVX2: what is computed is right anywhere."""
    monkeypatch.setattr(torch.backends.cpu, "get_cpu_capability", lambda: "AVX2")


def tensors(images: int, channels: int, side: int, kernel: int) -> tuple[Tensor, Tensor]:
    torch.manual_seed(0)
    x = torch.randn(images, channels, side, side).to(memory_format=torch.channels_last)
    return x.requires_grad_(), torch.randn(channels, 1, kernel, kernel, requires_grad=True)


def plain(x: Tensor, weight: Tensor, stride: int, around: tuple[int, int]) -> Tensor:
    """What PyTorch computes by itself."""
    return F.conv2d(F.pad(x, around * 2), weight, None, stride, 0, 1, len(weight))


def learned(y: Tensor, *leaves: Tensor) -> tuple[Tensor, ...]:
    """Gradients of something that weighs every output otherwise."""
    weights = torch.linspace(-1, 1, y.numel(), dtype=torch.float64).view(y.shape).to(y.dtype)
    return torch.autograd.grad((y * weights).sum(), leaves)


Shape = tuple[int, int, int, Padding]
"""A kernel, the side of an image, the stride, and how it is padded."""
SIDES = {3: 3, 5: 13, 7: 6}
"""The largest image for each kernel."""


def served(shape: Shape) -> bool:
    kernel, side, stride, padding = shape
    x = torch.empty(MANY, 2, side, side).to(memory_format=torch.channels_last)
    weight = torch.empty(2, 1, kernel, kernel, requires_grad=True)
    return is_faster(x, weight, stride, margins(side, kernel, stride, padding), 2)


def shapes_of(kernel: int) -> st.SearchStrategy[Shape]:
    sides, strides = st.integers(1, SIDES[kernel]), st.sampled_from((1, 2))
    return st.tuples(st.just(kernel), sides, strides, st.sampled_from(get_args(Padding)))


@settings(max_examples=30, deadline=None)
@given(
    shape=st.sampled_from(sorted(SIDES)).flatmap(shapes_of).filter(served),
    images=st.integers(1, 4),
    channels=st.integers(1, 20),
)
def test_output_and_gradients_are_those_of_pytorch_in_float64(shape: Shape, images: int, channels: int) -> None:
    kernel, side, stride, padding = shape
    around = margins(side, kernel, stride, padding)
    x, weight = tensors(images, channels, side, kernel)
    y = depthwise(x, weight, stride, around)
    assert torch.equal(y, pad_and_convolve(x, weight, stride, around, channels))
    exact, exact_weight = (each.detach().double().requires_grad_() for each in (x, weight))
    wanted = plain(exact, exact_weight, stride, around)
    torch.testing.assert_close(y.double(), wanted, rtol=1e-5, atol=1e-5)
    for ours, pytorchs in zip(learned(y, x, weight), learned(wanted, exact, exact_weight), strict=True):
        assert ours.dtype == torch.float32
        torch.testing.assert_close(ours.double(), pytorchs, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(("kernel", "side", "stride"), [(5, 3, 1), (5, 6, 1), (5, 7, 1), (5, 6, 2), (3, 2, 1)])
def test_only_what_is_needed_is_computed(kernel: int, side: int, stride: int) -> None:
    x, weight = tensors(MANY, 2, side, kernel)
    around = margins(side, kernel, stride, "symmetric")
    both = learned(depthwise(x, weight, stride, around), x, weight)
    assert torch.equal(both[0], learned(depthwise(x, weight.detach(), stride, around), x)[0])
    assert torch.equal(both[1], learned(depthwise(x.detach(), weight, stride, around), weight)[0])


def count(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Note each depthwise convolution that a block computes by the function of its own."""
    noted: list[str] = []

    def noting(*given: Any) -> Tensor:
        noted.append("depthwise")
        return depthwise(*given)

    monkeypatch.setattr("nasdeploy.nn.functional.depthwise", noting)
    return noted


def test_it_serves_training_on_the_cpu_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    noted = count(monkeypatch)
    x, weight = tensors(MANY, 2, 3, 5)

    def convolve(x: Tensor = x, weight: Tensor = weight, groups: int = 2) -> int:
        noted.clear()
        pad_and_convolve(x, weight, 1, (2, 2), groups)
        return len(noted)

    assert convolve() == 1
    assert convolve(x.detach()) == 1
    assert convolve(weight=weight.detach()) == 0
    assert convolve(x[1:]) == 0
    assert convolve(x.contiguous()) == 0
    assert convolve(x.double(), weight.double()) == 0
    assert convolve(x.to("meta"), weight.to("meta")) == 0
    assert convolve(weight=torch.randn(2, 2, 5, 5, requires_grad=True), groups=1) == 0
    with torch.no_grad():
        assert convolve() == 0
    with torch.autocast("cpu", torch.bfloat16):
        assert convolve() == 0
    monkeypatch.setattr(torch.backends.cpu, "get_cpu_capability", lambda: "AVX512")
    assert convolve() == 0


@pytest.mark.parametrize(
    ("kernel", "side", "stride", "padding", "faster"),
    [
        *((5, side, stride, padding, True) for side in (3, 12) for stride in (1, 2) for padding in get_args(Padding)),
        (5, 32, 1, "symmetric", True),
        (5, 33, 1, "symmetric", False),
        (3, 2, 1, "symmetric", True),
        (3, 3, 1, "symmetric", False),
        (3, 3, 2, "symmetric", True),
        (3, 4, 2, "symmetric", False),
        (3, 4, 2, "same", False),
        (7, 6, 1, "symmetric", True),
        (7, 7, 1, "symmetric", False),
        (1, 1, 1, "symmetric", False),
    ],
)
def test_it_serves_the_shapes_that_pytorch_is_slow_for(
    kernel: int, side: int, stride: int, padding: Padding, *, faster: bool
) -> None:
    assert served((kernel, side, stride, padding)) is faster


class _Convolving(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(2, 1, 5, 5))

    def forward(self, x: Tensor) -> Tensor:
        return pad_and_convolve(x, self.weight, 1, (2, 2), 2)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:.torch.jit:FutureWarning")
def test_what_is_exported_or_traced_is_a_convolution(monkeypatch: pytest.MonkeyPatch) -> None:
    noted, module, x = count(monkeypatch), _Convolving(), tensors(MANY, 2, 3, 5)[0].detach()
    graph = torch.export.export(module, (x,)).graph
    assert [node.target for node in graph.nodes if node.op == "call_function"] == [torch.ops.aten.conv2d.default]
    torch.jit.trace(module, x, check_trace=False)  # type: ignore[no-untyped-call]
    assert not noted
    module(x)
    assert noted


def test_gradients_are_not_differentiated_again() -> None:
    x, weight = tensors(MANY, 2, 3, 5)
    (gradient,) = torch.autograd.grad(depthwise(x, weight, 1, (2, 2)).square().sum(), weight, create_graph=True)
    with pytest.raises(RuntimeError, match="once_differentiable"):
        gradient.sum().backward()
