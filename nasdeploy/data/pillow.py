"""Opening image files by Pillow: with a limit of pixels of one's own, and without its warnings."""

import warnings
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from io import BytesIO
from pathlib import Path
from threading import Lock
from typing import IO, Any, NamedTuple

from PIL import Image

from nasdeploy.data.settings import MOST_PIXELS

EIGHT_BITS, GREY, FLOATING, COLOUR = range(4)
"""Depths of pictures: 8 bits and fewer; grey of more; grey in floating-point numbers; colour, or alpha, of more."""

SIXTEEN_BIT = frozenset({"I", "I;16", "I;16L", "I;16B", "I;16N"})


class Header(NamedTuple):
    """What the beginning of an image file says."""

    width: int
    height: int
    depth: int


class _Leave:
    """Pillow's limit and warnings are those of the whole process: out of force while any thread opens a file here."""

    def __init__(self) -> None:
        self._lock, self._opening, self._restore = Lock(), 0, ExitStack()

    @contextmanager
    def taken(self) -> Iterator[None]:
        with self._lock:
            self._opening += 1
            if self._opening == 1:
                self._take()
        try:
            yield
        finally:
            with self._lock:
                self._opening -= 1
                if not self._opening:
                    self._restore.close()

    def _take(self) -> None:
        limit = Image.MAX_IMAGE_PIXELS
        self._restore.callback(setattr, Image, "MAX_IMAGE_PIXELS", limit)
        Image.MAX_IMAGE_PIXELS = None
        self._restore.enter_context(warnings.catch_warnings())
        warnings.simplefilter("ignore")


_LEAVE = _Leave()


@contextmanager
def opened(file: Path | IO[bytes] | BytesIO, max_pixels: int = MOST_PIXELS) -> Iterator[Image.Image]:
    """An image file or its content, opened but not decoded yet; raises ValueError if it has more than `max_pixels`.

    Besides that it raises what Pillow does, which is nearly every kind of exception.
    """
    with _LEAVE.taken(), Image.open(file) as image:
        problem = too_large(*image.size, max_pixels)
        if problem:
            raise ValueError(problem)
        yield image


def too_large(width: int, height: int, max_pixels: int) -> str | None:
    """What is wrong with a picture of that size in pixels; None if nothing is."""
    if width * height <= max_pixels:
        return None
    return f"{width} x {height} pixels, {width * height} in all, and data.max_pixels allows {max_pixels}"


def header_of(image: Image.Image) -> Header:
    """What the header of an opened file says."""
    return Header(*image.size, _depth(image))


def _depth(image: Image.Image) -> int:
    if image.mode == "F":
        return FLOATING
    if image.mode in SIXTEEN_BIT:
        return GREY
    # Of colours Pillow decodes the upper 8 bits alone; how it decodes them says whether there are more.
    tiles: Sequence[Any] = getattr(image, "tile", ())
    return COLOUR if any(";16" in str(tile[3]) for tile in tiles[:1]) else EIGHT_BITS
