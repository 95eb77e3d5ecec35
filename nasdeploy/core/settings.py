"""Settings files: strict pydantic models read from YAML, and JSON, with mistakes reported in one line."""

import json
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from copy import deepcopy
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar, get_args

from pydantic import BaseModel, ConfigDict, GetCoreSchemaHandler, GetJsonSchemaHandler, ValidationError
from pydantic.fields import FieldInfo
from pydantic.json_schema import JsonSchemaValue
from pydantic_core import CoreSchema, PydanticCustomError, core_schema

from nasdeploy.core.errors import UserError, one_line, suggestion
from nasdeploy.core.yaml import read_document, read_value


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


@dataclass(frozen=True)
class ByKind:
    """The annotation of a field that holds the settings of one of several kinds: the one that its key `kind` names.

    `what` names these kinds in errors, `kinds` may gain entries after the field was declared, and `default` is the kind
    of a mapping without the key. Whatever is no mapping is left to the field's own type.
    """

    what: str
    kinds: Mapping[str, type[Settings]]
    default: str

    def settings(self, data: Mapping[str, Any]) -> type[Settings]:
        """Return the settings class of the kind that `data` names; raises `ValidationError` at `kind` for no such."""
        kind = data.get("kind", self.default)
        if not isinstance(kind, str) or kind not in self.kinds:
            nearby = suggestion(str(kind), self.kinds)
            message = PydanticCustomError("unknown_kind", "{said}", {"said": f"unknown {self.what}{nearby}"})
            raise ValidationError.from_exception_data(self.what, [{"type": message, "loc": ("kind",), "input": kind}])
        return self.kinds[kind]

    def __get_pydantic_core_schema__(self, source: Any, handler: GetCoreSchemaHandler) -> CoreSchema:
        """Check mappings with the settings of their kind, and everything else as the annotated type says."""

        def checked(value: Any, other: core_schema.ValidatorFunctionWrapHandler) -> Any:
            if isinstance(value, Mapping):
                return self.settings(value).model_validate_json(json.dumps(value))
            return other(value)

        return core_schema.no_info_wrap_validator_function(checked, handler(source))

    def __get_pydantic_json_schema__(self, schema: CoreSchema, handler: GetJsonSchemaHandler) -> JsonSchemaValue:
        """Return the JSON Schemas of all kinds, in the place of that of their base, beside what else there may be."""
        declared = handler(schema)
        others = [each for each in declared.get("anyOf", ()) if "$ref" not in each]
        kinds = {name: handler(kind.__pydantic_core_schema__) for name, kind in self.kinds.items()}
        named = [
            found if name == self.default else {"allOf": [found], "required": ["kind"]} for name, found in kinds.items()
        ]
        return {"anyOf": [*others, *named]}


@dataclass(frozen=True)
class BySibling:
    """The annotation of a field that holds settings whose class another field decides, which is declared before it."""

    sibling: str
    """The name of the other field."""
    settings: Callable[[Any], type[Settings]]
    """The settings class for a value of the other field."""
    possible: Callable[[], Iterable[type[Settings]]]
    """The settings classes that there are."""

    def __get_pydantic_core_schema__(self, source: Any, handler: GetCoreSchemaHandler) -> CoreSchema:
        """Check mappings with the settings that the other field asks for, and leave settings as they are."""

        def checked(
            value: Any, other: core_schema.ValidatorFunctionWrapHandler, info: core_schema.ValidationInfo
        ) -> Any:
            if self.sibling not in info.data:
                # It is wrong itself, and that is what is told.
                return value
            if isinstance(value, Mapping):
                return self.settings(info.data[self.sibling]).model_validate_json(json.dumps(value))
            return other(value)

        return core_schema.with_info_wrap_validator_function(checked, handler(source))

    def __get_pydantic_json_schema__(self, schema: CoreSchema, handler: GetJsonSchemaHandler) -> JsonSchemaValue:
        """Return the JSON Schemas of all that the settings may be."""
        return {"anyOf": [handler(each.__pydantic_core_schema__) for each in self.possible()]}


