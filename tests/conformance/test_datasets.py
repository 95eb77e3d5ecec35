"""What every kind of data has to give, on files as small as its format allows."""

import gzip
import pickle
from collections import Counter
from pathlib import Path
from typing import get_args

import numpy as np
import pytest
from torchvision.datasets import CIFAR10

from nasdeploy.cli.wording import typed
from nasdeploy.core.errors import UserError
from nasdeploy.data.datasets import DATASETS, open_data, open_datasets
from nasdeploy.data.images import ImageSets
from nasdeploy.data.settings import DatasetKind, DataSettings
from tests.data.own import Pictures
from tests.data.pictures import write_folder
from tests.data.shards import write_shards

RNG = np.random.default_rng(0)


def write_cifar10(root: Path) -> None:
    folder = root / "cifar-10-batches-py"
    folder.mkdir(parents=True)
    for name, _ in CIFAR10.train_list + CIFAR10.test_list:
        batch = {"data": RNG.integers(0, 256, (30, 3072), dtype=np.uint8), "labels": [i % 10 for i in range(30)]}
        (folder / name).write_bytes(pickle.dumps(batch))
    (folder / "batches.meta").write_bytes(pickle.dumps({"label_names": [f"class {i}" for i in range(10)]}))


def idx(array: np.ndarray) -> bytes:
    """LeCun's idx format for unsigned bytes."""
    sizes = b"".join(size.to_bytes(4, "big") for size in array.shape)
    return bytes([0, 0, 8, array.ndim]) + sizes + array.astype(np.uint8).tobytes()


def write_fashion_mnist(root: Path) -> None:
    root.mkdir(parents=True)
    for part, count in (("train", 60), ("t10k", 30)):
        pixels, labels = RNG.integers(0, 256, (count, 28, 28)), np.arange(count) % 10
        (root / f"{part}-images-idx3-ubyte.gz").write_bytes(gzip.compress(idx(pixels)))
        (root / f"{part}-labels-idx1-ubyte").write_bytes(idx(labels))


def settings_for(kind: str, root: Path) -> DataSettings:
    if kind == "folder":
        write_folder(root, {"train": {"a": 8, "b": 9}, "test": {"a": 3, "b": 3}})
    elif kind == "shards":
        write_shards(root, {"train": {"a": 8, "b": 9}, "test": {"a": 3, "b": 3}})
    elif kind == "cifar10":
        write_cifar10(root)
    elif kind == "fashion-mnist":
        write_fashion_mnist(root)
    if kind == "python":
        parts = {
            part: Pictures(pixels=RNG.integers(0, 256, (30, 8, 8, 3), dtype=np.uint8)) for part in ("train", "test")
        }
        return DataSettings(kind="digits", size=8).holding(open_datasets(parts))
    path = None if kind == "digits" else str(root)
    return DataSettings.model_validate({"kind": kind, "path": path, "size": 8})


@pytest.fixture(autouse=True)
def _without_checksums(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("train_list", "test_list"):
        monkeypatch.setattr(CIFAR10, name, [[file, None] for file, _ in getattr(CIFAR10, name)])
    monkeypatch.setattr(CIFAR10, "meta", {**CIFAR10.meta, "md5": None})


@pytest.fixture(params=sorted(DATASETS))
def settings(request: pytest.FixtureRequest, tmp_path: Path) -> DataSettings:
    return settings_for(request.param, tmp_path / "data")


def pictures(sets: ImageSets) -> dict[str, list[bytes]]:
    parts = {"train": sets.train, "search": sets.search, "test": sets.test}
    return {name: [part.image(i).tobytes() for i in range(len(part))] for name, part in parts.items()}


def test_settings_name_every_kind() -> None:
    assert set(get_args(DatasetKind)) == set(DATASETS)


def test_sets_are_complete(settings: DataSettings) -> None:
    sets = open_data(settings, seed=0)
    for images in (sets.train, sets.search, sets.val, sets.test):
        assert set(images.labels) == set(range(len(sets.classes)))
        image, label = images[len(images) - 1]
        assert (image.mode, label) == ("RGB", images.labels[-1])
        with pytest.raises(IndexError):
            images[len(images)]


def test_no_image_is_in_two_sets(settings: DataSettings) -> None:
    found = pictures(open_data(settings, seed=0))
    counts = Counter(picture for part in found.values() for picture in set(part))
    assert max(counts.values()) == 1


def test_the_split_follows_the_seed(settings: DataSettings) -> None:
    first, again, other = (pictures(open_data(settings, seed)) for seed in (0, 0, 1))
    assert first == again
    assert first["search"] != other["search"]


def test_a_subset_keeps_its_order(settings: DataSettings) -> None:
    images = open_data(settings, seed=0).train
    part = images.subset([3, 1])
    assert list(part.labels) == [images.labels[3], images.labels[1]]
    assert [part.image(i).tobytes() for i in range(2)] == [images.image(i).tobytes() for i in (3, 1)]
    assert [part.path(i) for i in range(2)] == [images.path(i) for i in (3, 1)]


@pytest.mark.parametrize("kind", sorted(set(DATASETS) - {"digits", "python"}))
def test_missing_files_are_named_in_one_line(kind: str, tmp_path: Path) -> None:
    settings = DataSettings.model_validate({"kind": kind, "path": str(tmp_path / "none"), "size": 8})
    with pytest.raises(UserError) as caught:
        open_data(settings, seed=0)
    assert str(tmp_path / "none") in typed(caught.value)
    assert "--data DIR" in typed(caught.value)
    assert "\n" not in typed(caught.value)


def test_data_sets_of_python_are_in_no_file() -> None:
    settings = settings_for("python", Path())
    assert len(open_data(settings, seed=0).test) == 30
    with pytest.raises(UserError, match="Python objects and in no file"):
        open_data(DataSettings.model_validate(settings.model_dump()), seed=0)


# Without the time of compression: it would be part of the name, which has to be the same in all test processes.
@pytest.mark.parametrize("damage", [b"", b"\x1f\x8bnot gzip", gzip.compress(b"\0\0\x08\x03" + bytes(20), mtime=0)])
def test_a_damaged_idx_file_is_named(damage: bytes, tmp_path: Path) -> None:
    settings = settings_for("fashion-mnist", tmp_path / "data")
    (tmp_path / "data/train-images-idx3-ubyte.gz").write_bytes(damage)
    with pytest.raises(UserError, match="train-images-idx3-ubyte"):
        open_data(settings, seed=0)


def test_published_checksums_guard_the_pickles(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    settings = settings_for("cifar10", tmp_path / "data")
    monkeypatch.undo()
    with pytest.raises(UserError, match="no whole cifar-10-batches-py folder"):
        open_data(settings, seed=0)
