"""Shards that webdataset wrote, read here and by webdataset."""

import gzip
import io
import os
import pickle
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
import torch
import webdataset
from PIL import Image

from nasdeploy.cli.wording import typed
from nasdeploy.core.errors import UserError
from nasdeploy.data.batches import TrainingBatches
from nasdeploy.data.cache import fetched
from nasdeploy.data.datasets import open_data
from nasdeploy.data.images import Images, ImageSets
from nasdeploy.data.inspect import inspect_folder
from nasdeploy.data.settings import AugmentSettings, DataSettings
from nasdeploy.data.shard_images import WINDOW, ShardImages
from nasdeploy.data.shards import list_shards
from tests.data.pictures import write_folder, write_png
from tests.data.shards import png, write_shards, write_tar

TRAIN = {"train": {"cat": 12, "dog": 12}}


def settings(root: Path, **changes: object) -> DataSettings:
    return DataSettings.model_validate({"kind": "shards", "path": str(root), "size": 10, "workers": 0, **changes})


def opened(root: Path, **changes: object) -> ImageSets:
    return open_data(settings(root, **changes), seed=0)


def parts_of(sets: ImageSets) -> list[Images]:
    return [sets.train, sets.search, sets.test]


def message(root: Path) -> str:
    with pytest.raises(UserError) as caught:
        opened(root)
    assert "\n" not in typed(caught.value)
    return typed(caught.value)


def sample(key: str, **members: bytes) -> dict[str, object]:
    return {"__key__": key, **members}


def images_of(root: Path) -> ShardImages:
    return list_shards(root).parts["train"]


def many_shards(root: Path, shards: int = 3 * WINDOW, each: int = 6) -> Path:
    for number in range(shards):
        samples = [sample(f"{number:03d}/{i}", png=png(0), cls=str(i % 3).encode()) for i in range(each)]
        write_tar(root / "train" / f"{number:04d}.tar", samples)
    return root


# -- what is read


def test_images_and_labels_are_those_that_webdataset_reads(tmp_path: Path) -> None:
    root = write_shards(tmp_path, TRAIN)
    found = images_of(root)
    urls = [str(path) for path in sorted(root.glob("train/*.tar"))]
    # Not decoded: its decoders would open pickles.
    expected = list(webdataset.WebDataset(urls, shardshuffle=False))
    assert len(found) == len(expected) == 24
    for index, theirs in enumerate(expected):
        image, label = found[index]
        assert str(found.path(index)) == f"{theirs['__url__']}/{theirs['__key__']}.png"
        assert ("cat", "dog")[label] == theirs["cls"].decode()
        assert found.content(index) == theirs["png"]
        assert image.tobytes() == Image.open(io.BytesIO(theirs["png"])).convert("RGB").tobytes()


def test_parts_are_split_as_those_of_a_folder(tmp_path: Path) -> None:
    sets = opened(write_shards(tmp_path, {**TRAIN, "val": {"cat": 2, "dog": 2}, "test": {"cat": 3, "dog": 4}}))
    assert sets.classes == ("cat", "dog")
    assert [len(part) for part in (sets.train, sets.search, sets.val, sets.test)] == [22, 2, 4, 7]
    assert sets.test.labels.tolist() == [0, 1, 0, 1, 0, 1, 1]
    assert sets.notes == ()


def test_a_truncated_image_is_named_or_left_out(tmp_path: Path) -> None:
    write_shards(tmp_path, TRAIN)
    broken = [sample("x", png=png(900)[:60], cls=b"cat"), sample("y", png=png(901), cls=b"dog")]
    write_tar(tmp_path / "train/broken.tar", broken)
    images = images_of(tmp_path)
    path = tmp_path / "train/broken.tar/x.png"
    augment = AugmentSettings()
    with pytest.raises(UserError) as caught:
        list(TrainingBatches(images, settings(tmp_path, augment=augment, workers=1), 26, 0).epoch(0))
    assert typed(caught.value).startswith(f"{path}: cannot be read as an image (")
    skipping = settings(tmp_path, augment=augment, on_unreadable="skip")
    with pytest.warns(UserWarning, match=f"^left out: {path} "):
        ((_, labels),) = TrainingBatches(images, skipping, 26, 0).epoch(0)
    assert len(labels) == 25


