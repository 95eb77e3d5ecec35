"""Every file below the class folders of one part of an image folder: an image, or passed over and counted.

Links are followed, to files and to folders, but no folder is read twice: those that are no links come first, and a link
to what was read already, or to a folder that holds the part itself, is passed over. Otherwise an image that two ways
lead to could be trained on and tested on.
"""

import os
from collections import Counter, defaultdict
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

from nasdeploy.core.errors import UserError
from nasdeploy.data.files import SUFFIXES, grouped, is_hidden, suffix_of


@dataclass
class Part:
    """What one part (train, val, test) of a folder holds, by the names of its class folders.

    `files`: all but the hidden ones, by class. `others`: those that are no images, by suffix and class. `loose`: files
    outside the class folders. `hidden`: folders (with a `/`) and files, by name. `followed` and `again`: links to
    folders that were read, and to some that had been read already. `broken`: links that lead nowhere, and what is
    neither a file nor a folder. Paths in `followed`, `again` and `broken` are whole.
    """

    path: Path
    images: dict[str, list[Path]] = field(default_factory=dict)
    files: Counter[str] = field(default_factory=Counter)
    others: defaultdict[str, Counter[str]] = field(default_factory=lambda: defaultdict(Counter))
    loose: list[str] = field(default_factory=list)
    hidden: Counter[str] = field(default_factory=Counter)
    followed: list[str] = field(default_factory=list)
    again: list[str] = field(default_factory=list)
    broken: list[str] = field(default_factory=list)


class _Folder(NamedTuple):
    """One to read: its path, the same without links, and the class that it belongs to; None for the part itself."""

    path: str
    real: str
    label: str | None


def read_part(path: Path) -> Part:
    """What lies below `path`; raises `UserError` for a folder that cannot be read."""
    part, real = Part(path), os.path.realpath(path)
    found: defaultdict[str, list[str]] = defaultdict(list)
    seen = {str(folder) for folder in Path(real).parents}
    links = _read(part, found, [_Folder(str(path), real, None)], seen)
    while links:
        linked = links.pop(0)
        folder = linked._replace(real=os.path.realpath(linked.path))
        (part.again if folder.real in seen else part.followed).append(folder.path)
        links += _read(part, found, [folder], seen)
    # In the order of paths, which are compared component by component.
    part.images = {
        label: [Path(name) for name in sorted(names, key=lambda name: name.split(os.sep))]
        for label, names in sorted(found.items())
    }
    return part


def _read(part: Part, found: dict[str, list[str]], folders: list[_Folder], seen: set[str]) -> list[_Folder]:
    """Read folders and all below them that were not `seen`; the links to folders there, sorted."""
    links: list[_Folder] = []
    while folders:
        folder = folders.pop()
        if folder.real in seen:
            continue
        seen.add(folder.real)
        for entry, is_folder in _entries(part, folder.path):
            if is_folder:
                label = entry.name if folder.label is None else folder.label
                below = _Folder(entry.path, os.path.join(folder.real, entry.name), label)
                (links if entry.is_symlink() else folders).append(below)
                _ = found[label]
            elif folder.label is None:
                part.loose.append(entry.name)
            elif _is_image(part, entry.name, folder.label):
                found[folder.label].append(entry.path)
    return sorted(links)


def _entries(part: Part, path: str) -> Iterator[tuple[os.DirEntry[str], bool]]:
    """What lies in one folder and is not passed over, and whether it is a folder."""
    try:
        with os.scandir(path) as entries:
            for entry in entries:
                is_folder, is_file = _kind(entry)
                if is_hidden(entry.name):
                    part.hidden[grouped(entry.name, is_folder=is_folder)] += 1
                elif is_folder or is_file:
                    yield entry, is_folder
                else:
                    part.broken.append(entry.path)
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror}); make it readable, or move it elsewhere") from None


def _kind(entry: os.DirEntry[str]) -> tuple[bool, bool]:
    """Whether an entry, or what it links to, is a folder, and a file."""
    try:
        return entry.is_dir(), entry.is_file()
    # Links in a circle, and targets that must not be looked at.
    except OSError:
        return False, False


def _is_image(part: Part, name: str, label: str) -> bool:
    part.files[label] += 1
    suffix = suffix_of(name)
    if suffix in SUFFIXES:
        return True
    part.others[suffix][label] += 1
    return False
