"""Names as users give them, and looking one up in an explicit dictionary (spaces, runtimes, formats, losses)."""

from collections.abc import Iterable, Mapping
from difflib import get_close_matches
from typing import TypeVar

from nasdeploy.errors import UserError

T = TypeVar("T")


def listed(texts: Iterable[str]) -> list[str]:
    """The names in `texts`, each of which may be several with commas between them; each name once."""
    return list(dict.fromkeys(word.strip() for text in texts for word in text.split(",") if word.strip()))


def suggestion(name: str, known: Iterable[str]) -> str:
    """`; did you mean 'X'?` for the known name nearest to `name`, else `; known: A, B, C`."""
    names = sorted(known)
    close = get_close_matches(name, names, n=1)
    if close:
        return f"; did you mean '{close[0]}'?"
    return f"; known: {', '.join(names)}" if names else ""


def lookup(kind: str, entries: Mapping[str, T], name: str) -> T:
    """The entry called `name`; raises `UserError` with the nearest name if there is none."""
    if name not in entries:
        raise UserError(f"unknown {kind} '{name}'{suggestion(name, entries)}")
    return entries[name]
