"""Image files of any kind as 8-bit RGB pictures, opened by Pillow with a limit of pixels of one's own."""

import os
import sys
import warnings
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from io import BytesIO
from pathlib import Path
from threading import Lock
from typing import IO, Any, NamedTuple

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageOps, UnidentifiedImageError

from nasdeploy.core.errors import UserError
from nasdeploy.data.settings import MOST_PIXELS, Decoding, ValueBounds

EIGHT_BITS, GREY, FLOATING, COLOUR = range(4)
"""Depths of pictures: 8 bits and fewer; grey of more; grey in floating-point numbers; colour, or alpha, of more."""

SIXTEEN_BIT = frozenset({"I", "I;16", "I;16L", "I;16B", "I;16N"})


class ImageHeader(NamedTuple):
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
    """Yield an image file or its content, opened but not decoded; raises ValueError if it has more than `max_pixels`.

    Besides that it raises what Pillow does, which is nearly every kind of exception.
    """
    with _LEAVE.taken(), Image.open(file) as image:
        problem = too_large(*image.size, max_pixels)
        if problem:
            raise ValueError(problem)
        yield image


def too_large(width: int, height: int, max_pixels: int) -> str | None:
    """Return what is wrong with a picture of that size in pixels; None if nothing is."""
    if width * height <= max_pixels:
        return None
    return f"{width} x {height} pixels, {width * height} in all, and data.max_pixels allows {max_pixels}"


def header_of(image: Image.Image) -> ImageHeader:
    """Return what the header of an opened file says."""
    return ImageHeader(*image.size, _depth(image))


def _depth(image: Image.Image) -> int:
    if image.mode == "F":
        return FLOATING
    if image.mode in SIXTEEN_BIT:
        return GREY
    # Of colours Pillow decodes the upper 8 bits alone; how it decodes them says whether there are more.
    tiles: Sequence[Any] = getattr(image, "tile", ())
    return COLOUR if any(";16" in str(tile[3]) for tile in tiles[:1]) else EIGHT_BITS


_WITH_ALPHA = frozenset({"LA", "La", "PA", "RGBA", "RGBa"})
_JPEG, _JPEG_END = b"\xff\xd8\xff", b"\xff\xd9"
_PNG, _PNG_END = b"\x89PNG\r\n\x1a\n", b"\x00\x00\x00\x00IEND\xaeB`\x82"


class UnreadableImage(UserError):
    """A file that is no image, or a damaged one."""

    def __init__(self, path: Path, reason: str) -> None:
        super().__init__(
            f"{path}: cannot be read as an image ({reason}); leave it out with `data.on_unreadable=skip`, or "
            "remove or replace it before a run is begun"
        )
        self.path, self.reason = path, reason


def to_rgb(image: Image.Image, decoding: Decoding = Decoding()) -> Image.Image:
    """Return an image of any mode as 8-bit RGB, upright by its EXIF orientation.

    Transparent pixels are blended with white; grey is repeated in the three channels; grey of more than 8 bits is
    brought to 8 by `decoding`; CMYK and the rest are converted by Pillow. Raises ValueError for floating-point pixels
    without a range, and for colours of 16 bits with one, of which Pillow decodes the upper 8 alone.
    """
    depth = header_of(image).depth
    problem = undecodable(depth, decoding)
    if problem:
        raise ValueError(problem)
    upright = ImageOps.exif_transpose(image)
    if depth in (GREY, FLOATING):
        assert decoding.range != "measured"
        return Image.fromarray(to_levels(np.asarray(upright), decoding.range)).convert("RGB")
    if upright.mode == "RGB" and "transparency" not in upright.info:
        return upright
    if upright.mode in _WITH_ALPHA or "transparency" in upright.info:
        coloured = upright.convert("RGBA")
        return Image.alpha_composite(Image.new("RGBA", coloured.size, "white"), coloured).convert("RGB")
    return upright.convert("RGB")


