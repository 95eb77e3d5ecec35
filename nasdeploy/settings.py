"""Settings files: strict pydantic models read from YAML, with mistakes reported in one line."""

import json
import re
from collections.abc import Iterable, Mapping, Sequence
from copy import deepcopy
from pathlib import Path
from typing import Any, TypeVar, get_args

import yaml
from pydantic import BaseModel, ConfigDict, ValidationError

from nasdeploy.errors import UserError
from nasdeploy.registry import suggestion


class Settings(BaseModel):
    """Base of everything that a user writes: immutable, unknown keys and silent conversions refused."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True, allow_inf_nan=False)


def refuse_unused(settings: Settings, choice: str, users: Mapping[str, Sequence[str]]) -> None:
    """Raise ValueError if a key was changed that has no effect with what is chosen under the key `choice`.

    `users` gives the choices that use a key. A default may be written out: settings that were saved are read back.
    """
    chosen = getattr(settings, choice)
    for name, choices in users.items():
        if chosen not in choices and getattr(settings, name) != type(settings).model_fields[name].default:
            raise ValueError(
                f"{name} has an effect only with {choice}: {' or '.join(choices)}, and {choice} is {chosen}"
            )


S = TypeVar("S", bound=Settings)


class _Loader(yaml.SafeLoader):
    """YAML's safe loader that also reads `1e-3` as a number, as YAML 1.2 does; in 1.1 it is a string."""


_Loader.add_implicit_resolver(
    "tag:yaml.org,2002:float", re.compile(r"[-+]?([0-9]+\.?[0-9]*|\.[0-9]+)[eE][-+]?[0-9]+$"), list("-+.0123456789")
)


def _yaml(text: str) -> Any:
    loader = _Loader(text)
    try:
        return loader.get_single_data()
    finally:
        loader.dispose()


def load_yaml(path: Path) -> dict[str, Any]:
    """The mapping in a YAML file; raises `UserError` if it cannot be read or is none."""
    try:
        data = _yaml(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror}); check the path") from None
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        raise UserError(f"{path}: not valid YAML ({' '.join(str(error).split())}); correct it") from None
    if not isinstance(data, dict):
        raise UserError(f"{path}: holds no settings; write one 'key: value' a line")
    return data


def override(data: dict[str, Any], assignments: Iterable[str]) -> dict[str, Any]:
    """A copy of `data` with `a.b=c` applied for each assignment; `c` is read as YAML."""
    changed = deepcopy(data)
    for assignment in assignments:
        path, separator, text = assignment.partition("=")
        if not separator or not path:
            raise UserError(f"--set {assignment}: write it as key.key=value")
        *parents, last = path.split(".")
        target = changed
        for parent in parents:
            target = target.setdefault(parent, {})
            if not isinstance(target, dict):
                raise UserError(f"--set {assignment}: {parent} holds a value, not settings")
        try:
            target[last] = _yaml(text)
        except (yaml.YAMLError, ValueError, RecursionError):
            raise UserError(f"--set {assignment}: '{text}' is not a valid YAML value") from None
    return changed


def parse(model: type[S], data: Mapping[str, Any], source: str) -> S:
    """`data` as a `model`; raises `UserError` naming the first wrong key, and the nearest right one."""
    try:
        # By way of JSON, where strict mode still takes a list for a tuple.
        return model.model_validate_json(json.dumps(data, default=str))
    except ValidationError as error:
        raise UserError(f"{source}: {_first(model, data, error)}") from None
    except (TypeError, ValueError, RecursionError) as error:
        raise UserError(f"{source}: {error}") from None


def _first(model: type[BaseModel], data: Mapping[str, Any], error: ValidationError) -> str:
    """The most telling of the errors in one line.

    An unknown key comes first, since it often causes a missing one; then what lies deepest: where a value may be of
    several types, the others complain only that it is not theirs.
    """
    found = min(
        error.errors(),
        key=lambda item: (item["type"] != "extra_forbidden", -len(item["loc"]), item["type"].endswith("_type")),
    )
    where = _where(data, found["loc"], names_key=found["type"] in ("extra_forbidden", "missing"))
    if found["type"] == "extra_forbidden":
        known = _keys(model, found["loc"][:-1])
        return f"unknown key '{where}'{suggestion(str(found['loc'][-1]), known)}"
    if found["type"] == "missing":
        return f"{where} is missing"
    message = found["msg"].removeprefix("Value error, ")
    if not where:
        return message
    value = json.dumps(found["input"], default=str)
    shown = value if len(value) <= 60 else value[:57] + "..."
    return f"{where} is {shown}: {message[0].lower() + message[1:]}"


def _where(data: Any, location: tuple[int | str, ...], names_key: bool) -> str:
    """The place as the user would write it: pydantic's location without the names of members of unions."""
    parts = []
    for number, part in enumerate(location, start=1):
        try:
            data = data[part]
        except (KeyError, IndexError, TypeError):
            if not (names_key and number == len(location)):
                continue
        parts.append(str(part))
    return ".".join(parts)


def _keys(model: type[BaseModel], path: tuple[int | str, ...]) -> set[str]:
    """Keys that the settings at `path` inside `model` may have."""
    models: list[type[BaseModel]] = [model]
    for part in path:
        inner = [m.model_fields[part].annotation for m in models if part in m.model_fields]
        if inner:
            models = [found for annotation in inner for found in _models_in(annotation)]
    return {name for found in models for name in found.model_fields}


def _models_in(annotation: Any) -> list[type[BaseModel]]:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return [annotation]
    return [found for argument in get_args(annotation) for found in _models_in(argument)]
