from pathlib import Path

import pytest

from nasdeploy.core import resources
from nasdeploy.core.resources import resource, resource_names

ROOT = Path(__file__).parents[2]


def test_a_checkout_serves_its_own_files() -> None:
    assert resource("profiles", "cpu") == ROOT / "profiles" / "cpu.yaml"
    assert "cpu" in resource_names("profiles")


@pytest.mark.parametrize("name", ["none", "", "../pyproject", "../profiles/cpu", "cpu.yaml", "tables"])
def test_only_names_of_files_there_are_found(name: str) -> None:
    assert resource("profiles", name) is None


def test_an_installed_package_comes_first(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    package = tmp_path / "site-packages" / "nasdeploy"
    for folder in (package / "recipes", package.parent / "recipes"):
        folder.mkdir(parents=True)
    (package / "recipes" / "inside.yaml").touch()
    (package.parent / "recipes" / "beside.yaml").touch()
    monkeypatch.setattr(resources, "_PACKAGE", package)
    assert resource("recipes", "inside") == package / "recipes" / "inside.yaml"
    assert resource_names("recipes") == ["inside"]
