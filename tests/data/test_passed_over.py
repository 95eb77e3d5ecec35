"""A line for each kind of what was passed over, of bounded length."""

from collections import Counter
from pathlib import Path

import pytest

from nasdeploy.data.walk import ADVICE, PartContents, held, notes_of, read_part, some
from tests.data.test_walk import write


def lines(root: Path) -> list[str]:
    notes = notes_of(read_part(root))
    assert all(note.startswith(f"{root}: ") for note in notes)
    return [note.removeprefix(f"{root}: ") for note in notes]


def test_files_that_cannot_be_read_are_counted_by_class_with_advice(tmp_path: Path) -> None:
    root = write(tmp_path, *(f"emu/{i}.heic" for i in range(8)), *(f"emu/{i}.jfif" for i in range(4)), "cat/1.HEIC")
    assert lines(root) == [f"emu: 8 of 12, cat: 1 of 1 are .heic, {ADVICE['.heic']}"]
    assert "convert them to .jpg" in ADVICE[".heic"]


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("IMG_1.CR2", "are .cr2, which cannot be read: convert them to .jpg"),
        ("film.mp4", "are .mp4, which are videos: save some of their pictures"),
        ("drawing.svg", "are .svg, which cannot be read: save them as .png"),
        ("scan.pdf", "are .pdf, which cannot be read: save them as .png"),
        ("photos.zip", "are .zip, which are archives: unpack them"),
        ("scan.dcm", "are .dcm, which hold arrays: save the pictures in them"),
        ("3f2a", "are without a suffix, which cannot be told from other files: if they are images, add the suffix"),
        ("notes.txt", "are .txt, which are no images: passed over"),
        ("a.jpg.part", "are .part, which are no images: passed over"),
        ("a.jpg ", "are .jpg , which are no images: passed over"),
        ("a.j\npg", "are .j\\npg, which are no images: passed over"),
    ],
)
def test_each_kind_gets_the_advice_that_fits(name: str, said: str, tmp_path: Path) -> None:
    (line,) = lines(write(tmp_path, "cat/0.jpg", f"cat/{name}"))
    assert line.startswith(f"cat: 1 of 2 {said}")


def test_hidden_loose_and_linked_files_have_lines(tmp_path: Path) -> None:
    root = write(tmp_path / "train", "cat/a.jpg", "cat/@eaDir/a.jpg", "dog/@eaDir/a.jpg", "dog/._b", "x.jpg", "x.csv")
    write(tmp_path / "pool", "a.jpg")
    (root / "cat/gone").symlink_to("nowhere")
    (root / "dog/pool").symlink_to(tmp_path / "pool")
    (root / "dog/same").symlink_to(root / "cat")
    assert lines(root) == [
        "files outside the class folders, passed over (2, 1 of them images): x.csv, x.jpg",
        "links that lead nowhere, or no files, passed over (1): cat/gone",
        "links to folders that were read already, passed over: dog/same",
        "links to folders, followed: dog/pool",
        "hidden or of tools, and passed over: @eaDir/ 2 times, ._*",
    ]


def test_lines_are_few_and_short_whatever_there_is(tmp_path: Path) -> None:
    part = PartContents(tmp_path)
    for number in range(1000):
        label, name = f"{number} " + "x" * 50, f".{number}"
        part.others[f".s{number % 50}"][label] += 1
        part.others[".heic"][label] += 1
        part.files[label] += 2
        part.loose.append(name)
        part.hidden[name] += 1
        for found in (part.followed, part.again, part.broken):
            found.append(f"{tmp_path}/{label}/{number}")
    notes = notes_of(part)
    assert len(notes) <= 12
    assert max(map(len, notes)) < 500
    assert sum("997 more" in note or "997 classes" in note for note in notes) == 6


def test_what_is_held_instead_of_images() -> None:
    assert held(Counter({".heic": 12, ".txt": 1})) == f"12 .heic, 1 .txt, {ADVICE['.heic']}"
    assert held(Counter({".txt": 2, "": 1})) == "2 .txt, 1 without a suffix"
    assert held(Counter()) == ""


def test_names_stay_in_their_line() -> None:
    names = ["a\n", b"M\xfcller".decode(errors="surrogateescape"), "große Katze 图", "d"]
    assert some(names) == "a\\n, M\\xfcller, große Katze 图 and 1 more"
