"""Bundles in places that touch files: git, file managers, network storage, archives, file systems without case."""

import os
import re
import subprocess
import sys
import zipfile
from pathlib import Path
from shutil import copytree, make_archive, rmtree

import pytest

from nasdeploy.core.errors import UserError
from nasdeploy.core.progress import Progress
from nasdeploy.exporting.bundle import predict as program
from nasdeploy.exporting.bundle import rebuild
from nasdeploy.exporting.bundle.write import load_bundle
from nasdeploy.exporting.manifest import load_export
from nasdeploy.runtimes.runtime import LARGEST_BATCH
from nasdeploy.workflows.models import contender
from nasdeploy.workflows.verify import verify
from tests.exporting.models import DEVICE, QUICK, exporter, jobs
from tests.small_spaces import one_stage

LEFT_BEHIND = [
    "Thumbs.db",
    "desktop.ini",
    "Desktop.ini",
    "ehthumbs.db",
    ".DS_Store",
    "._model.onnx",
    ".directory",
    "Icon\r",
    "@eaDir/model.onnx@SynoEAStream",
    "__MACOSX/._model.onnx",
    "triton/Thumbs.db",
    "#recycle/old.txt",
    "System Volume Information/IndexerVolumeGuid",
    "__pycache__/predict.cpython-311.pyc",
    ".git/config",
]
POINTER = b"version https://git-lfs.github.com/spec/v1\noid sha256:%b\nsize 12345\n" % (b"0" * 64)


@pytest.fixture(scope="module")
def exported(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("kept")
    exporter(root, recalibrate=False).export(one_stage().named["t0"], root / "out", jobs())
    return root


@pytest.fixture
def bundle(exported: Path, tmp_path: Path) -> Path:
    return copytree(exported / "out", tmp_path / "bundle")


def git(folder: Path, *arguments: str) -> None:
    known = ["-c", "user.name=n", "-c", "user.email=n@example.org", "-c", "protocol.file.allow=always"]
    subprocess.run(["git", *known, *arguments], cwd=folder, check=True, capture_output=True)


def cloned(bundle: Path, attributes: str = "") -> Path:
    """The bundle after a way through a repository, into a place where git writes CR LF."""
    (bundle.parent / ".gitattributes").write_text(attributes)
    git(bundle.parent, "init", "-q")
    git(bundle.parent, "add", ".gitattributes", bundle.name)
    git(bundle.parent, "commit", "-qm", "bundle")
    place = bundle.parent / "a clone"
    git(bundle.parent, "clone", "-q", "-c", "core.autocrlf=true", str(bundle.parent), str(place))
    return place / bundle.name


def run(bundle: Path, images: Path) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, str(bundle / "predict.py"), str(images)]
    return subprocess.run(command, capture_output=True, text=True, check=False)


def refusal(bundle: Path) -> str:
    with pytest.raises(UserError) as caught:
        load_bundle(bundle)
    assert "\n" not in str(caught.value)
    return str(caught.value)


@pytest.mark.parametrize("attributes", ["", "* text=auto eol=crlf\n*.json text\n"])
def test_git_leaves_a_bundle_as_it_is(attributes: str, bundle: Path, exported: Path) -> None:
    place = cloned(bundle, attributes)
    assert b"\r\n" in (place.parent / ".gitattributes").read_bytes() or not attributes
    for path in bundle.iterdir():
        assert (place / path.name).read_bytes() == path.read_bytes()
    done = run(place, exported / "images/test/ant")
    assert (done.returncode, done.stderr, done.stdout.count("\n")) == (0, "", 25)


def test_line_ends_that_git_changed_are_named_and_the_command_restores_them(bundle: Path, exported: Path) -> None:
    """As in bundles of before, which say nothing to git."""
    (bundle / ".gitattributes").unlink()
    load_bundle(bundle)
    place = cloned(bundle)
    said = refusal(place)
    assert said.startswith(f"{place}/README.md: its line ends were changed, as git with core.autocrlf does; copy ")
    assert run(place, exported / "images").stderr == f"predict.py: {said}\n"
    (written, file, command) = re.findall(r"write '(.*)' into (.*) and run: (.*)", said)[0]
    Path(file).write_text(written + "\n")
    subprocess.run(command, shell=True, check=True, cwd=bundle)
    load_bundle(place)


@pytest.mark.parametrize("name", ["manifest.json", "predict.py"])
def test_line_ends_that_something_else_changed_are_named(name: str, bundle: Path) -> None:
    path = bundle / name
    path.write_bytes(path.read_bytes().replace(b"\n", b"\r\n"))
    assert f"{name}: its line ends were changed" in refusal(bundle)
    path.write_bytes(path.read_bytes().replace(b'"', b"'", 1))
    assert f"{name}: damaged, its SHA-256 is not that in SHA256SUMS; copy the bundle again" in refusal(bundle)


