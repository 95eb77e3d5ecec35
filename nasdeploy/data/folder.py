"""An image folder: train/CLASS/*, and val/ and test/ in the same form where there are any, listed and opened."""

import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from nasdeploy.core.errors import UserError
from nasdeploy.data.classes import class_names
from nasdeploy.data.decode import UnreadableImage
from nasdeploy.data.facts import facts_of
from nasdeploy.data.images import FileImages, as_indices, warn_of
from nasdeploy.data.inventory import Identities, OpenedData
from nasdeploy.data.layout import PARTS, beside, fault_in, fault_in_train, notes_on_depth, require_folder
from nasdeploy.data.settings import DataSettings, Decoding
from nasdeploy.data.walk import PartContents, notes_of, read_part, some


@dataclass(frozen=True)
class FolderListing:
    """Image files by part (train, val, test) and class, and a line for each kind of what was passed over."""

    parts: dict[str, dict[str, list[Path]]]
    notes: tuple[str, ...]

    @property
    def classes(self) -> tuple[str, ...]:
        """Names of the training classes, in NFC, sorted; a label is an index into them."""
        return tuple(self.parts["train"])


def list_folder(path: Path) -> FolderListing:
    """Return what an image folder holds, by names only; raises `UserError` if it has not the form train/CLASS/*.

    It is also raised for names of classes that have a fault, or that are equal but for their form, case or blanks.
    """
    require_folder(path, "train/CLASS/")
    found = {part: list_part(path / part) for part in PARTS if (path / part).is_dir()}
    train = found["train"]
    for name, part in found.items():
        fault = fault_in_train(part) if name == "train" else fault_in(part, train.images, train.path)
        if fault:
            raise UserError(fault)
    notes = beside(path, _reached(path, found.values()))
    for part in found.values():
        notes += notes_of(part) + notes_on_depth(part)
    for name, part in found.items():
        notes += lacking(path / name, [label for label in train.images if not part.images.get(label)])
    return FolderListing({name: part.images for name, part in found.items()}, tuple(notes))


def _reached(root: Path, parts: Iterable[PartContents]) -> set[str]:
    """Return names in `root` of what links in the parts lead to."""
    base = os.path.realpath(root)
    targets = [os.path.relpath(os.path.realpath(link), base) for part in parts for link in part.followed]
    return {target.partition(os.sep)[0] for target in targets}


def list_part(path: Path) -> PartContents:
    """Return what one part holds, by names of classes in NFC, sorted.

    Raises `UserError` for names that cannot be classes'.
    """
    part = read_part(path)
    names = class_names(part.images, path)
    part.images = {label: part.images[written] for written, label in sorted(names.items(), key=lambda each: each[1])}
    return part


def lacking(part: Path, classes: Sequence[str]) -> list[str]:
    """Return a line about `classes` that a validation or test part has no images of, or none if there are no such
    classes."""
    if not classes:
        return []
    return [
        f"{part}: no images of {some(classes)}, so that its accuracy says nothing about that; add some, or remove "
        f"{part} to have training images set apart instead"
    ]


def open_folder(settings: DataSettings) -> OpenedData:
    """Return the images below `settings.path`.

    Raises `UserError` for a wrong form and, unless skipped, damaged files.
    """
    assert settings.path is not None  # DataSettings sees to it
    root = Path(settings.path).expanduser()
    data, damaged = read_folder(root, list_folder(root), settings.decoding)
    if damaged and settings.on_unreadable == "stop":
        raise stop(damaged)
    for error in damaged:
        warn_of(error.path, error.reason)
    return data


def read_folder(root: Path, listing: FolderListing, decoding: Decoding) -> tuple[OpenedData, list[UnreadableImage]]:
    """Return the images of a listing, but for damaged ones, which are the second result."""
    labelled = {name: _labelled(part, listing.classes) for name, part in listing.parts.items()}
    files = [path for pairs in labelled.values() for path, _ in pairs]
    facts = facts_of(root, files)
    unreadable = facts.unreadable(decoding)
    damaged = [UnreadableImage(files[place], reason) for place, reason in unreadable.items()]
    parts, identities, first = {}, {}, 0
    for name, pairs in labelled.items():
        readable = [at for at in range(len(pairs)) if first + at not in unreadable]
        labels = [pairs[at][1] for at in readable]
        parts[name] = FileImages([pairs[at][0] for at in readable], labels, decoding)
        parts[name].unreadable = len(pairs) - len(readable)
        parts[name].records = facts.records[as_indices(readable) + first]
        identities[name] = Identities.of(facts, as_indices(readable) + first)
        first += len(pairs)
    return OpenedData(listing.classes, parts, identities, listing.notes), damaged


def _labelled(part: Mapping[str, Sequence[Path]], classes: Sequence[str]) -> list[tuple[Path, int]]:
    """Return the files of a part with their labels, class by class."""
    return [(path, label) for label, name in enumerate(classes) for path in part.get(name, [])]


def stop(damaged: Sequence[UnreadableImage]) -> UserError:
    """Return what training ends with where damaged images are not skipped: the first, and how many others there are."""
    first, others = damaged[0], len(damaged) - 1
    return UserError(f"{first}" + (f" ({others} more like it)" if others else ""))