def test_a_shard_that_changes_while_it_is_used_is_named(tmp_path: Path) -> None:
    root = write_shards(tmp_path, TRAIN)
    images = images_of(root)
    shard = root / "train/0000.tar"
    shard.write_bytes(shard.read_bytes()[:700])
    (root / "train/0001.tar").unlink()
    for index, reason in ((0, "its shard has become shorter"), (5, "No such file or directory")):
        with pytest.raises(UserError) as caught:
            images.image(index)
        assert f"{images.path(index)}: cannot be read as an image ({reason})" in typed(caught.value)


def test_few_files_are_kept_open_and_closed_at_the_end(tmp_path: Path) -> None:
    images = images_of(many_shards(tmp_path))
    before = len(os.listdir("/proc/self/fd"))
    for index in range(len(images)):
        images.image(index)
    assert len(os.listdir("/proc/self/fd")) - before == 2 * WINDOW
    del images
    assert len(os.listdir("/proc/self/fd")) == before


def test_copies_for_other_processes_open_files_of_their_own(tmp_path: Path) -> None:
    images = images_of(write_shards(tmp_path, TRAIN))
    expected = images.image(3).tobytes()
    # What a loader does where processes are not forked.
    copy = pickle.loads(pickle.dumps(images))
    del images
    assert copy.image(3).tobytes() == expected


# -- order


def test_windows_of_shards_are_read_one_after_the_other(tmp_path: Path) -> None:
    root = many_shards(tmp_path)
    images = images_of(root)
    order = TrainingBatches(images, settings(root), 1, 0).order(0)
    assert sorted(order.tolist()) == list(range(len(images)))
    shards = [images.path(index).parent.parent.name for index in order]
    windows = [shards[first : first + 6 * WINDOW] for first in range(0, len(shards), 6 * WINDOW)]
    assert [len(set(window)) for window in windows] == 3 * [WINDOW]
    assert sum(len(set(window)) for window in windows) == len(set(shards))
    # Inside a window, shards are mixed: 48 in file order would change shard 7 times.
    assert all(sum(a != b for a, b in pairwise(window)) > 30 for window in windows)
    orders = [
        TrainingBatches(images, settings(root), 1, seed).order(epoch).tolist() for seed in (0, 1) for epoch in (0, 1)
    ]
    assert orders[0] == order.tolist()
    assert len({tuple(found) for found in orders}) == 4


def test_balanced_draws_come_in_windows_too(tmp_path: Path) -> None:
    root = many_shards(tmp_path)
    images = images_of(root).subset([i for i in range(144) if i % 6 < 4])
    order = TrainingBatches(images, settings(root, balance="sampling"), 1, 0).order(0)
    assert len(set(order.tolist())) < len(order) == len(images) == 96
    shards = [images.path(index).parent.parent.name for index in order]
    assert len(set(shards[:28])) <= WINDOW


@pytest.mark.parametrize("crop", ["random-resized", "none"])
def test_workers_restarts_and_memory_change_nothing(tmp_path: Path, crop: str, monkeypatch: pytest.MonkeyPatch) -> None:
    root = many_shards(tmp_path, shards=WINDOW + 2, each=3)
    given = settings(root, augment={"crop": crop})
    alone = list(TrainingBatches(images_of(root), given, 4, 5).epoch(1))
    monkeypatch.setattr("nasdeploy.data.cache._MOST_BYTES", 0)
    with_one = list(TrainingBatches(images_of(root), given.model_copy(update={"workers": 1}), 4, 5).epoch(1))
    later = list(TrainingBatches(images_of(root), given, 4, 5).epoch(1, start=3))
    halves = [list(TrainingBatches(images_of(root), given, 4, 5, part=(place, 2)).epoch(1)) for place in (0, 1)]
    assert len(alone) == len(with_one) == len(later) + 3 == 7
    for number, (pixels, labels) in enumerate(alone):
        assert torch.equal(pixels, with_one[number][0]) and torch.equal(labels, with_one[number][1])
        assert number < 3 or torch.equal(pixels, later[number - 3][0])
        assert torch.equal(pixels[1::2], halves[1][number][0])


def test_pictures_fetched_once_are_those_of_the_shards(tmp_path: Path) -> None:
    root = write_shards(tmp_path, TRAIN)
    images = images_of(root)
    in_memory = fetched(images, settings(root))
    assert not isinstance(in_memory, ShardImages)
    assert [in_memory.image(i).tobytes() for i in range(24)] == [images.image(i).tobytes() for i in range(24)]


