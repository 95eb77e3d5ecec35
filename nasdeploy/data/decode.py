"""Image files of any kind as 8-bit RGB pictures, and a quick look for damaged ones."""

import os
from io import BytesIO
from pathlib import Path
from typing import IO

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError

from nasdeploy.errors import UserError

_SIXTEEN_BIT = frozenset({"I", "I;16", "I;16L", "I;16B", "I;16N"})
_WITH_ALPHA = frozenset({"LA", "La", "PA", "RGBA", "RGBa"})
_JPEG, _JPEG_END = b"\xff\xd8\xff", b"\xff\xd9"
_PNG, _PNG_END = b"\x89PNG\r\n\x1a\n", b"\x00\x00\x00\x00IEND\xaeB`\x82"


class UnreadableImage(UserError):
    """A file that is no image, or a damaged one."""

    def __init__(self, path: Path, reason: str) -> None:
        super().__init__(
            f"{path}: cannot be read as an image ({reason}); remove or replace it, or set data.on_unreadable to skip"
        )
        self.path, self.reason = path, reason


def to_rgb(image: Image.Image) -> Image.Image:
    """An image of any mode as 8-bit RGB, upright by its EXIF orientation.

    Transparent pixels are blended with white; grey is repeated in the three channels; of 16 bits the upper 8 stay; CMYK
    and the rest are converted by Pillow. Raises ValueError for floating-point images, which have no known range.
    """
    upright = ImageOps.exif_transpose(image)
    if upright.mode == "RGB" and "transparency" not in upright.info:
        return upright
    if upright.mode in _SIXTEEN_BIT:
        levels = np.clip(np.asarray(upright), 0, 65535) >> 8
        return Image.fromarray(levels.astype(np.uint8)).convert("RGB")
    if upright.mode == "F":
        raise ValueError("floating-point pixels: save it with 8 or 16 bits")
    if upright.mode in _WITH_ALPHA or "transparency" in upright.info:
        coloured = upright.convert("RGBA")
        return Image.alpha_composite(Image.new("RGBA", coloured.size, "white"), coloured).convert("RGB")
    return upright.convert("RGB")


def read_rgb(path: Path, content: bytes | None = None) -> Image.Image:
    """The image in a file (its first frame) as RGB, or in `content`, with `path` as its name in errors.

    Raises `UnreadableImage`.
    """
    try:
        with Image.open(path if content is None else BytesIO(content)) as image:
            return to_rgb(image)
    except UnidentifiedImageError:
        raise UnreadableImage(path, "no known format") from None
    # Pillow's decoders meet damaged files with nearly every kind of exception.
    except Exception as error:
        reason = getattr(error, "strerror", None) or " ".join(str(error).split()) or type(error).__name__
        raise UnreadableImage(path, reason) from None


def looks_whole(file: IO[bytes]) -> bool:
    """Whether an open file begins and ends as a JPEG or PNG file does.

    That takes some 20 microseconds instead of the milliseconds of decoding, and finds empty, cut-off and misnamed
    files. Raises OSError if it cannot be read.
    """
    file.seek(0)
    head = file.read(len(_PNG))
    file.seek(max(0, file.seek(0, os.SEEK_END) - len(_PNG_END)))
    tail = file.read()
    return (head.startswith(_JPEG) and tail.endswith(_JPEG_END)) or (head == _PNG and tail == _PNG_END)


def defect(path: Path) -> UnreadableImage | None:
    """What is wrong with an image file, or None; whatever does not look whole is decoded to be sure."""
    try:
        with path.open("rb") as file:
            if looks_whole(file):
                return None
    except OSError as error:
        return UnreadableImage(path, error.strerror or str(error))
    try:
        read_rgb(path)
    except UnreadableImage as error:
        return error
    return None
