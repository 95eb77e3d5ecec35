"""Every file of a part is an image, or passed over and counted."""

import os
from pathlib import Path

import pytest

from nasdeploy.core.errors import UserError
from nasdeploy.data.walk import is_hidden, read_part, suffix_of
from tests.data.pictures import write_odd_part


def write(root: Path, *names: str) -> Path:
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(b"")
    return root


def images(root: Path) -> dict[str, list[str]]:
    found = read_part(root).images
    return {label: [str(path.relative_to(root)) for path in paths] for label, paths in found.items()}


@pytest.mark.parametrize(
    "name",
    [
        *(".ipynb_checkpoints", ".thumbnails", "@eaDir", "__MACOSX", "lost+found", "#recycle", ".Trash-1000"),
        *(".git", ".@__thumb", "@Recycle", "#snapshot", "$RECYCLE.BIN", "System Volume Information", "LOST.DIR"),
        *(".cache", ".picasaoriginals", "._a.jpg", "Thumbs.db", "desktop.ini", ".DS_Store", "Icon\r", ".a.jpg.icloud"),
    ],
)
def test_what_is_hidden_or_of_a_tool_is_no_data_at_any_depth(name: str, tmp_path: Path) -> None:
    write(tmp_path, "cat/a.jpg", f"{name}/a.jpg", f"cat/{name}/a.jpg", f"cat/b/{name}/c/a.jpg")
    assert images(tmp_path) == {"cat": ["cat/a.jpg"]}
    assert read_part(tmp_path).hidden.total() == 3


@pytest.mark.parametrize("name", ["@home", "#1", "$100", "lost", "recycle", "thumbs", "x.git", "snapshot", "…"])
def test_other_names_are_classes(name: str, tmp_path: Path) -> None:
    assert not is_hidden(name)
    assert images(write(tmp_path, f"{name}/a.jpg")) == {name: [f"{name}/a.jpg"]}


def test_suffixes_are_what_follows_the_last_point() -> None:
    names = {"a.JPG": ".jpg", "a.b.png": ".png", "a": "", ".jpg": "", "a.": ".", "a.jpg.part": ".part"}
    assert {name: suffix_of(name) for name in names} == names


def test_everything_is_counted(tmp_path: Path) -> None:
    write_odd_part(tmp_path / "part")
    part = read_part(tmp_path / "part")
    assert {label: [path.name for path in paths] for label, paths in part.images.items()} == {
        "cat": ["a.jpg", "b.JFIF"],
        "dog": ["a.png", "b.jpg"],
    }
    assert part.files == {"cat": 3, "dog": 4}
    assert part.others == {".heic": {"cat": 1, "dog": 1}, "": {"dog": 1}}
    assert part.hidden == {
        ".ipynb_checkpoints/": 1,
        "@eaDir/": 2,
        ".AppleDouble/": 1,
        "#snapshot/": 1,
        "__MACOSX/": 1,
        ".hidden/": 1,
        "._*": 1,
        "Thumbs.db": 1,
        ".DS_Store": 1,
    }
    assert [Path(path).name for path in part.followed] == ["again", "linked"]
    assert [Path(path).name for path in part.again] == ["up"]
    assert sorted(Path(path).name for path in part.broken) == ["gone.jpg", "round"]


def test_images_are_in_the_order_of_their_paths(tmp_path: Path) -> None:
    root = write(tmp_path, *(f"cat/{name}.jpg" for name in ("a/z", "a!", "a/b/c", "b", "a-", "B", "10", "9", "a")))
    found = read_part(root).images["cat"]
    assert found == sorted(found)


def test_folders_that_are_no_links_come_first(tmp_path: Path) -> None:
    root = write(tmp_path / "train", "dog/batch/a.jpg", "dog/b.jpg")
    (root / "cat").mkdir()
    (root / "cat/batch").symlink_to(root / "dog/batch")
    assert images(root) == {"cat": [], "dog": ["dog/b.jpg", "dog/batch/a.jpg"]}


def test_a_class_may_be_a_link_and_so_may_an_image(tmp_path: Path) -> None:
    write(tmp_path / "elsewhere", "x/a.jpg", "b.jpg")
    (tmp_path / "train/dog").mkdir(parents=True)
    (tmp_path / "train/cat").symlink_to("../elsewhere/x")
    (tmp_path / "train/dog/linked.jpg").symlink_to("../../elsewhere/b.jpg")
    assert images(tmp_path / "train") == {"cat": ["cat/a.jpg"], "dog": ["dog/linked.jpg"]}


def test_circles_of_links_end(tmp_path: Path) -> None:
    write(tmp_path, "train/cat/a.jpg", "x/b.jpg", "y/c.jpg")
    for link, target in (
        ("train/cat/x", "x"),
        ("x/y", "y"),
        ("y/x", "x"),
        ("y/root", "."),
        ("train/cat/self", "train"),
    ):
        (tmp_path / link).symlink_to(tmp_path / target)
    assert images(tmp_path / "train") == {"cat": ["cat/a.jpg", "cat/x/b.jpg", "cat/x/y/c.jpg"]}


def test_what_is_no_file_is_not_opened(tmp_path: Path) -> None:
    root = write(tmp_path, "cat/a.jpg")
    os.mkfifo(root / "cat/b.jpg")
    assert images(root) == {"cat": ["cat/a.jpg"]}
    assert read_part(root).broken == [str(root / "cat/b.jpg")]


def test_a_folder_that_cannot_be_read_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    root, scan = write(tmp_path, "cat/b/a.jpg"), os.scandir

    def refusing(path: str) -> object:
        if path.endswith("b"):
            raise PermissionError(13, "Permission denied", path)
        return scan(path)

    monkeypatch.setattr(os, "scandir", refusing)
    with pytest.raises(UserError, match="cat/b: cannot be read \\(Permission denied\\)"):
        read_part(root)
