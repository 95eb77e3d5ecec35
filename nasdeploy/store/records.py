"""What was written as JSON by nasdeploy itself, read back into its model, with a way out where it is damaged."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from nasdeploy.core.errors import UserError
from nasdeploy.core.settings import S, parse
from nasdeploy.store.files import read_json


def read_record(model: type[S], path: Path, remedy: str) -> S:
    """The `model` in a JSON file; raises `UserError`, which ends in `remedy`, if it is damaged or was edited."""
    return parse_record(model, read_object(path, remedy), path, remedy)


def read_object(path: Path, remedy: str) -> dict[str, Any]:
    """The object in a JSON file; raises `UserError`, which ends in `remedy`, if it is damaged."""
    data = read_json(path, remedy)
    if not isinstance(data, dict):
        raise UserError(f"{path}: damaged, it holds no JSON object; {remedy}")
    return data


def parse_record(model: type[S], data: Mapping[str, Any], path: Path, remedy: str) -> S:
    """`data`, read from `path`, as a `model`; raises `UserError`, which ends in `remedy`, for what does not fit."""
    try:
        return parse(model, data, str(path))
    except UserError as error:
        raise UserError(f"{error}; {remedy}") from None
