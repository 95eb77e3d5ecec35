"""Which files are images, and every file of one part of an image folder: an image, or passed over and counted.

Links are followed, to files and to folders, but no folder is read twice: those that are no links come first, and a link
to what was read already, or to a folder that holds the part itself, is passed over. Otherwise an image that two ways
lead to could be trained on and tested on.

`nasdeploy/exporting/bundle/pictures.py`, which runs without nasdeploy, tells images by the same names.
"""

import os
from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

from nasdeploy.core.errors import UserError
from nasdeploy.core.escaping import escaped

SUFFIXES = frozenset(
    # JPEG, also under its older names.
    {".jpg", ".jpeg", ".jpe", ".jfif", ".jif", ".jfi", ".mpo"}
    | {".png", ".apng", ".webp", ".gif", ".bmp", ".dib", ".tif", ".tiff", ".tga", ".qoi"}
    | {".ppm", ".pgm", ".pbm", ".pnm", ".jp2", ".j2k", ".avif"}
)
"""The suffixes of images that Pillow reads without further packages, in lower case."""

OF_TOOLS = frozenset(
    {
        *("@eadir", "@tmp", "@synoresource", "#recycle", "#snapshot"),  # Synology
        *("@recycle", "@recently-snapshot", "~snapshot"),  # QNAP, NetApp
        *("__macosx", "icon\r", "network trash folder", "temporary items", "resource.frk"),  # macOS
        *("$recycle.bin", "system volume information", "found.000"),  # Windows
        *("thumbs.db", "ehthumbs.db", "ehthumbs_vista.db", "desktop.ini", "picasa.ini"),
        *("lost+found", "lost.dir", "__pycache__"),
    }
)
"""Names, in lower case, of what systems and tools keep for themselves without hiding it."""


def is_hidden(name: str) -> bool:
    """Return whether a file or folder is hidden or a tool's own: no data, whatever it holds and however deep it
    lies."""
    return name.startswith(".") or name.casefold() in OF_TOOLS


def grouped(name: str, *, is_folder: bool) -> str:
    """Return what a hidden file or folder is counted under: copies of macOS's attributes are as many as there are
    files."""
    return f"{name}/" if is_folder else "._*" if name.startswith("._") else name


def suffix_of(name: str) -> str:
    """Return what a file's name ends in, from its last point on, in lower case; empty if it has none."""
    stem, point, suffix = name.rpartition(".")
    return point + suffix.lower() if stem else ""


@dataclass
class PartContents:
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


def read_part(path: Path) -> PartContents:
    """Return what lies below `path`; raises `UserError` for a folder that cannot be read."""
    part, real = PartContents(path), os.path.realpath(path)
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


def _read(part: PartContents, found: dict[str, list[str]], folders: list[_Folder], seen: set[str]) -> list[_Folder]:
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


def _entries(part: PartContents, path: str) -> Iterator[tuple[os.DirEntry[str], bool]]:
    """Yield what lies in one folder and is not passed over, and whether it is a folder."""
    try:
        with os.scandir(path) as entries:
            for entry in entries:
                is_folder, is_file = _kind_of_entry(entry)
                if is_hidden(entry.name):
                    part.hidden[grouped(entry.name, is_folder=is_folder)] += 1
                elif is_folder or is_file:
                    yield entry, is_folder
                else:
                    part.broken.append(entry.path)
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror}); make it readable, or move it elsewhere") from None


def _kind_of_entry(entry: os.DirEntry[str]) -> tuple[bool, bool]:
    """Return whether an entry, or what it links to, is a folder, and a file."""
    try:
        return entry.is_dir(), entry.is_file()
    # Links in a circle, and targets that must not be looked at.
    except OSError:
        return False, False


def _is_image(part: PartContents, name: str, label: str) -> bool:
    part.files[label] += 1
    suffix = suffix_of(name)
    if suffix in SUFFIXES:
        return True
    part.others[suffix][label] += 1
    return False


_SHOWN = 3
"""Names in a list; the others are counted."""
_KINDS = 5
"""Suffixes that have a line of their own."""

_CONVERT = "which cannot be read: convert them to .jpg, for instance with 'magick mogrify -format jpg FILES'"
_VIDEO = "which are videos: save some of their pictures as .jpg, for instance with 'ffmpeg -i FILE -r 1 %05d.jpg'"
_DRAWING = "which cannot be read: save them as .png"
_PACKED = "which are archives: unpack them"
_ARRAYS = "which hold arrays: save the pictures in them as .png"

