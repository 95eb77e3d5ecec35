"""Reading and writing what users write: YAML 1.2 of which nothing is constructed but plain values.

Whatever might have been meant otherwise is refused: words that YAML 1.1 reads otherwise, keys that are written twice,
tags. Torch-free.
"""

import codecs
import json
from typing import TYPE_CHECKING, Any

from nasdeploy.core.errors import UserError, one_line
from nasdeploy.core.yaml.scalars import Scalar, ambiguity, read

if TYPE_CHECKING:
    from ruamel.yaml.nodes import Node

_MOST_VALUES = 10_000
"""Of a file, aliases counted as often as they are used: more than that is made to exhaust memory."""
_LONGEST_NUMBER = 100
_ENCODINGS = {
    codecs.BOM_UTF8: "utf-8-sig",
    codecs.BOM_UTF32_LE: "utf-32",
    codecs.BOM_UTF32_BE: "utf-32",
    codecs.BOM_UTF16_LE: "utf-16",
    codecs.BOM_UTF16_BE: "utf-16",
}


def read_document(content: bytes, source: str) -> Any:
    """The plain value in the content of a file: a mapping, list, text, number, truth value or None.

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
    """The plain value in a text that stands for one alone, such as that of `--set`; raises `UserError`."""
    return _Reading(text, source, has_lines=False).value()


def quoted(text: str) -> str:
    """A text in double quotes that every version of YAML reads as it is."""
    shown = json.dumps(text, ensure_ascii=False)
    return "".join(each if each.isprintable() else _escaped(each) for each in shown)


def _escaped(character: str) -> str:
    number = ord(character)
    return f"\\x{number:02x}" if number < 1 << 8 else f"\\u{number:04x}" if number < 1 << 16 else f"\\U{number:08x}"


class _Reading:
    """Of one text."""

    def __init__(self, text: str, source: str, *, has_lines: bool) -> None:
        self._text, self._source, self._has_lines = text, source, has_lines
        self._values = 0

    def value(self) -> Any:
        """The value of the text; raises `UserError`."""
        from nasdeploy.core.yaml.compose import InvalidYaml, compose

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
        from nasdeploy.core.yaml.compose import MOST_DEPTH, MappingNode, ScalarNode, is_plain, is_tagged

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
        """The text with surrogate pairs, which JSON escapes characters by, made one; raises `UserError` for others."""
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
