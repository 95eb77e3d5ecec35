"""What an image folder holds, from a look at its names and at the headers of some of its images."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from statistics import median

from PIL import Image, UnidentifiedImageError

from nasdeploy.data.folder import list_folder
from nasdeploy.data.split import require_enough
from nasdeploy.errors import UserError

_LOOKED_AT = 400


@dataclass(frozen=True)
class FolderSummary:
    """An image folder in numbers.

    `images`: count by part. `per_class`: training images by class. `sides`: smallest, median and largest shorter side,
    in pixels, of the images that were looked at.
    """

    path: Path
    classes: tuple[str, ...]
    images: Mapping[str, int]
    per_class: Mapping[str, int]
    sides: tuple[int, int, int]
    notes: tuple[str, ...]

    @property
    def has_test(self) -> bool:
        """Whether the folder brings its own test images."""
        return "test" in self.images


def inspect_folder(path: Path) -> FolderSummary:
    """A summary of the folder at `path`; raises `UserError` if it has not the form train/CLASS/*, or too few images."""
    listing = list_folder(path)
    train = listing.parts["train"]
    files = [file for images in train.values() for file in images]
    sides = [side for file in files[:: -(-len(files) // _LOOKED_AT)] if (side := _shorter_side(file))]
    if not sides:
        raise UserError(f"{path}/train: none of the images could be read, {files[0].name} for one; replace them")
    per_class = {label: len(images) for label, images in train.items()}
    require_enough(per_class, has_test="test" in listing.parts)
    return FolderSummary(
        path=path,
        classes=listing.classes,
        images={part: sum(map(len, classes.values())) for part, classes in listing.parts.items()},
        per_class=per_class,
        sides=(min(sides), round(median(sides)), max(sides)),
        notes=listing.notes,
    )


def _shorter_side(file: Path) -> int | None:
    """From the header alone; None for an unreadable file, which is for `open_data` to complain about."""
    try:
        with Image.open(file) as image:
            return min(image.size)
    except (OSError, SyntaxError, ValueError, UnidentifiedImageError, Image.DecompressionBombError):
        return None