def test_sums_with_other_line_ends_are_read(bundle: Path) -> None:
    path = bundle / "SHA256SUMS"
    path.write_bytes(path.read_bytes().replace(b"\n", b"\r\n"))
    assert load_bundle(bundle).artefacts


@pytest.mark.parametrize("name", ["model.onnx", "sample.npz"])
def test_pointers_of_git_lfs_are_named(name: str, bundle: Path) -> None:
    (bundle / name).write_bytes(POINTER)
    assert refusal(bundle).endswith(
        f"{name}: a pointer of Git LFS in place of the file; run 'git lfs pull' in its repository"
    )


def test_engines_are_rebuilt_for_the_batches_of_the_formats() -> None:
    assert rebuild.LARGEST_BATCH == LARGEST_BATCH


def test_rebuilding_names_pointers_and_damage(bundle: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rebuild, "HERE", bundle)
    rebuild.check(bundle / "model.onnx")
    (bundle / "SHA256SUMS").write_bytes(b"\xff\xfe\n\n")
    with pytest.raises(rebuild.NotBuilt, match=r"model\.onnx: not as it was exported"):
        rebuild.check(bundle / "model.onnx")
    (bundle / "model.onnx").write_bytes(POINTER)
    with pytest.raises(rebuild.NotBuilt, match=r"model\.onnx: a pointer of Git LFS"):
        rebuild.check(bundle / "model.onnx")


def test_what_tools_leave_in_any_folder_is_left_alone(
    bundle: Path, exported: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for name in LEFT_BEHIND:
        (bundle / name).parent.mkdir(parents=True, exist_ok=True)
        (bundle / name).write_bytes(b"left")
    assert program.main([str(exported / "images/test/ant")], bundle) == 0
    assert capsys.readouterr().err == ""
    assert contender(str(bundle), DEVICE).bytes == (bundle / "model.onnx").stat().st_size
    assert verify(bundle, Progress(quiet=True), protocol=QUICK).problems == ()
    for name in ("thumbs.txt", "eaDir/x", "recycle"):
        (bundle / name).parent.mkdir(parents=True, exist_ok=True)
        (bundle / name).write_bytes(b"mine")
        assert f"{name}: not in SHA256SUMS, so no part of the bundle" in refusal(bundle)
        (bundle / name).unlink()


def test_a_new_bundle_takes_the_place_of_one_with_leftovers_and_keeps_what_is_hidden(bundle: Path) -> None:
    for name in LEFT_BEHIND:
        (bundle / name).parent.mkdir(parents=True, exist_ok=True)
        (bundle / name).write_bytes(b"left")
    (bundle / ".link").symlink_to("nowhere")
    os.mkfifo(bundle / ".git/fsmonitor--daemon.ipc")
    (bundle / ".gitattributes").write_text("* -text\n*.onnx filter=lfs\n")
    exporter(bundle.parent, recalibrate=False).export(one_stage().smallest(), bundle, jobs())
    assert load_bundle(bundle).digest == one_stage().smallest().digest
    assert (bundle / ".git/config").read_bytes() == b"left"
    assert (bundle / ".link").readlink() == Path("nowhere")
    assert (bundle / ".gitattributes").read_text() == "* -text\n*.onnx filter=lfs\n"


def test_archives_without_hidden_files_or_modes_are_whole_bundles(bundle: Path, tmp_path: Path) -> None:
    archive = make_archive(str(tmp_path / "archive"), "zip", bundle)
    rmtree(bundle)
    with zipfile.ZipFile(archive) as packed:
        packed.extractall(bundle, [name for name in packed.namelist() if not name.startswith(".")])
    for path in bundle.iterdir():
        path.chmod(0o444)
    assert not (bundle / ".gitattributes").exists()
    load_bundle(bundle)


def test_names_in_another_case_are_those_of_the_bundle(bundle: Path) -> None:
    """As some file systems list them, where either opens the file."""
    (bundle / "MODEL.ONNX").symlink_to("model.onnx")
    (bundle / "sha256sums").symlink_to("SHA256SUMS")
    assert load_bundle(bundle).artefacts


def test_a_copy_that_was_cut_short_is_to_be_copied_again(bundle: Path) -> None:
    (bundle / "model.onnx").write_bytes((bundle / "model.onnx").read_bytes()[:100])
    assert refusal(bundle).endswith("copy the bundle again")
    (bundle / "model.onnx").unlink()
    assert "model.onnx: cannot be read (No such file or directory); copy the bundle again" in refusal(bundle)
    with pytest.raises(UserError):
        load_export(bundle)
