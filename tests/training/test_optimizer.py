"""Optimizers and clipping against their update rules, by hand in float64."""

import math
from collections.abc import Callable

import pytest
import torch

from nasdeploy.core.errors import UserError
from nasdeploy.recipe import Recipe
from nasdeploy.supernet.supernet import Supernet
from nasdeploy.training.optimizer import clip_gradients, make_optimizer, set_learning_rate
from nasdeploy.training.settings import TrainSettings
from tests.small_spaces import two_stages
from tests.training.recipes import tiny_recipe

GRADIENTS = (1.0, -0.5, 2.0)
Rule = Callable[[float, float], float]
"""From a value and its gradient, weight decay included, to the next value."""


def settings(**changes: object) -> TrainSettings:
    return TrainSettings.model_validate({"epochs": 20, **changes})


@pytest.mark.parametrize("optimizer", ["sgd", "rmsprop", "adamw"])
def test_weights_decay_and_vectors_do_not(optimizer: str) -> None:
    supernet = Supernet(two_stages())
    made = make_optimizer(supernet, settings(optimizer=optimizer, weight_decay=1e-3))
    decay = {id(p): group["weight_decay"] for group in made.param_groups for p in group["params"]}
    assert len(decay) == len(list(supernet.parameters()))
    for name, parameter in supernet.named_parameters():
        vector = "norm" in name or name.endswith("bias")
        assert decay[id(parameter)] == (0.0 if vector else 1e-3), name


@pytest.mark.parametrize("optimizer", ["sgd", "rmsprop", "adamw"])
def test_the_rate_reaches_every_group(optimizer: str) -> None:
    made = make_optimizer(Supernet(two_stages()), settings(optimizer=optimizer))
    set_learning_rate(made, 0.007)
    assert [group["lr"] for group in made.param_groups] == [0.007, 0.007]


def nesterov(rate: float, momentum: float) -> Rule:
    """SGD with Nesterov momentum: v = m v + g, w -= rate (g + m v)."""
    velocity = 0.0

    def step(value: float, gradient: float) -> float:
        nonlocal velocity
        velocity = momentum * velocity + gradient
        return value - rate * (gradient + momentum * velocity)

    return step


def rmsprop(rate: float, momentum: float, decay: float, epsilon: float) -> Rule:
    """TensorFlow's: s from 1, s = d s + (1 - d) g^2, v = m v + rate g / sqrt(s + epsilon), w -= v."""
    square, velocity = 1.0, 0.0

    def step(value: float, gradient: float) -> float:
        nonlocal square, velocity
        square = decay * square + (1 - decay) * gradient**2
        velocity = momentum * velocity + rate * gradient / math.sqrt(square + epsilon)
        return value - velocity

    return step


def adam(rate: float, betas: tuple[float, float], epsilon: float, decay: float) -> Rule:
    """Adam with bias correction and decoupled decay."""
    first, second, count = 0.0, 0.0, 0

    def step(value: float, gradient: float) -> float:
        nonlocal first, second, count
        count += 1
        first = betas[0] * first + (1 - betas[0]) * gradient
        second = betas[1] * second + (1 - betas[1]) * gradient**2
        root = math.sqrt(second / (1 - betas[1] ** count)) + epsilon
        return value * (1 - rate * decay) - rate * first / (1 - betas[0] ** count) / root

    return step


def stepped(made: TrainSettings) -> tuple[float, float]:
    """A weight from 2 and a bias from 3 after a step for each of `GRADIENTS`."""
    layer = torch.nn.Linear(1, 1, bias=True).double()
    with torch.no_grad():
        layer.weight.fill_(2.0)
        layer.bias.fill_(3.0)
    optimizer = make_optimizer(layer, made)
    for gradient in GRADIENTS:
        layer.weight.grad, layer.bias.grad = torch.full((1, 1), gradient).double(), torch.tensor([gradient]).double()
        optimizer.step()
    return layer.weight.item(), layer.bias.item()


def by_rule(rule: Rule, value: float, decay: float) -> float:
    for gradient in GRADIENTS:
        value = rule(value, gradient + decay * value)
    return value


def test_sgd_is_nesterov_momentum_with_decay() -> None:
    weight, bias = stepped(settings(weight_decay=0.1, learning_rate=0.5, momentum=0.9))
    assert weight == pytest.approx(by_rule(nesterov(0.5, 0.9), 2.0, 0.1))
    assert bias == pytest.approx(by_rule(nesterov(0.5, 0.9), 3.0, 0.0))