def test_shards_of_few_classes_each_are_noted(tmp_path: Path) -> None:
    for number in range(3 * WINDOW):
        label = str(number // WINDOW).encode()
        write_tar(
            tmp_path / f"train/{number:04d}.tar", [sample(f"{i}", png=png(3 * number + i), cls=label) for i in range(3)]
        )
    assert opened(tmp_path).notes == (
        f"{tmp_path / 'train'}: shards hold few classes each, and only the samples of 8 shards at a time are shuffled "
        "with each other; write samples in random order",
    )
    assert not any("few classes" in note for note in opened(many_shards(tmp_path / "mixed")).notes)


# -- classes


def test_numbers_are_classes_in_their_order(tmp_path: Path) -> None:
    labels = ["10", "9", "009", " 2\n"] * 3
    write_tar(tmp_path / "train/0.tar", [sample(f"{i}", png=png(i), cls=x.encode()) for i, x in enumerate(labels)])
    listing = list_shards(tmp_path)
    assert listing.classes == ("2", "9", "10")
    assert listing.parts["train"].labels.tolist() == [2, 1, 1, 0] * 3


@pytest.mark.parametrize("labels", [["0", "1", "1"], ["zebra", "ant", "ant"], ["0", "ant", "1"]])
def test_a_file_names_and_orders_the_classes(tmp_path: Path, labels: list[str]) -> None:
    write_tar(tmp_path / "train/0.tar", [sample(f"{i}", png=png(i), cls=x.encode()) for i, x in enumerate(labels)])
    (tmp_path / "classes.txt").write_text("zebra\nant\n")
    listing = list_shards(tmp_path)
    assert (listing.classes, listing.parts["train"].labels.tolist()) == (("zebra", "ant"), [0, 1, 1])


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ("cat\ncat\n", "line 2 is 'cat'; write the name of another class on each line"),
        ("cat\n\ndog\n", "line 2 is ''; write the name of another class on each line"),
        ("1\n0\n", "line 1 is '1', which as a label means line 2; write names that are no numbers"),
        ("", "is empty; write the name of a class on each line, or remove it"),
        (
            "cat\ndog\u2028puppy\n",
            r"the class 'dog\u2028puppy' has U+2028 (line separator) in its name, which lists of classes cannot hold; "
            "rename it",
        ),
        (
            "cat\nCat\n",
            "the classes 'Cat' and 'cat' are equal but for case, blanks or their form in Unicode; make them one, or "
            "give them names that differ",
        ),
    ],
)
def test_a_bad_file_of_classes_is_named(tmp_path: Path, content: str, said: str) -> None:
    write_shards(tmp_path, TRAIN)
    (tmp_path / "classes.txt").write_text(content, encoding="utf-8")
    assert message(tmp_path) == f"{tmp_path / 'classes.txt'}: {said}"


@pytest.mark.parametrize(
    ("encoding", "said"),
    [
        ("utf-16", "cannot be read (it is in UTF-16, not in UTF-8); write a name on each line, in UTF-8"),
        ("utf-16-be", "cannot be read (it is in UTF-16, not in UTF-8); write a name on each line, in UTF-8"),
        ("latin-1", "cannot be read (it is not in UTF-8, by byte 0xf6); write a name on each line, in UTF-8"),
    ],
)
def test_a_file_of_classes_in_another_encoding_is_named(tmp_path: Path, encoding: str, said: str) -> None:
    write_shards(tmp_path, TRAIN)
    (tmp_path / "classes.txt").write_bytes("cat\nL\u00f6we\n".encode(encoding))
    assert message(tmp_path) == f"{tmp_path / 'classes.txt'}: {said}"


@pytest.mark.parametrize("content", ["\ufeffcat\ndog\n", "cat\r\ndog\r\n", "cat\rdog", "\ufeffcat\r\ndog"])
def test_byte_order_marks_and_line_ends_of_other_systems_are_read(tmp_path: Path, content: str) -> None:
    write_shards(tmp_path, TRAIN)
    (tmp_path / "classes.txt").write_bytes(content.encode())
    assert opened(tmp_path).classes == ("cat", "dog")


def labelled(root: Path, labels: list[str], part: str = "train") -> Path:
    write_tar(root / part / "0.tar", [sample(f"{i}", png=png(i), cls=x.encode()) for i, x in enumerate(labels)])
    return root


