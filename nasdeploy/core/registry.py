"""Names as users give them, and looking one up in an explicit dictionary (spaces, runtimes, formats, losses)."""

from collections.abc import Iterable, Mapping
from difflib import get_close_matches
from typing import TypeVar

from nasdeploy.core.errors import UserError

T = TypeVar("T")
_LISTED = 20
"""Names in a list; the others are counted."""


def listed(texts: Iterable[str]) -> list[str]:
    """Return the names in `texts`, each of which may be several with commas between them; each name once."""
    return list(dict.fromkeys(word.strip() for text in texts for word in text.split(",") if word.strip()))


def nearest(name: str, known: Iterable[str]) -> str | None:
    """Return the known name that `name` may be a misspelling of."""
    return next(iter(get_close_matches(name, sorted(known), n=1)), None)


def suggestion(name: str, known: Iterable[str]) -> str:
    """Return `.

    Did you mean 'X'?` for the known name nearest to `name`, else `; known: A, B, C` (the first of very many).
    """
    names = sorted(known)
    close = nearest(name, names)
    if close is not None:
        return f"; did you mean '{close}'?"
    more = f" and {len(names) - _LISTED} more" if len(names) > _LISTED else ""
    return f"; known: {', '.join(names[:_LISTED])}{more}" if names else ""


def lookup(kind: str, entries: Mapping[str, T], name: str) -> T:
    """Return the entry called `name`; raises `UserError` with the nearest name if there is none."""
    if name not in entries:
        raise UserError(f"unknown {kind} '{name}'{suggestion(name, entries)}")
    return entries[name]
