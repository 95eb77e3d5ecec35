"""The wheel brings recipes, device files and tables of spaces, and works without the repository beside it."""

import os
import subprocess
import sys
from pathlib import Path
from zipfile import ZipFile

import pytest

ROOT = Path(__file__).parent.parent

pytest.importorskip("hatchling")
pytest.importorskip("build")


@pytest.fixture(scope="module")
def unpacked(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("wheel")
    command = [sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", str(folder), str(ROOT)]
    subprocess.run(command, check=True, capture_output=True)
    (wheel,) = folder.glob("nasdeploy-*.whl")
    with ZipFile(wheel) as archive:
        archive.extractall(folder / "unpacked")
    return folder / "unpacked"


def shipped(folder: str) -> set[str]:
    return {path.name for path in (ROOT / folder).glob("*.yaml")}


@pytest.mark.parametrize("folder", ["recipes", "profiles"])
def test_brings_what_the_repository_has_at_its_top(folder: str, unpacked: Path) -> None:
    assert shipped(folder)
    assert {path.name for path in (unpacked / "nasdeploy" / folder).rglob("*")} == shipped(folder)


def test_brings_tables_of_spaces_and_the_type_marker(unpacked: Path) -> None:
    inside = unpacked / "nasdeploy"
    assert {path.name for path in (inside / "spaces").glob("*.yaml")} == shipped("nasdeploy/spaces")
    assert (inside / "py.typed").is_file()
    assert not (unpacked / "tests").exists()


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


def test_serves_them_with_no_repository_beside_it(unpacked: Path, tmp_path: Path) -> None:
    # PYTHONPATH comes before the editable installation of the repository.
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT],
        cwd=tmp_path,
        env=os.environ | {"PYTHONPATH": str(unpacked)},
        check=True,
        capture_output=True,
        text=True,
    )
    package, *files = [Path(line) for line in done.stdout.splitlines()]
    assert package.is_relative_to(unpacked)
    assert all(file.is_relative_to(unpacked) for file in files)
    assert {file.name for file in files} == shipped("recipes") | shipped("profiles")
