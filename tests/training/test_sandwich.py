"""The gradients of a step against those of four separate networks by plain autograd."""

from collections.abc import Callable, Mapping
from functools import partial

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from nasdeploy.core.arch import Arch
from nasdeploy.core.plan import Block
from nasdeploy.nn import Forward, eager
from nasdeploy.nn.functional import BATCH, Statistics, rescale
from nasdeploy.nn.network import Network
from nasdeploy.spaces.mobilenet import drop_rates
from nasdeploy.supernet.supernet import SubNetwork, Supernet, extract, input_side
from nasdeploy.tasks.classification import Classification
from nasdeploy.tasks.image_data import distillation_loss, kl_divergence, label_loss
from nasdeploy.tasks.task import Objective
from nasdeploy.training.sampling import draw
from nasdeploy.training.sandwich import Losses, Sandwich, SandwichStep
from nasdeploy.training.step_settings import DistillationSettings
from tests.nn.reference import randomise
from tests.small_spaces import two_stages

SMOOTHING = 0.1
TASK, LABEL = Classification(), partial(label_loss, smoothing=SMOOTHING)


class Recording(Supernet):
    """Remembers what it was called with."""

    def __init__(self) -> None:
        super().__init__(two_stages())
        self.calls: list[tuple[Arch, Mapping[str, float] | None]] = []

    def bind(
        self,
        arch: Arch,
        drop_rates: Mapping[str, float] | None = None,
        statistics: Statistics = BATCH,
        forward_of: Callable[[Block], Forward] = eager,
    ) -> SubNetwork:
        self.calls.append((arch, drop_rates))
        return super().bind(arch, drop_rates, statistics, forward_of)


@pytest.fixture
def supernet() -> Recording:
    torch.manual_seed(0)
    made = Recording()
    randomise(made)
    return made


def batch() -> tuple[Tensor, Tensor]:
    torch.manual_seed(1)
    return torch.randn(6, 3, 8, 8), torch.tensor([0, 1, 2, 0, 1, 2])


def given() -> tuple[tuple[Tensor], Tensor]:
    images, labels = batch()
    return (images,), labels


def sandwich(supernet: Supernet) -> Sandwich:
    return draw(supernet.space, 2, np.random.default_rng(0))


def add(total: dict[str, Tensor], network: Network) -> None:
    """Add a network's gradients to the supernet's by name: leading channels, and the centre of larger kernels."""
    for name, parameter in network.named_parameters():
        if parameter.grad is None:
            continue
        name = "weights." + name.removeprefix("blocks.").replace(".weights.", ".", 1)
        target = total[name]
        places = [slice(0, size) for size in parameter.shape]
        for axis in range(2, parameter.ndim):
            margin = (target.shape[axis] - parameter.shape[axis]) // 2
            places[axis] = slice(margin, margin + parameter.shape[axis])
        target[tuple(places)] += parameter.grad


def logits_of(network: Network, images: Tensor) -> Tensor:
    out: Tensor = network.train()(rescale(images, input_side(network.plan)))
    return out


def by_autograd(supernet: Supernet, step: Sandwich, kind: str, beta: float) -> tuple[dict[str, Tensor], Losses]:
    images, labels = batch()
    total = {name: torch.zeros_like(parameter) for name, parameter in supernet.named_parameters()}
    distillation = distillation_loss(DistillationSettings.model_validate({"kind": kind}))
    largest = extract(supernet, step.networks["largest"][0])
    logits = logits_of(largest, images)
    label_loss = F.cross_entropy(logits, labels, label_smoothing=SMOOTHING)
    torch.autograd.backward(label_loss)
    add(total, largest)
    losses = []
    for arch in step.archs[1:]:
        network = extract(supernet, arch)
        student = logits_of(network, images)
        if distillation is None:
            loss = F.cross_entropy(student, labels, label_smoothing=SMOOTHING)
        else:
            loss = beta * distillation(student, logits.detach())
            loss = loss + (1 - beta) * F.cross_entropy(student, labels, label_smoothing=SMOOTHING)
        torch.autograd.backward(loss)
        add(total, network)
        losses.append(loss.item())
    return total, Losses({"largest": label_loss.item(), "random": (losses[0] + losses[1]) / 2, "smallest": losses[2]})


@pytest.mark.parametrize(("kind", "beta"), [("alpha", 1.0), ("kl", 1.0), ("none", 1.0), ("alpha", 0.5), ("kl", 0.9)])
def test_gradients_are_the_sum_over_the_four_networks(kind: str, beta: float, supernet: Recording) -> None:
    step = sandwich(supernet)
    distillation = distillation_loss(DistillationSettings.model_validate({"kind": kind}))
    found = SandwichStep(supernet, TASK, Objective(LABEL, distillation, beta), {})(step, *given())
    expected, losses = by_autograd(supernet, step, kind, beta)
    assert list(found.by_role) == ["largest", "random", "smallest"]
    assert found.by_role == pytest.approx(losses.by_role)
    assert set(expected) == {name for name, _ in supernet.named_parameters()}
    for name, parameter in supernet.named_parameters():
        assert parameter.grad is not None, name
        torch.testing.assert_close(parameter.grad, expected[name], rtol=1e-4, atol=1e-6, msg=name)


