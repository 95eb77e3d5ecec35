"""Supernet weights in files: written whole, read without pickle, and only into the space that they belong to."""

import struct
import zlib
from collections.abc import Mapping
from pathlib import Path
from pickle import UnpicklingError
from typing import Any
from zipfile import BadZipFile, ZipFile

import torch
from torch import Tensor

from nasdeploy.errors import UserError
from nasdeploy.space import SearchSpace
from nasdeploy.store.files import replacing
from nasdeploy.supernet.supernet import Supernet

_SCHEMA = 1
_HEAD = "weights.head.classifier."


def save(path: Path, supernet: Supernet, **more: Any) -> None:
    """Write the weights, with what else belongs to them (tensors and plain values), whole or not at all."""
    content = {"schema": _SCHEMA, "space": supernet.space.digest, "weights": supernet.state_dict(), **more}
    with replacing(path) as partial:
        torch.save(content, partial)


def read(path: Path) -> dict[str, Any]:
    """The content of a weights file; raises `UserError` if it is missing, damaged or none of ours."""
    if not path.is_file():
        raise UserError(f"{path}: no such file; train first, or name the run that holds it")
    if not _intact(path):
        raise UserError(f"{path}: damaged, or no weights of nasdeploy; delete it to go on from the one before")
    try:
        content = torch.load(path, map_location="cpu", weights_only=True)
    except (RuntimeError, UnpicklingError, LookupError, TypeError, ValueError, AttributeError):
        content = None
    if not isinstance(content, dict) or content.get("schema") != _SCHEMA or not _is_complete(content):
        raise UserError(f"{path}: no weights of this version of nasdeploy; train again with --restart")
    return content


def _intact(path: Path) -> bool:
    """Whether the archive's checksums are right: torch does not look at them, and would load flipped bits."""
    try:
        with ZipFile(path) as archive:
            return archive.testzip() is None
    except (BadZipFile, OSError, EOFError, ValueError, LookupError, RuntimeError, struct.error, zlib.error):
        return False


def _is_complete(content: Mapping[str, Any]) -> bool:
    weights = content.get("weights")
    tensors = isinstance(weights, Mapping) and all(isinstance(value, Tensor) for value in weights.values())
    return tensors and isinstance(content.get("space"), str)


def load_supernet(path: Path, space: SearchSpace) -> Supernet:
    """The supernet of `space` with the weights in a file; raises `UserError` if they are of another space."""
    supernet = Supernet(space)
    restore(supernet, read(path), path)
    return supernet


def restore(supernet: Supernet, content: Mapping[str, Any], path: Path) -> None:
    """Load the content of `path` into a supernet of the same space."""
    if content["space"] != supernet.space.digest:
        raise UserError(
            f"{path}: weights of another search space ({content['space']}, not {supernet.space.digest} as "
            f"{supernet.space.name} is now); use the recipe that it was trained with"
        )
    try:
        supernet.load_state_dict(content["weights"])
    except RuntimeError:
        raise UserError(f"{path}: damaged, its tensors do not fit the space; restore it or train again") from None


def initialise(supernet: Supernet, path: Path) -> None:
    """Start from the weights of another run: everything but the classifier, which stays as it is.

    Raises `UserError` if the other space differs in more than the number of classes.
    """
    supernet.load_state_dict(_without_head(supernet, path), strict=False)


def require_initialises(space: SearchSpace, path: Path) -> None:
    """Raise the `UserError` that `initialise` would, without the memory and the time of a supernet."""
    with torch.device("meta"):
        _without_head(Supernet(space), path)


def _without_head(supernet: Supernet, path: Path) -> dict[str, Tensor]:
    weights = {name: value for name, value in read(path)["weights"].items() if not name.startswith(_HEAD)}
    own = {name: value for name, value in supernet.state_dict().items() if not name.startswith(_HEAD)}
    differing = sorted(
        name
        for name in own.keys() | weights.keys()
        if name not in own or name not in weights or own[name].shape != weights[name].shape
    )
    if differing:
        raise UserError(
            f"--init {path}: weights of another search space ({differing[0]} differs); it must be the same but for "
            "the number of classes"
        )
    return weights
