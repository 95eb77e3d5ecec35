"""Recipes that come with nasdeploy: each trains, and the published ones hold the published values."""

import json
from collections.abc import Mapping, Sequence
from math import isfinite, prod
from pathlib import Path
from typing import Any

import pytest
import torch

from nasdeploy.core.progress import Progress
from nasdeploy.core.resources import resource_names
from nasdeploy.recipe import Recipe, load_recipe
from nasdeploy.spaces import load_settings
from nasdeploy.training.checkpoint import Checkpoints
from nasdeploy.training.optimizer import learning_rate, make_optimizer
from nasdeploy.training.sampling import SamplerContext, networks_to_validate, sampler_from
from nasdeploy.workflows import train as step
from tests.data.pictures import write_folder

SMALL = [
    "data.kind=folder",
    "data.size=32",
    "data.resize=32",
    "data.holdout=0.1",
    "data.images_per_class=null",
    "data.workers=0",
    "train.batch_size=2",
    "train.validate_random=0",
    "train.threads=1",
    "recalibration.batch_size=2",
    "recalibration.batches=1",
    "recalibration.search_batches=1",
]


def smaller_space(name: str) -> dict[str, Any]:
    """Return the settings of a space with images of other sizes, and without the architectures that have names."""
    settings = {**load_settings(name).model_dump(mode="json"), "resolution": [32, 64]}
    return {key: value for key, value in settings.items() if key != "named"}


ROLES = {"largest": ("largest",), "smallest": ("smallest",), "uniform": ("random",)}
ROLES |= dict.fromkeys(("sandwich", "best-up"), ("largest", "random", "smallest"))
SMALLER = {
    name: [f"space={json.dumps(smaller_space(space))}"]
    for name, space in {
        "alphanet-imagenet": "alphanet",
        "attentivenas-imagenet": "alphanet",
        "bignas-imagenet": "bignas",
        "ofa-mbv3-imagenet": "ofa-mbv3",
    }.items()
}
"""Recipes for photographs, whose spaces have smaller images here: most of the time would go into pixels."""
ONE_EPOCH = ("epochs=1", "warmup_epochs=0", "random_networks=1")


def small(name: str) -> Recipe:
    """The recipe with an epoch of two steps, or one in each phase."""
    phases = range(len(load_recipe(name).train.phases))
    parts = [f"train.phases.{number}" for number in phases] or ["train"]
    shorter = [f"{part}.{setting}" for part in parts for setting in ONE_EPOCH]
    return load_recipe(name, [*SMALL, *shorter, *SMALLER.get(name, ())], "images")


