"""Folders that have not quite the form that is asked for: what they look like, and the command that mends them.

The first half is about the folder of a data set, the second about its parts (train, val, test).
"""

import os
import re
from collections import Counter
from collections.abc import Collection, Iterator, Mapping
from pathlib import Path
from shlex import quote

from nasdeploy.core.errors import UserError, nearest, suggestion
from nasdeploy.core.escaping import escaped
from nasdeploy.data.classes import composed, likest, quoted
from nasdeploy.data.walk import SUFFIXES, PartContents, grouped, held, hidden_line, is_hidden, some, suffix_of

PARTS = ("train", "val", "test")
"""Folders of a data set; the first has to be there."""

_NAMES: Mapping[str, str] = {
    **dict.fromkeys(("train", "training", "trn", "learn", "learning"), "train"),
    **dict.fromkeys(("val", "valid", "validation", "validate", "validating", "dev", "development"), "val"),
    **dict.fromkeys(("eval", "evaluation", "evaluate"), "val"),
    **dict.fromkeys(("test", "testing", "tst"), "test"),
}
_FILLER = re.compile(r"(set|data|images?|imgs?|pictures|photos|split|part|dir|folder|s)$")
_LOOKED_INTO = 200
"""Folders, in looking for one that has the right form."""
_MISTAKEN = 4
"""Folders named like a part in other words that have a line of their own."""


def meant(name: str) -> str | None:
    """Return the part that a folder's name stands for elsewhere, as `valid` does for val, or that it spells wrongly."""
    letters = "".join(letter for letter in name.casefold() if letter.isalpha())
    alike = next((part for part in PARTS if sorted(part) == sorted(letters)), None)
    while letters not in _NAMES and (shorter := _FILLER.sub("", letters)) not in ("", letters):
        letters = shorter
    return alike or _NAMES.get(letters)


# -- what lies beside the parts


def beside(root: Path, known: Collection[str] = ()) -> list[str]:
    """Return lines about what lies in `root` beside its parts and is ignored; `known` are files that are not."""
    hidden: Counter[str] = Counter()
    mistaken: list[str] = []
    others: list[str] = []
    for name in sorted(set(os.listdir(root)) - set(known)):
        is_folder = (root / name).is_dir()
        part = meant(name) if is_folder else None
        if is_hidden(name):
            hidden[grouped(name, is_folder=is_folder)] += 1
        elif part and not _is_part(root, name):
            mistaken.append(_mistaken(root, name, part))
        elif not part:
            others.append(f"{name}/" if is_folder else name)
    ignored = [f"{root}: passed over beside train/: {some(others)}"] if others else []
    return [*mistaken[:_MISTAKEN], *ignored, *hidden_line(root, hidden)]


def _is_part(root: Path, name: str) -> bool:
    """Return whether a folder is read as a part: by its name, by a link, or since Test is test on this file system."""
    return name in PARTS or any((root / part).exists() and (root / part).samefile(root / name) for part in PARTS)


def _mistaken(root: Path, name: str, part: str) -> str:
    if (root / part).is_dir():
        return f"{root}: {name}/ is passed over, for there is {part}/ too; move what is missing there into it"
    instead = " (as it is, some training images are set apart instead)"
    return f"{root}: {name}/ is passed over; did you mean {part}? run: {_move(root / name, root / part)}{instead}"


def _move(source: Path, target: Path) -> str:
    return f"mv {quote(str(source))} {quote(str(target))}"


# -- no training part


def require_folder(root: Path, form: str) -> None:
    """Raise `UserError` unless `root` holds a train folder; `form` is what else lies there, e.g. `train/CLASS/`."""
    if not root.exists():
        raise UserError(f"{root}: no such folder; give the one that holds {form}, with data.path or `data=DIR`")
    if not root.is_dir():
        raise UserError(f"{root}: is no folder; unpack it if it is an archive, and give the one that holds {form}")
    require_utf8(root)
    if not (root / "train").is_dir():
        raise UserError(f"{root}: has no train folder{_why(root, form)}")


def require_utf8(root: Path) -> None:
    """Raise `UserError` for a path that no recipe can hold."""
    try:
        str(root).encode()
    except UnicodeEncodeError:
        raise UserError(
            f"{escaped(str(root))}: the path is not UTF-8, so that no recipe can hold it; rename it"
        ) from None


def _why(root: Path, form: str) -> str:
    folders, files = _content(root)
    said = (
        _renamed(root, folders)
        or _inside(root)
        or _nested(root, folders)
        or _classes(root, folders)
        or _packed(root, files)
        or _straight(root, files)
    )
    return said or f" ({_held(folders, files)}); put the data into {root}/{form}"


