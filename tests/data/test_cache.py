"""Pictures that were decoded once are those of their files, wherever they are kept, and whatever becomes of that."""

import multiprocessing
import os
import pickle
import shutil
from collections.abc import Callable, Iterator
from multiprocessing.reduction import ForkingPickler
from pathlib import Path
from time import sleep

import numpy as np
import pytest
import torch.multiprocessing
from PIL import Image

from nasdeploy.core.errors import UserError
from nasdeploy.data import cache as module
from nasdeploy.data.batches import TrainingBatches, calibration_batches, evaluation_batches
from nasdeploy.data.cache import DecodedImages, fetched, whole
from nasdeploy.data.datasets import open_datasets, read_data
from nasdeploy.data.decoded_file import _END, ROW, DecodedBatch, PictureFile, PicturesInMemory, write_pictures
from nasdeploy.data.images import ArrayImages, Images
from nasdeploy.data.loader import FetchedImages
from nasdeploy.data.settings import DataSettings
from tests.data.pictures import noise, write_folder
from tests.data.shards import write_shards
from tests.data.test_batches import same

KEPT = ("memory", "disk")
CROPS = ("random-resized", "pad")
GIB = 1 << 30


@pytest.fixture(autouse=True)
def _home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.setattr(module, "_said", set())


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """Eleven pictures of other sizes and kinds, one of them twice and one lying on its side."""
    folder = write_folder(tmp_path / "photos", {"train": {"a": 5, "b": 4}}, side=12)
    turned = Image.Exif()
    turned[0x0112] = 6
    noise(9, 20, seed=50).save(folder / "train/a/turned.jpg", exif=turned)
    noise(30, 17, seed=51).convert("L").save(folder / "train/b/grey.png")
    shutil.copy(folder / "train/b/grey.png", folder / "train/a/copy.png")
    return folder


def settings(root: Path, cache: str = "none", crop: str = "random-resized", **changes: object) -> DataSettings:
    augment = {"crop": crop, "policy": "rand-m5-mstd0.5"}
    content = {"kind": "folder", "path": str(root), "size": 8, "workers": 0, "augment": augment, "cache": cache}
    return DataSettings.model_validate(content | changes)


def images_of(root: Path, **changes: object) -> Images:
    return read_data(settings(root, **changes)).parts["train"]


def files(tmp_path: Path) -> list[Path]:
    return sorted((tmp_path / "home").rglob("*.rgb"))


def is_equal(images: Images, root: Path, given: DataSettings) -> bool:
    """Whether two epochs of training and an evaluation are those of pictures that are decoded each time."""
    plain, without = images_of(root), given.model_copy(update={"cache": "none"})
    epochs = [
        same(TrainingBatches(images, given, 3, 1).epoch(n), TrainingBatches(plain, without, 3, 1).epoch(n))
        for n in (0, 1)
    ]
    return all(epochs) and same(evaluation_batches(images, given, 5), evaluation_batches(plain, without, 5))


def decoding_is_over(monkeypatch: pytest.MonkeyPatch) -> None:
    def not_again(*given: object, **others: object) -> None:
        pytest.fail("decoded")

    monkeypatch.setattr("nasdeploy.data.images.read_rgb", not_again)
    monkeypatch.setattr("nasdeploy.data.shard_images.read_rgb", not_again)


# -- the same pictures


@pytest.mark.parametrize("crop", CROPS)
@pytest.mark.parametrize("cache", ["auto", *KEPT])
def test_training_and_evaluation_are_the_same(root: Path, cache: str, crop: str) -> None:
    images, given = images_of(root), settings(root, cache, crop)
    assert is_equal(images, root, given)
    kept = fetched(images, given) if crop == "pad" else whole(images, given)
    if crop == "pad":
        assert isinstance(kept, ArrayImages if cache == "auto" else DecodedImages)
    else:
        assert (kept is images) if cache == "auto" else isinstance(kept, DecodedImages)
    assert same(
        TrainingBatches(images, given, 3, 1).epoch(1, start=2),
        TrainingBatches(images_of(root), settings(root, crop=crop), 3, 1).epoch(1, start=2),
    )


@pytest.mark.parametrize("cache", KEPT)
def test_processes_that_read_share_what_is_kept(root: Path, cache: str) -> None:
    found = TrainingBatches(images_of(root), settings(root, cache, workers=2), 3, 1).epoch(0)
    assert same(found, TrainingBatches(images_of(root), settings(root), 3, 1).epoch(0))