@pytest.mark.parametrize("epsilon", [None, 0.5])
def test_rmsprop_has_epsilon_inside_the_root_as_in_tensorflow(epsilon: float | None) -> None:
    made = settings(
        optimizer="rmsprop", weight_decay=0.1, learning_rate=0.5, momentum=0.8, rmsprop_decay=0.7, epsilon=epsilon
    )
    weight, bias = stepped(made)
    assert weight == pytest.approx(by_rule(rmsprop(0.5, 0.8, 0.7, epsilon or 1e-3), 2.0, 0.1))
    assert bias == pytest.approx(by_rule(rmsprop(0.5, 0.8, 0.7, epsilon or 1e-3), 3.0, 0.0))


@pytest.mark.parametrize("epsilon", [None, 0.5])
def test_adamw_decays_apart_from_the_gradient(epsilon: float | None) -> None:
    made = settings(optimizer="adamw", weight_decay=0.1, learning_rate=0.5, betas=(0.8, 0.98), epsilon=epsilon)
    weight, bias = stepped(made)
    assert weight == pytest.approx(by_rule(adam(0.5, (0.8, 0.98), epsilon or 1e-8, 0.1), 2.0, 0.0))
    assert bias == pytest.approx(by_rule(adam(0.5, (0.8, 0.98), epsilon or 1e-8, 0.0), 3.0, 0.0))


@pytest.mark.parametrize("optimizer", ["sgd", "rmsprop", "adamw"])
def test_updating_all_parameters_together_changes_no_bit(optimizer: str) -> None:
    made = settings(optimizer=optimizer, weight_decay=1e-3, learning_rate=0.3)
    supernets = [Supernet(two_stages()) for _ in range(2)]
    supernets[1].load_state_dict(supernets[0].state_dict())
    together, apart = (make_optimizer(supernet, made) for supernet in supernets)
    assert all(group["foreach"] is True for group in together.param_groups)
    for group in apart.param_groups:
        group["foreach"] = False
    for _ in range(3):
        for one, other in zip(*(supernet.parameters() for supernet in supernets), strict=True):
            one.grad = torch.randn_like(one)
            other.grad = one.grad.clone()
        together.step()
        apart.step()
    for one, other in zip(*(supernet.parameters() for supernet in supernets), strict=True):
        assert torch.equal(one, other)


# -- clipping


def clipped(**changes: object) -> list[float]:
    """The gradients 3 and -4 of two parameters, and none of a third, after clipping."""
    parameters = [torch.nn.Parameter(torch.zeros(1)) for _ in range(3)]
    parameters[0].grad, parameters[1].grad = torch.tensor([3.0]), torch.tensor([-4.0])
    assert clip_gradients(iter(parameters), settings(**changes)) == 5.0
    assert parameters[2].grad is None
    return [parameter.grad.item() for parameter in parameters[:2]]


def test_gradients_are_clipped_one_by_one_or_as_a_whole() -> None:
    assert clipped() == [1.0, -1.0]
    assert clipped(clip_value=3.5) == [3.0, -3.5]
    assert clipped(clip_value=None, clip_norm=2.5) == pytest.approx([1.5, -2.0])
    assert clipped(clip_value=None, clip_norm=6.0) == [3.0, -4.0]
    assert clipped(clip_value=None) == [3.0, -4.0]


# -- what a recipe may say


@pytest.mark.parametrize(
    ("assignments", "said"),
    [
        (["train.epsilon=0.1"], "epsilon has an effect only with optimizer: rmsprop or adamw, and optimizer is sgd"),
        (["train.rmsprop_decay=0.8"], "rmsprop_decay has an effect only with optimizer: rmsprop, and optimizer is sgd"),
        (["train.optimizer=adamw", "train.momentum=0.5"], "momentum has an effect only with optimizer: sgd or rmsprop"),
        (["train.optimizer=rmsprop", "train.betas=[0.8, 0.9]"], "betas has an effect only with optimizer: adamw"),
        (["train.step_factor=0.5"], "step_factor has an effect only with decay: step, and decay is cosine"),
        (["train.clip_norm=1"], "clip_value and clip_norm exclude each other; set one of them to null"),
        (["train.optimizer=lion"], "train.optimizer is \"lion\": input should be 'sgd', 'rmsprop' or 'adamw'"),
        (["train.lowest=1"], "train.lowest is 1: input should be less than 1"),
    ],
)
def test_a_key_without_effect_is_refused(assignments: list[str], said: str) -> None:
    with pytest.raises(UserError) as caught:
        tiny_recipe(*assignments)
    assert said in str(caught.value)


@pytest.mark.parametrize(
    "assignments",
    [
        [],
        ["train.optimizer=rmsprop", "train.epsilon=1e-3", "train.momentum=0"],
        ["train.optimizer=adamw", "train.betas=[0.9, 0.98]", "train.nesterov=false"],
        ["train.decay=step", "train.step_epochs=1", "train.clip_value=null", "train.clip_norm=5"],
    ],
)
def test_a_saved_recipe_is_read_back(assignments: list[str]) -> None:
    recipe = tiny_recipe(*assignments)
    assert Recipe.model_validate_json(recipe.model_dump_json()) == recipe
