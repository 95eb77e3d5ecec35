"""Budgets: what a network may cost, as ranges by the names of costs, and how users write them. Torch-free.

A user writes `5`, `100..200`, `40%`, `0.5x`, and `DEVICE=BOUND` where devices are several.
"""

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from math import inf
from typing import NamedTuple

from nasdeploy.core.cost_registry import COSTS, NETWORK_COSTS, Cost, on_device, split_name
from nasdeploy.core.errors import UserError, suggestion


@dataclass(frozen=True)
class Range:
    """A closed interval of a cost; without bounds everything is in it."""

    low: float = 0.0
    high: float = inf

    @property
    def bounded(self) -> bool:
        """Whether it excludes anything."""
        return self.low > 0 or self.high < inf

    def __contains__(self, value: float) -> bool:
        return self.low <= value <= self.high

    def text(self, cost: Cost) -> str:
        """Return the bounds as a user writes them: `5 ms`, `3..5 ms`, `3.. ms`; empty without bounds."""
        if not self.bounded:
            return ""
        low, high = (f"{cost.scale * bound:.4g}" if 0 < bound < inf else "" for bound in (self.low, self.high))
        if self.low <= 0:
            return f"{cost.scale * self.high:.4g} {cost.unit}"
        return f"{low}..{high} {cost.unit}"


ANY = Range()


@dataclass(frozen=True)
class Budget:
    """Bounds on what a network costs: ranges in seconds, operations and bytes, by name.

    Names are those of `COSTS`; those of a device's costs name it too, as `latency on cpu` does.
    """

    ranges: Mapping[str, Range] = field(default_factory=dict)

    def __getitem__(self, name: str) -> Range:
        """Return the range of a name; that of everything where nothing is bounded."""
        return self.ranges.get(name, ANY)

    @property
    def devices(self) -> tuple[str, ...]:
        """The devices on which something is bounded; the first is the one that the search looks at first."""
        return tuple(dict.fromkeys(device for _, device in map(split_name, self.ranges) if device is not None))

    def on(self, device: str) -> dict[str, Range]:
        """Return the bounds on a device, by the names of `COSTS`."""
        named = {on_device(name, device): name for name, cost in COSTS.items() if cost.of_device}
        return {named[name]: bound for name, bound in self.ranges.items() if name in named}

    def allows(self, costs: Mapping[str, float]) -> bool:
        """Return whether a network's own costs, by name, are within their bounds, whatever it takes on a device."""
        return all(costs[name] in self[name] for name in NETWORK_COSTS)

    def __str__(self) -> str:
        parts = []
        for device in self.devices:
            texts = [bound.text(COSTS[name]) for name, bound in self.on(device).items() if bound.bounded]
            parts.append(" and ".join(texts) + (f" on {device}" if len(self.devices) > 1 else ""))
        for name, cost in NETWORK_COSTS.items():
            text = self[name].text(cost)
            # The unit alone tells the megabytes of a file from nothing else.
            parts.append(f"{text} {'of ' if cost.unit == 'MB' else ''}{cost.title}" if text else "")
        return " and ".join(part for part in parts if part)


Asked = Mapping[str, tuple[str, ...]]
"""Bounds as the user writes them, by the names of `COSTS`; those of a device's costs as `DEVICE=BOUND` or `BOUND`."""

_NUMBER = r"[0-9]+(?:\.[0-9]*)?(?:e[+-]?[0-9]+)?"
_LATENCY = re.compile(rf"({_NUMBER})(ms|%|x)?")


def is_latency(text: str) -> bool:
    """Return whether it is a latency with its unit, or a range of such; what it comes to depends on the device."""
    units = _units(text)
    return bool(units) and None not in units


def relative_to_device(text: str) -> bool:
    """Return whether `BOUND` or `DEVICE=BOUND` tells a latency by what networks take on the device."""
    return any(unit in ("%", "x") for unit in _units(split_device(text)[1]))


def _units(text: str) -> list[str | None]:
    """Return the unit of each end of a range of latencies; None for one that has none, or is no latency."""
    ends = (_LATENCY.fullmatch(one) for one in text.split("..") if one)
    return [end and end[2] for end in ends]


