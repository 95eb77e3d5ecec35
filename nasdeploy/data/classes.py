"""Names of classes: compared and kept in composed form (NFC), whole lines of any list, and different at a glance.

In shards they are labels: text in `.cls`, a field of `.json`, or the lines of classes.txt.
"""

import json
import re
from collections import defaultdict
from collections.abc import Iterable
from shlex import quote
from typing import Any
from unicodedata import category, name, normalize

from nasdeploy.core.errors import UserError

_JOINERS = "\u200c\u200d"
"""Zero-width characters that words of some scripts need, and emoji."""
_INVISIBLE = re.compile("[\u034f\u115f\u1160\u17b4\u17b5\u180b-\u180e\u3164\ufe00-\ufe0f\uffa0\U000e0100-\U000e01ef]")
_SHOWN = 4


def class_names(written: Iterable[str], where: object) -> dict[str, str]:
    """Return the name of a class for each name as it is written in one place: the same, in NFC.

    Raises `UserError` for a name with a fault, and for names that are equal but for their form in Unicode, case or
    blanks; `where` is where they are written.
    """
    alike: defaultdict[str, list[str]] = defaultdict(list)
    for each in written:
        fault = fault_of(each)
        if fault:
            raise UserError(f"{where}: the class {quoted(each)} {fault}; rename it{_command(each, where)}")
        alike[_likeness(each)].append(each)
    confused = [names for names in alike.values() if len(names) > 1]
    if confused:
        raise UserError(f"{where}: {_difference(confused)}; make them one, or give them names that differ")
    return {each: composed(each) for names in alike.values() for each in names}


def composed(name: str) -> str:
    """Return a name in Unicode's composed form, NFC, whatever the file system made of it."""
    return normalize("NFC", name)


def likest(name: str, known: Iterable[str]) -> str | None:
    """Return the known name that equals `name` but for form, case or blanks."""
    likeness = _likeness(name)
    return next((each for each in known if _likeness(each) == likeness), None)


def fault_of(name: str) -> str:
    """Return why `name` cannot be that of a class, as the end of a sentence; empty if it can."""
    # Nearly all names, of which there may be millions in shards.
    if name.isascii() and name.isprintable() and name.strip():
        return ""
    if not _likeness(name):
        return "has a blank name"
    for letter in name:
        kind = category(letter)
        if kind == "Cs":
            return "is not named in UTF-8"
        if kind in ("Cc", "Zl", "Zp") or (kind == "Cf" and letter not in _JOINERS):
            return f"has {_called(letter)} in its name, which lists of classes cannot hold"
    return ""


def quoted(name: str) -> str:
    """Return a name in quotes, with all that is not ASCII as escapes: what looks the same does not read the same."""
    return re.sub(r"\\udc([89a-f])", r"\\x\1", ascii(name))


def _command(name: str, where: object) -> str:
    """Return how to rename a folder that is not named in UTF-8, which is hard to type; the new name is a guess."""
    shown = quoted(name)
    if not shown.startswith("'") or not any("\udc80" <= letter <= "\udcff" for letter in name):
        return ""
    guess = name.encode(errors="surrogateescape").decode("cp1252", errors="replace")
    new = guess if guess.isprintable() and "\ufffd" not in guess else "NAME"
    return f", in bash for instance with: mv {quote(f'{where}/')}${shown} {quote(f'{where}/{new}')}"


def _called(letter: str) -> str:
    said = name(letter, "")
    return f"U+{ord(letter):04X} ({said.lower()})" if said else f"U+{ord(letter):04X}"


def _likeness(name: str) -> str:
    """Return what is equal for names that are equal but for form, case, blanks and characters that are not seen."""
    folded = normalize("NFKC", normalize("NFKC", name).casefold())
    seen = "".join(letter for letter in _INVISIBLE.sub("", folded) if category(letter) != "Cf")
    return " ".join(seen.split())


def _difference(confused: list[list[str]]) -> str:
    first, *others = confused
    names = [quoted(each) for each in sorted(first)]
    listed = ", ".join(names[: min(_SHOWN, len(names) - 1)])
    rest = len(names) - _SHOWN
    last = f"{rest} more" if rest > 1 else names[-1]
    more = f" (and {len(others)} more such group{'s' if len(others) > 1 else ''})" if others else ""
    return f"the classes {listed} and {last} are equal but for case, blanks or their form in Unicode{more}"


_LONGEST = 200
_UTF16 = (b"\xff\xfe", b"\xfe\xff")
_LINE_END = re.compile(r"\r\n|\r|\n")


class NoLabel(ValueError):
    """Why something is no label, as a clause: `it is empty`."""


def decoded(content: bytes) -> str:
    """Return text in UTF-8, with or without a byte order mark; raises `NoLabel` for other encodings."""
    if content.startswith(_UTF16) or b"\0" in content:
        raise NoLabel("it is in UTF-16, not in UTF-8")
    try:
        return content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise NoLabel(f"it is not in UTF-8, by byte {content[error.start]:#04x}") from None


def lines_of(content: bytes) -> list[str]:
    """Return the lines of a text, which only line feeds and carriage returns end; raises `NoLabel` like `decoded`."""
    lines = _LINE_END.split(decoded(content))
    return lines if lines[-1] else lines[:-1]


def label_in(extension: str, content: bytes) -> str | None:
    """Return the label in a `.cls` or `.json`, a number without zeros before it; None for JSON without one.

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
    """Return whether a label is a whole number."""
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
