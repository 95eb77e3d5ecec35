"""What a word without quotes means in YAML: a number, a truth value, nothing, or text.

Version 1.2 is read by its core schema (https://yaml.org/spec/1.2.2, section 10.3.2), 1.1 by the types of
https://yaml.org/type. Exponents need neither a point nor a sign in either, as in files that nasdeploy has always read.
"""

import math
import re
from dataclasses import dataclass
from functools import reduce

Scalar = None | bool | int | float | str

_TRUE, _FALSE, _NONE = ("true", "True", "TRUE"), ("false", "False", "FALSE"), ("", "~", "null", "Null", "NULL")
_OLDER_TRUE = ("y", "Y", "yes", "Yes", "YES", "on", "On", "ON")
_OLDER_FALSE = ("n", "N", "no", "No", "NO", "off", "Off", "OFF")
_WORDS: dict[str, Scalar] = {
    **dict.fromkeys(_TRUE, True),
    **dict.fromkeys(_FALSE, False),
    **dict.fromkeys(_NONE, None),
    **dict.fromkeys((f"{sign}.{word}" for sign in ("", "+") for word in ("inf", "Inf", "INF")), math.inf),
    **dict.fromkeys((f"-.{word}" for word in ("inf", "Inf", "INF")), -math.inf),
    **dict.fromkeys((".nan", ".NaN", ".NAN"), math.nan),
}
_OLDER_WORDS = _WORDS | dict.fromkeys(_OLDER_TRUE, True) | dict.fromkeys(_OLDER_FALSE, False)

_INT = re.compile(r"[-+]?[0-9]+|0o[0-7]+|0x[0-9a-fA-F]+")
_FLOAT = re.compile(r"[-+]?(\.[0-9]+|[0-9]+(\.[0-9]*)?)([eE][-+]?[0-9]+)?")
_OLDER_INT = re.compile(r"[-+]?(0b[01_]+|0x[0-9a-fA-F_]+|0[0-7_]*|[1-9][0-9_]*(:[0-5]?[0-9])*)")
_OLDER_FLOAT = re.compile(
    r"[-+]?([0-9][0-9_]*(:[0-5]?[0-9])+\.[0-9_]*|(\.[0-9][0-9_]*|[0-9][0-9_]*\.[0-9_]*|[0-9]+(?=[eE]))([eE][-+]?[0-9]+)?)"
)
_DATE = re.compile(
    r"[0-9]{4}-[0-9]{2}-[0-9]{2}"
    r"|[0-9]{4}-[0-9]{1,2}-[0-9]{1,2}([Tt]|[ \t]+)[0-9]{1,2}:[0-9]{2}:[0-9]{2}(\.[0-9]*)?"
    r"([ \t]*(Z|[-+][0-9]{1,2}(:[0-9]{2})?))?"
)


@dataclass(frozen=True)
class Foreign:
    """Something that YAML 1.1 knows and 1.2 does not."""

    what: str
    instead: str | None = None
    """What to write if that was meant; None if nothing here takes it."""


def read(text: str) -> Scalar:
    """What a plain scalar is in YAML 1.2."""
    if text in _WORDS:
        return _WORDS[text]
    if _INT.fullmatch(text):
        return int(text, 0) if text.startswith(("0o", "0x")) else int(text)
    return float(text) if _FLOAT.fullmatch(text) else text


def read_by_older_rules(text: str) -> Scalar | Foreign:
    """What a plain scalar is in YAML 1.1."""
    if text in _OLDER_WORDS:
        return _OLDER_WORDS[text]
    if text == "<<":
        return Foreign("a merge of another mapping", "out what it merges")
    if text == "=":
        return Foreign("a default value")
    if _DATE.fullmatch(text):
        return Foreign("a date")
    digits = text.replace("_", "")
    try:
        if _OLDER_INT.fullmatch(text):
            return _older_int(digits)
        return _older_float(digits) if _OLDER_FLOAT.fullmatch(text) else text
    except ValueError:  # Of nothing but underscores after 0x.
        return text


def _older_int(digits: str) -> int:
    sign, body = (-1 if digits[0] == "-" else 1), digits.lstrip("+-")
    if ":" in body:
        return sign * reduce(lambda total, part: total * 60 + int(part), body.split(":"), 0)
    octal = body.startswith("0") and body[1:].isdigit()
    return sign * (int(body, 8) if octal else int(body, 0))


def _older_float(digits: str) -> float:
    sign, body = (-1 if digits[0] == "-" else 1), digits.lstrip("+-")
    return sign * reduce(lambda total, part: total * 60 + float(part), body.split(":"), 0.0)


def ambiguity(text: str) -> str | None:
    """What is to be said of a plain scalar that YAML 1.1 reads otherwise than 1.2; None where they agree."""
    now, before = read(text), read_by_older_rules(text)
    if type(now) is type(before) and (now == before or now != now):  # NaN is not equal to itself.
        return None
    ways = (value.instead if isinstance(value, Foreign) else _written(value) for value in (before, now, text))
    *others, last = dict.fromkeys(way for way in ways if way)
    return (
        f"{text} is {_said(before)} in YAML 1.1 and {_said(now)} in YAML 1.2; "
        f"write {', '.join(others)}{' or ' if others else ''}{last}"
    )


def _said(value: Scalar | Foreign) -> str:
    if isinstance(value, Foreign):
        return value.what
    return f"the text {_written(value)}" if isinstance(value, str) else _written(value)


def _written(value: Scalar) -> str:
    """A value in a form that both versions read alike."""
    if isinstance(value, bool):
        return "true" if value else "false"
    return "'" + value.replace("'", "''") + "'" if isinstance(value, str) else str(value)
