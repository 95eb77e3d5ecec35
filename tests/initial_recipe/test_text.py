from dataclasses import replace

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from nasdeploy.core.progress import duration
from nasdeploy.initial_recipe.text import check, of_precision, recipe_text
from tests.initial_recipe.drafts import draft, summary


@given(
    train=st.integers(4, 2_000_000),
    side=st.integers(1, 5000),
    test=st.none() | st.integers(1, 1000),
    image_s=st.floats(1e-6, 100),
    hours=st.floats(0.01, 1000),
)
def test_every_recipe_says_what_was_chosen(
    train: int, side: int, test: int | None, image_s: float, hours: float
) -> None:
    found = draft(summary(train=train, side=side, test=test), image_s, hours)
    recipe = check(recipe_text(found, "recipe.yaml"), "recipe.yaml")
    assert (recipe.space, recipe.data.size, recipe.data.shorter_side) == (
        found.shape.space,
        found.shape.size,
        found.shape.resize,
    )
    assert recipe.data.path == "/images/photos"
    assert recipe.data.augment.crop == found.shape.augment.crop
    assert recipe.data.holdout == found.training.holdout
    assert (recipe.train.epochs, recipe.train.batch_size) == (found.training.epochs, found.training.batch_size)
    later = (recipe.search.rounds - 1) * (recipe.search.mutations + recipe.search.crossovers)
    assert recipe.search.parents + later == found.search.evaluations
    assert recipe.recalibration.search_batches == found.search.batches


@pytest.mark.parametrize(
    "name",
    [
        "my photos",
        "a: b",
        "#1",
        "été",
        'quo"te',
        "-x-",
        "..",
        "图",
        "x" * 200,
        "2024-05-01",
        "no",
        "010",
        "a'b",
        "a\nb",
        "\x85",
    ],
)
def test_any_folder_name_will_do(name: str) -> None:
    recipe = check(recipe_text(draft(summary(name=name)), f"{name}.yaml"), "recipe.yaml")
    assert recipe.data.path == f"/images/{name}"
    assert recipe.name


def test_a_name_with_a_line_break_stays_in_its_comment() -> None:
    text = recipe_text(draft(summary()), "a\nb: c")
    assert check(text, "recipe.yaml").name == "photos"


@pytest.mark.parametrize(("largest", "asked"), [(19, False), (20, True)])
def test_balancing_is_offered_where_classes_differ_in_size(largest: int, asked: bool) -> None:
    folder = replace(summary(), per_class={"a": 10, "b": largest})
    text = recipe_text(draft(folder), "r.yaml")
    assert ("\n  balance: none  " in text) == asked
    assert check(text, "r.yaml").data.balance == "none"


@pytest.mark.parametrize("needs_range", [False, True])
def test_a_range_is_measured_where_pictures_need_one(needs_range: bool) -> None:
    recipe = check(recipe_text(draft(replace(summary(), needs_range=needs_range)), "r.yaml"), "r.yaml")
    assert recipe.data.range == ("measured" if needs_range else None)


def test_comments_tell_the_estimates() -> None:
    folder = summary(train=10_000, test=10)
    long = recipe_text(draft(folder, hours=3), "r.yaml")
    assert "9000 images, an epoch, take 1.5 minutes; all of training 3.0 hours" in long
    short = recipe_text(draft(folder), "r.yaml")
    assert "an epoch of 9000 images takes 5.6 seconds for the smallest network,\n" in short
    assert "\n# 28 seconds for all of them; all of training 59.6 minutes" in short
    for text in (long, short):
        assert "nasdeploy run r.yaml" in text
        assert max(map(len, text.splitlines())) <= 130


def test_in_little_time_networks_grow_from_the_smallest() -> None:
    recipe = check(recipe_text(draft(summary(train=10_000, test=10)), "r.yaml"), "r.yaml")
    first, then = recipe.train.of_phases
    assert (first.sampling.kind, first.distillation.kind, first.lowest) == ("smallest", "none", 0.4)
    assert (then.grow, then.sampling.largest_share, then.random_networks) == (True, 0.2, 0)
    assert then.learning_rate == pytest.approx(first.lowest * first.learning_rate)
    assert (first.epochs, then.epochs) == (60, 117)


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0.0123, "0.012 seconds"), (89, "89 seconds"), (90, "1.5 minutes"), (5400, "1.5 hours"), (200_000, "2.3 days")],
)
def test_durations(seconds: float, text: str) -> None:
    assert duration(seconds) == text


@pytest.mark.parametrize(
    ("bf16", "capability", "wanted"), [(True, (9, 0), "bf16"), (False, (7, 5), "fp16"), (False, (6, 1), "none")]
)
def test_a_gpu_trains_on_photographs_in_the_format_that_it_is_fast_in(
    bf16: bool, capability: tuple[int, int], wanted: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    photographs, tiny = draft(summary(side=300)), draft(summary(side=12))
    assert "autocast" not in recipe_text(photographs, "recipe.yaml"), "there is no GPU here"
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda including_emulation: bf16 or including_emulation)
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda: capability)
    assert check(recipe_text(photographs, "recipe.yaml"), "recipe.yaml").train.autocast == wanted
    assert check(recipe_text(tiny, "recipe.yaml"), "recipe.yaml").train.autocast == "none"
    assert of_precision(tiny) == []
    said = f"training computes convolutions in {wanted}, which is fast on 2 CPU cores; `train.autocast=none` is exact"
    assert of_precision(photographs) == ([] if wanted == "none" else [said])