def test_one_class_in_two_forms_of_unicode_is_one_class(tmp_path: Path) -> None:
    nfc, nfd = "M\u00fcller", "Mu\u0308ller"
    labelled(tmp_path, [nfd, "Mz"] * 2), labelled(tmp_path, [nfc, "Mz"], "test")
    listing = list_shards(tmp_path)
    assert listing.classes == ("Mz", nfc)
    assert [listing.parts[part].labels.tolist() for part in ("train", "test")] == [[1, 0] * 2, [1, 0]]
    (tmp_path / "classes.txt").write_text(f"{nfd}\nMz\n", encoding="utf-8")
    listing = list_shards(tmp_path)
    assert (listing.classes, listing.parts["test"].labels.tolist()) == ((nfc, "Mz"), [0, 1])


@pytest.mark.parametrize("alike", [("M\u00fcller", "Mu\u0308ller"), ("cat", "CAT"), ("1", "\uff11")])
def test_labels_that_look_alike_are_refused(tmp_path: Path, alike: tuple[str, str]) -> None:
    said = message(labelled(tmp_path, [*alike, "dog"] * 4))
    assert said.startswith(f"{tmp_path / 'train'}: the classes {min(alike)!a} and {max(alike)!a} are equal")


def test_a_label_written_otherwise_in_test_is_named(tmp_path: Path) -> None:
    labelled(tmp_path, ["cat", "dog"] * 4), labelled(tmp_path, ["Cat", "dog"], "test")
    assert message(tmp_path) == (
        f"{tmp_path}/test/0.tar/0.png: label 'Cat', and {tmp_path}/train has no such class; it is written 'cat' there; "
        "correct one of them"
    )


def test_a_number_beyond_the_classes_is_named(tmp_path: Path) -> None:
    labelled(tmp_path, ["0", "1", "2"] * 4)
    (tmp_path / "classes.txt").write_text("cat\ndog\n")
    said = f"label 2, and {tmp_path}/classes.txt names 2 classes, 0 to 1; correct one of them"
    assert message(tmp_path) == f"{tmp_path}/train/0.tar/2.png: {said}"


def test_whatever_lies_beside_shards_is_named(tmp_path: Path) -> None:
    root = write_shards(tmp_path, {"train": {"cat": 12, "dog": 12}}, per_shard=24)
    (root / "classes.txt").write_text("cat\ndog\n")
    for name in ("train/1.tar.gz", "train/._0000.tar", "train/more/2.tar", "valid/0.tar", "notes.txt"):
        (root / name).parent.mkdir(exist_ok=True)
        (root / name).write_bytes(b"")
    assert [note.partition(";")[0] for note in list_shards(root).notes] == [
        f"{root}: valid/ is passed over",
        f"{root}: passed over beside train/: notes.txt",
        f"{root}/train: no shards, and passed over: ._0000.tar, 1.tar.gz, more/",
    ]


def test_a_label_that_training_lacks_is_named(tmp_path: Path) -> None:
    root = write_shards(tmp_path, {**TRAIN, "val": {"cat": 1, "dogs": 1}})
    assert message(root) == (
        f"{root}/val/0000.tar/00025.png: label 'dogs', and {root}/train has no such class; did you mean 'dog'?; "
        "correct one of them"
    )
    (root / "classes.txt").write_text("cat\ndogs\n")
    assert message(root) == (
        f"{root}/train/0000.tar/00001.png: label 'dog', and {root}/classes.txt names no such class; did you mean "
        "'dogs'?; correct one of them"
    )


def test_a_class_that_validation_lacks_is_noted_and_one_that_training_lacks_is_refused(tmp_path: Path) -> None:
    root = write_shards(tmp_path, {**TRAIN, "val": {"cat": 2}})
    (note,) = opened(root).notes
    assert note.startswith(f"{root / 'val'}: no images of dog, ")
    (root / "classes.txt").write_text("cat\ndog\nfox\n")
    assert message(root) == "data: class 'fox' has 0 images; at least 3 are needed (for training, search and test)"


# -- what else there is


def test_a_fingerprint_is_of_names_labels_and_shards_and_not_of_where_they_lie(tmp_path: Path) -> None:
    def fingerprint(name: str, label: bytes = b"cat", key: str = "x", shard: str = "0", each: int = 5) -> str:
        root = write_shards(tmp_path / name, TRAIN, per_shard=each)
        write_tar(root / f"train/{shard}.tar", [sample(key, png=png(77), cls=label)])
        return opened(root).fingerprint

    same = fingerprint("a")
    assert same == fingerprint("b/deeper")
    assert same.startswith("25 images, ")
    others = [fingerprint("c", label=b"dog"), fingerprint("d", key="y"), fingerprint("e", each=6)]
    assert len({same, *others}) == 4


