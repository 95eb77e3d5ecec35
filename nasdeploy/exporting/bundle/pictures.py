"""From files and folders to the model's input, for `predict.py`: which files are images, and every step to numbers.

In a bundle it lies beside that program. It needs NumPy and Pillow, and nothing else. Which files are images is as
`nasdeploy/data/walk.py` says, and a picture is read and prepared as in training's evaluation, bit for bit.
"""

from __future__ import annotations

import os
import warnings
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError

SUFFIXES = frozenset(
    # JPEG, also under its older names.
    {".jpg", ".jpeg", ".jpe", ".jfif", ".jif", ".jfi", ".mpo"}
    | {".png", ".apng", ".webp", ".gif", ".bmp", ".dib", ".tif", ".tiff", ".tga", ".qoi"}
    | {".ppm", ".pgm", ".pbm", ".pnm", ".jp2", ".j2k", ".avif"}
)
"""The suffixes of images that Pillow reads without further packages, in lower case."""

OF_TOOLS = frozenset(
    {
        *("@eadir", "@tmp", "@synoresource", "#recycle", "#snapshot"),  # Synology
        *("@recycle", "@recently-snapshot", "~snapshot"),  # QNAP, NetApp
        *("__macosx", "icon\r", "network trash folder", "temporary items", "resource.frk"),  # macOS
        *("$recycle.bin", "system volume information", "found.000"),  # Windows
        *("thumbs.db", "ehthumbs.db", "ehthumbs_vista.db", "desktop.ini", "picasa.ini"),
        *("lost+found", "lost.dir", "__pycache__"),
    }
)
"""Names, in lower case, of what systems and tools keep for themselves without hiding it."""

MOST_PIXELS = 178_956_970
"""The most pixels of a picture unless the manifest allows more."""

_DEEP_GREY = frozenset({"I", "I;16", "I;16L", "I;16B", "I;16N", "F"})
_WITH_ALPHA = frozenset({"LA", "La", "PA", "RGBA", "RGBa"})

Array = Any


class Refused(Exception):
    """A bundle or an image that is damaged, or a runtime that is missing: one line that says what and where."""


# -- which files are images


def image_files(paths: Sequence[Path]) -> tuple[list[Path], list[str]]:
    """The files given and the images in the folders given, sorted, and a line for each folder of what was passed over.

    Links are followed; a folder that several ways lead to is read once. Raises `Refused` for what is not there.
    """
    files: list[Path] = []
    notes: list[str] = []
    for path in paths:
        if path.is_dir():
            found, passed = _images_below(path)
            most = sorted(passed.items(), key=lambda each: (-each[1], each[0]))
            others = ", ".join(f"{count} {kind}" for kind, count in most[:5])
            if not found:
                raise Refused(f"{path}: holds no images{f' ({others})' if others else ''}")
            files += sorted(found)
            notes += [f"{path}: passed over: {others}"] if others else []
        elif path.exists():
            files.append(path)
        else:
            raise Refused(f"{path}: no such file or folder")
    return files, notes


def _images_below(root: Path) -> tuple[list[Path], Counter[str]]:
    """Images at any depth, and how many other files and folders there are, by kind."""
    found: list[Path] = []
    passed: Counter[str] = Counter()
    seen = {str(folder) for folder in Path(os.path.realpath(root)).parents}
    links = [str(root)]
    while links:
        for parent, folders, names in os.walk(links.pop(0), onerror=_unreadable):
            real = os.path.realpath(parent)
            if real in seen:
                folders.clear()
                continue
            seen.add(real)
            shown = sorted(name for name in folders if not is_hidden(name))
            passed["hidden folders or of tools"] += len(folders) - len(shown)
            linked = [name for name in shown if os.path.islink(os.path.join(parent, name))]
            links += [os.path.join(parent, name) for name in linked]
            folders[:] = [name for name in shown if name not in linked]
            for name in names:
                kind = _kind(parent, name)
                if kind:
                    passed[kind] += 1
                else:
                    found.append(Path(parent, name))
    return found, +passed


def _unreadable(error: OSError) -> None:
    raise Refused(f"{error.filename}: cannot be read ({error.strerror}); make it readable, or move it elsewhere")


def _kind(parent: str, name: str) -> str:
    """What a file is that is passed over; empty for an image."""
    if is_hidden(name):
        return "hidden files or of tools"
    if not os.path.isfile(os.path.join(parent, name)):
        return "links that lead nowhere, or no files"
    suffix = suffix_of(name)
    return "" if suffix in SUFFIXES else ascii(suffix)[1:-1] or "without a suffix"


def is_hidden(name: str) -> bool:
    """Return whether a file or folder is hidden or a tool's own: no data, whatever it holds and however deep it
    lies."""
    return name.startswith(".") or name.casefold() in OF_TOOLS


def suffix_of(name: str) -> str:
    """Return what a file's name ends in, from its last point on, in lower case; empty if it has none."""
    stem, point, suffix = name.rpartition(".")
    return point + suffix.lower() if stem else ""


# -- from an image file to the model's input


def read_rgb(path: Path, steps: Mapping[str, Any]) -> Image.Image:
    """The picture in a file (its first frame) as 8-bit RGB, by the manifest's `preprocessing`, upright.

    Transparent pixels are blended with white; grey of more than 8 bits is brought to 8. Raises `Refused`.
    """
    try:
        with _pillow_alone(), Image.open(path) as image:
            return _to_rgb(image, steps.get("range"), steps.get("max_pixels", MOST_PIXELS))
    except UnidentifiedImageError:
        raise Refused(f"{path}: cannot be read as an image (no known format); remove or replace it") from None
    # Pillow's decoders meet damaged files with nearly every kind of exception.
    except Exception as error:
        reason = getattr(error, "strerror", None) or " ".join(str(error).split()) or type(error).__name__
        raise Refused(f"{path}: cannot be read as an image ({reason}); remove or replace it") from None


