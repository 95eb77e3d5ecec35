"""Batch normalisation in Triton against PyTorch's in float64: on a GPU, or interpreted (`TRITON_INTERPRET=1`)."""

import os
import random
from collections.abc import Callable, Iterator

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from nasdeploy.nn.kernels import launching, normalisation
from nasdeploy.nn.kernels.normalisation import batch_norm

DEVICE = torch.device("cpu" if os.environ.get("TRITON_INTERPRET") == "1" else "cuda")
FUNCTIONS: dict[str, Callable[[Tensor], Tensor]] = {
    "none": lambda z: z,
    "swish": F.silu,
    "relu": F.relu,
    "relu6": F.relu6,
    "hswish": F.hardswish,
}
# The interpreter cuts off what a GPU rounds.
ROUNDING = 1 if DEVICE.type == "cuda" else 2
RELATIVE = {torch.float32: 1e-5, torch.bfloat16: ROUNDING * 2**-8, torch.float16: ROUNDING * 2**-11}


@pytest.fixture
def small_tiles(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Let few numbers make many programs, steps and pieces; on a GPU that compiles other kernels."""
    for name, value in {
        "BLOCK": 16, "LANES": 2, "UNROLL": 2, "GRADIENT_UNROLL": 1, "MERGED_PIECES": 8, "WARPS": 1,
    }.items():  # fmt: skip
        monkeypatch.setattr(normalisation, name, value)
    normalisation._plan.cache_clear()
    yield
    normalisation._plan.cache_clear()


def draw(*shape: int, dtype: torch.dtype = torch.float32, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed)).to(DEVICE, dtype)


def images(*shape: int, dtype: torch.dtype = torch.float32, seed: int = 0) -> Tensor:
    return draw(*shape, dtype=dtype, seed=seed).contiguous(memory_format=torch.channels_last)


def reference(
    x: Tensor, weight: Tensor, bias: Tensor, activation: str, residual: Tensor | None, gradient: Tensor, eps: float
) -> list[Tensor]:
    """Return output and gradients in float64; PyTorch refuses one value per channel, but the formulas do not."""
    leaves = [t.detach().double().requires_grad_() for t in (x, weight, bias, residual) if t is not None]
    var, mean = torch.var_mean(leaves[0], (0, 2, 3), correction=0, keepdim=True)
    z = (leaves[0] - mean) / (var + eps).sqrt() * leaves[1].view(1, -1, 1, 1) + leaves[2].view(1, -1, 1, 1)
    if x.numel() > x.shape[1]:
        torch.testing.assert_close(z, F.batch_norm(leaves[0], None, None, leaves[1], leaves[2], True, 0.0, eps))
    y = FUNCTIONS[activation](z) if residual is None else z + leaves[3]
    return [y.detach(), *torch.autograd.grad(y, leaves, gradient.double())]


def check(
    x: Tensor, activation: str = "none", residual: Tensor | None = None, eps: float = 1e-5, tolerance: float = 0.0,
    gradient: Tensor | None = None, seed: int = 0,
) -> None:  # fmt: skip
    """Compare output and gradients; a number may be off by its rounding, and by 1e-5 of the largest beside it."""
    channels = x.shape[1]
    weight, bias = 1 + draw(channels, seed=seed + 1) / 2, draw(channels, seed=seed + 2)
    leaves = [t.detach().requires_grad_() for t in (x, weight, bias, residual) if t is not None]
    y = batch_norm(leaves[0], leaves[1], leaves[2], eps, activation, leaves[3] if residual is not None else None)
    assert y.dtype == x.dtype and y.is_contiguous(memory_format=torch.channels_last)
    if gradient is None:
        gradient = images(*x.shape, dtype=x.dtype, seed=seed + 3)
    made = [y.detach(), *torch.autograd.grad(y, leaves, gradient)]
    right = reference(x, weight, bias, activation, residual, gradient, eps)
    for name, own, exact in zip(("y", "of x", "of weight", "of bias", "of residual"), made, right, strict=False):
        assert own.shape == exact.shape, name
        relative = max(tolerance, RELATIVE[own.dtype])
        scale = exact.abs().amax()
        if name == "of x":
            # It is a difference, of which little is left where all images lie on a line, as two numbers do.
            deviation = (x.double().var((0, 2, 3), correction=0) + eps).sqrt()
            scale = (gradient.abs().amax((0, 2, 3)) * weight.abs() / deviation).amax()
        bound = relative * exact.abs() + max(tolerance, 1e-5) * scale
        worst = ((own.double() - exact).abs() / bound.clamp_min(1e-12)).amax().item()
        assert worst <= 1, (name, worst)


@pytest.mark.parametrize("activation", FUNCTIONS)
@pytest.mark.parametrize(("dtype", "channels"), [(torch.float32, 5), (torch.bfloat16, 24), (torch.float16, 8)])
def test_equals_pytorch(activation: str, dtype: torch.dtype, channels: int) -> None:
    # The deviations of most numbers are large enough to reach the kinks.
    check(images(2, channels, 5, 3, dtype=dtype) * 2 + 1, activation)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("channels", [7, 16, 40])
def test_residual(dtype: torch.dtype, channels: int) -> None:
    check(images(2, channels, 3, 4, dtype=dtype), residual=images(2, channels, 3, 4, dtype=dtype, seed=9))


@pytest.mark.parametrize("shape", [(3, 96, 9, 11), (1, 8, 70, 64)])
def test_many_tiles(shape: tuple[int, int, int, int]) -> None:
    check(images(*shape), "swish")


@pytest.mark.parametrize("images_count", [1, 17])
@pytest.mark.parametrize("channels", [3, 136])
def test_one_position(images_count: int, channels: int) -> None:
    check(images(images_count, channels, 1, 1), "hswish")


@pytest.mark.usefixtures("small_tiles")
@pytest.mark.parametrize("seed", range(12))
def test_random_shapes(seed: int) -> None:
    choose = random.Random(seed)
    shape = [choose.choice(sizes) for sizes in ([1, 2, 3], [1, 2, 5, 8, 11, 16, 24, 30, 40], [1, 2, 5, 7], [1, 3, 6])]
    dtype, activation = choose.choice(list(RELATIVE)), choose.choice(list(FUNCTIONS))
    residual = images(*shape, dtype=dtype, seed=seed + 9) if activation == "none" and choose.random() < 0.5 else None
    check(
        images(*shape, dtype=dtype, seed=seed) * 1.5 - 0.5, activation, residual, choose.choice([1e-5, 1e-3]), seed=seed
    )


@pytest.mark.usefixtures("small_tiles")
@pytest.mark.parametrize("channels", [3, 8, 24])
def test_chunks_are_many(channels: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(normalisation, "PROGRAMS_PER_PROCESSOR", 50)
    assert normalisation._plan(4 * 13 * 7, channels, torch.device("cpu")).grid[1] > 4
    check(images(4, channels, 13, 7) + 3, "swish")


@pytest.mark.parametrize("small", [False, True])
def test_large_mean(small: bool, request: pytest.FixtureRequest) -> None:
    if small:
        request.getfixturevalue("small_tiles")
    x = images(3, 8, 12, 10) + 1000
    weight, bias = torch.ones(8, device=DEVICE), torch.zeros(8, device=DEVICE)
    y = batch_norm(x, weight, bias, 1e-5)
    exact = F.batch_norm(x.double(), None, None, weight.double(), bias.double(), True, 0.0, 1e-5)
    assert (y - exact).abs().max() < 1e-3
    check(x, "swish", tolerance=1e-3)


@pytest.mark.parametrize("activation", ["relu", "relu6", "hswish"])
def test_kinks(activation: str) -> None:
    """Numbers that are exactly at kinks: all of a channel equal, so that the bias is what is activated."""
    kinks = torch.tensor([-3.0, 0.0, 3.0, 6.0, 1.0, -4.0, 7.0, 2.0], device=DEVICE)
    x, weight = images(2, 8, 2, 2) * 0 + 5, torch.ones(8, device=DEVICE)
    bias = kinks.clone().requires_grad_()
    y = batch_norm(x, weight, bias, 1e-5, activation)
    z = kinks.view(1, -1, 1, 1).expand(2, 8, 2, 2).detach().requires_grad_()
    right = FUNCTIONS[activation](z)
    torch.testing.assert_close(y, right, rtol=1e-6, atol=1e-6)
    of_z = torch.autograd.grad(right.sum(), z)[0]
    torch.testing.assert_close(torch.autograd.grad(y.sum(), bias)[0], of_z.sum((0, 2, 3)), rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("activation", FUNCTIONS)
def test_not_a_number_spreads_over_its_channel(activation: str) -> None:
    x = images(2, 8, 2, 2)
    x[1, 3, 0, 1] = float("nan")
    y = batch_norm(x, torch.ones(8, device=DEVICE), torch.zeros(8, device=DEVICE), 1e-5, activation)
    assert y[:, 3].isnan().all() and not y[:, :3].isnan().any() and not y[:, 4:].isnan().any()


def test_other_layouts() -> None:
    x = draw(2, 8, 3, 5)
    check(x, "relu", gradient=draw(2, 8, 3, 5, seed=4))
    check(x.contiguous(memory_format=torch.channels_last), "swish", gradient=draw(2, 8, 1, 1).expand(2, 8, 3, 5))
    wide = images(2, 16, 3, 5)
    check(wide[:, 4:12], "swish")
    check(images(5, 5, 3, 3)[1:], "swish")
    check(x, residual=draw(2, 8, 3, 5, seed=5))


def test_parameters_of_the_data_type_of_images() -> None:
    x = images(2, 8, 3, 3, dtype=torch.bfloat16)
    weight = draw(8, dtype=torch.bfloat16, seed=1).requires_grad_()
    bias = draw(16, dtype=torch.bfloat16, seed=2)[3:11].requires_grad_()
    y = batch_norm(x, weight, bias, 1e-5, "swish")
    of_weight, of_bias = torch.autograd.grad(y, [weight, bias], torch.ones_like(y))
    right = reference(x, weight, bias, "swish", None, torch.ones_like(y), 1e-5)
    assert of_weight.dtype == of_bias.dtype == torch.bfloat16
    for own, exact in zip((y, of_weight, of_bias), (right[0], right[2], right[3]), strict=True):
        torch.testing.assert_close(own.double(), exact, rtol=2**-6, atol=1e-4)


@pytest.mark.parametrize("wanted", range(1, 16))
def test_only_gradients_that_are_wanted(wanted: int) -> None:
    tensors = [images(2, 8, 2, 3), draw(8, seed=1), draw(8, seed=2), images(2, 8, 2, 3, seed=3)]
    for i, tensor in enumerate(tensors):
        tensor.requires_grad_(bool(wanted >> i & 1))
    gradient = images(2, 8, 2, 3, seed=4)
    batch_norm(tensors[0], tensors[1], tensors[2], 1e-5, residual=tensors[3]).backward(gradient)
    right = reference(tensors[0], tensors[1], tensors[2], "none", tensors[3], gradient, 1e-5)[1:]
    for i, (tensor, exact) in enumerate(zip(tensors, right, strict=True)):
        assert (tensor.grad is not None) == bool(wanted >> i & 1)
        if tensor.grad is not None:
            torch.testing.assert_close(tensor.grad.double(), exact, rtol=1e-5, atol=1e-5)


def test_same_bits_twice() -> None:
    leaves = [images(2, 24, 6, 6).requires_grad_(), draw(24).requires_grad_(), draw(24).requires_grad_()]
    made = []
    for _ in range(2):
        y = batch_norm(leaves[0], leaves[1], leaves[2], 1e-5, "swish")
        made.append([y, *torch.autograd.grad(y, leaves, images(2, 24, 6, 6, seed=5))])
    assert all(torch.equal(a, b) for a, b in zip(*made, strict=True))


@pytest.mark.skipif(DEVICE.type == "cpu", reason="needs a GPU")
def test_cuda_graph_and_no_compilation_for_other_sizes() -> None:
    leaves = [images(4, 48, 9, 9).requires_grad_(), draw(48).requires_grad_(), draw(48).requires_grad_()]

    def step() -> list[Tensor]:
        y = batch_norm(leaves[0], leaves[1], leaves[2], 1e-5, "swish")
        return [y, *torch.autograd.grad(y, leaves, y.detach())]

    side = torch.cuda.Stream()
    side.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(side):
        step()
    torch.cuda.current_stream().wait_stream(side)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        captured = step()
    with torch.no_grad():
        leaves[0].copy_(images(4, 48, 9, 9, seed=7))
    graph.replay()
    assert all(torch.equal(a, b) for a, b in zip(captured, step(), strict=True))
    before = len(launching._known)
    for shape in ((1, 8, 1, 1), (2, 1792, 5, 5), (16, 16, 33, 31), (3, 104, 7, 2)):
        check(images(*shape), "swish")
    assert len(launching._known) == before
