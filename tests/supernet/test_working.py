"""Networks whose weights are taken all at once compute what those sliced one by one do, bit for bit, and so learn."""

from collections.abc import Sequence
from contextlib import nullcontext
from functools import partial
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from nasdeploy.core.arch import Arch
from nasdeploy.core.space import SearchSpace
from nasdeploy.nn.network import PartRunner
from nasdeploy.supernet.supernet import Supernet, input_side
from nasdeploy.supernet.working import WorkingWeights
from tests.benchmarks.bench_operations import OperationCounter
from tests.families.families import registered
from tests.families.space import CONTEXT, FEATURES, FRAMES, WRITTEN, Writer
from tests.nn.reference import randomise
from tests.small_spaces import GROWN, two_stages
from tests.supernet.gradients import randomise_transforms
from tests.supernet.test_sharing import SPACE as TRANSFORMING

LAYOUTS = {"contiguous": torch.contiguous_format, "channels_last": torch.channels_last}
FORMATS: dict[str, Any] = {
    "float32": nullcontext,
    "bf16": partial(torch.autocast, "cpu", dtype=torch.bfloat16),
    "fp16": partial(torch.autocast, "cpu", dtype=torch.float16),
}
Precision = Any


def spaces() -> dict[str, SearchSpace]:
    return {"stages": two_stages(), "grown": GROWN.build(10), "transforming": TRANSFORMING}


def made(space: SearchSpace, layout: str = "channels_last") -> Supernet:
    torch.manual_seed(0)
    supernet = Supernet(space)
    randomise(supernet)
    randomise_transforms(supernet)
    return supernet.to(memory_format=LAYOUTS[layout])


def archs(space: SearchSpace, count: int = 3) -> list[Arch]:
    rng = np.random.default_rng(0)
    return [space.largest(), *(space.sample(rng) for _ in range(count)), space.smallest(), space.largest()]


def images(supernet: Supernet) -> Tensor:
    side = input_side(supernet.space.plan(supernet.space.largest()))
    drawn = torch.randn(3, 3, side, side, generator=torch.Generator().manual_seed(1))
    return drawn.to(memory_format=torch.channels_last)


def classify(runner: PartRunner, x: Tensor) -> Tensor:
    (logits,) = runner.run(runner.plan.only.name, x)
    return logits


def write(runner: PartRunner, frames: Tensor) -> Tensor:
    """The step part runs several times, with the same tensors."""
    memory, summary = runner.run("encoder", frames)
    tokens = torch.arange(CONTEXT).repeat(len(frames), 1)
    return torch.cat([runner.run("step", memory, summary, (tokens + n) % 7)[0] for n in range(WRITTEN)])


def assert_alike(supernet: Supernet, chosen: Sequence[Arch], compute: Any, precision: Precision) -> None:
    """Compare outputs, and the gradients that networks add up to, one by one."""
    gradients: list[dict[str, Tensor | None]] = []
    outputs: list[list[Tensor]] = []
    working = WorkingWeights(supernet)
    for sliced in (True, False):
        supernet.zero_grad()
        outputs.append([])
        for arch in chosen:
            bound = supernet.bind(arch)
            with precision():
                taken = None if sliced else working.take(bound)
                found = compute(bound if taken is None else taken.network)
            loss = found.float().square().mean()
            if taken is None:
                torch.autograd.backward(loss)
            else:
                taken.learn(loss)
            outputs[-1].append(found.detach())
        gradients.append({name: parameter.grad for name, parameter in supernet.named_parameters()})
    assert all(torch.equal(one, other) for one, other in zip(*outputs, strict=True))
    for name, expected in gradients[0].items():
        found = gradients[1][name]
        assert (found is None) == (expected is None), name
        if expected is not None and found is not None:
            assert found.dtype == torch.float32
            assert torch.equal(found, expected), name
    assert any(gradient is not None and gradient.any() for gradient in gradients[0].values())


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("name", ["stages", "grown", "transforming"])
@pytest.mark.parametrize("precision", FORMATS)
def test_outputs_and_gradients_are_those_of_slicing_one_by_one(precision: str, name: str, layout: str) -> None:
    supernet = made(spaces()[name], layout)
    x = images(supernet)
    assert_alike(supernet, archs(supernet.space), partial(classify, x=x), FORMATS[precision])
    # A random network alone leaves parameters without a gradient.
    assert_alike(supernet, archs(supernet.space)[1:2], partial(classify, x=x), FORMATS[precision])