def _content(folder: Path) -> tuple[list[str], list[str]]:
    """Return names of the folders and of the files in a folder, without the hidden ones; none if it cannot be read."""
    folders: list[str] = []
    files: list[str] = []
    try:
        with os.scandir(folder) as entries:
            for entry in entries:
                if not is_hidden(entry.name):
                    (folders if entry.is_dir() else files).append(entry.name)
    except OSError:
        return [], []
    return sorted(folders), sorted(files)


def _held(folders: list[str], files: list[str]) -> str:
    names = [*(f"{name}/" for name in folders), *files]
    return f"it holds {some(names)}" if names else "it is empty"


def _images(files: list[str]) -> list[str]:
    return [name for name in files if suffix_of(name) in SUFFIXES]


def _renamed(root: Path, folders: list[str]) -> str:
    """Say what to do about Training/, or Train/ on a system that keeps the two apart."""
    name = next((name for name in folders if meant(name) == "train"), None)
    return f", but {name}/: run: {_move(root / name, root / 'train')}" if name else ""


def _inside(root: Path) -> str:
    """Return a part itself, or one of its classes, was given."""
    place = Path(os.path.abspath(root))
    for folder in (place, place.parent):
        others = (meant(name) for name in _content(folder.parent)[0] if name != folder.name)
        if folder.name == "train" or (meant(folder.name) and any(others)):
            within = "is" if folder == place else "lies in"
            return f"; it {within} {folder.name}/ of {folder.parent}: give that, `data={quote(str(folder.parent))}`"
    return ""


def _nested(root: Path, folders: list[str]) -> str:
    """Say what to do about photos/photos/train, or CLASS/train for each class."""
    found, by_class = [], []
    for folder in _below(root, folders):
        inner, files = _content(folder / "train")
        if inner or any(name.endswith(".tar") for name in files):
            found.append(folder)
        elif _images(files):
            by_class.append(folder)
    if found or len(by_class) == 1:
        found += by_class
        others = f" (or another of {len(found)} such folders)" if len(found) > 1 else ""
        return f", but {found[0]} has one: give that, `data={quote(str(found[0]))}`{others}"
    if by_class:
        label = by_class[0].name
        return (
            f", but {some([each.name for each in by_class])} have: put the classes into the parts, as in "
            f"{root}/train/{label}/"
        )
    return ""


def _below(root: Path, folders: list[str]) -> Iterator[Path]:
    """Yield folders at most two levels below `root`, the nearest first, as many as are looked into."""
    near = [root / name for name in folders[:_LOOKED_INTO]]
    yield from near
    far = (folder / name for folder in near for name in _content(folder)[0])
    for _, folder in zip(range(_LOOKED_INTO - len(near)), far, strict=False):
        yield folder


def _classes(root: Path, folders: list[str]) -> str:
    """Say what to do about photos/CLASS/*.jpg."""
    classes = [name for name in folders[:_LOOKED_INTO] if _images(_content(root / name)[1])]
    if not classes:
        return ""
    place = root if root.name else Path(os.path.abspath(root))
    aside = place.with_name(f"{place.name}-train")
    return (
        f"; its folders look like classes ({some(classes)}): run: {_move(place, aside)} && mkdir {quote(str(place))} "
        f"&& {_move(aside, place / 'train')}"
    )


def _packed(root: Path, files: list[str]) -> str:
    shards = [name for name in files if name.endswith(".tar")]
    if shards:
        train = quote(str(root / "train"))
        shell = f"mkdir {train} && mv {quote(str(root))}/*.tar {train}"
        return f", but tar files ({some(shards)}): if they are shards, run: {shell}"
    packed = [name for name in files if name.lower().endswith((".zip", ".tgz", ".tar.gz", ".tar.xz", ".7z", ".rar"))]
    return f", but archives ({some(packed)}): unpack them" if packed and not _images(files) else ""


def _straight(root: Path, files: list[str]) -> str:
    images = _images(files)
    if not images:
        return ""
    return (
        f", but {len(images)} images ({some(images)}): nothing says what they show; put those of each class into "
        f"{root}/train/CLASS/"
    )


def fault_in_train(part: PartContents) -> str | None:
    """Return what is wrong with the class folders of the training part, as a message.

    None if each of them holds images.
    """
    loose, deeper = _loose_images(part), _classes_below(part)
    if loose:
        return f"{loose}; put those of each class into {part.path}/CLASS/"
    if not part.images:
        return _no_classes(part)
    if deeper:
        return _too_deep(part, *deeper)
    empty = next((label for label, images in part.images.items() if not images), None)
    if empty is None:
        return None
    return f"{part.path}/{empty}: holds no images{_but(part, empty)}; add some, or remove the folder"


