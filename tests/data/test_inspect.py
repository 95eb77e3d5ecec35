from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from nasdeploy.core.errors import UserError
from nasdeploy.data.inspect import inspect_folder
from tests.data.pictures import noise, write_folder, write_png


def test_counts_and_sides(tmp_path: Path) -> None:
    root = write_folder(tmp_path, {"train": {"a": 3, "b": 5}, "test": {"a": 2}}, side=20)
    noise(12, 90).save(root / "train/a/wide.png")
    noise(70, 33).save(root / "train/b/tall.png")
    (root / "train/b/bad.png").write_bytes(b"")
    found = inspect_folder(root)
    assert found.classes == ("a", "b")
    assert found.images == {"train": 10, "test": 2}
    assert found.per_class == {"a": 4, "b": 6}
    assert found.sides == (12, 20, 33)
    assert [note.partition(",")[0] for note in found.notes] == [
        f"{root / 'test'}: no images of b",
        f"{root / 'train/b/bad.png'}: cannot be read as an image (no known format); leave it out with "
        "`data.on_unreadable=skip`",
    ]


def test_looks_at_images_of_every_class_of_a_large_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("nasdeploy.data.inspect._LOOKED_AT", 10)
    root = write_folder(tmp_path, {"train": {"a": 30}}, side=8)
    write_folder(root, {"train": {"b": 30}}, side=16)
    assert inspect_folder(root).sides == (8, 12, 16)


def test_a_folder_of_unreadable_images_is_named(tmp_path: Path) -> None:
    root = write_folder(tmp_path, {"train": {"a": 2}})
    for path in root.glob("train/a/*"):
        path.write_bytes(b"x")
    with pytest.raises(UserError, match="none of the images could be read"):
        inspect_folder(root)


@pytest.mark.parametrize(
    ("parts", "said"),
    [
        ({"train": {"a": 9}}, r"only one class \(a\)"),
        ({"train": {"a": 9, "b": 2}}, "class 'b' has 2 images; at least 3 are needed"),
        ({"train": {"a": 9, "b": 1}, "test": {"a": 1}}, "class 'b' has 1 image; at least 2 are needed"),
    ],
)
def test_too_few_images_are_named_before_a_recipe_is_written(
    parts: dict[str, dict[str, int]], said: str, tmp_path: Path
) -> None:
    with pytest.raises(UserError, match=said):
        inspect_folder(write_folder(tmp_path, parts))


def test_pictures_of_few_levels_need_a_range(tmp_path: Path) -> None:
    root = write_folder(tmp_path, {"train": {"a": 3, "b": 3}})
    assert not inspect_folder(root).needs_range
    for number, path in enumerate(root.glob("train/*/*")):
        Image.fromarray(np.arange(25, dtype=np.uint16).reshape(5, 5) + 3000 + number).save(path)
    found = inspect_folder(root)
    assert found.needs_range
    assert "1 of 256 levels are left in their upper 8 bits; set data.range to measured" in found.notes[-1]
    write_png(root / "train/a/3.png", 5, 5, bits=16, row=bytes(30))
    assert not inspect_folder(root).needs_range


def test_floating_point_pictures_need_a_range(tmp_path: Path) -> None:
    root = write_folder(tmp_path, {"train": {"a": 3, "b": 3}}, suffix=".tif")
    for number, path in enumerate(root.glob("train/*/*")):
        Image.fromarray(np.full((5, 5), number, np.float32)).save(path)
    found = inspect_folder(root)
    assert (found.needs_range, found.per_class) == (True, {"a": 3, "b": 3})


def test_a_huge_picture_is_named(tmp_path: Path) -> None:
    root = write_folder(tmp_path, {"train": {"a": 3, "b": 3}})
    huge = write_png(root / "train/a/huge.png", 20_000, 10_000)
    assert inspect_folder(root).notes[-1].startswith(f"{huge}: cannot be read as an image (20000 x 10000 pixels, ")
