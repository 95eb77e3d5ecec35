"""WebDataset tar shards: train/*.tar, and val/*.tar and test/*.tar where there are any; classes.txt may name classes.

Only numbers, names and image files are taken from them, never pickles, which `webdataset`'s own decoders would open.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from nasdeploy.data.files import is_hidden
from nasdeploy.data.images import Images, ImageSets, Indices
from nasdeploy.data.layout import PARTS, beside, require_folder
from nasdeploy.data.listing import lacking
from nasdeploy.data.passed_over import hidden_line
from nasdeploy.data.settings import DataSettings, Decoding
from nasdeploy.data.shard_cache import remembered_index
from nasdeploy.data.shard_images import WINDOW, ShardImages
from nasdeploy.data.shard_index import ShardIndex, is_number
from nasdeploy.data.split import image_sets
from nasdeploy.errors import UserError
from nasdeploy.registry import suggestion

CLASSES = "classes.txt"
"""A file that may name the classes."""


@dataclass(frozen=True)
class ShardListing:
    """Images by part (train, val, test), the classes in the order of their labels, and what a user should know."""

    parts: Mapping[str, ShardImages]
    classes: tuple[str, ...]
    notes: tuple[str, ...]


def holds_shards(path: Path) -> bool:
    """Whether the training part of a folder is tar shards."""
    return any(not is_hidden(shard.name) for shard in (path / "train").glob("*.tar"))


def list_shards(path: Path, decoding: Decoding = Decoding()) -> ShardListing:
    """What the shards below `path` hold; raises `UserError` if it has not the form train/*.tar, or for bad samples."""
    require_folder(path, "train/*.tar")
    parts = {part: path / part for part in PARTS if (path / part).is_dir()}
    found = {part: remembered_index(folder, _shards_in(folder)) for part, folder in parts.items()}
    classes = _named_classes(path / CLASSES) or _classes_of(found["train"])
    images = {part: ShardImages.of(index, _labels(index, classes, path), decoding) for part, index in found.items()}
    notes = beside(path, {CLASSES}) + [
        note
        for part, folder in parts.items()
        for note in lacking(folder, _without_images(images[part], classes) if part != "train" else [])
    ]
    for part, folder in parts.items():
        notes += hidden_line(folder, found[part].passed, "hidden, of tools or of no sample")
    if images["train"].is_sorted:
        notes.append(
            f"{parts['train']}: shards hold few classes each, and only the samples of {WINDOW} shards at a time are "
            "shuffled with each other; write samples in random order"
        )
    return ShardListing(images, classes, tuple(notes))


def _shards_in(folder: Path) -> tuple[Path, ...]:
    shards = tuple(sorted(path for path in folder.glob("*.tar") if not is_hidden(path.name)))
    if shards:
        return shards
    packed = sorted(path.name for pattern in ("*.tar.*", "*.tgz") for path in folder.glob(pattern))
    if packed:
        raise UserError(
            f"{folder}: {packed[0]} is compressed, so that samples cannot be found in it; unpack it to .tar"
        )
    if folder.is_dir() and any(entry.is_dir() for entry in folder.iterdir()):
        raise UserError(f"{folder}: holds folders and no *.tar; for images in class folders set data.kind: folder")
    raise UserError(f"{folder}: holds no *.tar; put the shards there")


def _named_classes(file: Path) -> tuple[str, ...]:
    """Names in a file, one a line; none if there is no such file."""
    try:
        lines = file.read_text(encoding="utf-8").splitlines() if file.exists() else []
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"{file}: cannot be read ({error}); write the name of a class on each line") from None
    classes = tuple(line.strip() for line in lines)
    for number, name in enumerate(classes):
        if not name.isprintable() or not name or name in classes[:number]:
            raise UserError(f"{file}: line {number + 1} is {name!r}; write the name of another class on each line")
        if is_number(name) and int(name) != number:
            raise UserError(
                f"{file}: line {number + 1} is {name!r}, which as a label means line {int(name) + 1}; write names that "
                "are no numbers"
            )
    return classes


def _classes_of(index: ShardIndex) -> tuple[str, ...]:
    """Labels as the names of classes: numbers in their order before names."""
    return tuple(sorted(index.texts, key=lambda text: (not is_number(text), int(text) if is_number(text) else 0, text)))


def _labels(index: ShardIndex, classes: Sequence[str], path: Path) -> Indices:
    """Labels `[N]` for the texts of an index: names of classes or, with classes.txt, numbers of its lines from 0."""
    numbers = {name: number for number, name in enumerate(classes)}
    named = path / CLASSES
    if named.exists():
        numbers = {str(number): number for number in range(len(classes))} | numbers
    for place, text in enumerate(index.texts):
        if text not in numbers:
            where = index.path(int(np.argmax(index.text == place)))
            known = f"{named} names no such class" if named.exists() else f"{path / 'train'} has no such class"
            raise UserError(f"{where}: label {text!r}, and {known}{suggestion(text, classes)}; correct one of them")
    return np.array([numbers[text] for text in index.texts], dtype=np.int64)[index.text]


def _without_images(images: Images, classes: Sequence[str]) -> list[str]:
    counts = np.bincount(images.labels, minlength=len(classes))
    return [name for name, count in zip(classes, counts, strict=True) if not count]


def open_shards(settings: DataSettings, seed: int) -> ImageSets:
    """The images in the shards below `settings.path`; raises `UserError` for a wrong form, damage, and bad samples.

    Unlike files in folders, images are not looked at here, which would mean to read all shards: those that are damaged
    are found when they are decoded.
    """
    assert settings.path is not None  # DataSettings sees to it
    found = list_shards(Path(settings.path).expanduser(), settings.decoding)
    parts = found.parts
    return image_sets(
        found.classes, parts["train"], settings, seed, val=parts.get("val"), test=parts.get("test"), notes=found.notes
    )
