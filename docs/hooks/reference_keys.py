"""Classes of settings and records as pages: a table of keys for each, with type, default and meaning, from the code.

What a key means is the docstring below its field, which Python throws away: it is read from the source. Torch-free.
"""

import ast
import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import MISSING, dataclass, fields, is_dataclass
from functools import cache
from inspect import getsource
from sys import modules
from types import NoneType, UnionType
from typing import Annotated, Any, Literal, Union, get_args, get_origin, get_type_hints

from annotated_types import Ge, Gt, Le, Lt
from pydantic import BaseModel
from pydantic_core import PydanticUndefined

from nasdeploy.blocks import BLOCKS
from nasdeploy.core.settings import ByKind, BySibling
from nasdeploy.spaces.grown import BlockRow

_PLAIN = {int: "integer", float: "number", str: "text", bool: "true or false", Any: "any value", NoneType: "null"}
_PLURALS = {"integer": "integers", "number": "numbers", "text": "texts", "keys": "keys"}


@dataclass(frozen=True)
class Key:
    """A key of settings or of a record."""

    name: str
    annotation: Any
    """The type, with its bounds."""
    default: str
    """The default in JSON, or a word for it."""
    meaning: str
    owner: type
    """The class that declares it."""


def keys_of(model: type) -> list[Key]:
    """Return the keys of a settings class or a dataclass, in their order."""
    told, owners = _docstrings(model), _owners(model)
    return [
        Key(name, annotation, default, told.get(name, ""), owners.get(name, model))
        for name, annotation, default in _declared(model)
    ]


def meaning_of(key: Key) -> str:
    """Return what a key means in a file, where what Python calls None is null."""
    return re.sub(r"\bNone\b", "null", key.meaning)


def _declared(model: type) -> Iterator[tuple[str, Any, str]]:
    """Yield name, type and default of each field."""
    if issubclass(model, BaseModel):
        for name, field in model.model_fields.items():
            annotation = Annotated[field.annotation, *field.metadata] if field.metadata else field.annotation
            # The names of entries of a dictionary, among which a validator looks.
            known = field.json_schema_extra.get("enum") if isinstance(field.json_schema_extra, dict) else None
            if isinstance(known, list):
                annotation = Literal[*known]
            if field.default_factory is not None:
                yield name, annotation, "" if field.default_factory_takes_validated_data else "empty"
            else:
                yield name, annotation, "required" if field.default is PydanticUndefined else _default(field.default)
        return
    hints = get_type_hints(model, include_extras=True)
    assert is_dataclass(model), model
    for each in fields(model):
        plain = each.default is MISSING and each.default_factory is MISSING
        yield each.name, hints[each.name], "required" if plain else _default(each.default)


def _default(value: Any) -> str:
    if isinstance(value, BaseModel) or is_dataclass(value) or value is MISSING:
        return "may be left out"
    if isinstance(value, tuple):
        return f"`[{', '.join(_default(each).strip('`') for each in value)}]`"
    return f"`{value:.6g}`" if isinstance(value, float) else f"`{json.dumps(value)}`"


@cache
def _classes(module: str) -> Mapping[str, ast.ClassDef]:
    return {node.name: node for node in ast.parse(getsource(modules[module])).body if isinstance(node, ast.ClassDef)}


def _sources(model: type) -> Iterator[tuple[type, ast.ClassDef]]:
    """Yield the classes that declare fields of a class, the most basic first, with their source."""
    for each in reversed(model.__mro__):
        if each.__module__.startswith("nasdeploy.") and each.__name__ in _classes(each.__module__):
            yield each, _classes(each.__module__)[each.__name__]


def _fields_in(source: ast.ClassDef) -> Iterator[tuple[str, str]]:
    """Yield the name and the docstring of each field of a class."""
    for node, after in zip(source.body, [*source.body[1:], None], strict=True):
        if isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name):
            told = after.value if isinstance(after, ast.Expr) and isinstance(after.value, ast.Constant) else None
            yield node.target.id, "" if told is None else " ".join(str(told.value).split())


def _docstrings(model: type) -> dict[str, str]:
    found = {name: text for _, source in _sources(model) for name, text in _fields_in(source) if text}
    if issubclass(model, BlockRow) and model is not BlockRow:
        # Such a class is made from that of a block, which is where the docstrings are.
        return {**_docstrings(BLOCKS[model.model_fields["kind"].default]), **found}
    return found


def _owners(model: type) -> dict[str, type]:
    return {name: each for each, source in _sources(model) for name, _ in _fields_in(source)}


def cell(text: str) -> str:
    """Return a text as it stands in a cell of a table: in one line, and without lines between cells outside of code."""
    parts = " ".join(text.split()).split("`")
    return "`".join(part if place % 2 else part.replace("|", "\\|") for place, part in enumerate(parts))


# -- types in words


def classes_in(annotation: Any) -> Iterator[tuple[str, type]]:
    """Yield the classes with keys that a value may be, each with what leads to it: "", `[]` in lists, `.NAME`."""
    if get_origin(annotation) is Annotated:
        inner, *also = get_args(annotation)
        chosen = [each for each in also if isinstance(each, ByKind | BySibling)]
        if not chosen:
            yield from classes_in(inner)
        elif isinstance(chosen[0], ByKind):
            yield from (("", kind) for kind in chosen[0].kinds.values())
        else:
            yield from (("", each) for each in chosen[0].possible())
    elif get_origin(annotation) in (Union, UnionType):
        for each in get_args(annotation):
            yield from classes_in(each)
    elif get_origin(annotation) is tuple:
        yield from ((f"[]{path}", found) for each in get_args(annotation) for path, found in classes_in(each))
    elif get_origin(annotation) is dict:
        yield from ((f".NAME{path}", found) for path, found in classes_in(get_args(annotation)[1]))
    elif isinstance(annotation, type) and (issubclass(annotation, BaseModel) or is_dataclass(annotation)):
        yield "", annotation