def test_wrong_forms_are_named(tmp_path: Path) -> None:
    assert message(tmp_path / "none") == (
        f"{tmp_path / 'none'}: no such folder; give the one that holds train/*.tar, with data.path or --data DIR"
    )
    assert message(tmp_path) == (
        f"{tmp_path}: has no train folder (it is empty); put the data into {tmp_path}/train/*.tar"
    )
    (tmp_path / "train").mkdir()
    (tmp_path / "train/0.tar.gz").write_bytes(gzip.compress(b""))
    assert message(tmp_path) == (
        f"{tmp_path / 'train'}: 0.tar.gz is compressed, so that samples cannot be found in it; unpack it to .tar"
    )
    write_folder(tmp_path / "folder", TRAIN)
    assert message(tmp_path / "folder") == (
        f"{tmp_path / 'folder/train'}: holds folders and no *.tar; for images in class folders set data.kind: folder"
    )
    (write_shards(tmp_path / "val", TRAIN) / "val").mkdir()
    assert message(tmp_path / "val") == f"{tmp_path / 'val/val'}: holds no *.tar; put the shards there"
    with pytest.raises(UserError) as caught:
        open_data(settings(tmp_path / "val").model_copy(update={"kind": "folder"}), seed=0)
    assert typed(caught.value) == (
        f"{tmp_path / 'val/train'}: holds tar shards; set data.kind: shards, or --set data.kind=shards"
    )


def test_a_summary_of_shards(tmp_path: Path) -> None:
    root = write_shards(tmp_path, {"train": {"a": 4, "b": 5}, "test": {"a": 2}}, side=20)
    write_tar(root / "train/z.tar", [sample("1", png=png(0, 70), cls=b"b"), sample("2", png=b"no png", cls=b"b")])
    found = inspect_folder(root)
    assert (found.kind, found.classes, found.images) == ("shards", ("a", "b"), {"train": 11, "test": 2})
    assert (found.per_class, found.sides) == ({"a": 4, "b": 7}, (20, 20, 70))
    assert [note.partition(",")[0] for note in found.notes] == [f"{root / 'test'}: no images of b"]


def test_huge_pictures_in_shards_are_found_when_they_are_opened(tmp_path: Path) -> None:
    write_shards(tmp_path, {"train": {"cat": 5, "dog": 5}})
    huge = write_png(tmp_path / "huge.png", 20_000, 10_000).read_bytes()
    write_tar(tmp_path / "train/9.tar", [{"__key__": "x", "png": huge, "cls": b"cat"}])
    with pytest.raises(UserError, match=r"9\.tar/x\.png: cannot be read as an image \(20000 x 10000 pixels, 200000000"):
        opened(tmp_path)
    assert inspect_folder(tmp_path).notes[-1].startswith(f"{tmp_path}/train/9.tar/x.png: cannot be read as an image (2")
    assert sum(map(len, parts_of(opened(tmp_path, max_pixels=200_000_000)))) == 11
    with pytest.warns(UserWarning, match=r"x\.png \(20000 x 10000 pixels"):
        sets = opened(tmp_path, on_unreadable="skip")
    assert sum(map(len, parts_of(sets))) == 10
    assert [image.size for image, _ in sets.train] == [(10, 10)] * len(sets.train)


def test_a_range_reaches_pictures_in_shards(tmp_path: Path) -> None:
    samples = []
    for number in range(10):
        file = io.BytesIO()
        Image.fromarray(np.full((3, 3), 1000 + number, np.uint16)).save(file, "PNG")
        samples.append({"__key__": f"{number}", "png": file.getvalue(), "cls": str(number % 2).encode()})
    write_tar(tmp_path / "train/0.tar", samples)
    sets = opened(tmp_path, range=(1000, 1010))
    found = sorted(image.getpixel((0, 0))[0] for part in parts_of(sets) for image, _ in part)
    assert found == [round(255 * number / 10) for number in range(10)]
    assert inspect_folder(tmp_path).needs_range


def test_shards_of_unreadable_images_are_named_before_a_recipe_is_written(tmp_path: Path) -> None:
    write_tar(tmp_path / "train/0.tar", [sample("x", png=b"no png", cls=b"a")])
    with pytest.raises(UserError) as caught:
        inspect_folder(tmp_path)
    assert typed(caught.value) == f"{tmp_path}/train: none of the images could be read, x.png for one; replace them"


def test_labels_are_arrays(tmp_path: Path) -> None:
    images = images_of(write_shards(tmp_path, TRAIN))
    assert images.labels.dtype == np.int64
    assert images.subset([]).labels.shape == (0,)
