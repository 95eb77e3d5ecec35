"""How many of 256 levels are left of pictures of more than 8 bits, and the range of values that keeps all of them.

A camera of 12 bits in files of 16 fills a sixteenth of their range, a thermal one less: of their upper 8 bits, which
are taken unless `data.range` says otherwise, hardly any differ.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from math import ceil, floor, isqrt

import numpy as np

from nasdeploy.core.errors import UserError
from nasdeploy.data.decode import COLOUR, EIGHT_BITS, FLOATING, GREY, UnreadableImage, to_levels
from nasdeploy.data.images import Images
from nasdeploy.data.settings import ValueBounds

LOOKED_AT = 64
"""Images that are looked at to tell whether a range is needed."""
MEASURED = 1000
"""Images, from all over, that a range is measured on."""

_FEW_LEVELS = 128
_ENDS = (0.1, 99.9)
"""Percentiles of a picture's pixels that its range ends at: sensors have dead pixels."""
_MOST_VALUES = 1 << 18
"""The most values of a picture that are looked at."""
_UPPER_BITS = (0.0, 65536.0)


@dataclass(frozen=True)
class Used:
    """The values that pictures of more than 8 bits use, how many such pictures were looked at, and their depth.

    `depth` is `COLOUR` if any of them has colours, and `FLOATING` if any of the others does.
    """

    bounds: ValueBounds
    pictures: int
    depth: int

    @property
    def shown(self) -> str:
        """The values in words."""
        return f"{self.bounds[0]:.6g} to {self.bounds[1]:.6g}"


def used_range(images: Images, most: int) -> Used | None:
    """Return what pictures of more than 8 bits among at most `most` images, from all over, use.

    None if there are none.
    """
    found = list(_ranges(images, most))
    if not found:
        return None
    depths = {depth for depth, _ in found}
    low, high = min(low for _, (low, _) in found), max(high for _, (_, high) in found)
    return Used((low, high if high > low else low + 1), len(found), max(depths, key=(GREY, FLOATING, COLOUR).index))


def _ranges(images: Images, most: int) -> Iterator[tuple[int, ValueBounds]]:
    for index in np.linspace(0, len(images) - 1, min(most, len(images))).round().astype(int).tolist():
        try:
            depth, values = images.depth_and_values(index)
        except UnreadableImage:
            continue
        if depth == EIGHT_BITS or values is None:
            continue
        step = 1 + isqrt(values.size // _MOST_VALUES)
        some = values[::step, ::step]
        finite = some[np.isfinite(some)]
        if finite.size:
            low, high = np.percentile(finite, _ENDS)
            yield depth, (float(floor(low)), float(ceil(high))) if depth != FLOATING else (float(low), float(high))


def note_on_levels(used: Used | None, bounds: ValueBounds | None) -> str | None:
    """Return a line about pictures of which `data.range`, here `bounds`, leaves few levels, and what to set.

    Else None.
    """
    if used is None:
        return None
    low, high = used.bounds
    advice = f"set data.range to measured, or to [{low:.6g}, {high:.6g}] (black and white)"
    if used.depth == FLOATING and bounds is None:
        return f"pictures of floating-point pixels, from {used.shown}, have no black and white of their own: {advice}"
    black, white = (int(level) for level in to_levels(np.array(used.bounds), bounds))
    levels = white - black + 1
    low_end, high_end = bounds or _UPPER_BITS
    within = (min(high, high_end) - max(low, low_end)) / (high - low)
    if levels >= _FEW_LEVELS and within > 0.5:
        return None
    left = f"of their values, {used.shown}, {levels} of 256 levels are left"
    if used.depth == COLOUR:
        return (
            f"pictures of 16-bit colours: {left}, since Pillow decodes their upper 8 bits alone; save them with 8 "
            "bits, spread over 0 to 255"
        )
    by = "in their upper 8 bits" if bounds is None else f"by data.range {list(bounds)}"
    cut = "" if within > 0.5 else f", and {1 - max(0.0, within):.0%} of the range are cut off"
    return f"pictures of more than 8 bits: {left} {by}{cut}; {advice}"


def measured_range(images: Images) -> Used:
    """Return the range that grey pictures of more than 8 bits use.

    Raises `UserError` if there are none among the images.
    """
    used = used_range(images, MEASURED)
    if used is None:
        raise UserError(
            "data.range is measured, and no training image that was looked at has more than 8 bits; leave it out"
        )
    return used
