"""What an image folder holds, by names only: train/CLASS/*, and val/ and test/ in the same form where there are any."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from nasdeploy.data.files import is_hidden
from nasdeploy.data.passed_over import held, notes_of, some
from nasdeploy.data.walk import Part, read_part
from nasdeploy.errors import UserError
from nasdeploy.registry import suggestion


@dataclass(frozen=True)
class FolderListing:
    """Image files by part (train, val, test) and class, and a line for each kind of what was passed over."""

    parts: dict[str, dict[str, list[Path]]]
    notes: tuple[str, ...]

    @property
    def classes(self) -> tuple[str, ...]:
        """Names of the training classes, sorted; a label is an index into them."""
        return tuple(self.parts["train"])


def list_folder(path: Path) -> FolderListing:
    """What an image folder holds, by names only; raises `UserError` if it has not the form train/CLASS/*."""
    if not path.is_dir():
        raise UserError(f"{path}: no such folder; give the one that holds train/CLASS/, with data.path or --data DIR")
    if not (path / "train").is_dir():
        classes = sorted(entry.name for entry in path.iterdir() if entry.is_dir() and not is_hidden(entry.name))
        instead = f"it holds {some(classes)}" if classes else "it holds no folders at all"
        raise UserError(f"{path}: has no train folder ({instead}); put the images into {path}/train/CLASS/")
    found = {part: read_part(path / part) for part in ("train", "val", "test") if (path / part).is_dir()}
    train = found["train"].images
    _check_classes(path, found)
    notes = [note for part in found.values() for note in notes_of(part)]
    for name, part in found.items():
        notes += lacking(path / name, [label for label in train if not part.images.get(label)])
    return FolderListing({name: part.images for name, part in found.items()}, tuple(notes))


def lacking(part: Path, classes: Sequence[str]) -> list[str]:
    """A line about `classes` that a validation or test part has no images of, or none if there are no such classes."""
    if not classes:
        return []
    return [
        f"{part}: no images of {some(classes)}, so that its accuracy says nothing about that; add some, or remove "
        f"{part} to have training images set apart instead"
    ]


def _check_classes(path: Path, found: dict[str, Part]) -> None:
    train = found["train"]
    classes = train.images
    if not classes and any((path / "train").glob("*.tar")):
        raise UserError(f"{path}/train: holds tar shards; set data.kind: shards, or --set data.kind=shards")
    if not classes:
        raise UserError(f"{path}/train: holds no class folders; put the images into {path}/train/CLASS/")
    for label, images in classes.items():
        if not images:
            raise UserError(
                f"{train.path}/{label}: holds no images{_but(train, label)}; add some, or remove the folder"
            )
    for name, part in found.items():
        for label in part.images:
            if label not in classes:
                raise UserError(f"{path}/{name}/{label}: no such class in {path}/train{suggestion(label, classes)}")
        if not any(part.images.values()):
            raise UserError(f"{path}/{name}: holds no images{_but(part)}; add some, or remove the folder")


def _but(part: Part, label: str | None = None) -> str:
    """What a class, or a whole part, holds instead of images."""
    kinds = Counter(
        {
            suffix: counts.total() if label is None else counts[label]
            for suffix, counts in part.others.items()
            if label is None or counts[label]
        }
    )
    return f" ({held(kinds)})" if kinds else ""
