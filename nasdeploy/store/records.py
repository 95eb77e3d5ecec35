"""What nasdeploy wrote as JSON, read back with a way out where it is damaged; what it records of data and versions."""

import platform
from collections.abc import Mapping
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field

from nasdeploy.core.errors import UserError
from nasdeploy.core.settings import S, Settings, parse, read_json


def read_record(model: type[S], path: Path, remedy: str) -> S:
    """Return the `model` in a JSON file; raises `UserError`, which ends in `remedy`, if it is damaged or was edited."""
    return parse_record(model, read_object(path, remedy), path, remedy)


def read_object(path: Path, remedy: str) -> dict[str, Any]:
    """Return the object in a JSON file; raises `UserError`, which ends in `remedy`, if it is damaged."""
    data = read_json(path, remedy)
    if not isinstance(data, dict):
        raise UserError(f"{path}: damaged, it holds no JSON object; {remedy}")
    return data


def parse_record(model: type[S], data: Mapping[str, Any], path: Path, remedy: str) -> S:
    """Return `data`, read from `path`, as a `model`.

    Raises `UserError`, which ends in `remedy`, for what does not fit.
    """
    try:
        return parse(model, data, str(path))
    except UserError as error:
        raise UserError(f"{error}; {remedy}") from None


Count = Annotated[int, Field(ge=0)]
Digest = Annotated[str, Field(pattern=r"^[0-9a-f]{32}$")]
ComparedBy = Literal["contents", "names and sizes"]
"""What tells images apart; a set that is too large to be read is known by names and sizes, so that other images of the
same names and sizes would pass for them."""


class CopyFacts(Settings):
    """Images of a run that are the same, byte for byte."""

    test_in_training: Count
    """Test images that are also trained on, or held out of the training images for the search."""
    in_several_classes: Count
    """Pictures that are used under several classes."""


class DataFacts(Settings):
    """The images of a run in a few figures; each of them stands in the run's data.npz."""

    images: dict[str, Count]
    """The counts by what they are for: train, search (held out), val, test, and those that are not used."""
    compared_by: ComparedBy
    """What tells images apart: their contents, or their names and sizes where the set is too large to be read."""
    digest: Digest
    """The digest of all images, their classes and what they are for."""
    test_digest: Digest
    """The digest of the test images and their classes, in any order and wherever they lie."""
    copies: CopyFacts | None = None
    """The images that are there several times; null where the bytes were not read."""


_PACKAGES = ("nasdeploy", "torch", "torchvision", "timm", "onnx", "onnxscript", "onnxruntime", "numpy", "scikit-learn")


def installed_versions() -> dict[str, str]:
    """Return version by package name, with Python's; packages that are not installed are left out."""
    found = {"python": platform.python_version()}
    for package in _PACKAGES:
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            continue
    return found