@pytest.mark.parametrize("cache", KEPT)
def test_pictures_in_shards_come_in_the_same_order(tmp_path: Path, cache: str, monkeypatch: pytest.MonkeyPatch) -> None:
    root = write_shards(tmp_path / "shards", {"train": {"a": 9, "b": 8}})
    given = settings(root, cache, kind="shards")
    plain = list(TrainingBatches(images_of(root, kind="shards"), settings(root, kind="shards"), 4, 0).epoch(1))
    images = images_of(root, kind="shards")
    assert same(TrainingBatches(images, given, 4, 0).epoch(1), plain)
    decoding_is_over(monkeypatch)
    assert same(TrainingBatches(images, given, 4, 0).epoch(1), plain)


@pytest.mark.parametrize("cache", KEPT)
def test_objects_of_a_data_set_are_kept_too(tmp_path: Path, cache: str) -> None:
    # Equal bytes of unequal shapes are not the same picture.
    shown = [np.full((4, 6, 3), 7, np.uint8), np.full((6, 4, 3), 7, np.uint8), np.full((5, 5), 9, np.uint8)]
    images = open_datasets({"train": [(picture, number) for number, picture in enumerate(shown)]}).parts["train"]
    kept = whole(images, settings(tmp_path, cache))
    assert [kept.image(number).tobytes() for number in range(3)] == [images.image(n).tobytes() for n in range(3)]
    assert [kept.image(number).size for number in range(3)] == [(6, 4), (4, 6), (5, 5)]


