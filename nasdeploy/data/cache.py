"""Arrays that are kept between commands, below the user's cache folder: they only save time."""

from collections.abc import Mapping, Sequence
from hashlib import sha256
from pathlib import Path
from typing import Any
from zipfile import BadZipFile
from zlib import error as ZlibError

import numpy as np
import numpy.typing as npt

from nasdeploy.core.errors import UserError
from nasdeploy.data.settings import DOWNLOADS
from nasdeploy.store.files import replacing

Arrays = Mapping[str, npt.NDArray[Any]]


def cache_file(kind: str, folder: Path) -> Path | None:
    """Where arrays of a `kind` about a folder of data are kept; None where there is no home."""
    try:
        return Path(DOWNLOADS).expanduser() / kind / f"{text_digest(str(folder.absolute()))}.npz"
    except RuntimeError:
        return None


def text_digest(text: str) -> str:
    """A short name for a text."""
    return sha256(text.encode(errors="surrogateescape")).hexdigest()[:16]


def load_arrays(place: Path | None) -> Arrays | None:
    """What was kept there; None if that is nothing, or damaged."""
    if place is None:
        return None
    try:
        with np.load(place, allow_pickle=False) as stored:
            return {name: stored[name] for name in stored.files}
    except (OSError, ValueError, KeyError, EOFError, BadZipFile, ZlibError):
        return None


def store_arrays(place: Path | None, arrays: Arrays) -> None:
    """Keep arrays for the next command; where that cannot be written, it does without."""
    if place is None:
        return
    try:
        with replacing(place) as partial, partial.open("wb") as file:
            np.savez(file, allow_pickle=False, **arrays)
    # A home that cannot be written only costs the time of the next start.
    except UserError:
        return


def texts_as_bytes(texts: Sequence[str]) -> npt.NDArray[np.uint8]:
    """Texts without NUL one after the other, which takes less than an array of texts as long as the longest."""
    return np.frombuffer("\0".join(texts).encode(errors="surrogateescape"), dtype=np.uint8)


def texts_from_bytes(stored: npt.NDArray[np.uint8], count: int) -> list[str]:
    """The texts that `texts_as_bytes` was given; raises ValueError if they are not so many."""
    texts = stored.tobytes().decode(errors="surrogateescape").split("\0") if count else []
    if len(texts) != count:
        raise ValueError(f"{len(texts)} texts, not {count}")
    return texts
