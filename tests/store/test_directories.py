"""Directories take their place whole, or the earlier one stays."""

import os
from pathlib import Path

import pytest

from nasdeploy.core.errors import UserError
from nasdeploy.store import files
from nasdeploy.store.files import replacing_directory


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


@pytest.fixture(params=["in one step", "in two steps"])
def way(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    if request.param == "in two steps":
        monkeypatch.setattr(files, "_exchanged", lambda one, other: False)


@pytest.mark.usefixtures("way")
def test_it_takes_the_place_of_an_earlier_one(tmp_path: Path) -> None:
    for text in ("first", "second"):
        with replacing_directory(tmp_path / "deep/out") as partial:
            (partial / text).mkdir()
            (partial / text / "file").write_text(text)
        assert names(tmp_path / "deep") == ["out"]
        assert names(tmp_path / "deep/out") == [text]
    assert (tmp_path / "deep/out/second/file").read_text() == "second"


def test_an_error_leaves_the_earlier_one_alone(tmp_path: Path) -> None:
    out = tmp_path / "out"
    out.mkdir()
    (out / "good").touch()

    def interrupted() -> None:
        with replacing_directory(out) as partial:
            (partial / "bad").touch()
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        interrupted()
    assert names(tmp_path) == ["out"]
    assert names(out) == ["good"]


def test_an_earlier_one_comes_back_where_the_new_one_cannot_take_its_place(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out, rename = tmp_path / "out", os.rename
    out.mkdir()
    (out / "good").touch()

    def failing(source: Path, target: Path) -> None:
        if Path(source).name == "out" and target == out:
            raise OSError(5, "Input/output error", str(out))
        rename(source, target)

    monkeypatch.setattr(files, "_exchanged", lambda one, other: False)
    monkeypatch.setattr(os, "rename", failing)
    with pytest.raises(UserError, match=r"out: cannot be written \(Input/output error\)"), replacing_directory(out):
        pass
    assert names(tmp_path) == ["out"]
    assert names(out) == ["good"]


def test_one_step_is_possible_here(tmp_path: Path) -> None:
    """On Linux, with glibc of 2018 or later; without it a kill may come between two steps."""
    for name in ("one", "other"):
        (tmp_path / name).mkdir()
        (tmp_path / name / name).touch()
    assert files._exchanged(tmp_path / "one", tmp_path / "other")
    assert (names(tmp_path / "one"), names(tmp_path / "other")) == (["other"], ["one"])


def test_a_file_is_not_replaced(tmp_path: Path) -> None:
    (tmp_path / "out").touch()
    with pytest.raises(UserError, match="there is a file of that name"), replacing_directory(tmp_path / "out"):
        pass
    inside = tmp_path / "out/inside"
    with pytest.raises(UserError, match=r"inside: cannot be written \(File exists\)"), replacing_directory(inside):
        pass