@contextmanager
def _pillow_alone() -> Iterator[None]:
    """Leave out Pillow's warnings and its limit of pixels, for which the manifest has one of its own."""
    limit = Image.MAX_IMAGE_PIXELS
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        Image.MAX_IMAGE_PIXELS = None
        try:
            yield
        finally:
            Image.MAX_IMAGE_PIXELS = limit


def _to_rgb(image: Image.Image, bounds: Sequence[float] | None, max_pixels: int) -> Image.Image:
    width, height = image.size
    if width * height > max_pixels:
        raise ValueError(
            f"{width} x {height} pixels, {width * height} in all, and max_pixels in manifest.json is {max_pixels}"
        )
    if (
        bounds
        and any(";16" in str(tile[3]) for tile in getattr(image, "tile", ())[:1])
        and image.mode not in _DEEP_GREY
    ):
        raise ValueError("16-bit colours, of which Pillow decodes the upper 8 bits alone: save it with 8 bits")
    upright = ImageOps.exif_transpose(image)
    if upright.mode in _DEEP_GREY:
        return Image.fromarray(_to_levels(np.asarray(upright), bounds)).convert("RGB")
    if upright.mode == "RGB" and "transparency" not in upright.info:
        upright.load()
        return upright
    if upright.mode in _WITH_ALPHA or "transparency" in upright.info:
        coloured = upright.convert("RGBA")
        return Image.alpha_composite(Image.new("RGBA", coloured.size, "white"), coloured).convert("RGB")
    return upright.convert("RGB")


def _to_levels(values: Array, bounds: Sequence[float] | None) -> Array:
    """Values of pixels as levels: those between the bounds spread over 0 to 255, or the upper 8 of 16 bits."""
    if bounds is None:
        if values.dtype.kind == "f":
            raise ValueError("floating-point pixels: save it with 8 or 16 bits")
        return (np.clip(values, 0, 65535).astype(np.int64) >> 8).astype(np.uint8)
    low, high = bounds
    levels = (values.astype(np.float64) - low) * (255 / (high - low))
    return np.rint(np.clip(np.nan_to_num(levels, nan=0.0), 0, 255)).astype(np.uint8)


def prepare(picture: Image.Image, steps: Mapping[str, Any]) -> Array:
    """Input `[1, 3, resolution, resolution]` from an RGB picture, by the manifest's `preprocessing`."""
    pixels = np.asarray(_cropped(picture, steps["resize"], steps["crop"]))
    levels = pixels.transpose(2, 0, 1)[np.newaxis].astype(np.float32) / np.float32(1 / steps["scale"])
    mean, std = (np.array(steps[name], np.float32).reshape(3, 1, 1) for name in ("mean", "std"))
    return rescale((levels - mean) / std, steps["resolution"])


def _cropped(picture: Image.Image, shorter: int, side: int) -> Image.Image:
    width, height = picture.size
    longer = int(shorter * max(width, height) / min(width, height))
    width, height = (shorter, longer) if width <= height else (longer, shorter)
    left, top = round((width - side) / 2), round((height - side) / 2)
    resized = picture.resize((width, height), Image.Resampling.BICUBIC)
    return resized.crop((left, top, left + side, top + side))


def rescale(x: Array, side: int) -> Array:
    """Images `[N, 3, S, S]` at `side`: bicubic with a = -0.75, corners not aligned, not antialiased.

    Sums and products are rounded in the order of `torch.nn.functional.interpolate` on x86 processors with AVX2, so that
    the result equals its, bit for bit.
    """
    if x.shape[-1] == side:
        return np.ascontiguousarray(x)
    places, weights = cubic_taps(x.shape[-1], side)
    rows = _weighed([x[..., place] for place in places], weights)
    return _weighed([rows[:, :, place, :] for place in places], weights[:, :, np.newaxis])


def cubic_taps(size: int, side: int) -> tuple[Array, Array]:
    """Return for each of `side` places the four neighbours among `size`, and their weights: both `[4, side]`."""
    one = np.float32(1)
    centres = np.arange(side, dtype=np.float32) + np.float32(0.5)
    place = _fused(np.float32(size) / np.float32(side), centres, np.float32(-0.5))
    before = np.floor(place)
    t = place - before
    neighbours = np.clip(before.astype(int) + np.arange(-1, 3)[:, np.newaxis], 0, size - 1)
    return neighbours, np.stack([_far(t + one), _near(t), _near(one - t), _far((one - t) + one)])


def _near(t: Array) -> Array:
    return _fused(np.float32(1.25), t, np.float32(-2.25)) * t * t + np.float32(1)


def _far(t: Array) -> Array:
    return _fused(_fused(np.float32(-0.75), t, np.float32(3.75)), t, np.float32(-6)) * t + np.float32(3)


def _weighed(values: Sequence[Array], weights: Array) -> Array:
    first, second, third, fourth = zip(values, weights, strict=True)
    total = _fused(*first, second[0] * second[1])
    return _fused(*fourth, _fused(*third, total))


def _fused(a: Array, b: Array, c: Array) -> Array:
    """a * b + c of float32 numbers, rounded once: their product is exact in float64."""
    return (np.asarray(a, np.float64) * b + c).astype(np.float32)
