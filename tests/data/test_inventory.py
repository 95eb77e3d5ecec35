"""The same picture in two parts or under two classes, counted, named and, if asked for, left out."""

import re
import shutil
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from nasdeploy.core.errors import UserError
from nasdeploy.data import facts as file_facts
from nasdeploy.data.datasets import open_data
from nasdeploy.data.images import ImageSets
from nasdeploy.data.inspect import inspect_folder
from nasdeploy.data.inventory import Copies
from nasdeploy.data.settings import DataSettings
from nasdeploy.store.records import CopyFacts
from tests.data.pictures import write_folder
from tests.data.shards import png, write_tar

PARTS = {"train": {"cat": 12, "dog": 12, "emu": 12}, "test": {"cat": 4, "dog": 4, "emu": 4}}


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return write_folder(tmp_path / "photos", PARTS)


def opened(root: Path, **changes: object) -> ImageSets:
    return open_data(DataSettings.model_validate({"kind": "folder", "path": str(root), "size": 10, **changes}), seed=0)


def copy(root: Path, source: str, *targets: str) -> None:
    for target in targets:
        shutil.copyfile(root / source, root / target)


def copies_everywhere(root: Path) -> None:
    """Four test images of cats are training images, and six cats are dogs, too."""
    for number in range(4):
        copy(root, f"train/cat/{number + 5}.png", f"test/cat/{number}.png")
    for number in (0, 1, 2, 3, 4, 11):
        copy(root, f"train/cat/{number}.png", f"train/dog/copy{number}.png")


def contents(sets: ImageSets) -> dict[str, list[bytes]]:
    """Bytes of the files of each part."""
    parts = {"train": sets.train, "search": sets.search, "test": sets.test}
    paths = {name: [images.path(place) for place in range(len(images))] for name, images in parts.items()}
    return {name: [path.read_bytes() for path in found if path] for name, found in paths.items()}


def test_copies_are_counted_and_the_first_is_named(root: Path) -> None:
    copies_everywhere(root)
    sets = opened(root)
    facts = sets.split.facts
    assert facts.copies is not None
    assert (facts.copies.test_in_training, facts.copies.in_several_classes, facts.images["test"]) == (4, 6, 12)
    remedy = "remove the copies, or set data.duplicates to leave-out"
    classes = (
        "pictures under several classes, of which one is right at most: 6 (train/cat/0.png is train/dog/copy0.png); "
    )
    assert sets.notes[-1] == classes + remedy
    (test,) = [note for note in sets.notes if note.startswith("test images")]
    assert re.fullmatch(
        r"test images that are also training( or held-out)? images, byte for byte: 4 of 12 \(test/cat/0.png is "
        rf"train/cat/5.png\), figures on them prove nothing; {remedy}",
        test,
    )


def test_each_picture_is_used_once_and_none_under_several_classes(root: Path) -> None:
    copies_everywhere(root)
    sets = opened(root, duplicates="leave-out")
    used = [content for part in contents(sets).values() for content in part]
    assert len(set(used)) == len(used) == 36 + 12 - 6 - 4
    assert not {(root / f"train/cat/{number}.png").read_bytes() for number in (0, 1, 2, 3, 4, 11)} & set(used)
    assert sets.split.facts.copies == CopyFacts(test_in_training=0, in_several_classes=0)
    assert (len(sets.test), sets.split.facts.images["unused"]) == (8, 4 + 12)
    assert [note.partition(":")[0] for note in sets.notes] == [
        "test images that are also training images, byte for byte",
        "pictures under several classes, of which one is right at most",
    ]


def test_images_that_cannot_be_read_are_still_counted_where_copies_are_left_out(root: Path) -> None:
    copies_everywhere(root)
    (root / "test/emu/0.png").write_bytes(b"")
    with pytest.warns(UserWarning, match="emu/0"):
        sets = opened(root, duplicates="leave-out", on_unreadable="skip")
    assert (len(sets.test), sets.test.unreadable, sets.train.unreadable) == (7, 1, 0)


