"""WebDataset tar shards: train/*.tar, and val/*.tar and test/*.tar where there are any; classes.txt may name classes.

Only numbers, names and image files are taken from them, never pickles, which `webdataset`'s own decoders would open.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from nasdeploy.core.errors import UserError
from nasdeploy.data.decode import UnreadableImage
from nasdeploy.data.facts import unfit
from nasdeploy.data.file_facts import MOST_READ_BYTES
from nasdeploy.data.files import is_hidden
from nasdeploy.data.folder import stop
from nasdeploy.data.images import Images
from nasdeploy.data.layout import PARTS, beside, require_folder
from nasdeploy.data.listing import lacking
from nasdeploy.data.opened import OpenedData
from nasdeploy.data.passed_over import hidden_line
from nasdeploy.data.settings import DataSettings, Decoding
from nasdeploy.data.shard_cache import remembered_index
from nasdeploy.data.shard_classes import NAMES, classes_of, labels_of
from nasdeploy.data.shard_facts import remembered_records, shard_identities
from nasdeploy.data.shard_images import WINDOW, ShardImages
from nasdeploy.data.shard_index import ShardIndex
from nasdeploy.data.unreadable import warn_of


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
    """Lines about what lies beside the shards, and about members that belong to no sample."""
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
    """The images in the shards below `settings.path`; raises `UserError` for a wrong form, damage, and bad samples.

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
    """The images of a listing, but for those that `decoding` is not for, which are the second result.

    Raises `UserError` for a shard that cannot be read.
    """
    read = sum(int(images.index.size.sum()) for images in found.parts.values()) <= MOST_READ_BYTES
    parts: dict[str, Images] = {}
    identities, left_out = {}, []
    for name, images in found.parts.items():
        records = remembered_records(root / name, images.index) if read else None
        parts[name], identities[name] = images, shard_identities(root / name, images.index, records)
        problems = {} if records is None else unfit(records, decoding)
        if problems:
            fit = np.setdiff1d(np.arange(len(images)), list(problems))
            left_out += [UnreadableImage(images.path(place), reason) for place, reason in problems.items()]
            parts[name], identities[name] = images.subset(fit.tolist()), identities[name].subset(fit)
            parts[name].unreadable = len(problems)
    return OpenedData(found.classes, parts, identities, found.notes), left_out
