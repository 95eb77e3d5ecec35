"""Labels as shards hold them: text in `.cls`, a field of `.json`, and the lines of classes.txt."""

import json
import re
from typing import Any

from nasdeploy.data.classes import fault_of

_LONGEST = 200
_UTF16 = (b"\xff\xfe", b"\xfe\xff")
_LINE_END = re.compile(r"\r\n|\r|\n")


class NoLabel(ValueError):
    """Why something is no label, as a clause: `it is empty`."""


def decoded(content: bytes) -> str:
    """Text in UTF-8, with or without a byte order mark; raises `NoLabel` for other encodings."""
    if content.startswith(_UTF16) or b"\0" in content:
        raise NoLabel("it is in UTF-16, not in UTF-8")
    try:
        return content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise NoLabel(f"it is not in UTF-8, by byte {content[error.start]:#04x}") from None


def lines_of(content: bytes) -> list[str]:
    """The lines of a text, which only line feeds and carriage returns end; raises `NoLabel` like `decoded`."""
    lines = _LINE_END.split(decoded(content))
    return lines if lines[-1] else lines[:-1]


def label_in(extension: str, content: bytes) -> str | None:
    """The label in a `.cls` or `.json`, a number without zeros before it; None for JSON without one.

    Raises `NoLabel` for what is neither a number nor a name that a class can have.
    """
    text = decoded(content).strip() if extension == "cls" else _field(content)
    if text is None:
        return None
    if not text:
        raise NoLabel("it is empty")
    if len(text) > _LONGEST:
        raise NoLabel(f"it is longer than {_LONGEST} characters")
    if re.fullmatch(r"-[0-9]+", text):
        raise NoLabel(f"it is {text}, and numbers of classes begin at 0")
    fault = fault_of(text)
    if fault:
        raise NoLabel(f"it {fault}")
    return str(int(text)) if is_number(text) else text


def is_number(label: str) -> bool:
    """Whether a label is a whole number."""
    return label.isascii() and label.isdigit()


def _field(content: bytes) -> str | None:
    try:
        # Tells UTF-8, 16 and 32 apart by itself, with or without a byte order mark.
        data: Any = json.loads(content)
    except (ValueError, RecursionError):
        raise NoLabel("it is no JSON") from None
    label = data.get("label") if isinstance(data, dict) else None
    if label is None:
        return None
    if not isinstance(label, str | int) or isinstance(label, bool):
        raise NoLabel("it is neither a whole number nor a text")
    return str(label).strip()
