"""First recipes that start from a pretrained network."""

import re
from dataclasses import replace
from functools import cache
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from nasdeploy.core.progress import Progress
from nasdeploy.data.settings import AugmentSettings
from nasdeploy.importers import IMPORTERS
from nasdeploy.importers.importer import Imported
from nasdeploy.initial_recipe.choices import Shape
from nasdeploy.initial_recipe.pretrained import drafted, largest_side, pretrained_from
from nasdeploy.initial_recipe.text import advice, check, first_recipe, of_weights, recipe_text
from nasdeploy.supernet.settings import StartSettings
from tests.initial_recipe.drafts import draft, summary
from tests.pretrained import COLOURS, MODEL, fitted, write_pictures

START = StartSettings(model=f"timm:{MODEL}")


@cache
def network() -> Imported:
    return IMPORTERS["timm"].read(IMPORTERS["timm"].model(MODEL), MODEL)


@pytest.fixture
def imported() -> Imported:
    return network()


@pytest.mark.parametrize(("side", "largest"), [(8, 96), (32, 96), (100, 96), (130, 128), (500, 224), (4000, 224)])
def test_small_images_are_enlarged_and_large_ones_are_the_networks(side: int, largest: int, imported: Imported) -> None:
    assert largest_side(summary(side=side), imported) == largest


def test_less_time_makes_smaller_images(imported: Imported) -> None:
    folder = summary(train=2000, side=500)
    sizes = [pretrained_from(folder, START, imported, 0.2, hours).size for hours in (0.1, 1.0, 4.0, 40.0)]
    assert sizes[0] == 96
    assert sizes == sorted(sizes)
    assert sizes[-1] == 224


@settings(max_examples=15)
@given(
    train=st.integers(8, 200_000),
    side=st.integers(1, 5000),
    classes=st.integers(2, 4),
    image_s=st.floats(1e-5, 10),
    hours=st.floats(0.01, 1000),
)
def test_every_recipe_says_what_was_chosen(train: int, side: int, classes: int, image_s: float, hours: float) -> None:
    folder = summary(train=train, side=side, classes=classes)
    found = pretrained_from(folder, START, network(), image_s, hours)
    recipe = check(recipe_text(found, "recipe.yaml"), "recipe.yaml")
    space = recipe.load_space(classes)
    assert (recipe.start, recipe.search.score) == (START, "both")
    assert recipe.data.size == space.largest()["resolution"] == found.size
    assert len(space.distinct_blocks()) < 600
    assert [phase.epochs for phase in recipe.train.phases] == [found.phases.original, found.phases.elastic]
    assert recipe.train.phases[0].epochs >= 2
    assert recipe.finetune.epochs >= 2
    assert recipe.search.strategy == found.search.strategy
    assert (recipe.data.mean, recipe.data.std) == (network().expected.mean, network().expected.std)
    short = advice(found, hours)
    assert bool(short) == (found.needed_s > 1.1 * 3600 * hours)


def test_a_gpu_that_computes_bf16_does_in_all_phases(imported: Imported, monkeypatch: pytest.MonkeyPatch) -> None:
    found = pretrained_from(summary(side=300), START, imported, 0.2, 1.0)
    assert "autocast" not in recipe_text(found, "recipe.yaml"), "there is no GPU here"
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda including_emulation: not including_emulation)
    recipe = check(recipe_text(found, "recipe.yaml"), "recipe.yaml")
    assert {phase.autocast for phase in recipe.train.of_phases} == {"bf16"}


def test_a_recipe_keeps_to_the_time_that_is_given(imported: Imported) -> None:
    folder = summary(train=10_000, side=100)
    for hours in (0.5, 1.0, 2.0):
        found = pretrained_from(folder, START, imported, 0.02, hours)
        assert 0.8 * 3600 * hours < found.needed_s < 1.1 * 3600 * hours
        assert found.search.strategy == "additive"
        assert found.phases.finetuning_s > 1.4 * found.training_s


def test_a_short_time_is_kept_to_though_the_original_takes_more_than_its_part(imported: Imported) -> None:
    found = pretrained_from(summary(train=10_000, side=32, test=1000), START, imported, 0.0157, 0.25)
    assert found.phases.original == 2
    assert found.phases.finetuning_s < 1.4 * found.phases.training_s
    assert found.needed_s < 1.1 * 3600 * 0.25


@pytest.mark.parametrize(("hours", "held_out"), [(0.02, 500), (2.0, 1000)])
def test_no_more_is_held_out_than_the_search_has_time_to_score(hours: float, held_out: int, imported: Imported) -> None:
    found = pretrained_from(summary(train=10_000, side=32, test=1000), START, imported, 0.0157, hours)
    assert round(found.training.held_out) == held_out
    assert found.training.images == 10_000 - held_out


def test_networks_are_found_without_a_table_of_loss_where_that_would_take_too_long(imported: Imported) -> None:
    shape = Shape("alphanet", 224, 256, AugmentSettings())
    found = drafted(summary(train=500, side=300), START, imported, "alphanet", shape, 0.5, 0.5)
    assert found.search.strategy == "evolution"
    assert "strategy" not in recipe_text(found, "recipe.yaml")


def test_what_becomes_of_the_weights_is_told(imported: Imported) -> None:
    taken = "x.pth: took the weights under 'ema', not 'model'"
    anew = f"a new classifier of 4 classes takes the place of that of {imported.classes}"
    noted = replace(imported, notes=[taken])
    assert of_weights(pretrained_from(summary(), START, noted, 1e-4, 1.0)) == [taken, anew]
    kept = replace(imported, head=imported.head | {"classes": 4})
    assert of_weights(pretrained_from(summary(), START, kept, 1e-4, 1.0)) == []
    assert of_weights(draft(summary(side=300))) == []


def test_photographs_are_recommended_a_pretrained_start() -> None:
    (line,) = advice(draft(summary(side=300)), 1.0)
    assert "`start=timm:efficientnet_b0`" in line
    assert advice(draft(summary(side=32)), 1.0) == []


@pytest.fixture(scope="module")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_pictures(tmp_path_factory.mktemp("pictures"), {"train": 30})


@pytest.mark.parametrize(
    ("order", "kept", "told"),
    [
        (list(COLOURS), True, r"its own classifier is kept: top-1 \d+\.\d % on \d+ training images"),
        (list(COLOURS)[::-1], False, r"its classes stand in another order \(reversed\), in which it has \d+"),
    ],
)
def test_the_users_own_classifier_is_looked_at(
    order: list[str], kept: bool, told: str, pictures: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    start = fitted(pictures, order, tmp_path / "own.pth")
    found = first_recipe(pictures, 0.1, "recipe.yaml", Progress(quiet=False), start)
    assert found.recipe.start is not None
    assert found.recipe.start.classifier == ("keep" if kept else "new")
    assert re.search(told, capsys.readouterr().err)
