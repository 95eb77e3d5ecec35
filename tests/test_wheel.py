"""The wheel and the source distribution hold all that is needed, and work without the repository beside them."""

import os
import subprocess
import sys
import tarfile
from pathlib import Path
from zipfile import ZipFile

import pytest

import nasdeploy

ROOT = Path(__file__).parent.parent

pytest.importorskip("hatchling")
pytest.importorskip("build")


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the source distribution, and with the wheel that is built from it and not from the repository."""
    given = os.environ.get("NASDEPLOY_DIST")
    if given is not None:
        return Path(given).resolve()
    folder = tmp_path_factory.mktemp("dist")
    command = [sys.executable, "-m", "build", "--no-isolation", "--outdir", str(folder), str(ROOT)]
    subprocess.run(command, check=True, capture_output=True)
    return folder


@pytest.fixture(scope="module")
def wheel(built: Path) -> Path:
    (file,) = built.glob("nasdeploy-*.whl")
    return file


@pytest.fixture(scope="module")
def installed(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with what installing the wheel gives; the dependencies are those of the tests."""
    folder = tmp_path_factory.mktemp("installed")
    options = ["--quiet", "--no-deps", "--no-index", "--no-compile", "--target", str(folder)]
    subprocess.run([sys.executable, "-m", "pip", "install", *options, str(wheel)], check=True)
    return folder


def shipped(folder: str) -> set[str]:
    return {path.name for path in (ROOT / folder).glob("*.yaml")}


def test_both_have_the_version_of_the_package(built: Path, wheel: Path) -> None:
    assert (built / f"nasdeploy-{nasdeploy.__version__}.tar.gz").is_file()
    assert wheel.name == f"nasdeploy-{nasdeploy.__version__}-py3-none-any.whl"


def test_the_wheel_has_every_file_of_the_package_and_no_other(wheel: Path) -> None:
    with ZipFile(wheel) as archive:
        found = {name for name in archive.namelist() if ".dist-info/" not in name}
    package = {
        path.relative_to(ROOT).as_posix()
        for path in (ROOT / "nasdeploy").rglob("*")
        if path.is_file() and path.suffix != ".pyc"
    }
    assert {"nasdeploy/py.typed", "nasdeploy/spaces/alphanet.yaml"} <= package
    beside = {f"nasdeploy/{folder}/{name}" for folder in ("recipes", "profiles") for name in shipped(folder)}
    assert found == package | beside


def test_the_source_distribution_has_what_its_tests_need(built: Path) -> None:
    (file,) = built.glob("nasdeploy-*.tar.gz")
    with tarfile.open(file) as archive:
        found = {name.partition("/")[2] for name in archive.getnames()}
    tracked = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True, check=False).stdout.split()
    assert found >= {name for name in tracked if not name.startswith((".ci", ".git"))}


SCRIPT = """
from nasdeploy import __file__ as package
from nasdeploy.core.resources import resource, resource_names
from nasdeploy.core.settings import load_yaml
from nasdeploy.spaces import SPACES, load_space
print(package)
for folder in ("recipes", "profiles"):
    for name in resource_names(folder):
        load_yaml(resource(folder, name))
        print(resource(folder, name))
for name in SPACES:
    load_space(name)
"""


def said(installed: Path, *command: str) -> str:
    """What a process says that has the installed package before the repository, in a folder that has neither."""
    done = subprocess.run(
        [sys.executable, *command],
        cwd="/",
        env=os.environ | {"PYTHONPATH": str(installed)},
        check=True,
        capture_output=True,
        text=True,
    )
    return done.stdout


def test_serves_recipes_devices_and_spaces(installed: Path) -> None:
    package, *files = [Path(line) for line in said(installed, "-c", SCRIPT).splitlines()]
    assert package.is_relative_to(installed)
    assert all(file.is_relative_to(installed) for file in files)
    assert {file.name for file in files} == shipped("recipes") | shipped("profiles")


@pytest.mark.parametrize(
    ("words", "answer"),
    [
        ("--help", "export"),
        ("space list", "alphanet"),
        ("devices", "cpu"),
        ("formats", "onnx"),
    ],
)
def test_commands_answer(words: str, answer: str, installed: Path) -> None:
    assert answer in said(installed, str(installed / "bin" / "nasdeploy"), *words.split())
