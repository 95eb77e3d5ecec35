"""What makes evaluations those of another supernet, and what does not."""

import pytest

from nasdeploy.recipe import load_recipe
from nasdeploy.store.checkpoints import WeightsFacts
from nasdeploy.workflows.evaluator import supernet_id

WEIGHTS = WeightsFacts(epoch=1, sha256="a" * 64)


@pytest.mark.parametrize(
    ("change", "kept"),
    [
        ("data.workers=2", True),
        ("data.cache=memory", True),
        ("data={kind: cifar10, path: here, size: 8}", False),
        ("recalibration.batches=3", True),
        ("train.threads=2", True),
        ("search.rounds=2", True),
        ("recalibration.search_batches=3", False),
        ("recalibration.batch_size=64", False),
        ("data.holdout=0.3", False),
        ("seed=1", False),
    ],
)
def test_evaluations_stay_valid_unless_accuracy_depends_on_the_change(change: str, kept: bool) -> None:
    before = supernet_id(load_recipe("digits"), WEIGHTS)
    assert (supernet_id(load_recipe("digits", [change]), WEIGHTS) == before) is kept


def test_other_weights_are_another_supernet() -> None:
    recipe = load_recipe("digits")
    assert supernet_id(recipe, WEIGHTS) != supernet_id(recipe, WeightsFacts(epoch=1, sha256="b" * 64))


def test_moved_images_are_the_same_images() -> None:
    before = load_recipe("digits", ["data={kind: cifar10, size: 8, path: here}"])
    assert supernet_id(load_recipe("digits", ["data={kind: cifar10, size: 8, path: there}"]), WEIGHTS) == supernet_id(
        before, WEIGHTS
    )


@pytest.mark.parametrize(
    ("change", "kept"), [("max_pixels: 9999", True), ("range: null", True), ("range: [0, 4095]", False)]
)
def test_only_how_pictures_are_decoded_makes_other_evaluations(change: str, kept: bool) -> None:
    before, now = (
        load_recipe("digits", [f"data={{kind: folder, path: here, size: 8{more}}}"]) for more in ("", f", {change}")
    )
    assert (supernet_id(before, WEIGHTS) == supernet_id(now, WEIGHTS)) is kept
