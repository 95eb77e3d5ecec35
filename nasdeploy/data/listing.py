"""What an image folder holds, by names only: train/CLASS/*, and val/ and test/ in the same form where there are any."""

import os
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from nasdeploy.core.errors import UserError
from nasdeploy.data.classes import class_names
from nasdeploy.data.layout import PARTS, beside, require_folder
from nasdeploy.data.part_layout import fault_in, fault_in_train, notes_on_depth
from nasdeploy.data.passed_over import notes_of, some
from nasdeploy.data.walk import Part, read_part


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
    """What an image folder holds, by names only; raises `UserError` if it has not the form train/CLASS/*.

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


def _reached(root: Path, parts: Iterable[Part]) -> set[str]:
    """Names in `root` of what links in the parts lead to."""
    base = os.path.realpath(root)
    targets = [os.path.relpath(os.path.realpath(link), base) for part in parts for link in part.followed]
    return {target.partition(os.sep)[0] for target in targets}


def list_part(path: Path) -> Part:
    """What one part holds, by names of classes in NFC, sorted; raises `UserError` for names that cannot be classes'."""
    part = read_part(path)
    names = class_names(part.images, path)
    part.images = {label: part.images[written] for written, label in sorted(names.items(), key=lambda each: each[1])}
    return part


def lacking(part: Path, classes: Sequence[str]) -> list[str]:
    """A line about `classes` that a validation or test part has no images of, or none if there are no such classes."""
    if not classes:
        return []
    return [
        f"{part}: no images of {some(classes)}, so that its accuracy says nothing about that; add some, or remove "
        f"{part} to have training images set apart instead"
    ]
