"""Text from outside made fit to be shown: names of files and classes may hold anything."""

import re
from collections.abc import Mapping
from typing import Any

_NOT_SHOWN = re.compile("[\x00-\x1f\x7f-\x9f\u2028\u2029\ud800-\udfff]")
_NOT_UTF8 = re.compile("[\ud800-\udfff]")
_FORMULA = tuple("=+-@\t\r\n\uff1d\uff0b\uff0d\uff20")


def escaped(text: object) -> str:
    r"""Return text as one line that can be encoded: a newline is shown as `\n`, a byte that is not UTF-8 as `\xfc`."""
    return _NOT_SHOWN.sub(_escape, str(text))


def in_utf8(text: object) -> str:
    r"""Return text that can be encoded: bytes of a file's name that are not UTF-8 are shown as `\xfc`.

    The rest stays.
    """
    return _NOT_UTF8.sub(_escape, str(text))


def _escape(character: "re.Match[str]") -> str:
    # Python holds a byte that is not UTF-8 as a lone surrogate, from U+DC80 on.
    return character[0].encode("unicode_escape").decode("ascii").replace(r"\udc", r"\x")


def cell(text: object) -> str:
    """Return text for a cell of a table: one line, and none that a spreadsheet takes for a formula.

    What begins as one is put behind an apostrophe (https://owasp.org/www-community/attacks/CSV_Injection).
    """
    shown = escaped(text)
    return f"'{shown}" if str(text).startswith(_FORMULA) else shown


def not_utf8(error: UnicodeEncodeError) -> str:
    """Return the quoted string, or else the line, that cannot be encoded, inside a longer text."""
    before, after = re.split('["\n]', error.object[: error.start]), re.split('["\n]', error.object[error.start :])
    return f"'{escaped(before[-1] + after[0])}'"


def as_json(value: Any) -> Any:
    """Return a copy of plain values in which every string is one that JSON can hold."""
    if isinstance(value, str):
        return in_utf8(value)
    if isinstance(value, Mapping):
        return {as_json(key): as_json(each) for key, each in value.items()}
    return [as_json(each) for each in value] if isinstance(value, (list, tuple)) else value
