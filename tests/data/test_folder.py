from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from nasdeploy.cli.wording import typed
from nasdeploy.core.errors import UserError
from nasdeploy.data.datasets import open_data
from nasdeploy.data.folder import list_folder
from nasdeploy.data.images import ImageSets
from nasdeploy.data.settings import DataSettings
from tests.data.pictures import noise, write_folder, write_png

TRAIN = {"train": {"cat": 10, "dog": 10}}


def opened(root: Path, **changes: object) -> ImageSets:
    return open_data(DataSettings.model_validate({"kind": "folder", "path": str(root), "size": 10, **changes}), seed=0)


def files(sets: ImageSets, part: str) -> list[Path]:
    images = getattr(sets, part)
    return [images.path(i) for i in range(len(images))]


def test_splits_a_training_folder(tmp_path: Path) -> None:
    root = write_folder(tmp_path, TRAIN)
    sets = opened(root)
    assert sets.classes == ("cat", "dog")
    assert [len(files(sets, part)) for part in ("train", "search", "test")] == [14, 2, 4]
    everything = [path for part in ("train", "search", "test") for path in files(sets, part)]
    assert sorted(everything) == sorted(root.glob("train/*/*"))
    assert sets.val is sets.search


def test_keeps_given_parts(tmp_path: Path) -> None:
    root = write_folder(tmp_path, {**TRAIN, "val": {"cat": 1, "dog": 1}, "test": {"cat": 2, "dog": 3}})
    sets = opened(root, holdout=0.2)
    assert Counter(sets.test.labels) == {0: 2, 1: 3}
    assert files(sets, "val") == [root / "val/cat/0.png", root / "val/dog/0.png"]
    assert [len(files(sets, part)) for part in ("train", "search")] == [16, 4]
    image, label = sets.test[4]
    assert label == 1
    seed = 20 + 2 + 2 + 2  # the last image that write_folder wrote
    assert np.array_equal(np.asarray(image), np.asarray(noise(10, 10, seed)))


def test_labels_follow_the_folders(tmp_path: Path) -> None:
    sets = opened(write_folder(tmp_path, TRAIN))
    for part in ("train", "search", "test"):
        names = [path.parent.name for path in files(sets, part)]
        assert names == [sets.classes[label] for label in getattr(sets, part).labels]


def test_classes_that_validation_lacks_are_named_with_the_ways_out(tmp_path: Path) -> None:
    classes = dict.fromkeys(("ant", "bee", "cat", "dog", "eel", "fox"), 3)
    root = write_folder(tmp_path, {"train": classes, "val": {"cat": 1, "bee": 0}})
    assert list_folder(root).notes == (
        f"{root / 'val'}: no images of ant, bee, dog and 2 more, so that its accuracy says nothing about that; add "
        f"some, or remove {root / 'val'} to have training images set apart instead",
    )


def test_images_in_deeper_folders_belong_to_the_class(tmp_path: Path) -> None:
    root = write_folder(tmp_path, TRAIN)
    (root / "train/cat/more").mkdir()
    noise(10, 10, 999).save(root / "train/cat/more/x.JPEG", "JPEG")
    assert list_folder(root).parts["train"]["cat"][-1] == root / "train/cat/more/x.JPEG"


def test_wrong_forms_are_named(tmp_path: Path) -> None:
    def message(root: Path) -> str:
        with pytest.raises(UserError) as caught:
            opened(root)
        assert "\n" not in typed(caught.value)
        return typed(caught.value)

    assert "no such folder" in message(tmp_path / "nowhere")
    assert "has no train folder (it is empty)" in message(tmp_path)
    write_folder(tmp_path / "a", {"cat": {"x": 1}})
    assert "has no train folder (it holds cat/)" in message(tmp_path / "a")
    (tmp_path / "b/train").mkdir(parents=True)
    assert "b/train: holds no class folders" in message(tmp_path / "b")
    write_folder(tmp_path / "c", {"train": {"cat": 3, "dog": 0}})
    assert "c/train/dog: holds no images" in message(tmp_path / "c")
    write_folder(tmp_path / "d", {**TRAIN, "test": {"cats": 1}})
    assert "d/test/cats: no such class in" in message(tmp_path / "d")
    assert "did you mean 'cat'" in message(tmp_path / "d")
    write_folder(tmp_path / "e", {**TRAIN, "val": {"cat": 0}})
    assert "e/val: holds no images" in message(tmp_path / "e")
    write_folder(tmp_path / "f", {"train": {"cat": 5}})
    assert "only one class (cat)" in message(tmp_path / "f")


def test_a_damaged_file_stops_or_is_skipped(tmp_path: Path) -> None:
    root = write_folder(tmp_path, TRAIN)
    bad = [root / "train/cat/3.png", root / "train/dog/4.png"]
    bad[0].write_bytes(bad[0].read_bytes()[:50])
    bad[1].write_bytes(b"")
    with pytest.raises(UserError, match=r"train/cat/3.png: cannot be read .* \(1 more like it\)$"):
        opened(root)
    with pytest.warns(UserWarning, match="left out: ") as warned:
        sets = opened(root, on_unreadable="skip")
    everything = {path for part in ("train", "search", "test") for path in files(sets, part)}
    assert everything == set(root.glob("train/*/*")) - set(bad)
    assert [str(one.message).partition(" (")[0] for one in warned] == [f"left out: {path}" for path in bad]


