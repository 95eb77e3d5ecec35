import os
from collections.abc import Callable
from hashlib import sha256
from pathlib import Path

import numpy as np
import pytest

from nasdeploy.data import facts as file_facts
from nasdeploy.data.facts import Facts, Look, facts_of, look_at
from tests.data.pictures import write_folder

LONG_AGO = 1_000_000_000


@pytest.fixture
def root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.setattr(file_facts, "_FEWEST_FILES", 1)
    root = write_folder(tmp_path / "photos", {"train": {"cat": 3, "dog": 3}}, suffix=".bmp")
    for file in files_in(root):
        os.utime(file, (LONG_AGO, LONG_AGO))
    return root


@pytest.fixture
def read(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Names of the files that are looked into."""
    names: list[str] = []

    def look(path: Path, read: bool) -> Look:
        names.append(f"{path.parent.name}/{path.name}")
        return look_at(path, read)

    monkeypatch.setattr(file_facts, "look_at", look)
    return names


def files_in(root: Path) -> list[Path]:
    return sorted(root.glob("train/*/*"))


def digests(facts: Facts) -> list[bytes] | None:
    found = facts.digests(np.arange(len(facts.sizes)))
    return None if found is None else [bytes(digest) for digest in found]


def expected(root: Path) -> list[bytes]:
    return [sha256(file.read_bytes()).digest()[:16] for file in files_in(root)]


def test_files_are_read_once(root: Path, read: list[str]) -> None:
    first = facts_of(root, files_in(root))
    assert (len(read), digests(first)) == (6, expected(root))
    assert first.sizes.tolist() == [file.stat().st_size for file in files_in(root)]
    again = facts_of(root, files_in(root))
    assert (len(read), digests(again)) == (6, expected(root))
    assert again.records["width"].tolist() == again.records["height"].tolist() == [10] * 6


def replaced(root: Path) -> None:
    """By another picture of the same size and time."""
    (root / "new.bmp").write_bytes(files_in(root)[0].read_bytes()[::-1])
    os.utime(root / "new.bmp", (LONG_AGO, LONG_AGO))
    (root / "new.bmp").rename(root / "train/cat/1.bmp")


def swapped(root: Path) -> None:
    for old, new in (("cat", "x"), ("dog", "cat"), ("x", "dog")):
        (root / "train" / old).rename(root / "train" / new)


def removed_and_added(root: Path) -> None:
    (root / "train/cat/0.bmp").unlink()
    (root / "train/cat/7.bmp").write_bytes(b"x")


@pytest.mark.parametrize(
    ("change", "anew"),
    [
        (replaced, {"cat/1.bmp"}),
        (swapped, {f"{name}/{number}.bmp" for name in ("cat", "dog") for number in range(3)}),
        (removed_and_added, {"cat/7.bmp"}),
        (lambda root: os.utime(root / "train/dog/2.bmp"), {"dog/2.bmp"}),
        (lambda root: root.rename(root.with_name("moved")), {}),
    ],
)
def test_what_changed_is_read_again(
    root: Path, read: list[str], change: Callable[[Path], object], anew: set[str]
) -> None:
    facts_of(root, files_in(root))
    change(root)
    read.clear()
    assert digests(facts_of(root, files_in(root))) == expected(root)
    assert set(read) == set(anew)


def test_a_file_that_was_just_written_is_read_once_more(root: Path, read: list[str]) -> None:
    os.utime(root / "train/cat/0.bmp")
    for _ in range(2):
        facts_of(root, files_in(root))
    assert read[6:] == ["cat/0.bmp"]


def test_defects_are_remembered_and_failures_of_the_disk_are_not(root: Path, read: list[str]) -> None:
    (root / "train/cat/1.bmp").write_bytes(b"")
    os.utime(root / "train/cat/1.bmp", (LONG_AGO, LONG_AGO))
    (root / "train/dog/1.bmp").unlink()
    (root / "train/dog/1.bmp").mkdir()
    os.utime(root / "train/dog/1.bmp", (LONG_AGO, LONG_AGO))
    for _ in range(2):
        facts = facts_of(root, files_in(root))
        assert facts.defects == {1: "no known format", 4: "Is a directory"}
        assert digests(facts) is None
        assert facts.digests(np.array([0, 1])) is not None
    assert read[6:] == ["dog/1.bmp"]


def test_a_set_too_large_to_read_has_no_digests(root: Path, read: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    (root / "train/cat/1.bmp").write_bytes(b"")
    os.utime(root / "train/cat/1.bmp", (LONG_AGO, LONG_AGO))
    with monkeypatch.context() as patch:
        patch.setattr(file_facts, "MOST_READ_BYTES", 100)
        for _ in range(2):
            facts = facts_of(root, files_in(root))
            assert (digests(facts), facts.defects) == (None, {1: "no known format"})
    assert len(read) == 6
    assert digests(facts_of(root, files_in(root))) == expected(root)


@pytest.mark.parametrize("damage", [lambda old: b"", lambda old: old[:300], lambda old: b"x" * len(old)])
def test_a_damaged_cache_is_written_anew(root: Path, tmp_path: Path, damage: Callable[[bytes], bytes]) -> None:
    facts_of(root, files_in(root))
    (place,) = (tmp_path / "home").rglob("*.npz")
    whole = place.read_bytes()
    place.write_bytes(damage(whole))
    assert digests(facts_of(root, files_in(root))) == expected(root)
    assert len(place.read_bytes()) == len(whole)


def test_a_home_that_cannot_be_written_does_not_matter(root: Path, tmp_path: Path) -> None:
    (tmp_path / "home").write_text("a file")
    assert digests(facts_of(root, files_in(root))) == expected(root)


def test_few_small_files_are_not_kept(root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(file_facts, "_FEWEST_FILES", 7)
    assert digests(facts_of(root, files_in(root))) == expected(root)
    assert not (tmp_path / "home").exists()


def test_folders_may_be_given_in_any_way(root: Path, monkeypatch: pytest.MonkeyPatch, read: list[str]) -> None:
    monkeypatch.chdir(root)
    for way in (root, Path()):
        assert digests(facts_of(way, files_in(way))) == expected(root)
    assert len(read) == 6