def undecodable(depth: int, decoding: Decoding) -> str | None:
    """Return why a picture of that depth cannot be decoded so; None if it can."""
    if depth == FLOATING and decoding.range is None:
        return "floating-point pixels: set data.range to the values of black and white, or save it with 8 or 16 bits"
    if depth == COLOUR and decoding.range is not None:
        return (
            "16-bit colours, of which Pillow decodes the upper 8 bits alone: save it with 8 bits, or without data.range"
        )
    return None


def to_levels(values: npt.NDArray[Any], bounds: ValueBounds | None) -> npt.NDArray[np.uint8]:
    """Return values of pixels as levels of 8 bits: those between the bounds over 0 to 255, or the upper 8 of 16 bits.

    What is no number becomes black.
    """
    if bounds is None:
        levels = np.clip(values, 0, 65535).astype(np.int64) >> 8
    else:
        low, high = bounds
        levels = np.rint(np.clip(np.nan_to_num((values.astype(np.float64) - low) * (255 / (high - low))), 0, 255))
    found: npt.NDArray[np.uint8] = levels.astype(np.uint8)
    return found


def read_rgb(path: Path, content: bytes | None = None, decoding: Decoding = Decoding()) -> Image.Image:
    """Return the image in a file (its first frame) as RGB, or in `content`, with `path` as its name in errors.

    Raises `UnreadableImage`.
    """
    with _named(path), opened(_file(path, content), decoding.max_pixels) as image:
        rgb = to_rgb(image, decoding)
        rgb.load()
        return rgb


def read_values(path: Path, content: bytes | None = None) -> tuple[int, npt.NDArray[Any] | None]:
    """Return the depth of a picture and, if that is more than 8 bits, the values of its pixels `[height, width]`.

    Of colours the values are those of all channels, `[height, width, channels]`, without their lower 8 bits. Raises
    `UnreadableImage`.
    """
    with _named(path), opened(_file(path, content)) as image:
        depth = header_of(image).depth
        if depth == COLOUR:
            return depth, np.asarray(image.convert("RGB")).astype(np.uint16) << 8
        return depth, None if depth == EIGHT_BITS else np.asarray(image)


def read_header(path: Path, content: bytes | None = None) -> ImageHeader:
    """Return what the header of an image file says; raises `UnreadableImage`."""
    with _named(path), opened(_file(path, content), sys.maxsize) as image:
        return header_of(image)


def _file(path: Path, content: bytes | None) -> Path | BytesIO:
    return path if content is None else BytesIO(content)


@contextmanager
def _named(path: Path) -> Iterator[None]:
    """Turn whatever goes wrong with an image file into `UnreadableImage`."""
    try:
        yield
    except UnidentifiedImageError:
        raise UnreadableImage(path, "no known format") from None
    # Pillow's decoders meet damaged files with nearly every kind of exception.
    except Exception as error:
        reason = getattr(error, "strerror", None) or " ".join(str(error).split()) or type(error).__name__
        raise UnreadableImage(path, reason) from None


def looks_whole(file: IO[bytes]) -> bool:
    """Return whether an open file begins and ends as a JPEG or PNG file does.

    That takes some 20 microseconds instead of the milliseconds of decoding, and finds empty, cut-off and misnamed
    files. Raises OSError if it cannot be read.
    """
    file.seek(0)
    head = file.read(len(_PNG))
    file.seek(max(0, file.seek(0, os.SEEK_END) - len(_PNG_END)))
    tail = file.read()
    return (head.startswith(_JPEG) and tail.endswith(_JPEG_END)) or (head == _PNG and tail == _PNG_END)


def examined(path: Path, is_whole: bool) -> ImageHeader:
    """Return what the header of an image file says; one that does not look whole is decoded to be sure that it is.

    Raises `UnreadableImage` for what no setting could make readable.
    """
    header = read_header(path)
    # What is larger no recipe may want: then it shows itself when it is decoded.
    if not is_whole and header.width * header.height <= MOST_PIXELS:
        with _named(path), opened(path) as image:
            image.load()
    return header