def parse_amount(cost: Cost, text: str) -> Range:
    """Return the range that `5` (at most 5), `100..200`, `100..` or `..200` of a cost's unit stands for."""
    factor = 1 / cost.scale
    return _parsed(text, lambda one: factor * _number(cost.key, one), f"`{cost.key}={text}`")


def _number(key: str, text: str) -> float:
    if not re.fullmatch(_NUMBER, text) or float(text) == inf:
        raise UserError(
            f"`{key}={text}`: give a finite number that is not negative, such as 5, or a range, such as 2..5"
        )
    return float(text)


class DeviceLatencies(NamedTuple):
    """Seconds that networks of a space take on a device."""

    fastest: float
    slowest: float
    largest: float
    """The time of the largest network, which in a space that was grown from a pretrained network is the original."""

    def times(self, factor: float) -> "DeviceLatencies":
        """Return all of them times a factor."""
        return DeviceLatencies(*(factor * seconds for seconds in self))


def parse_latency(text: str, reach: DeviceLatencies) -> Range:
    """Return seconds for `2.5ms`, `2.5` (milliseconds), `40%` of the range that a device reaches, or `0.5x` what the
    largest network takes there; or for a range of these."""
    return _parsed(text, lambda one: _seconds(one, text, reach), f"latency budget '{text}'")


def _seconds(one: str, text: str, reach: DeviceLatencies) -> float:
    match = _LATENCY.fullmatch(one)
    if match is None or float(match[1]) == inf:
        raise UserError(
            f"latency budget '{text}': write milliseconds, such as 2.5ms, a part of the range, such as 40%, a multiple "
            "of what the largest network takes, such as 0.5x, or a range of these, such as 2ms..2.5ms"
        )
    number = float(match[1])
    if match[2] == "x":
        return number * reach.largest
    if match[2] != "%":
        return number / 1e3
    if number > 100:
        raise UserError(f"latency budget '{text}': at most 100% of the reachable range")
    return reach.fastest + (reach.slowest - reach.fastest) * number / 100


def _parsed(text: str, value: Callable[[str], float], where: str) -> Range:
    low, dots, high = text.strip().partition("..")
    if not dots:
        return Range(high=value(low))
    if not low and not high:
        raise UserError(f"{where}: a range has a bound at least on one side, such as 2..5, 2.. or ..5")
    return Range(value(low) if low else 0.0, value(high) if high else inf)


def split_device(text: str) -> tuple[str | None, str]:
    """Return the device and the bound of `DEVICE=BOUND`; None and the bound where no device is named.

    Raises `UserError` for a device without a name.
    """
    device, equals, bound = text.rpartition("=")
    if equals and not device.strip():
        raise UserError(f"latency budget '{text}': no device stands before '='; write cpu{text}, or {bound} alone")
    return (device, bound) if equals else (None, text)


# -- in Python

Number = float | str | tuple[float | None, float | None]
"""The most that something may cost, a range of it (None: no bound), or either as text, such as `40%` of a latency."""
Bound = Number | Mapping[str, Number] | list[str]
"""A bound, or several by device, which as texts are `DEVICE=BOUND`."""


def asked_for(budget: Mapping[str, Bound | None]) -> Asked:
    """Return bounds by the keys of costs, such as `latency_ms`, as a search takes them; None bounds nothing."""
    names = {cost.key: name for name, cost in COSTS.items()}
    for key in budget:
        if key not in names:
            raise UserError(f"unknown budget '{key}'{suggestion(key, names)}")
    return {names[key]: _texts(bound) for key, bound in budget.items() if bound is not None}


def _texts(bound: Bound) -> tuple[str, ...]:
    if isinstance(bound, list):
        return tuple(bound)
    if isinstance(bound, Mapping):
        return tuple(f"{device}={_text(number)}" for device, number in bound.items())
    return (_text(bound),)


def _text(number: Number) -> str:
    if isinstance(number, tuple):
        return "..".join("" if side is None else repr(float(side)) for side in number)
    return number if isinstance(number, str) else repr(float(number))
