"""What makes evaluations those of another supernet, and what does not."""

from pathlib import Path

import pytest

from nasdeploy.recipe import load_recipe
from nasdeploy.steps.evaluator import supernet_id


@pytest.mark.parametrize(
    ("change", "kept"),
    [
        ("data.workers=2", True),
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
def test_evaluations_stay_valid_unless_accuracy_depends_on_the_change(tmp_path: Path, change: str, kept: bool) -> None:
    weights = tmp_path / "weights.pt"
    weights.write_bytes(b"weights")
    before = supernet_id(load_recipe("digits"), weights)
    assert (supernet_id(load_recipe("digits", [change]), weights) == before) is kept


def test_other_weights_are_another_supernet(tmp_path: Path) -> None:
    for name in ("a.pt", "b.pt"):
        (tmp_path / name).write_text(name)
    recipe = load_recipe("digits")
    assert supernet_id(recipe, tmp_path / "a.pt") != supernet_id(recipe, tmp_path / "b.pt")


def test_moved_images_are_the_same_images(tmp_path: Path) -> None:
    weights, before = tmp_path / "weights.pt", load_recipe("digits", ["data={kind: cifar10, size: 8, path: here}"])
    weights.write_bytes(b"weights")
    assert supernet_id(load_recipe("digits", ["data={kind: cifar10, size: 8, path: there}"]), weights) == supernet_id(
        before, weights
    )