def test_only_the_largest_network_is_regularised(supernet: Recording) -> None:
    step, rates = sandwich(supernet), drop_rates(supernet.space, 0.3, 0.2)
    assert rates
    SandwichStep(supernet, TASK, Objective(LABEL), rates)(step, *given())
    largest = supernet.space.largest()
    assert supernet.calls == [(arch, rates if arch == largest else None) for arch in step.archs]


def test_the_teacher_is_the_largest_networks_output_as_a_constant(supernet: Recording) -> None:
    step, (images, labels) = sandwich(supernet), batch()
    teachers = []

    def distance(student: Tensor, teacher: Tensor) -> Tensor:
        teachers.append(teacher)
        return (student - teacher).square().mean()

    SandwichStep(supernet, TASK, Objective(LABEL, distance), {})(step, (images,), labels)
    expected = supernet(images, step.networks["largest"][0]).detach()
    assert len(teachers) == 3
    for teacher in teachers:
        assert not teacher.requires_grad
        assert torch.equal(teacher, expected)


def test_gradients_add_to_those_that_are_there(supernet: Recording) -> None:
    step = SandwichStep(supernet, TASK, Objective(LABEL), {})
    step(sandwich(supernet), *given())
    once = {name: parameter.grad.clone() for name, parameter in supernet.named_parameters()}
    step(sandwich(supernet), *given())
    for name, parameter in supernet.named_parameters():
        torch.testing.assert_close(parameter.grad, 2 * once[name], rtol=1e-4, atol=1e-6)


def test_a_sandwich_has_both_ends_and_random_ones_between() -> None:
    space = two_stages()
    drawn = draw(space, 3, np.random.default_rng(0))
    assert list(drawn.networks) == ["largest", "random", "smallest"]
    assert (drawn.archs[0], drawn.archs[-1], len(drawn.archs)) == (space.largest(), space.smallest(), 5)
    assert drawn == draw(space, 3, np.random.default_rng(0))
    assert drawn != draw(space, 3, np.random.default_rng(1))
    assert draw(space, 0, np.random.default_rng(0)).networks["random"] == ()


def test_without_random_networks_they_have_no_loss(supernet: Recording) -> None:
    step = SandwichStep(supernet, TASK, Objective(LABEL), {})
    losses = step(draw(supernet.space, 0, np.random.default_rng(0)), *given())
    assert list(losses.by_role) == ["largest", "smallest"]
    assert len(supernet.calls) == 2


@pytest.mark.parametrize("beta", [1.0, 0.25])
def test_all_networks_learn_from_a_teacher_of_their_own(beta: float, supernet: Recording) -> None:
    step, (images, labels) = sandwich(supernet), batch()
    given = torch.randn(6, 3)
    seen: list[Tensor] = []

    def teacher(images: Tensor) -> Tensor:
        seen.append(images)
        return given

    found = SandwichStep(supernet, TASK, Objective(LABEL, kl_divergence, beta), {}, teacher)(step, (images,), labels)
    assert len(seen) == 1 and seen[0] is images
    gradients = {name: parameter.grad.clone() for name, parameter in supernet.named_parameters()}
    supernet.zero_grad()
    losses = []
    for arch in step.archs:
        logits = supernet(images, arch)
        label = F.cross_entropy(logits, labels, label_smoothing=SMOOTHING)
        soft = F.kl_div(logits.log_softmax(1), given.softmax(1), reduction="batchmean")
        losses.append(beta * soft + (1 - beta) * label)
        torch.autograd.backward(losses[-1])
    assert found.by_role["largest"] == pytest.approx(losses[0].item())
    assert found.by_role["smallest"] == pytest.approx(losses[3].item())
    for name, parameter in supernet.named_parameters():
        torch.testing.assert_close(gradients[name], parameter.grad, rtol=1e-4, atol=1e-6, msg=name)


@pytest.mark.parametrize("taught", [True, False])
def test_roles_are_free_and_without_a_leader_all_learn_alike(taught: bool, supernet: Recording) -> None:
    """What once-for-all trains: some random networks and no ends, all from one teacher or from the labels."""
    (images, labels), rng = batch(), np.random.default_rng(3)
    archs, given = tuple(supernet.space.sample(rng) for _ in range(3)), torch.randn(6, 3)
    rates = drop_rates(supernet.space, 0.3, 0.2)
    objective = Objective(LABEL, kl_divergence)
    step = SandwichStep(supernet, TASK, objective, rates, (lambda images: given) if taught else None)
    found = step(Sandwich({"some": archs[:2], "others": archs[2:]}, leader=None), (images,), labels)
    assert supernet.calls == [(arch, None) for arch in archs]
    outputs = [supernet(images, arch) for arch in archs]
    losses = [
        (kl_divergence(each, given) if taught else F.cross_entropy(each, labels, label_smoothing=SMOOTHING)).item()
        for each in outputs
    ]
    assert found.by_role == pytest.approx({"some": (losses[0] + losses[1]) / 2, "others": losses[2]})
    assert step.loss_of("some", Sandwich({"some": archs}, leader=None)) == ("distillation" if taught else "label")
