"""Architectures: immutable assignments of values to the choices of a search space."""

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from hashlib import sha256
from typing import Any

from nasdeploy.core.errors import UserError

Json = Any


@dataclass(frozen=True)
class Choice:
    """One decision of a search space and its admissible values, ascending."""

    name: str
    """The name of the choice, such as `depth.2`."""
    values: tuple[int, ...]
    """The values that it may have, ascending."""


class Arch(Mapping[str, int]):
    """An architecture: a value for every choice of a space, hashable and immutable.

    Names with dots are places in lists: `width.3` is the fourth element of `width` in JSON. Only a search space makes
    an `Arch` (`SearchSpace.arch`), because only it can check the values and bring them into canonical form.
    """

    def __init__(self, values: Mapping[str, int]) -> None:
        self._values = dict(values)
        self._hash = hash(frozenset(self._values.items()))

    def __getitem__(self, name: str) -> int:
        return self._values[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._values)

    def __len__(self) -> int:
        return len(self._values)

    def __hash__(self) -> int:
        return self._hash

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Arch) and self._values == other._values

    def __repr__(self) -> str:
        return f"Arch({self.text})"

    def to_json(self) -> dict[str, Json]:
        """Return the architecture as nested lists: `{"depth": 2, "width": [16, 24]}` for depth, width.0 and width.1."""
        nested: dict[str, Json] = {}
        for name, value in self._values.items():
            head, *places = name.split(".")
            if not places:
                nested[head] = value
                continue
            target = nested.setdefault(head, [])
            for place in places[:-1]:
                if len(target) <= int(place):
                    target.append([])
                target = target[int(place)]
            target.append(value)
        return nested

    @cached_property
    def text(self) -> str:
        """Compact JSON, the same for equal architectures."""
        return json.dumps(self.to_json(), separators=(",", ":"))

    @cached_property
    def digest(self) -> str:
        """Twelve hexadecimal digits that identify the architecture, stable over versions and machines."""
        ordered = json.dumps(self.to_json(), separators=(",", ":"), sort_keys=True)
        return sha256(ordered.encode()).hexdigest()[:12]


def flatten(data: Json) -> dict[str, int]:
    """Return the values of nested JSON under dotted names; raises `UserError` for anything but integers in lists."""
    if not isinstance(data, dict):
        raise UserError("an architecture is a JSON object with an integer, or a list of integers, for each choice")
    flat: dict[str, int] = {}
    for name, value in data.items():
        _flatten_into(flat, str(name), value)
    return flat


def _flatten_into(flat: dict[str, int], name: str, value: Json) -> None:
    if isinstance(value, list):
        for place, item in enumerate(value):
            _flatten_into(flat, f"{name}.{place}", item)
    elif isinstance(value, int) and not isinstance(value, bool):
        flat[name] = value
    else:
        raise UserError(f"architecture: {name} is {json.dumps(value)}; it must be an integer or a list of integers")