ADVICE: Mapping[str, str] = {
    **dict.fromkeys((".heic", ".heif", ".hif", ".jxl", ".jxr", ".wdp", ".bpg", ".exr", ".hdr"), _CONVERT),
    **dict.fromkeys((".cr2", ".cr3", ".crw", ".nef", ".nrw", ".arw", ".srf", ".sr2", ".dng", ".orf"), _CONVERT),
    **dict.fromkeys((".rw2", ".raf", ".pef", ".srw", ".x3f", ".raw", ".3fr", ".iiq", ".erf", ".mrw"), _CONVERT),
    **dict.fromkeys((".mp4", ".mov", ".avi", ".mkv", ".webm", ".m4v", ".mpg", ".mpeg", ".wmv", ".3gp"), _VIDEO),
    **dict.fromkeys((".mts", ".m2ts", ".flv", ".ogv", ".insv"), _VIDEO),
    **dict.fromkeys((".svg", ".pdf", ".eps", ".ps", ".ai", ".psd", ".xcf", ".kra", ".emf", ".wmf", ".ico"), _DRAWING),
    **dict.fromkeys((".zip", ".tar", ".tgz", ".gz", ".bz2", ".xz", ".zst", ".7z", ".rar"), _PACKED),
    **dict.fromkeys((".npy", ".npz", ".h5", ".hdf5", ".mat", ".fits", ".dcm", ".nii", ".tfrecord"), _ARRAYS),
    "": "which cannot be told from other files: if they are images, add the suffix of their form, such as .jpg",
}
"""What to do with files that may hold pictures and are not read, by suffix."""


def notes_of(part: PartContents) -> list[str]:
    """Return what lies in `part` and was passed over or read by another way, a line for each kind."""
    hidden = hidden_line(part.path, part.hidden)
    return [*(f"{part.path}: {line}" for lines in (_other_files, _links) for line in lines(part)), *hidden]


def hidden_line(path: Path, names: Mapping[str, int], what: str = "hidden or of tools") -> list[str]:
    """Return a line about what was passed over in `path`, counted by name; none if nothing was."""
    found = [name if count == 1 else f"{name} {count} times" for name, count in _most(names)]
    return [f"{path}: {what}, and passed over: {some(found)}"] if found else []


def held(suffixes: Mapping[str, int]) -> str:
    """Return files by suffix, as in `12 .heic, 3 .txt`, with what to do about the most frequent.

    Empty if there are none.
    """
    kinds = _most(suffixes)
    text = some([f"{count} {_kind(suffix)}" for suffix, count in kinds])
    return f"{text}, {ADVICE[kinds[0][0]]}" if kinds and kinds[0][0] in ADVICE else text


def some(names: Sequence[str], more: str = "more") -> str:
    """Return the first of some names, and how many others there are."""
    first = ", ".join(map(escaped, names[:_SHOWN]))
    return first + (f" and {len(names) - _SHOWN} {more}" if len(names) > _SHOWN else "")


def _most(counts: Mapping[str, int]) -> list[tuple[str, int]]:
    return sorted(counts.items(), key=lambda each: (-each[1], each[0]))


def _kind(suffix: str) -> str:
    return escaped(suffix) or "without a suffix"


def _other_files(part: PartContents) -> Iterator[str]:
    by_count = sorted(part.others.items(), key=lambda each: (-each[1].total(), each[0]))
    for suffix, classes in by_count[:_KINDS]:
        found = [f"{label}: {count} of {part.files[label]}" for label, count in _most(classes)]
        yield f"{some(found, 'classes')} are {_kind(suffix)}, {ADVICE.get(suffix, 'which are no images: passed over')}"
    if others := by_count[_KINDS:]:
        count = sum(classes.total() for _, classes in others)
        yield f"{count} files of other kinds ({some([suffix for suffix, _ in others])}) passed over"
    if part.loose:
        images = sum(suffix_of(name) in SUFFIXES for name in part.loose)
        numbers = f"{len(part.loose)}, {images} of them images"
        yield f"files outside the class folders, passed over ({numbers}): {some(sorted(part.loose))}"


def _links(part: PartContents) -> Iterator[str]:
    def below(paths: Sequence[str]) -> str:
        return some(sorted(str(Path(path).relative_to(part.path)) for path in paths))

    if part.broken:
        yield f"links that lead nowhere, or no files, passed over ({len(part.broken)}): {below(part.broken)}"
    if part.again:
        yield f"links to folders that were read already, passed over: {below(part.again)}"
    if part.followed:
        yield f"links to folders, followed: {below(part.followed)}"
