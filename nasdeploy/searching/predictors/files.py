"""Predictors in files: arrays in NumPy's archive with a JSON header, never pickle. Torch-free."""

import json
import zlib
from collections.abc import Mapping
from hashlib import sha256
from pathlib import Path
from typing import Any, Literal
from zipfile import BadZipFile, ZipFile

import numpy as np
import numpy.typing as npt

from nasdeploy.core.costs import Floats
from nasdeploy.core.errors import UserError
from nasdeploy.core.settings import Settings
from nasdeploy.core.space import SearchSpace
from nasdeploy.searching.predictors import KINDS
from nasdeploy.searching.predictors.models import Model, OneHot
from nasdeploy.searching.predictors.predictor import AccuracyPredictor, FittedPredictor, Quality
from nasdeploy.store.files import replacing
from nasdeploy.store.records import parse_record

SCHEMA_VERSION: Literal[1] = 1
_REMEDY = "search again with `strategy=predictor-guided` to make it anew"
_HEADER = "header"
_LARGEST_BYTES = 8 << 20
"""The most bytes of a file: far more than any predictor takes, and little enough to be read by whoever was sent one."""


class Header(Settings):
    """What a predictor is of, as JSON in the archive."""

    schema_version: Literal[1] = SCHEMA_VERSION
    kind: str
    space: str
    """Digest of the search space."""
    supernet: str
    """Digest of the weights, and of how accuracies were measured."""
    n: int
    """Sub-networks that it was fitted on."""
    quality: dict[str, Quality]
    """The quality of this kind and of simpler ones, on sub-networks held out."""
    sha256: str
    """The checksum of the arrays."""


def save_predictor(path: Path, fitted: FittedPredictor, supernet: str) -> None:
    """Write a predictor of a supernet's sub-networks, whole or not at all."""
    predictor = fitted.predictor
    arrays: dict[str, npt.NDArray[Any]] = dict(predictor.model.arrays)
    header = Header(
        kind=predictor.kind,
        space=predictor.space.digest,
        supernet=supernet,
        n=fitted.n,
        quality=dict(fitted.quality),
        sha256=_checksum(arrays),
    )
    arrays[_HEADER] = np.frombuffer(json.dumps(header.model_dump(mode="json")).encode(), dtype=np.uint8)
    with replacing(path) as partial, partial.open("wb") as file:
        np.savez(file, allow_pickle=False, **arrays)


def load_predictor(path: Path, space: SearchSpace, supernet: str) -> FittedPredictor:
    """The predictor in a file; raises `UserError` if it is damaged, or of another space or supernet."""
    arrays = _read(path)
    header = _header(path, arrays.pop(_HEADER, None))
    if header.space != space.digest:
        raise UserError(
            f"{path}: predicts another search space ({header.space}, not {space.digest} as {space.name} is now); "
            "give a predictor of this run's space"
        )
    if header.supernet != supernet:
        raise UserError(
            f"{path}: predicts accuracies of another supernet ({header.supernet}, not {supernet}); {_REMEDY}"
        )
    if header.sha256 != _checksum(arrays):
        raise UserError(f"{path}: damaged, its arrays do not match their checksum; {_REMEDY}")
    return FittedPredictor(
        AccuracyPredictor(space, header.kind, _model(path, header, space, arrays)), header.quality, header.n
    )


def _read(path: Path) -> dict[str, npt.NDArray[Any]]:
    try:
        with ZipFile(path) as archive:
            size = sum(member.file_size for member in archive.infolist())
        if size > _LARGEST_BYTES:
            raise UserError(f"{path}: no accuracy predictor, it would take {size >> 20} MiB; {_REMEDY}")
        with np.load(path, allow_pickle=False) as content:
            return {name: content[name] for name in content.files}
    except FileNotFoundError:
        raise UserError(f"{path}: no such file; {_REMEDY}") from None
    except IsADirectoryError:
        raise UserError(f"{path}: a directory, not an accuracy predictor; {_REMEDY}") from None
    except (BadZipFile, OSError, EOFError, ValueError, LookupError, RuntimeError, MemoryError, zlib.error):
        raise UserError(f"{path}: damaged, or no accuracy predictor of nasdeploy; {_REMEDY}") from None


def _header(path: Path, text: npt.NDArray[Any] | None) -> Header:
    try:
        if text is None or text.dtype != np.uint8:
            raise ValueError("no header")
        data = json.loads(text.tobytes())
        version = data["schema_version"]
    except (ValueError, LookupError, TypeError, RecursionError):
        raise UserError(f"{path}: damaged, or no accuracy predictor of nasdeploy; {_REMEDY}") from None
    if version != SCHEMA_VERSION:
        raise UserError(f"{path}: an accuracy predictor of another version of nasdeploy; {_REMEDY}")
    return parse_record(Header, data, path, _REMEDY)


def _model(path: Path, header: Header, space: SearchSpace, arrays: Mapping[str, Floats]) -> Model:
    try:
        if header.kind not in KINDS:
            raise ValueError(f"unknown kind {header.kind}")
        model = KINDS[header.kind].restore(arrays)
        # One that is of other features than the space's says so here.
        model(np.zeros((1, OneHot(space).width)))
    except (ValueError, TypeError) as error:
        raise UserError(f"{path}: damaged ({error}); {_REMEDY}") from None
    return model


def _checksum(arrays: Mapping[str, npt.NDArray[Any]]) -> str:
    content = sha256()
    for name in sorted(arrays):
        values = arrays[name]
        content.update(f"{name} {values.dtype.str} {values.shape}\n".encode())
        content.update(np.ascontiguousarray(values).tobytes())
    return content.hexdigest()