S = TypeVar("S", bound=Settings)


def load_yaml(path: Path) -> dict[str, Any]:
    """Return the mapping in a YAML file; raises `UserError` if it cannot be read or is none."""
    try:
        content = path.read_bytes()
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror}); check the path") from None
    return settings_in(content, str(path))


def settings_in(content: bytes, source: str) -> dict[str, Any]:
    """Return the mapping in the content of a YAML file called `source`; raises `UserError` if it is none."""
    data = read_document(content, source)
    if not isinstance(data, dict):
        raise UserError(f"{source}: holds no settings; write one 'key: value' a line")
    return data


def read_json(path: Path, remedy: str = "restore it or make it anew") -> Any:
    """Return the content of a JSON file; raises `UserError` if it is missing, or damaged, with a `remedy` for that."""
    try:
        if path.exists() and not (path.is_file() or path.is_dir()):
            raise UserError(f"{path}: cannot be read, it is no file but a device or a pipe; give a file")
        return json.loads(path.read_bytes())
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror}); check the path") from None
    except (ValueError, RecursionError) as error:
        raise UserError(f"{path}: damaged, not valid JSON ({error}); {remedy}") from None


def override(data: dict[str, Any], assignments: Iterable[str]) -> dict[str, Any]:
    """Return a copy of `data` with `a.b=c` applied for each assignment; `c` is read as YAML.

    A number is a place in a list, from 0: `a.1.b=c`. Raises `UserError` for what is no assignment, and if one takes
    back what another one sets.
    """
    changed = deepcopy(data)
    given: dict[str, Any] = {}
    for assignment in assignments:
        path, separator, text = assignment.partition("=")
        source = f"`set={one_line(assignment)}`"
        if not separator or not all(path.split(".")):
            raise UserError(f"{source}: write it as key.key=value")
        value = read_value(text, source)
        _require_kept(given, path, value, source)
        given[path] = value
        _assign(changed, path.split("."), value, source)
    return changed


def _require_kept(given: Mapping[str, Any], path: str, value: Any, source: str) -> None:
    """Raise `UserError` if setting `path` to `value` would undo an earlier assignment, to it or to what is inside."""
    for before, kept in given.items():
        if (before == path and kept != value) or before.startswith(f"{path}."):
            raise UserError(f"{source}: {before} was set by an earlier `set`; leave one of them out")


def _assign(target: dict[str, Any], path: Sequence[str], value: Any, source: str) -> None:
    *parents, last = path
    found: dict[str, Any] | list[Any] = target
    for parent in parents:
        inside = found.setdefault(parent, {}) if isinstance(found, dict) else found[_place(found, parent, source)]
        if not isinstance(inside, dict | list):
            raise UserError(f"{source}: {parent} holds a value, not settings")
        found = inside
    if isinstance(found, dict):
        found[last] = value
    else:
        found[_place(found, last, source)] = value


def _place(found: Sequence[Any], name: str, source: str) -> int:
    """Return the place in a list that a part of a key names; raises `UserError` if there is no such."""
    if not re.fullmatch("[0-9]{1,9}", name) or int(name) >= len(found):
        places = f"0 to {len(found) - 1}" if found else "none, it is empty"
        raise UserError(f"{source}: '{name}' is no place in a list; there are {places}")
    return int(name)


def parse(model: type[S], data: Mapping[str, Any], source: str) -> S:
    """Return `data` as a `model`; raises `UserError` naming the first wrong key, and the nearest right one."""
    try:
        # By way of JSON, where strict mode still takes a list for a tuple.
        return model.model_validate_json(json.dumps(data))
    except ValidationError as error:
        raise UserError(f"{source}: {_first(model, data, error)}") from None
    except (TypeError, ValueError, RecursionError) as error:
        raise UserError(f"{source}: {one_line(error)}") from None