def fault_in(part: PartContents, classes: Collection[str], train: Path) -> str | None:
    """Return what is wrong with a validation or test part for the classes of `train`, as a message.

    None if nothing is.
    """
    loose, deeper = _loose_images(part), _classes_below(part)
    if loose:
        return f"{loose}; put them into {part.path}/CLASS/, or {_apart(part)}"
    if not any(part.images.values()):
        return f"{part.path}: holds no images{_but(part)}; add some, or remove the folder"
    if deeper and set(deeper[1]) <= set(classes):
        return _too_deep(part, *deeper)
    unknown = next((label for label in part.images if label not in classes), None)
    return None if unknown is None else _unknown(part, unknown, classes, train)


def _loose_images(part: PartContents) -> str | None:
    """Return the beginning of a message about images outside class folders where there are none inside."""
    loose = sorted(name for name in part.loose if suffix_of(name) in SUFFIXES)
    if not loose or any(part.images.values()):
        return None
    begins = f"{part.path}: holds {len(loose)} images ({some(loose)})"
    return f"{begins} outside class folders: nothing says what they show"


def _no_classes(part: PartContents) -> str:
    if any(name.endswith(".tar") for name in part.loose):
        return f"{part.path}: holds tar shards; set data.kind: shards, or `data.kind=shards`"
    holds = f" (it holds {some(sorted(part.loose))})" if part.loose else ""
    return f"{part.path}: holds no class folders{holds}; put the images into {part.path}/CLASS/"


def _unknown(part: PartContents, label: str, classes: Collection[str], train: Path) -> str:
    where, same = part.path / label, likest(label, classes)
    if same is not None:
        renamed = f"mv {quote(str(where))} {quote(str(part.path / same))}"
        return f"{where}: in {train} it is written {quoted(same)}, not {quoted(label)}; run: {renamed}"
    said = f"{where}: no such class in {train}{suggestion(label, classes)}"
    if len(part.images) > 1 or nearest(label, classes) is not None:
        return said
    return f"{said}; if nothing says what these images show, {_apart(part)}"


def _apart(part: PartContents) -> str:
    """Return what to do with images that have no labels."""
    path = part.path
    elsewhere = quote(str(path.with_name(f"unlabelled-{path.name}")))
    return (
        f"keep them elsewhere (mv {quote(str(path))} {elsewhere}) and classify them once there is a model, with: "
        f"`workflows.models.predict(BUNDLE, {elsewhere})`"
    )


def _classes_below(part: PartContents) -> tuple[Path, list[str]] | None:
    """Return the folder of what look like the classes, and their names, where all images lie a level or more too
    deep."""
    with_images = [images for images in part.images.values() if images]
    if len(with_images) != 1:
        return None
    parents = {image.parent for image in with_images[0]}
    common = Path(os.path.commonpath(parents))
    return None if common in parents else (common, sorted({parent.relative_to(common).parts[0] for parent in parents}))


def _too_deep(part: PartContents, folder: Path, classes: list[str]) -> str:
    above, top = quote(str(part.path)), folder.relative_to(part.path).parts[0]
    return (
        f"{part.path}: all images lie in {escaped(top)}/, and {folder} holds folders that look like the classes "
        f"({some(classes)}); run: mv {quote(str(folder))}/* {above} && find {above} -type d -empty -delete"
    )


def notes_on_depth(part: PartContents) -> list[str]:
    """Return a line where every class holds only folders, and the same ones: these may be the classes."""
    common: set[str] | None = None
    for images in part.images.values():
        depth = len(part.path.parts) + 1
        # Usually the first image ends it.
        if any(len(image.parts) <= depth + 1 for image in images):
            return []
        below = {image.parts[depth] for image in images}
        common = below if common is None else common & below
    if len(part.images) < 2 or not common or len(common) < 2:
        return []
    return [
        f"{part.path}: the classes ({some(list(part.images))}) hold only folders, and the same ones "
        f"({some(sorted(common))}); if these are the classes, put them straight into {part.path}/"
    ]


def _but(part: PartContents, label: str | None = None) -> str:
    """Return what a class, or a whole part, holds instead of images."""
    if label is not None and composed(str(part.path / label)) in map(composed, part.again):
        return " (it is a link to a folder that was read already)"
    counts = {suffix: found.total() if label is None else found[label] for suffix, found in part.others.items()}
    instead = held({suffix: count for suffix, count in counts.items() if count})
    return f" (but {instead})" if instead else ""
