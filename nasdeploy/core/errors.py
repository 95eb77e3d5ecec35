"""What can go wrong, and the exit code that each kind ends in; and names as users give them, looked up in dictionaries.

Every error is one line that says what is wrong, where, and what to do. A name that is not there (of a space, a runtime,
a format, a loss) is answered with the nearest one.
"""

from collections.abc import Iterable, Mapping
from difflib import get_close_matches
from typing import TypeVar


class NasdeployError(Exception):
    """Anything that nasdeploy itself reports; the command line prints it as one line and exits with `exit_code`."""

    exit_code = 1
    """The exit code that the command line ends with."""


class UserError(NasdeployError):
    """A mistake in what was asked for: a wrong path, key, value, file."""

    exit_code = 2


class ConversionRefused(UserError):
    """A module that cannot be converted to what a runtime opens: one of many that are measured may be left out."""


class InfeasibleBudget(NasdeployError):
    """A budget that no network of the space can meet."""

    exit_code = 3


class CheckFailed(NasdeployError):
    """A check that failed: of an exported model against its network, a table against its device, or a machine."""

    exit_code = 4


class Interrupted(NasdeployError):
    """Stopped from outside (Ctrl-C); what was finished is kept and the same command resumes."""

    exit_code = 130


class Terminated(NasdeployError):
    """Asked to stop by the system (SIGTERM), as schedulers do; everything is saved and the same command resumes."""

    exit_code = 75


_LONGEST = 300
_MARK = " ... "


def one_line(error: object) -> str:
    """Return what a library's exception says, as it goes into a message: of a long one the beginning and the end."""
    text = " ".join(str(error).split())
    half = (_LONGEST - len(_MARK)) // 2
    return text if len(text) <= _LONGEST else f"{text[:half]}{_MARK}{text[-half:]}"


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
