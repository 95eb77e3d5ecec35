"""What sampling settings refuse."""

import pytest

from nasdeploy.core.errors import UserError
from tests.training.recipes import tiny_recipe


@pytest.mark.parametrize(
    ("assignment", "said"),
    [
        (
            "train.sampling.kind=best",
            "'sandwich', 'best-up', 'worst-up', 'single', 'uniform', 'largest', 'smallest' or 'alone'",
        ),
        ("train.sampling.candidates=5", "candidates has an effect only with kind: best-up or worst-up"),
        ("train.sampling.prior=latency", "prior has an effect only with kind: best-up or worst-up"),
        ("train.sampling.arch={resolution: 8}", "arch has an effect only with kind: alone"),
        ("train.sampling.kind=alone", "arch is missing: the network to train alone"),
        ("train.sampling={kind: best-up, latency_bins: 9}", "latency_bins has an effect only with prior: latency"),
        ("train.sampling={kind: best-up, prior: latency, bin_macs_m: 9.0}", "bin_macs_m has an effect only with prior"),
        ("train.sampling={kind: best-up, stages: [{from_epoch: 0}]}", "stages has an effect only with kind: sandwich"),
        ("train.sampling.stages=[{from_epoch: 1}]", "the first stage starts with from_epoch: 0"),
        ("train.sampling.stages=[{from_epoch: 0}, {from_epoch: 0}]", "each stage has to start after the one before"),
        ("train.sampling.stages=[{from_epoch: 0, largest: {depth: 0}}]", "greater than or equal to 1"),
    ],
)
def test_mistakes_are_named(assignment: str, said: str) -> None:
    with pytest.raises(UserError) as caught:
        tiny_recipe(assignment)
    assert "train.sampling" in str(caught.value)
    assert said in str(caught.value)


def test_attentive_sampling_without_random_networks_is_refused() -> None:
    with pytest.raises(UserError, match=r"sampling\.kind worst-up chooses random networks, and random_networks is 0"):
        tiny_recipe("train.sampling.kind=worst-up", "train.random_networks=0")


def test_settings_survive_being_saved() -> None:
    recipe = tiny_recipe(
        "train.sampling.stages=[{from_epoch: 0, largest: {depth: 1, kernel_size.1: 1}}, {from_epoch: 2}]"
    )
    assert type(recipe).model_validate_json(recipe.model_dump_json()) == recipe
