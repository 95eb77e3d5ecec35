"""Weights that hold no network are told by the names of their tensors."""

import torch
from torch import Tensor

from nasdeploy.supernet.supernet import Supernet
from nasdeploy.supernet.weights import uncomputable, unsound
from tests.small_spaces import two_stages


def fresh() -> dict[str, Tensor]:
    torch.manual_seed(0)
    return dict(Supernet(two_stages()).state_dict())


def changed(ending: str, value: Tensor | float, **more: Tensor) -> tuple[str, dict[str, Tensor]]:
    """The first tensor of that name, with its first number or all of it replaced, in a fresh supernet's weights."""
    weights = fresh()
    name = next(name for name in weights if name.endswith(ending))
    weights[name] = weights[name].clone()
    if isinstance(value, Tensor):
        weights[name] = value.expand_as(weights[name]).clone()
    else:
        weights[name].flatten()[0] = value
    return name, {**weights, **more}


def test_a_fresh_supernet_is_sound() -> None:
    assert unsound(fresh()) is None


def test_a_single_number_that_is_none_is_found_wherever_it_stands() -> None:
    for ending in ("running_var", "running_mean", "conv.weight", "norm.bias"):
        name, weights = changed(ending, float("nan"))
        found = f"{name} holds NaN in 1 of {weights[name].numel()} numbers"
        assert unsound(weights) == uncomputable(weights) == found
    name, weights = changed("classifier.bias", float("-inf"))
    assert unsound(weights) == f"{name} holds infinity in 1 of {weights[name].numel()} numbers"


def test_what_float32_cannot_hold_is_not_finite() -> None:
    name, weights = changed("conv.weight", 0.0)
    weights[name] = weights[name].double()
    weights[name].flatten()[1] = 1e300
    assert unsound(weights) == f"{name} holds infinity in 1 of {weights[name].numel()} numbers"


def test_variances_are_not_negative_nor_zero_but_in_single_channels() -> None:
    name, weights = changed("running_var", -1e-3)
    assert unsound(weights) == f"{name} is negative, and it is a variance"
    name, weights = changed("running_var", torch.zeros(1))
    assert unsound(weights) == f"{name} is zero everywhere, and it is a variance"
    assert unsound(changed("running_var", 0.0)[1]) is None


def test_matrices_of_one_number_are_none_and_vectors_may_be() -> None:
    for value in (0.0, 0.25):
        name, weights = changed("conv.weight", torch.tensor(value))
        assert unsound(weights) == f"{name} is {value:g} everywhere"
        assert uncomputable(weights) is None
    assert unsound(changed("norm.bias", torch.tensor(0.25))[1]) is None


def test_the_first_three_are_named() -> None:
    weights = {name: torch.full((2, 2), float("inf")) for name in "abcdef"}
    numbers = "holds infinity in 4 of 4 numbers"
    assert unsound(weights) == f"a {numbers}, b {numbers}, c {numbers}, and 3 more tensors"
    whole = {name: torch.zeros_like(value) for name, value in fresh().items()}
    said = unsound(whole)
    assert said is not None and said.endswith("more tensors") and "running_var is zero everywhere" in said