def test_copies_within_a_class_do_not_fall_into_several_parts(tmp_path: Path) -> None:
    root = write_folder(tmp_path, {"train": PARTS["train"]})
    copy(root, "train/cat/0.png", *(f"train/cat/again{number}.png" for number in range(20)))
    kept = contents(opened(root, holdout=0.4))
    assert set(kept["train"]) & set(kept["search"]) & set(kept["test"])
    sets = opened(root, holdout=0.4, duplicates="leave-out")
    used = [content for part in contents(sets).values() for content in part]
    assert len(set(used)) == len(used) == 36
    assert sets.notes == (
        "training images that are copies of others in their class: 20 (train/cat/again0.png is train/cat/0.png); "
        "left out",
    )


def test_where_no_test_image_is_left_training_images_are_set_apart(root: Path) -> None:
    for label in PARTS["test"]:
        for number in range(4):
            copy(root, f"train/{label}/{number}.png", f"test/{label}/{number}.png")
    sets = opened(root, duplicates="leave-out")
    assert sets.notes[-1] == "no image in test is left; some of the training images are set apart instead"
    assert sets.split.facts.images == {"train": 27, "search": 3, "val": 0, "test": 6, "unused": 12}
    summary = inspect_folder(root)
    assert (summary.images, summary.has_test) == ({"train": 36}, False)


def test_too_few_images_without_copies_are_named(root: Path) -> None:
    copy(root, "train/emu/0.png", *(f"train/emu/{number}.png" for number in range(1, 12)))
    with pytest.raises(UserError, match="class 'emu' has 1 image; at least 2 are needed"):
        opened(root, duplicates="leave-out")


def test_in_a_set_too_large_to_read_copies_are_not_known(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    copies_everywhere(root)
    monkeypatch.setattr(file_facts, "MOST_READ_BYTES", 1)
    sets = opened(root, duplicates="leave-out")
    assert sets.notes == ("too large to be read, so that copies in it are not known",)
    assert (sets.split.facts.copies, len(sets.test)) == (None, 12)


def test_copies_in_shards(tmp_path: Path) -> None:
    pictures = [(f"{seed:03d}", png(seed), b"cat" if seed % 2 else b"dog") for seed in range(20)]
    samples = [{"__key__": key, "png": content, "cls": label} for key, content, label in pictures]
    write_tar(tmp_path / "train/0.tar", samples)
    write_tar(tmp_path / "test/0.tar", [*samples[:2], {"__key__": "x", "png": png(30), "cls": b"cat"}])
    sets = open_data(DataSettings(kind="shards", path=str(tmp_path), size=10, duplicates="leave-out"), seed=0)
    assert len(sets.test) == 1
    assert "2 of 3 (test/0.tar/000.png is train/0.tar/000.png)" in " ".join(sets.notes)


def test_a_summary_counts_what_is_used_and_names_the_copies(root: Path) -> None:
    copies_everywhere(root)
    summary = inspect_folder(root)
    assert summary.images == {"train": 30, "test": 8}
    assert summary.per_class == {"cat": 6, "dog": 12, "emu": 12}
    assert [note.partition(":")[2] for note in summary.notes] == [
        " test images that are also training images, byte for byte: 4 of 12 (test/cat/0.png is train/cat/5.png), "
        "figures on them prove nothing; left out",
        " pictures under several classes, of which one is right at most: 6 (train/cat/0.png is train/dog/copy0.png); "
        "left out",
    ]


@given(st.lists(st.tuples(st.integers(0, 3), st.integers(0, 2)), min_size=1, max_size=12))
def test_copies_among_images_of_few_pictures(images: list[tuple[int, int]]) -> None:
    digests = np.zeros((len(images), 16), dtype=np.uint8)
    digests[:, 0] = [picture for picture, _ in images]
    found = Copies.among(np.array([label for _, label in images]), digests)
    classes = {picture: {label for other, label in images if other == picture} for picture, _ in images}
    assert found.contradicted.tolist() == [len(classes[picture]) > 1 for picture, _ in images]
    pictures = [picture for picture, _ in images]
    assert found.once.tolist() == [
        pictures.index(picture) == place and len(classes[picture]) == 1 for place, picture in enumerate(pictures)
    ]
