"""Classes and files of any name in what a bundle prints, writes and serves; hostile input to its predict.py."""

import csv
import io
import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from shutil import copyfile, copytree
from typing import Any

import numpy as np
import pytest

from nasdeploy.cli.main import main
from nasdeploy.exporting.bundle import predict as program
from nasdeploy.exporting.bundle.write import load_bundle, write_repository, write_sums
from tests.exporting.models import exporter, jobs
from tests.small_spaces import one_stage

CLASSES = ["Müller", "=cmd|x", "a\nb\t€"]
FILES = [b"M\xfcller.png", b"=1+1.png", b"two\nlines.png", b"@home,\xe4.png", "Müller 👍.png".encode()]


@pytest.fixture(scope="module")
def exported(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A bundle as one of before may be, whose classes have such names."""
    root = tmp_path_factory.mktemp("names")
    exporter(root, recalibrate=False).export(one_stage().named["t0"], root / "out", jobs())
    edited(root / "out", lambda manifest: manifest.update(labels=CLASSES))
    return root


def edited(bundle: Path, change: Callable[[dict[str, Any]], object]) -> None:
    path = bundle / "manifest.json"
    manifest = json.loads(path.read_text())
    change(manifest)
    path.write_text(json.dumps(manifest))
    write_sums(bundle)


@pytest.fixture
def bundle(exported: Path, tmp_path: Path) -> Path:
    return copytree(exported / "out", tmp_path / "bundle")


@pytest.fixture
def picture(exported: Path) -> Path:
    return next((exported / "images/test/ant").iterdir())


@pytest.fixture
def folder(picture: Path, tmp_path: Path) -> Path:
    place = tmp_path / "pictures"
    place.mkdir()
    for name in FILES:
        copyfile(picture, os.path.join(os.fsencode(place), name))
    return place


def alone(bundle: Path, *arguments: object, **environment: str) -> "subprocess.CompletedProcess[bytes]":
    command = [sys.executable, bundle / "predict.py", *arguments]
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("LC_", "PYTHON", "LANG"))}
    return subprocess.run(command, env={**kept, **environment}, capture_output=True, check=False)


@pytest.mark.parametrize(
    ("environment", "encoding", "first"),
    [
        ({"PYTHONIOENCODING": "ascii"}, "ascii", "M\\xfcller"),
        ({"PYTHONIOENCODING": "cp1252"}, "cp1252", "Müller"),
        ({"LC_ALL": "C", "PYTHONCOERCECLOCALE": "0", "PYTHONUTF8": "0"}, "ascii", "M\\xfcller"),
    ],
)
def test_predict_py_writes_what_its_output_can_hold(
    environment: dict[str, str], encoding: str, first: str, exported: Path, folder: Path
) -> None:
    done = alone(exported / "out", folder, "--top", "3", **environment)
    assert (done.returncode, done.stderr) == (0, b"")
    rows = [line.split("\t") for line in done.stdout.decode(encoding).splitlines()]
    assert [len(row) for row in rows] == [3] * 3 * len(FILES)
    assert {row[1] for row in rows} == {first, "=cmd|x", "a\\nb\\t€" if encoding == "cp1252" else "a\\nb\\t\\u20ac"}
    assert {row[0].rpartition("/")[2] for row in rows} >= {"M\\xfcller.png", "two\\nlines.png", "=1+1.png"}


def nasdeploy(monkeypatch: pytest.MonkeyPatch, *arguments: object, encoding: str = "utf-8") -> tuple[int, str]:
    """The command in this process, with an output of that encoding."""
    out = io.TextIOWrapper(io.BytesIO(), encoding=encoding)
    monkeypatch.setattr(sys, "argv", ["nasdeploy", *map(str, arguments)])
    monkeypatch.setattr(sys, "stdout", out)
    with pytest.raises(SystemExit) as stopped:
        main()
    out.flush()
    assert isinstance(out.buffer, io.BytesIO) and isinstance(stopped.value.code, int)
    return stopped.value.code, out.buffer.getvalue().decode(encoding)


def test_a_table_holds_files_and_classes_of_any_name(
    exported: Path, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(folder)
    names = [os.fsdecode(name) for name in FILES]
    code, said = nasdeploy(monkeypatch, "predict", exported / "out", *names, "--csv", "../t.csv", "--top", "3")
    assert (code, said) == (0, "5 images classified, in ../t.csv\n")
    text = (folder.parent / "t.csv").read_bytes().decode("utf-8")
    rows = list(csv.reader(io.StringIO(text)))[1:]
    assert text.count("\n") == 1 + len(FILES)
    assert [row[0] for row in rows] == [
        "M\\xfcller.png",
        "'=1+1.png",
        "two\\nlines.png",
        "'@home,\\xe4.png",
        "Müller 👍.png",
    ]
    assert {frozenset(row[1::2]) for row in rows} == {frozenset({"Müller", "'=cmd|x", "a\\nb\\t€"})}


@pytest.mark.parametrize("encoding", ["ascii", "cp1252", "utf-8"])
def test_the_same_on_outputs_that_lack_characters(
    encoding: str, exported: Path, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    command = ("predict", exported / "out", folder)
    code, table = nasdeploy(monkeypatch, *command, encoding=encoding)
    assert (code, table.count("\n")) == (0, 1 + len(FILES))
    code, text = nasdeploy(monkeypatch, *command, "--json", encoding=encoding)
    found = [each["file"] for each in json.loads(text)["predictions"]]
    assert f"{folder}/M\\xfcller.png" in found
    assert f"{folder}/two\nlines.png" in found
    assert not any("\ud800" <= character <= "\udfff" for character in "".join(found))


def test_labels_of_triton_are_a_line_a_class(bundle: Path) -> None:
    write_repository(bundle, load_bundle(bundle))
    (labels,) = (bundle / "triton").rglob("labels.txt")
    assert labels.read_bytes().decode("utf-8").splitlines() == ["Müller", "=cmd|x", "a\\nb\\t€"]


# -- hostile input to predict.py


def test_an_output_that_is_full_is_one_line(exported: Path, folder: Path) -> None:
    with open("/dev/full", "wb") as full:
        command = [sys.executable, exported / "out/predict.py", folder]
        done = subprocess.run(command, stdout=full, stderr=subprocess.PIPE, check=False)
    assert (done.returncode, done.stderr) == (2, b"predict.py: [Errno 28] No space left on device\n")


def test_paths_that_cannot_be_are_one_line(exported: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "loop.png").symlink_to("loop.png")
    (tmp_path / "junk").mkdir()
    (tmp_path / "junk/a.png").write_bytes(bytes(range(256)))
    (tmp_path / "junk/b.jpg").write_bytes(b"")
    for name in ("x" * 300, tmp_path / "loop.png", "no\nwhere", tmp_path / "junk/a.png/b.png", "a\udcfc"):
        assert program.main([str(name)], exported / "out") == 2
        printed = capsys.readouterr()
        assert (printed.out, printed.err.count("\n")) == ("", 1), printed.err
    assert program.main([str(tmp_path / "junk")], exported / "out") == 2
    printed = capsys.readouterr()
    assert (printed.out, printed.err.count("\n")) == ("", 2)


@pytest.mark.parametrize(
    "change",
    [
        lambda manifest: manifest.update(labels=["only", "two"]),
        lambda manifest: manifest.update(labels=[1, 2, 3]),
        lambda manifest: manifest.update(labels=[]),
        lambda manifest: manifest.update(labels=["x"] * 100_000),
        lambda manifest: manifest.update(labels=None),
        lambda manifest: manifest["preprocessing"].update(resize="nine"),
        lambda manifest: manifest["preprocessing"].update(crop=-3),
        lambda manifest: manifest["preprocessing"].update(scale=0),
        lambda manifest: manifest["preprocessing"].update(mean=[0.5]),
        lambda manifest: manifest["preprocessing"].update(std=[float("nan")] * 3),
        lambda manifest: manifest["preprocessing"].update(resolution=None),
        lambda manifest: manifest["preprocessing"].update(resolution=13),
        lambda manifest: manifest["artefacts"][0].update(files=[]),
        lambda manifest: manifest["artefacts"][0].update(format=["onnx"]),
    ],
)
def test_a_manifest_that_was_edited_is_one_line(
    change: Callable[[dict[str, Any]], object], bundle: Path, picture: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    edited(bundle, change)
    assert program.main([str(picture)], bundle) == 2
    printed = capsys.readouterr()
    assert (printed.out, printed.err.count("\n")) == ("", 1)


def test_answers_that_are_no_numbers_are_not_given_a_class(
    exported: Path, picture: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(
        program, "_OPENERS", {"onnxruntime": lambda path: lambda x: np.full((1, 3), np.nan, np.float32)}
    )
    assert program.main([str(picture)], exported / "out") == 2
    printed = capsys.readouterr()
    assert printed.out == ""
    assert printed.err == f"predict.py: {picture}: the model's answer is no numbers; try another runtime or model\n"


def test_a_runtime_that_fails_is_one_line(
    exported: Path, picture: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def failing(inputs: object) -> None:
        raise RuntimeError("no\nmemory")

    monkeypatch.setattr(program, "_OPENERS", {"onnxruntime": lambda path: failing})
    assert program.main([str(picture)], exported / "out") == 2
    assert "cannot be classified (no memory)" in capsys.readouterr().err
