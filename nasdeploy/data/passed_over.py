"""What was passed over, in a line for each kind, however many files and classes there are."""

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from nasdeploy.core.escaping import escaped
from nasdeploy.data.files import SUFFIXES, suffix_of
from nasdeploy.data.walk import Part

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


def notes_of(part: Part) -> list[str]:
    """What lies in `part` and was passed over or read by another way, a line for each kind."""
    hidden = hidden_line(part.path, part.hidden)
    return [*(f"{part.path}: {line}" for lines in (_other_files, _links) for line in lines(part)), *hidden]


def hidden_line(path: Path, names: Mapping[str, int], what: str = "hidden or of tools") -> list[str]:
    """A line about what was passed over in `path`, counted by name; none if nothing was."""
    found = [name if count == 1 else f"{name} {count} times" for name, count in _most(names)]
    return [f"{path}: {what}, and passed over: {some(found)}"] if found else []


def held(suffixes: Mapping[str, int]) -> str:
    """Files by suffix, as in `12 .heic, 3 .txt`, with what to do about the most frequent; empty if there are none."""
    kinds = _most(suffixes)
    text = some([f"{count} {_kind(suffix)}" for suffix, count in kinds])
    return f"{text}, {ADVICE[kinds[0][0]]}" if kinds and kinds[0][0] in ADVICE else text


def some(names: Sequence[str], more: str = "more") -> str:
    """The first of some names, and how many others there are."""
    first = ", ".join(map(escaped, names[:_SHOWN]))
    return first + (f" and {len(names) - _SHOWN} {more}" if len(names) > _SHOWN else "")


def _most(counts: Mapping[str, int]) -> list[tuple[str, int]]:
    return sorted(counts.items(), key=lambda each: (-each[1], each[0]))


def _kind(suffix: str) -> str:
    return escaped(suffix) or "without a suffix"


def _other_files(part: Part) -> Iterator[str]:
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


def _links(part: Part) -> Iterator[str]:
    def below(paths: Sequence[str]) -> str:
        return some(sorted(str(Path(path).relative_to(part.path)) for path in paths))

    if part.broken:
        yield f"links that lead nowhere, or no files, passed over ({len(part.broken)}): {below(part.broken)}"
    if part.again:
        yield f"links to folders that were read already, passed over: {below(part.again)}"
    if part.followed:
        yield f"links to folders, followed: {below(part.followed)}"
