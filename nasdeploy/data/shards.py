"""WebDataset tar shards: train/*.tar, and val/*.tar and test/*.tar where there are any; classes.txt may name classes.

Only numbers, names and image files are taken from them, never pickles, which `webdataset`'s own decoders would open.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from nasdeploy.core.errors import UserError, suggestion
from nasdeploy.data.classes import NoLabel, class_names, composed, is_number, likest, lines_of, quoted
from nasdeploy.data.decode import UnreadableImage
from nasdeploy.data.facts import MOST_READ_BYTES, unfit
from nasdeploy.data.folder import lacking, stop
from nasdeploy.data.images import Images, Indices, warn_of
from nasdeploy.data.inventory import OpenedData
from nasdeploy.data.layout import PARTS, beside, require_folder
from nasdeploy.data.settings import DataSettings, Decoding
from nasdeploy.data.shard_images import WINDOW, ShardImages, remembered_records, shard_identities
from nasdeploy.data.shard_index import ShardIndex, remembered_index
from nasdeploy.data.walk import hidden_line, is_hidden

NAMES = "classes.txt"
"""A file beside the parts that may name the classes, one a line."""


def classes_of(root: Path, parts: Mapping[str, ShardIndex]) -> tuple[str, ...]:
    """Return names of the classes of the shards in `root`, in NFC, in the order of their labels.

    Raises `UserError` for names with a fault, and for those in one part that are equal but for form, case or blanks.
    """
    labels = {name: class_names(index.texts, root / name) for name, index in parts.items()}
    named = _named(root / NAMES)
    if named is not None:
        return named
    return tuple(sorted(labels["train"].values(), key=_order))


def _order(label: str) -> tuple[bool, int, str]:
    """Return a key that sorts numbers in their order before names."""
    return not is_number(label), int(label) if is_number(label) else 0, label


def labels_of(index: ShardIndex, classes: Sequence[str], root: Path) -> Indices:
    """Return labels `[N]` for the texts of an index: names of classes or, with classes.txt, numbers of lines from 0.

    Raises `UserError` for a text that is none of them.
    """
    numbers = {name: number for number, name in enumerate(classes)}
    named = (root / NAMES).exists()
    if named:
        numbers = {str(number): number for number in range(len(classes))} | numbers
    for place, text in enumerate(index.texts):
        if composed(text) not in numbers:
            where = index.path(int(np.argmax(index.text == place)))
            raise UserError(f"{where}: {_unknown(text, classes, root, named)}; correct one of them")
    return np.array([numbers[composed(text)] for text in index.texts], dtype=np.int64)[index.text]


def _unknown(text: str, classes: Sequence[str], root: Path, named: bool) -> str:
    if named and is_number(text):
        return f"label {text}, and {root / NAMES} names {len(classes)} classes, 0 to {len(classes) - 1}"
    known = f"{root / NAMES} names no such class" if named else f"{root / 'train'} has no such class"
    same = likest(text, classes)
    if same is not None:
        return f"label {quoted(text)}, and {known}; it is written {quoted(same)} there"
    return f"label {text!r}, and {known}{suggestion(text, classes)}"


def _named(file: Path) -> tuple[str, ...] | None:
    """Return names in a file, one a line; None if there is no such file."""
    if not file.exists():
        return None
    try:
        classes = [line.strip() for line in lines_of(file.read_bytes())]
    except OSError as error:
        raise UserError(f"{file}: cannot be read ({error.strerror}); write the name of a class on each line") from None
    except NoLabel as reason:
        raise UserError(f"{file}: cannot be read ({reason}); write a name on each line, in UTF-8") from None
    if not classes:
        raise UserError(f"{file}: is empty; write the name of a class on each line, or remove it")
    for number, name in enumerate(classes):
        if not name or name in classes[:number]:
            raise UserError(f"{file}: line {number + 1} is {name!r}; write the name of another class on each line")
        if is_number(name) and int(name) != number:
            raise UserError(
                f"{file}: line {number + 1} is {name!r}, which as a label means line {int(name) + 1}; write names that "
                "are no numbers"
            )
    return tuple(class_names(classes, file).values())


@dataclass(frozen=True)
class ShardListing:
    """Images by part (train, val, test), the classes in the order of their labels, and what a user should know."""

    parts: Mapping[str, ShardImages]
    classes: tuple[str, ...]
    notes: tuple[str, ...]


def holds_shards(path: Path) -> bool:
    """Return whether the training part of a folder is tar shards."""
    return any(not is_hidden(shard.name) for shard in (path / "train").glob("*.tar"))


def list_shards(path: Path, decoding: Decoding = Decoding()) -> ShardListing:
    """Return what the shards below `path` hold.

    Raises `UserError` if it has not the form train/*.tar, or for bad samples.
    """
    require_folder(path, "train/*.tar")
    parts = {part: path / part for part in PARTS if (path / part).is_dir()}
    found = {part: remembered_index(folder, _shards_in(folder)) for part, folder in parts.items()}
    classes = classes_of(path, found)
    images = {part: ShardImages.of(index, labels_of(index, classes, path), decoding) for part, index in found.items()}
    notes = beside(path, {NAMES})
    for part, folder in parts.items():
        notes += _passed_over(folder, found[part])
        notes += lacking(folder, _without_images(images[part], classes) if part != "train" else [])
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


def _passed_over(folder: Path, index: ShardIndex) -> list[str]:
    """Return lines about what lies beside the shards, and about members that belong to no sample."""
    shards = {shard.name for shard in index.shards}
    others = [f"{path.name}/" if path.is_dir() else path.name for path in folder.iterdir() if path.name not in shards]
    return [
        *hidden_line(folder, dict.fromkeys(others, 1), "no shards"),
        *hidden_line(folder, index.passed, "members that are hidden, of tools or of no sample"),
    ]


def _without_images(images: Images, classes: Sequence[str]) -> list[str]:
    counts = np.bincount(images.labels, minlength=len(classes))
    return [name for name, count in zip(classes, counts, strict=True) if not count]


def open_shards(settings: DataSettings) -> OpenedData:
    """Return the images in shards below `settings.path`; raises `UserError` for a wrong form, damage, and bad samples.

    Unlike files in folders, images are not looked at beyond their headers: damage is found when they are decoded.
    """
    assert settings.path is not None  # DataSettings sees to it
    root = Path(settings.path).expanduser()
    data, unfit_ones = read_shards(root, list_shards(root, settings.decoding), settings.decoding)
    if unfit_ones and settings.on_unreadable == "stop":
        raise stop(unfit_ones)
    for error in unfit_ones:
        warn_of(error.path, error.reason)
    return data


def read_shards(root: Path, found: ShardListing, decoding: Decoding) -> tuple[OpenedData, list[UnreadableImage]]:
    """Return the images of a listing, but for those that `decoding` is not for, which are the second result.

    Raises `UserError` for a shard that cannot be read.
    """
    read = sum(int(images.index.size.sum()) for images in found.parts.values()) <= MOST_READ_BYTES
    parts: dict[str, Images] = {}
    identities, left_out = {}, []
    for name, images in found.parts.items():
        records = remembered_records(root / name, images.index) if read else None
        images.records = records
        parts[name], identities[name] = images, shard_identities(root / name, images.index, records)
        problems = {} if records is None else unfit(records, decoding)
        if problems:
            fit = np.setdiff1d(np.arange(len(images)), list(problems))
            left_out += [UnreadableImage(images.path(place), reason) for place, reason in problems.items()]
            parts[name], identities[name] = images.subset(fit.tolist()), identities[name].subset(fit)
            parts[name].unreadable = len(problems)
    return OpenedData(found.classes, parts, identities, found.notes), left_out
