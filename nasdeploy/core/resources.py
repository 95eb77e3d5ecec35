"""Recipes and device files that come with nasdeploy: inside the wheel, or at the top of an editable checkout."""

from pathlib import Path
from typing import Literal

Folder = Literal["recipes", "profiles"]

_PACKAGE = Path(__file__).resolve().parent.parent


def resource(folder: Folder, name: str) -> Path | None:
    """Return the file of the recipe or device called `name` (without `.yaml`).

    None if nasdeploy brings none of that name.
    """
    return _files(folder).get(name)


def resource_names(folder: Folder) -> list[str]:
    """Return names of the recipes or devices that nasdeploy brings, sorted."""
    return sorted(_files(folder))


def _files(folder: Folder) -> dict[str, Path]:
    inside = _PACKAGE / folder
    return {path.stem: path for path in (inside if inside.is_dir() else _PACKAGE.parent / folder).glob("*.yaml")}