def test_a_class_without_readable_images_is_named(tmp_path: Path) -> None:
    root = write_folder(tmp_path, TRAIN)
    for path in root.glob("train/dog/*"):
        path.write_bytes(b"")
    with pytest.raises(UserError, match="class 'dog' has 0 images"):
        opened(root, on_unreadable="skip")


def test_a_split_does_not_depend_on_where_the_folder_lies(tmp_path: Path) -> None:
    first, second = (write_folder(tmp_path / name, TRAIN) for name in ("a", "b"))
    names = [[path.relative_to(root) for path in files(opened(root), "test")] for root in (first, second)]
    assert names[0] == names[1]


def test_a_fingerprint_is_of_the_training_images_and_not_of_where_they_lie(tmp_path: Path) -> None:
    def fingerprint(name: str, **changes: object) -> str:
        return opened(tmp_path / name, **changes).fingerprint

    for name in ("first", "second/deeper"):
        write_folder(tmp_path / name, {"train": {"cat": 9, "dog": 9}, "test": {"cat": 2, "dog": 2}})
    assert fingerprint("first") == fingerprint("second/deeper")
    assert fingerprint("first").startswith("18 images, ")
    (tmp_path / "first/test/dog/0.png").unlink()
    assert fingerprint("first") == fingerprint("second/deeper")
    (tmp_path / "first/train/dog/0.png").rename(tmp_path / "first/train/dog/new.png")
    assert fingerprint("first") != fingerprint("second/deeper")
    (tmp_path / "second/deeper/train/cat/0.png").rename(tmp_path / "second/deeper/train/dog/9.png")
    assert len({fingerprint("first"), fingerprint("second/deeper")}) == 2
    (tmp_path / "first/train/cat/0.png").write_bytes(b"")
    assert fingerprint("first", on_unreadable="skip").startswith("17 images, ")


def test_a_huge_picture_is_found_when_the_data_is_opened(tmp_path: Path) -> None:
    root = write_folder(tmp_path, TRAIN)
    huge = write_png(root / "train/cat/huge.png", 20_000, 10_000)
    with pytest.raises(UserError) as caught:
        opened(root)
    assert typed(caught.value) == (
        f"{huge}: cannot be read as an image (20000 x 10000 pixels, 200000000 in all, and data.max_pixels allows "
        "178956970); leave it out with --set data.on_unreadable=skip, or remove or replace it before a run is begun"
    )
    assert huge in files(opened(root, max_pixels=200_000_000), "train")
    with pytest.warns(UserWarning, match=f"^left out: {huge} \\(20000 x 10000 pixels, "):
        opened(root, on_unreadable="skip")


@pytest.mark.parametrize("suffix", [".jpg", ".webp", ".tif", ".gif"])
def test_what_counts_as_huge_is_a_setting(suffix: str, tmp_path: Path) -> None:
    root = write_folder(tmp_path, TRAIN, suffix=suffix)
    noise(12, 30).save(root / f"train/dog/x{suffix}")
    with pytest.raises(UserError, match=rf"dog/x{suffix}: cannot be read as an image \(30 x 12 pixels, 360 in all"):
        opened(root, max_pixels=359)
    assert len(files(opened(root, max_pixels=360), "train"))


def deep_folder(root: Path, dtype: str = "u2") -> Path:
    """Two classes of pictures `[3, 3]` whose values are 1000 and 3000."""
    for label, value in (("cat", 1000), ("dog", 3000)):
        (root / "train" / label).mkdir(parents=True)
        for number in range(10):
            Image.fromarray(np.full((3, 3), value, dtype)).save(root / "train" / label / f"{number}.tif")
    return root


def test_a_range_reaches_the_pictures(tmp_path: Path) -> None:
    sets = opened(deep_folder(tmp_path), range=(0, 4000))
    assert {(label, image.getpixel((0, 0))) for image, label in sets.test} == {(0, (64,) * 3), (1, (191,) * 3)}


def test_floating_point_is_refused_unless_there_is_a_range(tmp_path: Path) -> None:
    root = deep_folder(tmp_path, "f4")
    with pytest.raises(UserError, match=r"0\.tif: cannot be read as an image \(floating-point pixels: set data\.range"):
        opened(root)
    assert len(files(opened(root, range=(0, 4000)), "train")) == 14


def test_a_range_is_refused_with_colours_of_which_eight_bits_are_read(tmp_path: Path) -> None:
    root = deep_folder(tmp_path)
    write_png(root / "train/cat/x.png", 3, 3, bits=16, row=bytes(18))
    assert len(files(opened(root), "train"))
    with pytest.raises(
        UserError, match=r"x\.png: cannot be read as an image \(16-bit colours, of which Pillow decodes"
    ):
        opened(root, range=(0, 4000))
