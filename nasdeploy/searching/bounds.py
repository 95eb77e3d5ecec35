"""Bounds as users write them: `5`, `100..200`, `40%`, and `DEVICE=BOUND` where devices are several. Torch-free."""

import re
from collections.abc import Callable
from math import inf

from nasdeploy.core.errors import UserError
from nasdeploy.searching.budget import ANY, Range

_NUMBER = r"[0-9]+(?:\.[0-9]*)?(?:e[+-]?[0-9]+)?"
_LATENCY = re.compile(rf"({_NUMBER})(ms|%)?")


def is_latency(text: str) -> bool:
    """Whether it is a latency with its unit, or a range of such; what it comes to depends on the device."""
    return all(re.fullmatch(rf"{_NUMBER}(ms|%)", one) for one in text.split("..") if one) and text.strip(".") != ""


def parse_amount(option: str, text: str | None, factor: float) -> Range:
    """The range that `5` (at most 5), `100..200`, `100..` or `..200` stands for, times `factor`; None is no bound."""
    if text is None:
        return ANY
    return _parsed(text, lambda one: factor * _number(option, one), f"{option} {text}")


def _number(option: str, text: str) -> float:
    if not re.fullmatch(_NUMBER, text) or float(text) == inf:
        raise UserError(
            f"{option} {text}: give a finite number that is not negative, such as 5, or a range, such as 2..5"
        )
    return float(text)


def parse_latency(text: str, span: tuple[float, float]) -> Range:
    """Seconds for `2.5ms`, `2.5` (milliseconds) or `40%` of the reachable `span` in seconds, or a range of these."""
    return _parsed(text, lambda one: _seconds(one, text, span), f"latency budget '{text}'")


def _seconds(one: str, text: str, span: tuple[float, float]) -> float:
    match = _LATENCY.fullmatch(one)
    if match is None or float(match[1]) == inf:
        raise UserError(
            f"latency budget '{text}': write milliseconds, such as 2.5ms, a part of the range, such as 40%, or a range "
            "of either, such as 2ms..2.5ms"
        )
    number = float(match[1])
    if match[2] != "%":
        return number / 1e3
    if number > 100:
        raise UserError(f"latency budget '{text}': at most 100% of the reachable range")
    return span[0] + (span[1] - span[0]) * number / 100


def _parsed(text: str, value: Callable[[str], float], where: str) -> Range:
    low, dots, high = text.strip().partition("..")
    if not dots:
        return Range(high=value(low))
    if not low and not high:
        raise UserError(f"{where}: a range has a bound at least on one side, such as 2..5, 2.. or ..5")
    return Range(value(low) if low else 0.0, value(high) if high else inf)


def split_device(text: str) -> tuple[str | None, str]:
    """Device and bound of `DEVICE=BOUND`; None and the bound where no device is named.

    Raises `UserError` for a device without a name.
    """
    device, equals, bound = text.rpartition("=")
    if equals and not device.strip():
        raise UserError(f"latency budget '{text}': no device stands before '='; write cpu{text}, or {bound} alone")
    return (device, bound) if equals else (None, text)