def in_words(annotation: Any, metadata: tuple[Any, ...] = ()) -> str:
    """Return a type as people read it: `integer, 1 to 16`, `list of numbers`, or `keys` for a class with keys."""
    origin, arguments = get_origin(annotation), get_args(annotation)
    if origin is Annotated:
        kinds = [each for each in arguments[1:] if isinstance(each, ByKind)]
        return _with_kinds(arguments[0], kinds[0]) if kinds else in_words(arguments[0], (*arguments[1:], *metadata))
    if origin in (Union, UnionType):
        return " or ".join(in_words(each, metadata) for each in arguments)
    if origin is Literal:
        *first, last = [f"`{each}`" for each in arguments]
        return f"{', '.join(first)} or {last}" if first else last
    if origin is tuple:
        return _list_in_words(arguments)
    if origin is dict:
        return f"mapping from names to {_plural(in_words(arguments[1]))}"
    if annotation in _PLAIN:
        return _PLAIN[annotation] + (_bounds(metadata) if annotation in (int, float, str) else "")
    return "keys" if any(classes_in(annotation)) else str(annotation)


def _with_kinds(annotation: Any, kinds: ByKind) -> str:
    named = [in_words(each) for each in get_args(annotation) if not any(classes_in(each))]
    return " or ".join([*named, f"keys of one {kinds.what}"])


def _list_in_words(items: tuple[Any, ...]) -> str:
    if items[-1] is Ellipsis:
        return f"list of {_plural(in_words(items[0]))}"
    if len(set(map(in_words, items))) == 1:
        return f"list of {len(items)} {_plural(in_words(items[0]))}"
    return f"list of {len(items)}: {'; '.join(map(in_words, items))}"


def _plural(words: str) -> str:
    first = words.split(",")[0].split(" ")[0]
    return words.replace(first, _PLURALS[first], 1) if first in _PLURALS else words


def _bounds(metadata: tuple[Any, ...]) -> str:
    """Return the bounds of a number, or the form of a text, behind a comma; nothing where there are none."""
    found: dict[str, str] = {}
    for each in metadata:
        # Pydantic keeps those of `Field` one by one, or together.
        for part in (each, *getattr(each, "metadata", ())):
            for kind, name in ((Ge, "ge"), (Gt, "gt"), (Le, "le"), (Lt, "lt")):
                if isinstance(part, kind):
                    bound = getattr(part, name)
                    found[name] = f"{bound:g}" if isinstance(bound, float) else f"{bound:,}"
            if getattr(part, "pattern", None) is not None:
                found["pattern"] = f"`{part.pattern}`"
    if {"ge", "le"} <= set(found):
        return f", {found['ge']} to {found['le']}"
    words = {"ge": "at least", "gt": "above", "le": "at most", "lt": "below", "pattern": "of the form"}
    texts = [f"{word} {found[name]}" for name, word in words.items() if name in found]
    return f", {', '.join(texts)}" if texts else ""


# -- what a class holds


@dataclass(frozen=True)
class Section:
    """A class with keys, and the path that leads to it, such as `train.sampling`."""

    path: str
    model: type
    label: str = ""
    """The heading of a class that no path leads to, where a page has several."""

    @property
    def kind(self) -> str:
        """The value of the key `kind`, where it tells the class from others at the same place."""
        field = getattr(self.model, "model_fields", {}).get("kind")
        values = get_args(field.annotation) if field and get_origin(field.annotation) is Literal else ()
        return str(values[0]) if len(values) == 1 else ""

    @property
    def name(self) -> str:
        """The path and the kind, as a heading has them."""
        parts = (f"`{self.path}`" if self.path else self.label, f"kind `{self.kind}`" if self.kind else "")
        return " of ".join(filter(None, parts)) or "Keys"

    @property
    def anchor(self) -> str:
        """The identifier of the heading, which stays the same when others are added."""
        words = self.path.replace("[]", "").replace(".", "-") or self.label.replace(" ", "-")
        return "-".join(filter(None, (words, self.kind))).lower() or "keys"


def sections_of(root: type, path: str = "", label: str = "") -> list[Section]:
    """Return a class and all that its keys hold, each once, in the order in which they are met."""
    found: dict[type, Section] = {}
    _collect(Section(path, root, label), found)
    return list(found.values())


def _collect(section: Section, found: dict[type, Section]) -> None:
    if section.model in found:
        return
    found[section.model] = section
    for key in keys_of(section.model):
        for reached, model in classes_in(key.annotation):
            _collect(Section(f"{section.path}.{key.name}{reached}".lstrip("."), model), found)


def undocumented(value: Any, annotation: Any, path: str = "") -> list[str]:
    """Return the paths of those keys in JSON that the class which has most of them lacks, or has without a meaning."""
    if isinstance(value, list):
        return [each for item in value for each in undocumented(item, annotation, f"{path}[]")]
    if not isinstance(value, dict) or not any(classes_in(annotation)):
        return []
    if get_origin(annotation) is dict:
        inside = get_args(annotation)[1]
        return [each for item in value.values() for each in undocumented(item, inside, f"{path}.NAME")]
    return min((_undocumented_in(value, model, path) for _, model in classes_in(annotation)), key=len)


def _undocumented_in(value: Mapping[str, Any], model: type, path: str) -> list[str]:
    known = {key.name: key for key in keys_of(model) if key.meaning}
    found = []
    for name, item in value.items():
        here = f"{path}.{name}".lstrip(".")
        found += [here] if name not in known else undocumented(item, known[name].annotation, here)
    return found