def test_a_file_is_found_again_by_the_bytes_of_the_pictures(
    root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    given = settings(root, "disk", "pad")
    before = list(evaluation_batches(images_of(root), given, 4))
    (file,) = files(tmp_path)
    assert file.stat().st_mode & 0o777 == 0o600
    root.rename(tmp_path / "moved")
    moved = images_of(tmp_path / "moved")
    order = [10, 3, 5, *range(3), 4, *range(6, 10), 11]
    decoding_is_over(monkeypatch)
    assert same(evaluation_batches(moved, given, 4), before)
    mixed, kept = fetched(moved.subset(order), given), fetched(moved, given)
    assert [mixed.image(at).tobytes() for at in range(12)] == [kept.image(at).tobytes() for at in order]
    assert kept.subset([7, 2]).image(0).tobytes() == kept.image(7).tobytes()
    assert pickle.loads(pickle.dumps(kept)).image(3).tobytes() == kept.image(3).tobytes()


@pytest.mark.parametrize("change", ["size", "picture", "version", "max_pixels"])
def test_what_the_pixels_depend_on_makes_another_file(
    root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, change: str
) -> None:
    fetched(images_of(root), settings(root, "disk"))
    if change == "picture":
        noise(12, 12, seed=77).save(root / "train/a/0.png")
    elif change == "version":
        monkeypatch.setattr(module, "pillow_version", "0.1")
    changes = {"size": {"size": 9}, "max_pixels": {"max_pixels": 9999}}.get(change, {})
    again = images_of(root, **changes)
    kept = fetched(again, settings(root, "disk", **changes))
    assert len(files(tmp_path)) == 2
    assert kept.image(0).tobytes() == fetched(again, settings(root, **changes)).image(0).tobytes()


# -- files that are not to be trusted


def cut_off(file: Path) -> None:
    os.truncate(file, file.stat().st_size - 1)


def grown(file: Path) -> None:
    file.write_bytes(file.read_bytes() + b"0")


def empty(file: Path) -> None:
    file.write_bytes(b"")


def of_others(file: Path) -> None:
    file.chmod(0o666)


def of_a_pickle(file: Path) -> None:
    file.write_bytes(pickle.dumps([1] * 1000))


def with_another_table(file: Path) -> None:
    """The first picture's height is another, and the checksum the old one."""
    content = bytearray(file.read_bytes())
    content[-_END.size - 11 * ROW.itemsize + ROW.fields["height"][1]] ^= 1
    file.write_bytes(content)


DAMAGES = [cut_off, grown, empty, of_others, of_a_pickle, with_another_table, Path.unlink]


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_file_that_is_no_cache_is_written_anew(root: Path, tmp_path: Path, damage: Callable[[Path], None]) -> None:
    given = settings(root, "disk", "pad")
    whole_one = fetched(images_of(root), given)
    (file,) = files(tmp_path)
    content = file.read_bytes()
    damage(file)
    images = images_of(root)
    assert not isinstance(fetched(images, given, False), DecodedImages)
    again = fetched(images, given)
    assert isinstance(again, DecodedImages)
    assert again.image(0).tobytes() == whole_one.image(0).tobytes()
    assert file.read_bytes() == content and file.stat().st_mode & 0o777 == 0o600


@pytest.mark.parametrize("make", [os.mkfifo, os.mkdir])
def test_what_is_no_file_is_left_where_it_is(root: Path, tmp_path: Path, make: Callable[[Path], None]) -> None:
    given = settings(root, "disk")
    whole(images_of(root), given)
    (file,) = files(tmp_path)
    file.unlink()
    make(file)
    images = images_of(root)
    with pytest.warns(UserWarning, match=r"^data.cache: .*; pictures are decoded each time$"):
        assert whole(images, given) is images
    assert not file.is_file()


def test_sizes_that_contradict_each_other_are_refused_with_a_right_checksum(root: Path, tmp_path: Path) -> None:
    ids = np.array([bytes([1]) * 24, bytes([2]) * 24])
    sizes = np.array([[2, 2], [1, 3]])
    path, key = tmp_path / "one", bytes(32)
    write_pictures(path, key, ids, [DecodedBatch(np.arange(21, dtype=np.uint8), sizes)])
    found = PictureFile.open(path, key, ids)
    assert found is not None and found.picture(1) is not None
    assert PictureFile.open(path, bytes([1]) * 32, ids) is None
    assert PictureFile.open(path, key, ids[:1]) is None
    assert PictureFile.open(path, key, np.array([bytes([1]) * 24, bytes([3]) * 24])) is None
    for wrong in ([[2, 2], [1, 4]], [[2, 2], [-1, -3]], [[1 << 40, 1 << 40], [1, 3]]):
        given = np.array(wrong)
        write_pictures(path, key, ids, [DecodedBatch(np.arange(21, dtype=np.uint8), given)])
        assert PictureFile.open(path, key, ids) is None


@pytest.mark.parametrize("change", ["bytes", "cut"])
def test_pictures_that_are_damaged_later_are_decoded(root: Path, tmp_path: Path, change: str) -> None:
    given = settings(root, "disk")
    images = images_of(root)
    kept = whole(images, given)
    (file,) = files(tmp_path)
    if change == "cut":
        os.truncate(file, 100)
    else:
        with file.open("r+b") as opened:
            opened.write(b"damage")
    assert [kept.image(at).tobytes() for at in range(12)] == [images.image(at).tobytes() for at in range(12)]
    assert is_equal(images, root, given)


def test_a_file_that_cannot_be_written_is_done_without(
    root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "home/.cache").mkdir(parents=True)
    (tmp_path / "home/.cache/nasdeploy").write_text("no folder")
    with pytest.warns(UserWarning, match=r"^data.cache: .*nasdeploy.*; pictures are decoded each time$"):
        assert is_equal(images_of(root), root, settings(root, "disk"))


# -- what does not fit


def test_what_does_not_fit_into_memory_goes_to_the_disk(
    root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "available_memory", lambda: 1000)
    given, images = settings(root, "memory"), images_of(root)
    with pytest.warns(UserWarning, match=r"^data.cache: .* GiB of pictures are more than .* go to the disk if there"):
        assert isinstance(whole(images, given), DecodedImages)
    assert len(files(tmp_path)) == 1
    assert isinstance(fetched(images, settings(root, "auto")), FetchedImages)
    assert is_equal(images, root, given)


def test_and_what_does_not_fit_there_is_decoded_each_time(
    root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(shutil, "disk_usage", lambda path: shutil._ntuple_diskusage(GIB, GIB, 1000))
    given, images = settings(root, "disk"), images_of(root)
    with pytest.warns(UserWarning, match=r"free in .*/pictures; they are decoded each time$"):
        assert whole(images, given) is images
    assert not files(tmp_path)
    assert is_equal(images, root, given)


def test_processes_of_a_machine_share_its_memory(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    images, given = images_of(root), settings(root, "auto")
    monkeypatch.setattr(module, "available_memory", lambda: 2 * 12 * 3 * 8 * 8)
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "2")
    assert isinstance(fetched(images, given), FetchedImages)
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "1")
    assert isinstance(fetched(images_of(root), given), ArrayImages)


def test_what_takes_long_and_much_is_told_once(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_MOST_BYTES", 0)
    with pytest.warns(UserWarning, match="^data.cache: 12 pictures are decoded once and kept in memory, ") as said:
        assert [isinstance(whole(images_of(root), settings(root, "memory")), DecodedImages) for _ in range(2)]
    assert len(said) == 1
    assert isinstance(fetched(images_of(root), settings(root, "auto")), FetchedImages)


def test_images_whose_bytes_are_not_known_are_not_kept_on_disk(root: Path, tmp_path: Path) -> None:
    images = images_of(root)
    images.records["read"] = False
    with pytest.warns(UserWarning, match="bytes of these images were not read"):
        assert whole(images, settings(root, "disk")) is images
    assert isinstance(whole(images, settings(root, "memory")), DecodedImages)


def test_a_few_batches_decode_no_more_than_they_need(root: Path, tmp_path: Path) -> None:
    for cache, crop in (("auto", "pad"), ("memory", "pad"), ("disk", "random-resized")):
        images, given = images_of(root), settings(root, cache, crop)
        few = calibration_batches(images, given, 4, 2, 0)
        assert not images.kept and not files(tmp_path)
        many = calibration_batches(images, given, 4, 3, 0)
        assert images.kept
        again = calibration_batches(images, given, 4, 2, 0)
        assert all(np.array_equal(a, b) for a, b in zip(few, again, strict=True))
        assert all(np.array_equal(a, b) for a, b in zip(few, many, strict=False))


def test_tensors_are_handed_to_processes_and_not_copied() -> None:
    pictures = PicturesInMemory(torch.zeros(1 << 20, dtype=torch.uint8), np.zeros(1, dtype="i1"))
    assert len(ForkingPickler.dumps(pictures)) < 5000


# -- damaged pictures


def damaged(root: Path) -> Images:
    images = images_of(root)
    path = images.path(4)
    path.write_bytes(path.read_bytes()[:100])
    return images


@pytest.mark.parametrize(("cache", "workers"), [("memory", 0), ("disk", 2)])
def test_an_unreadable_picture_stops_and_leaves_nothing(root: Path, tmp_path: Path, cache: str, workers: int) -> None:
    images = damaged(root)
    with pytest.raises(UserError) as caught:
        list(TrainingBatches(images, settings(root, cache, workers=workers), 3, 0).epoch(0))
    assert str(caught.value).startswith(f"{images.path(4)}: cannot be read as an image")
    assert not files(tmp_path) and not list((tmp_path / "home").rglob("*.partial"))


@pytest.mark.filterwarnings("ignore:left out")
@pytest.mark.parametrize("crop", CROPS)
@pytest.mark.parametrize("cache", KEPT)
def test_or_is_left_out_as_ever(root: Path, cache: str, crop: str) -> None:
    images = damaged(root)
    given, plain = (settings(root, each, crop, on_unreadable="skip") for each in (cache, "none"))
    for epoch in (0, 1):
        found = TrainingBatches(images, given, 3, 0).epoch(epoch)
        assert same(found, TrainingBatches(images, plain, 3, 0).epoch(epoch))
    assert same(evaluation_batches(images, given, 5), evaluation_batches(images, plain, 5))


@pytest.mark.parametrize("cache", KEPT)
def test_pictures_that_have_grown_since_they_were_counted_are_decoded(root: Path, cache: str) -> None:
    images = images_of(root)
    noise(40, 40, seed=5).save(images.path(3))
    kept = whole(images, settings(root, cache))
    assert [kept.image(at).tobytes() for at in range(12)] == [images.image(at).tobytes() for at in range(12)]


# -- processes that are killed, or want the same


def test_a_killed_process_leaves_nothing_that_is_believed(
    root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    decode = module.decode

    def stopped(*given: object) -> Iterator[object]:
        yield next(decode(*given))
        os._exit(9)

    with monkeypatch.context() as patch:
        patch.setattr(module, "decode", stopped)
        process = multiprocessing.get_context("fork").Process(
            target=whole, args=(images_of(root), settings(root, "disk"))
        )
        process.start()
        process.join()
    assert process.exitcode == 9
    assert not files(tmp_path) or all(".partial" in str(file) for file in files(tmp_path))
    assert list((tmp_path / "home").rglob(".*.partial"))
    assert is_equal(images_of(root), root, settings(root, "disk"))
    assert not list((tmp_path / "home").rglob(".*.partial"))


def test_who_wants_the_same_file_waits_for_it(root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    decode, given = module.decode, settings(root, "disk")
    begun = multiprocessing.get_context("fork").Event()

    def slowly(*given: object) -> Iterator[object]:
        begun.set()
        sleep(0.5)
        yield from decode(*given)

    with monkeypatch.context() as patch:
        patch.setattr(module, "decode", slowly)
        process = multiprocessing.get_context("fork").Process(target=whole, args=(images_of(root), given))
        process.start()
    assert begun.wait(30)
    images = images_of(root)
    decoding_is_over(monkeypatch)
    kept = whole(images, given)
    monkeypatch.undo()
    process.join()
    assert process.exitcode == 0 and isinstance(kept, DecodedImages)
    assert kept.image(5).tobytes() == images.image(5).tobytes()
