"""Learning rate and optimizer by the recipe of AlphaNet, appendix B."""

import math

import pytest
import torch

from nasdeploy.spaces import load_space
from nasdeploy.supernet.supernet import Supernet
from nasdeploy.train.optimizer import make_optimizer, set_learning_rate
from nasdeploy.train.schedule import learning_rate
from nasdeploy.train.settings import TrainSettings
from tests.supernet.tiny import tiny_space

STEPS = 10


def settings(**changes: object) -> TrainSettings:
    return TrainSettings.model_validate({"epochs": 20, "warmup_epochs": 2.5, "batch_size": 64, **changes})


@pytest.mark.parametrize("step", [0, 1, 12, 24, 25, 26, 100, 150, 199])
def test_the_rate_is_a_warm_up_times_a_cosine(step: int) -> None:
    base, total, warmup = 0.1 * 64 / 256, 20 * STEPS, 2.5 * STEPS
    expected = base * min(1, 0.001 + 0.999 * step / warmup) * (1 + math.cos(math.pi * step / total)) / 2
    assert learning_rate(settings(), step, STEPS) == pytest.approx(expected, rel=1e-12)


def test_milestones_by_hand() -> None:
    assert learning_rate(settings(), 0, STEPS) == pytest.approx(0.025e-3)
    assert learning_rate(settings(), 100, STEPS) == pytest.approx(0.0125)
    assert learning_rate(settings(), 200, STEPS) == pytest.approx(0, abs=1e-15)
    assert learning_rate(settings(batch_size=2048), 100, STEPS) == pytest.approx(0.4)


def test_without_warm_up_the_first_rate_is_the_base() -> None:
    assert learning_rate(settings(warmup_epochs=0), 0, STEPS) == pytest.approx(0.025)


def test_the_rate_rises_through_the_warm_up_and_falls_afterwards() -> None:
    rates = [learning_rate(settings(), step, STEPS) for step in range(201)]
    assert rates[:25] == sorted(rates[:25])
    assert rates[25:] == sorted(rates[25:], reverse=True)


def test_weights_decay_and_vectors_do_not() -> None:
    supernet = Supernet(tiny_space())
    optimizer = make_optimizer(supernet, settings(weight_decay=1e-3, momentum=0.8))
    decay = {id(p): group["weight_decay"] for group in optimizer.param_groups for p in group["params"]}
    assert len(decay) == len(list(supernet.parameters()))
    for name, parameter in supernet.named_parameters():
        vector = "norm" in name or name.endswith("bias")
        assert decay[id(parameter)] == (0.0 if vector else 1e-3), name
    assert {(group["momentum"], group["nesterov"]) for group in optimizer.param_groups} == {(0.8, True)}


def test_the_rate_reaches_every_group() -> None:
    optimizer = make_optimizer(Supernet(tiny_space()), settings())
    set_learning_rate(optimizer, 0.007)
    assert [group["lr"] for group in optimizer.param_groups] == [0.007, 0.007]


def test_a_step_is_nesterov_momentum_with_decay() -> None:
    # v = m v + g + d w; w -= lr (g + d w + m v), by hand in float64.
    layer = torch.nn.Linear(1, 1, bias=True).double()
    with torch.no_grad():
        layer.weight.fill_(2.0)
        layer.bias.fill_(3.0)
    optimizer = make_optimizer(layer, settings(weight_decay=0.1, learning_rate=0.5, momentum=0.9))
    weight, bias, v_weight, v_bias = 2.0, 3.0, 0.0, 0.0
    for gradient in (1.0, -0.5):
        layer.weight.grad, layer.bias.grad = torch.full((1, 1), gradient).double(), torch.tensor([gradient]).double()
        optimizer.step()
        decayed = gradient + 0.1 * weight
        v_weight, v_bias = 0.9 * v_weight + decayed, 0.9 * v_bias + gradient
        weight, bias = weight - 0.5 * (decayed + 0.9 * v_weight), bias - 0.5 * (gradient + 0.9 * v_bias)
    assert layer.weight.item() == pytest.approx(weight)
    assert layer.bias.item() == pytest.approx(bias)


def test_drop_rates_of_alphanet_grow_over_the_last_two_stages() -> None:
    space = load_space("alphanet")
    blocks = [slot.name for slot in space.slots if slot.name not in ("stem", "head")]
    assert len(blocks) == 37
    late = {name: 0.2 * index / 37 for index, name in enumerate(blocks) if name.startswith(("stage6", "stage7"))}
    assert len(late) == 8 + 2
    assert space.drop_rates(dropout=0.3, drop_connect=0.2) == pytest.approx({**late, "head": 0.3})
    assert max(late.values()) == late["stage7_block2"] == pytest.approx(0.2 * 36 / 37)
