import os
import pickle
from concurrent.futures import ThreadPoolExecutor
from hashlib import sha256
from pathlib import Path
from time import sleep

import numpy as np
import pytest

from nasdeploy.core.errors import UserError
from nasdeploy.data import shard_images as shard_facts
from nasdeploy.data.shard_images import ShardImages, remembered_records
from nasdeploy.data.shard_index import ShardIndex, index_of
from tests.data.shards import png, write_shards

LONG_AGO = 1_000_000_000


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.setattr(shard_facts, "_FEWEST_IMAGES", 1)
    folder = write_shards(tmp_path, {"train": {"cat": 4, "dog": 4}}, per_shard=3) / "train"
    for shard in folder.iterdir():
        os.utime(shard, (LONG_AGO, LONG_AGO))
    return folder


@pytest.fixture
def read(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Numbers of the shards that are read."""
    numbers: list[int] = []
    records = shard_facts._records

    def counted(index: ShardIndex, number: int, first: int, end: int) -> object:
        numbers.append(number)
        return records(index, number, first, end)

    monkeypatch.setattr(shard_facts, "_records", counted)
    return numbers


def found(folder: Path) -> list[bytes]:
    index = index_of(tuple(sorted(folder.glob("*.tar"))))
    return [bytes(digest) for digest in remembered_records(folder, index)["digest"]]


def expected(seeds: range) -> list[bytes]:
    return [sha256(png(seed)).digest()[:16] for seed in seeds]


def test_only_shards_that_changed_are_read_again(folder: Path, read: list[int]) -> None:
    for _ in range(2):
        assert found(folder) == expected(range(8))
    assert sorted(read) == [0, 1, 2]
    content = (folder / "0001.tar").read_bytes()
    (folder / "0001.tar").write_bytes(content.replace(png(3), png(3)[::-1]))
    os.utime(folder / "0001.tar", (LONG_AGO, LONG_AGO))
    assert found(folder)[3] == sha256(png(3)[::-1]).digest()[:16]
    (folder / "0000.tar").unlink()
    assert found(folder)[3:] == expected(range(6, 8))
    assert read[3:] == [1]


@pytest.mark.parametrize("content", [b"", b"x" * 2000])
def test_a_damaged_cache_is_written_anew(folder: Path, tmp_path: Path, content: bytes) -> None:
    found(folder)
    (place,) = (tmp_path / "home").rglob("*.npz")
    place.write_bytes(content)
    assert found(folder) == expected(range(8))
    assert place.read_bytes() != content


def test_a_shard_that_becomes_shorter_is_named(folder: Path) -> None:
    shards = tuple(sorted(folder.glob("*.tar")))
    index = index_of(shards)
    shards[2].write_bytes(shards[2].read_bytes()[:1000])
    with pytest.raises(UserError, match=r"0002\.tar: has become shorter while it was read"):
        remembered_records(folder, index)


def test_threads_that_share_few_open_files_read_their_own(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    read_at = os.pread

    def slowly(descriptor: int, size: int, offset: int) -> bytes:
        sleep(0.002)
        return read_at(descriptor, size, offset)

    monkeypatch.setattr(shard_facts, "_MOST_OPEN", 1)
    monkeypatch.setattr(os, "pread", slowly)
    index = index_of(tuple(sorted(folder.glob("*.tar"))))
    images = ShardImages.of(index, np.zeros(len(index), dtype=np.int64))
    with ThreadPoolExecutor(8) as threads:
        assert list(threads.map(images.content, [*range(8)] * 4)) == [png(seed) for seed in range(8)] * 4
    assert pickle.loads(pickle.dumps(images)).content(7) == png(7)
