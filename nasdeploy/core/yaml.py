"""Reading and writing what users write: YAML 1.2 of which nothing is constructed but plain values.

Whatever might have been meant otherwise is refused: words that YAML 1.1 reads otherwise, keys that are written twice,
tags. Version 1.2 is read by its core schema (https://yaml.org/spec/1.2.2, section 10.3.2), 1.1 by the types of
https://yaml.org/type. Exponents need neither a point nor a sign in either, as in files that nasdeploy has always read.
"""

import codecs
import json
import math
import re
from dataclasses import dataclass
from functools import reduce
from typing import TYPE_CHECKING, Any

from nasdeploy.core.errors import UserError, one_line

if TYPE_CHECKING:
    from ruamel.yaml.nodes import Node

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
    """Return what a plain scalar is in YAML 1.2."""
    if text in _WORDS:
        return _WORDS[text]
    if _INT.fullmatch(text):
        return int(text, 0) if text.startswith(("0o", "0x")) else int(text)
    return float(text) if _FLOAT.fullmatch(text) else text


def read_by_older_rules(text: str) -> Scalar | Foreign:
    """Return what a plain scalar is in YAML 1.1."""
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
    """Return what is to be said of a plain scalar that YAML 1.1 reads otherwise than 1.2; None where they agree."""
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
    """Return a value in a form that both versions read alike."""
    if isinstance(value, bool):
        return "true" if value else "false"
    return "'" + value.replace("'", "''") + "'" if isinstance(value, str) else str(value)


_MOST_VALUES = 10_000
"""The most values of a file, aliases counted as often as they are used: more than that is made to exhaust memory."""
_LONGEST_NUMBER = 100
_ENCODINGS = {
    codecs.BOM_UTF8: "utf-8-sig",
    codecs.BOM_UTF32_LE: "utf-32",
    codecs.BOM_UTF32_BE: "utf-32",
    codecs.BOM_UTF16_LE: "utf-16",
    codecs.BOM_UTF16_BE: "utf-16",
}


def read_document(content: bytes, source: str) -> Any:
    """Return the plain value in the content of a file: a mapping, list, text, number, truth value or None.

    It is read as UTF-8, or as what its byte order mark says. Raises `UserError` that names `source` and the line.
    """
    encoding = next((name for mark, name in _ENCODINGS.items() if content.startswith(mark)), "utf-8")
    try:
        text = content.decode(encoding)
    except UnicodeDecodeError as error:
        line = content.count(b"\n", 0, error.start) + 1
        raise UserError(
            f"{source}: line {line}: not {encoding.removesuffix('-sig').upper()}; save it as UTF-8"
        ) from None
    return _Reading(text, source, has_lines=True).value()


def read_value(text: str, source: str) -> Any:
    """Return the plain value in a text that stands for one alone, such as that of `--set`; raises `UserError`."""
    return _Reading(text, source, has_lines=False).value()


def quoted(text: str) -> str:
    """Return a text in double quotes that every version of YAML reads as it is."""
    shown = json.dumps(text, ensure_ascii=False)
    return "".join(each if each.isprintable() else _escaped(each) for each in shown)


def _escaped(character: str) -> str:
    number = ord(character)
    return f"\\x{number:02x}" if number < 1 << 8 else f"\\u{number:04x}" if number < 1 << 16 else f"\\U{number:08x}"


class _Reading:
    """The reader of one text."""

    def __init__(self, text: str, source: str, *, has_lines: bool) -> None:
        self._text, self._source, self._has_lines = text, source, has_lines
        self._values = 0

    def value(self) -> Any:
        """Return the value of the text; raises `UserError`."""
        from nasdeploy.core.yaml_nodes import InvalidYaml, compose

        try:
            root = compose(self._text)
        except InvalidYaml as error:
            raise self._wrong(error.line, (), f"not valid YAML ({one_line(error)}); correct it") from None
        if not self._has_lines:
            self._require_whole(root)
        return None if root is None else self._of(root, ())

    def _require_whole(self, root: "Node | None") -> None:
        """Raise `UserError` unless the value is all that the text holds: a comment would be lost without a word."""
        rest = self._text
        if root is not None:
            rest = rest[: root.start_mark.index] + rest[root.end_mark.index :]
        if rest.strip():
            raise self._wrong(None, (), f"{rest.strip()!r} in it is no part of the value; put all of it into quotes")

    def _of(self, node: "Node", keys: tuple[str, ...]) -> Any:
        from nasdeploy.core.yaml_nodes import MOST_DEPTH, MappingNode, ScalarNode, is_plain, is_tagged

        line = node.start_mark.line
        self._values += 1
        if self._values > _MOST_VALUES or len(keys) > MOST_DEPTH:
            raise self._wrong(line, keys, "aliases (*) make too much of too little; write the values out")
        if is_tagged(node):
            tag = str(node.ctag).replace("tag:yaml.org,2002:", "!!")
            raise self._wrong(line, keys, f"has the tag {tag}; leave it out, or write !!str for text")
        if isinstance(node, MappingNode):
            return self._mapping(node, keys)
        if isinstance(node, ScalarNode):
            return self._plain(node.value, line, keys) if is_plain(node) else self._text_of(node.value, line, keys)
        return [self._of(each, (*keys, str(number))) for number, each in enumerate(node.value)]

    def _mapping(self, node: "Node", keys: tuple[str, ...]) -> dict[str, Any]:
        found: dict[str, Any] = {}
        lines: dict[str, int] = {}
        for key_node, value_node in node.value:
            line = key_node.start_mark.line
            key = self._of(key_node, keys)
            if not isinstance(key, str):
                raise self._wrong(line, keys, f"the key {key!r} is no text; put it into quotes if it is right")
            if key in found:
                before = f" in line {lines[key] + 1}" if self._has_lines else ""
                raise self._wrong(line, (*keys, key), f"already written{before}; write it once")
            found[key], lines[key] = self._of(value_node, (*keys, key)), line
        return found

    def _plain(self, text: str, line: int, keys: tuple[str, ...]) -> Scalar:
        if len(text) > _LONGEST_NUMBER:
            return self._long(text, line, keys)
        doubt = ambiguity(text)
        if doubt:
            raise self._wrong(line, keys, doubt)
        value = read(text)
        return self._text_of(value, line, keys) if isinstance(value, str) else value

    def _long(self, text: str, line: int, keys: tuple[str, ...]) -> str:
        if not text.strip("+-0123456789_.:eE"):
            raise self._wrong(line, keys, f"a number of {len(text)} digits; shorten it, or put it into quotes")
        return self._text_of(text, line, keys)

    def _text_of(self, text: str, line: int, keys: tuple[str, ...]) -> str:
        """Return the text with surrogate pairs, which JSON escapes characters by, made one.

        Raises `UserError` for others.
        """
        try:
            whole = text.encode("utf-16-le", errors="surrogatepass").decode("utf-16-le")
        except UnicodeDecodeError:
            raise self._wrong(line, keys, "half a character (a surrogate); write the whole one") from None
        if "\0" in whole:
            raise self._wrong(line, keys, "the character U+0000 is not allowed there; leave it out")
        return whole

    def _wrong(self, line: int | None, keys: tuple[str, ...], problem: str) -> UserError:
        place = [f"line {line + 1}"] if self._has_lines and line is not None else []
        key = [".".join(map(_shown, keys))] if keys else []
        return UserError(": ".join([self._source, *place, *key, problem]))


def _shown(key: str) -> str:
    return key if key.isprintable() else repr(key)
