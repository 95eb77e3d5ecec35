"""Images that cannot be read: left out where the settings allow it, counted, and named once a command."""

import warnings
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from nasdeploy.core.errors import UserError
from nasdeploy.core.escaping import escaped
from nasdeploy.data.decode import UnreadableImage
from nasdeploy.data.images import ArrayImages, Images
from nasdeploy.data.settings import DataSettings

_THREADS = 8

_named: set[Path] = set()
"""Files that this process has warned of: each epoch and each step of a command meets them again."""


@dataclass(frozen=True)
class Readable:
    """Images that can be read, and how many of the same part cannot."""

    images: Images
    unreadable: int


def readable(images: Images, settings: DataSettings) -> Readable:
    """The images without those that cannot be read, if the settings skip these; otherwise all of them, unread.

    Each is decoded once to find out. Raises `UserError` if none can be read.
    """
    if settings.on_unreadable == "stop" or isinstance(images, ArrayImages):
        return Readable(images, images.unreadable)
    with ThreadPoolExecutor(_THREADS) as threads:
        defects = list(threads.map(lambda place: _defect(images, place), range(len(images))))
    for defect in defects:
        if defect is not None:
            warn_of(defect.path, defect.reason)
    places = [place for place, defect in enumerate(defects) if defect is None]
    if not places:
        raise UserError(f"{images.path(0)}: cannot be read, nor can any other image of its part; replace them")
    found = images if len(places) == len(images) else images.subset(places)
    return Readable(found, images.unreadable + len(images) - len(places))


def _defect(images: Images, place: int) -> UnreadableImage | None:
    try:
        images.image(place)
    except UnreadableImage as error:
        return error
    return None


def warn_of(path: Path, reason: str) -> None:
    """Say that an image is left out, unless it was said already."""
    if path not in _named:
        _named.add(path)
        # Whatever shows warnings may hold no names that are not UTF-8.
        warnings.warn(escaped(f"left out: {path} ({reason})"), stacklevel=2)