@pytest.mark.parametrize("precision", ["float32", "bf16"])
def test_parts_that_run_several_times_and_tied_weights_learn_alike(precision: str) -> None:
    with registered():
        torch.manual_seed(0)
        supernet = Supernet(Writer())
        frames = torch.randn(3, FRAMES, FEATURES)
        assert_alike(supernet, archs(supernet.space), partial(write, frames=frames), FORMATS[precision])


def learned(working: WorkingWeights, supernet: Supernet, arch: Arch, x: Tensor) -> None:
    taken = working.take(supernet.bind(arch))
    taken.learn(classify(taken.network, x).square().mean())


def test_gradients_stay_where_they_are_and_add_to_what_is_there() -> None:
    supernet = made(two_stages())
    working, x, arch = WorkingWeights(supernet), images(supernet), supernet.space.smallest()
    learned(working, supernet, arch, x)
    weight = supernet.weights["stem"].conv.weight
    held, once = weight.grad, weight.grad.clone()
    supernet.zero_grad(set_to_none=True)
    learned(working, supernet, arch, x)
    assert weight.grad is held
    assert torch.equal(held, once)
    supernet.zero_grad(set_to_none=False)
    learned(working, supernet, arch, x)
    assert torch.equal(weight.grad, once)
    weight.grad = torch.ones_like(weight)
    learned(working, supernet, arch, x)
    assert torch.equal(weight.grad, 1 + once)
    weight.grad.fill_(float("nan"))
    supernet.zero_grad(set_to_none=True)
    learned(working, supernet, arch, x)
    assert torch.equal(weight.grad, once)


def test_weights_are_those_of_now() -> None:
    supernet = made(two_stages())
    working, x, arch = WorkingWeights(supernet), images(supernet), supernet.space.smallest()
    for _ in range(2):
        assert torch.equal(classify(working.take(supernet.bind(arch)).network, x), supernet(x, arch))
        with torch.no_grad():
            for parameter in supernet.parameters():
                parameter += 0.1


def test_what_does_not_learn_has_no_gradient_and_no_memory_for_one() -> None:
    supernet = made(two_stages())
    supernet.requires_grad_(False)
    supernet.weights["head"].classifier.requires_grad_(True)
    working = WorkingWeights(supernet)
    learned(working, supernet, supernet.space.smallest(), images(supernet))
    names = {name for name, parameter in supernet.named_parameters() if parameter.grad is not None}
    assert names == {"weights.head.classifier.weight", "weights.head.classifier.bias"}
    assert len(working._gradients) == 2


def test_no_operation_is_made_for_each_weight() -> None:
    supernet = made(two_stages())
    working, x = WorkingWeights(supernet), images(supernet)
    for _ in range(2):  # The first makes the views.
        supernet.zero_grad()
        with OperationCounter(list(supernet.parameters())) as counter:
            for arch in (supernet.space.largest(), supernet.space.smallest()):
                with FORMATS["bf16"]():
                    taken = working.take(supernet.bind(arch))
                    y = classify(taken.network, x)
                taken.learn(y.float().square().mean())
    of_weights = {name: count for (role, name), count in counter.names.items() if role == "weights"}
    # A copy for each network, and one of the first gradients; `F.linear` transposes the weight of the classifier.
    assert of_weights == {"_foreach_copy_": 3, "_foreach_add_": 1, "t": 4}
