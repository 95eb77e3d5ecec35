"""An image folder: train/CLASS/*, and val/ and test/ in the same form where there are any."""

import os
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from nasdeploy.data.decode import SUFFIXES, UnreadableImage
from nasdeploy.data.file_facts import facts_of
from nasdeploy.data.images import FileImages, ImageSets
from nasdeploy.data.settings import DataSettings
from nasdeploy.data.split import image_sets
from nasdeploy.errors import UserError
from nasdeploy.registry import suggestion


@dataclass
class _Found:
    """Images by class of one part of a folder, and how many other files were passed over."""

    images: dict[str, list[Path]] = field(default_factory=dict)
    ignored: Counter[str] = field(default_factory=Counter)


@dataclass(frozen=True)
class FolderListing:
    """Image files by part (train, val, test) and class, and how many other files lie among them."""

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
        classes = [entry.name for entry in _folders(path)]
        instead = f"it holds {', '.join(classes[:3])}" if classes else "it holds no folders at all"
        raise UserError(f"{path}: has no train folder ({instead}); put the images into {path}/train/CLASS/")
    found = {part: _list_part(path / part) for part in ("train", "val", "test") if (path / part).is_dir()}
    train = found["train"].images
    _check_classes(path, found)
    ignored = sum((part.ignored for part in found.values()), Counter[str]())
    notes = [f"{path}: {count} {kind} ignored" for kind, count in sorted(ignored.items())]
    for name, part in found.items():
        notes += lacking(path / name, [label for label in train if not part.images.get(label)])
    return FolderListing({name: part.images for name, part in found.items()}, tuple(notes))


def lacking(part: Path, classes: Sequence[str]) -> list[str]:
    """A line about `classes` that a validation or test part has no images of, or none if there are no such classes."""
    if not classes:
        return []
    some = ", ".join(classes[:3]) + (f" and {len(classes) - 3} more" if len(classes) > 3 else "")
    return [
        f"{part}: no images of {some}, so that its accuracy says nothing about that; add some, or remove {part} to "
        "have training images set apart instead"
    ]


def _folders(path: Path) -> list[Path]:
    return sorted(entry for entry in path.iterdir() if entry.is_dir() and not entry.name.startswith("."))


def _list_part(path: Path) -> _Found:
    found = _Found()
    found.ignored.update(_kind(entry.name) for entry in path.iterdir() if entry.is_file())
    for folder in _folders(path):
        images = found.images.setdefault(folder.name, [])
        for parent, _, names in os.walk(folder):
            for name in names:
                if name.startswith(".") or Path(name).suffix.lower() not in SUFFIXES:
                    found.ignored[_kind(name)] += 1
                else:
                    images.append(Path(parent, name))
        images.sort()
    return found


def _kind(name: str) -> str:
    if name.startswith("."):
        return "hidden files"
    return "files outside the class folders" if Path(name).suffix.lower() in SUFFIXES else "files that are no images"


def _check_classes(path: Path, found: dict[str, _Found]) -> None:
    classes = found["train"].images
    if not classes and any((path / "train").glob("*.tar")):
        raise UserError(f"{path}/train: holds tar shards; set data.kind: shards, or --set data.kind=shards")
    if not classes:
        raise UserError(f"{path}/train: holds no class folders; put the images into {path}/train/CLASS/")
    for label, images in classes.items():
        if not images:
            raise UserError(f"{path}/train/{label}: holds no images; add some, or remove the folder")
    for name, part in found.items():
        for label in part.images:
            if label not in classes:
                raise UserError(f"{path}/{name}/{label}: no such class in {path}/train{suggestion(label, classes)}")
        if not any(part.images.values()):
            raise UserError(f"{path}/{name}: holds no images; add some, or remove the folder")


def open_folder(settings: DataSettings, seed: int) -> ImageSets:
    """The images below `settings.path`; raises `UserError` for a wrong form and, unless skipped, damaged files."""
    assert settings.path is not None  # DataSettings sees to it
    root = Path(settings.path).expanduser()
    listing = list_folder(root)
    files = [path for part in listing.parts.values() for images in part.values() for path in images]
    facts = facts_of(root, files)
    damaged = {files[place]: UnreadableImage(files[place], reason) for place, reason in facts.defects.items()}
    if damaged and settings.on_unreadable == "stop":
        raise _stop(list(damaged.values()))
    notes = [*listing.notes, *(f"{path}: skipped ({error.reason})" for path, error in damaged.items())]
    parts = {name: _images(part, listing.classes, damaged.keys()) for name, part in listing.parts.items()}
    return image_sets(
        listing.classes, parts["train"], settings, seed, val=parts.get("val"), test=parts.get("test"), notes=notes
    )


def _stop(damaged: Sequence[UnreadableImage]) -> UserError:
    first, others = damaged[0], len(damaged) - 1
    return UserError(f"{first}" + (f" ({others} more like it)" if others else ""))


def _images(part: dict[str, list[Path]], classes: Sequence[str], damaged: Iterable[Path]) -> FileImages:
    left_out = set(damaged)
    pairs = [(path, label) for label, name in enumerate(classes) for path in part.get(name, []) if path not in left_out]
    return FileImages([path for path, _ in pairs], [label for _, label in pairs])