@pytest.mark.slow
@pytest.mark.parametrize("name", resource_names("recipes"))
def test_two_steps_on_a_few_images(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    write_folder(tmp_path / "images", {"train": {"ant": 3, "bee": 3}, "test": {"ant": 1, "bee": 1}}, side=40)
    recipe = small(name)
    run = step.train(recipe, Path("runs/few"), Progress(quiet=True))
    lines = [json.loads(text) for text in run.metrics.read_text().splitlines()]
    assert run.is_finished("train")
    for line, settings in zip(lines, recipe.train.of_phases, strict=True):
        assert line["skipped_steps"] == 0
        # The largest may be in none of two steps, if it is in a part of them only.
        always = settings.sampling.largest_share == 1.0
        roles = [role for role in ROLES[settings.sampling.kind] if role != "largest" or always]
        assert all(isfinite(line[f"loss_{role}"]) for role in roles)
        assert line["learning_rate"] == pytest.approx(learning_rate(settings, 1, 2))
    content = torch.load(Checkpoints(run.checkpoints).latest(), weights_only=True)
    assert all(tensor.isfinite().all() for tensor in content["weights"].values())
    assert content["optimizer"]["state"]


@pytest.mark.parametrize("name", resource_names("recipes"))
def test_a_recipe_is_named_like_its_file(name: str) -> None:
    assert load_recipe(name).name == name


# -- published values

PUBLISHED: dict[str, dict[str, Any]] = {
    "alphanet-imagenet": {
        "space": "alphanet",
        "train.epochs": 360,
        "train.batch_size": 64 * 32,
        "train.momentum": 0.9,
        "train.nesterov": True,
        "train.weight_decay": 1e-5,
        "train.clip_value": 1.0,
        "train.label_smoothing": 0.1,
        "train.dropout": 0.2,
        "train.drop_connect": 0.2,
        "train.random_networks": 2,
        "train.sampling.kind": "sandwich",
        "train.distillation.kind": "alpha",
        "train.distillation.alpha_min": -1.0,
        "train.distillation.alpha_max": 1.0,
        "train.distillation.clip": 5.0,
        "train.distillation.beta": 1.0,
        "data.size": 224,
        "data.resize": 256,
        "data.augment.crop": "random-resized",
        "data.augment.policy": "v0-mstd0.5",
        "recalibration.batch_size": 256,
        "recalibration.batches": 64,
        "recalibration.search_batches": 32,
        "search.rounds": 20,
        "search.parents": 512,
        "search.mutations": 128,
        "search.crossovers": 128,
        "search.mutation_probability": 0.2,
        "search.screening": 1,
    },
    "bignas-imagenet": {
        "space": "bignas",
        "train.optimizer": "rmsprop",
        "train.rmsprop_decay": 0.9,
        "train.momentum": 0.9,
        "train.epsilon": 1e-3,
        "train.weight_decay": 1e-5,
        "train.dropout": 0.2,
        "train.random_networks": 2,
        "train.sampling.kind": "sandwich",
        "train.distillation.kind": "kl",
        "train.distillation.temperature": 1.0,
        "search.strategy": "coarse-to-fine",
    },
}
PUBLISHED["attentivenas-imagenet"] = {
    **{key: value for key, value in PUBLISHED["alphanet-imagenet"].items() if "distillation" not in key},
    "train.sampling.kind": "best-up",
    "train.sampling.candidates": 3,
    "train.sampling.prior": "macs",
    "train.sampling.bin_macs_m": 25.0,
    "train.distillation.kind": "kl",
}


PUBLISHED["ofa-mbv3-imagenet"] = {
    "space": "ofa-mbv3",
    "train.batch_size": 32 * 64,
    "train.reference_batch": 32 * 64,
    "train.warmup": "before-decay",
    "train.warmup_start": 1 / 32,
    "train.momentum": 0.9,
    "train.nesterov": True,
    "train.weight_decay": 3e-5,
    "train.clip_value": None,
    "train.label_smoothing": 0.1,
    "train.dropout": 0.1,
    "train.drop_connect": 0.0,
    "train.distillation.kind": "cross-entropy",
    "train.distillation.label_weight": 1.0,
    "train.distillation.teacher": "original",
    "train.distillation.teacher_statistics": "batch",
    "recalibration.average": "image-weighted",
    "recalibration.batch_size": 200,
    "recalibration.batches": 10,
    "recalibration.search_batches": 10,
}


def value(recipe: Recipe, key: str) -> Any:
    found: Any = recipe.to_json()
    for part in key.split("."):
        found = found[part]
    return found


@pytest.mark.parametrize("name", ["ofa-mbv3-imagenet", "ofa-mbv3-cifar10"])
def test_progressive_shrinking_has_its_six_phases(name: str) -> None:
    recipe = load_recipe(name)
    space = recipe.load_space(10)
    full, *elastic = [SamplerContext(space, settings, 0) for settings in recipe.train.of_phases]
    allowed = [kinds_of(sampler_from(context).allowed(1)) for context in (full, *elastic)]
    kernel, depth, expand = (
        list(values) for values in (allowed[5]["kernel"], allowed[5]["depth"], allowed[5]["expand"])
    )
    expected = [(kernel[-1:], depth[-1:], expand[-1:]), (kernel, depth[-1:], expand[-1:])]
    expected += [(kernel, depth[-2:], expand[-1:]), (kernel, depth, expand[-1:])]
    expected += [(kernel, depth, expand[-2:]), (kernel, depth, expand)]
    assert [(each["kernel"], each["depth"], each["expand"]) for each in allowed] == expected
    assert (kernel, len(depth), len(expand)) == ([3, 5, 7], 3, 3)
    assert {tuple(each["resolution"]) for each in allowed} == {space.values_of["resolution"]}
    assert [context.settings.random_networks for context in elastic] == [1, 2, 2, 4, 4]
    assert [context.settings.sort_channels for context in elastic] == [None, None, None, "projection", "projection"]
    assert [len(networks_to_validate(context)) for context in (full, *elastic)] == [1, 3, 5, 5, 9, 9]


def kinds_of(stages: Sequence[Mapping[str, tuple[int, ...]]]) -> dict[str, list[int]]:
    """The values of all choices of a kind, which are the same in all stages and blocks."""
    (values,) = stages
    kinds: dict[str, set[tuple[int, ...]]] = {}
    for name, each in values.items():
        kinds.setdefault(name.partition(".")[0].partition("_")[0], set()).add(each)
    assert all(len(found) == 1 for found in kinds.values())
    return {kind: list(*found) for kind, found in kinds.items()}


def test_once_for_alls_rates() -> None:
    """By the rates of one GPU of 64 images, and the epochs after those of warm-up."""
    published = [(120, 5, 0.03), (25, 0, 0.0025), (120, 5, 0.0075), (25, 0, 0.0025), (120, 5, 0.0075)]
    _, *phases = load_recipe("ofa-mbv3-imagenet").train.of_phases
    for (epochs, warmup, base), settings in zip(published, phases, strict=True):
        assert (settings.epochs - warmup, settings.warmup_epochs) == (epochs, warmup)
        assert learning_rate(settings, warmup * 620, 620) == pytest.approx(32 * base)
        first = base + 31 * base / (620 * warmup) if warmup else 32 * base
        assert learning_rate(settings, 0, 620) == pytest.approx(first)


@pytest.mark.parametrize("name", PUBLISHED)
def test_values_are_the_published_ones(name: str) -> None:
    recipe = load_recipe(name)
    assert {key: value(recipe, key) for key in PUBLISHED[name]} == PUBLISHED[name]


@pytest.mark.parametrize("name", ["alphanet-imagenet", "attentivenas-imagenet"])
def test_alphanets_learning_rate(name: str) -> None:
    """0.1 for 256 images, so 0.8 for 2048: five epochs of warm-up from a thousandth, times a cosine."""
    settings, steps = load_recipe(name).train, 625
    assert learning_rate(settings, 0, steps) == pytest.approx(0.0008)
    assert learning_rate(settings, 180 * steps, steps) == pytest.approx(0.4)
    assert learning_rate(settings, 360 * steps, steps) == pytest.approx(0.0, abs=1e-12)


def test_bignas_learning_rate_and_optimizer() -> None:
    settings, steps = load_recipe("bignas-imagenet").train, 100
    after_warmup = [learning_rate(settings, round(epoch * steps), steps) for epoch in (5, 12, 236, 238, 359)]
    assert after_warmup == pytest.approx([0.256 * 0.97**2, 0.256 * 0.97**5, 0.256 * 0.97**98, 0.0128, 0.0128])
    optimizer = make_optimizer(torch.nn.Linear(2, 2), settings)
    group = optimizer.param_groups[0]
    assert type(optimizer).__name__ == "RMSpropTF"
    assert (group["alpha"], group["momentum"], group["eps"]) == (0.9, 0.9, 1e-3)


def test_bignas_space_has_the_published_number_of_architectures() -> None:
    resolutions, widths = 4, [2, 2, 2, 2, 2, 3, 4, 3, 2]
    depths, kernels = [2, 2, 2, 3, 5, 5, 2], [1, 1, 2, 2, 2, 2, 2]
    assert load_recipe("bignas-imagenet").load_space(1000).size == resolutions * prod(widths + depths + kernels)