def _first(model: type[BaseModel], data: Mapping[str, Any], error: ValidationError) -> str:
    """Return the most telling of the errors in one line.

    An unknown key comes first, since it often causes a missing one; then what lies deepest: where a value may be of
    several types, the others complain only that it is not theirs.
    """
    found = min(
        error.errors(),
        key=lambda item: (item["type"] != "extra_forbidden", -len(item["loc"]), item["type"].endswith("_type")),
    )
    where = _where(data, found["loc"], names_key=found["type"] in ("extra_forbidden", "missing"))
    if found["type"] == "extra_forbidden":
        known = _keys(model, data, found["loc"][:-1])
        return f"unknown key '{where}'{suggestion(str(found['loc'][-1]), known)}"
    if found["type"] == "missing":
        return f"{where} is missing"
    message = found["msg"].removeprefix("Value error, ")
    if found["type"] == "json_invalid":
        return _not_unicode(data)
    if not where:
        return message
    value = json.dumps(found["input"], default=str)
    shown = value if len(value) <= 60 else value[:57] + "..."
    return f"{where} is {shown}: {message[0].lower() + message[1:]}"


def _not_unicode(data: Any) -> str:
    """Complain of the first text that holds bytes of no character, as the names of old archives do: JSON cannot hold
    it."""
    texts = (
        text for text in _texts("", data) if not text[1].isascii() and any("\ud800" <= c <= "\udfff" for c in text[1])
    )
    key, text = next(texts, ("", ""))
    return f"{key} is {text!a}, a name that is not in Unicode (UTF-8); rename what it names"


def _texts(key: str, data: Any) -> Iterator[tuple[str, str]]:
    """Yield texts inside plain values, by dotted key."""
    if isinstance(data, str):
        yield key, data
    elif isinstance(data, Mapping):
        for name, value in data.items():
            yield from _texts(f"{key}.{name}".removeprefix("."), value)
    elif isinstance(data, Sequence):
        for number, value in enumerate(data):
            yield from _texts(f"{key}.{number}".removeprefix("."), value)


def _where(data: Any, location: tuple[int | str, ...], names_key: bool) -> str:
    """Return the place as the user would write it: pydantic's location without the names of members of unions."""
    parts = []
    for number, part in enumerate(location, start=1):
        try:
            data = data[part]
        except (KeyError, IndexError, TypeError):
            if not (names_key and number == len(location)):
                continue
        parts.append(str(part))
    return ".".join(parts)


def _keys(model: type[BaseModel], data: Any, path: tuple[int | str, ...]) -> set[str]:
    """Return keys that the settings at `path` inside `model` may have, where `data` is what was given for it."""
    models: list[type[BaseModel]] = [model]
    items: list[ByKind] = []
    for part in path:
        outer = data
        # The name of a union's member is no part of the data.
        with suppress(KeyError, IndexError, TypeError):
            data = data[part]
        fields = [m.model_fields[part] for m in models if part in m.model_fields]
        if fields:
            models = [found for field in fields for found in _models_of(field, data, outer)]
            items = [found for field in fields for found in _kinds_of_items(field.annotation)]
        elif isinstance(part, int) and items:
            models = [each.settings(data) for each in items]
    return {name for found in models for name in found.model_fields}


def _models_of(field: FieldInfo, data: Any, outer: Any) -> list[type[BaseModel]]:
    """Return settings classes that a field may hold, where `data` was given for it inside `outer`."""
    for each in field.metadata:
        if isinstance(each, ByKind):
            return [each.settings(data)]
        if isinstance(each, BySibling):
            return [each.settings(outer.get(each.sibling))]
    return _models_in(field.annotation)


def _kinds_of_items(annotation: Any) -> list[ByKind]:
    """Return how the items of a tuple are told apart by their kinds, if they are."""
    return [
        each for item in get_args(annotation) for each in getattr(item, "__metadata__", ()) if isinstance(each, ByKind)
    ]


def _models_in(annotation: Any) -> list[type[BaseModel]]:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return [annotation]
    return [found for argument in get_args(annotation) for found in _models_in(argument)]
