"""Parts (train, val, test) whose images do not lie in the folders of their classes, and the command that mends them."""

import os
from collections.abc import Collection
from pathlib import Path
from shlex import quote

from nasdeploy.core.escaping import escaped
from nasdeploy.core.registry import nearest, suggestion
from nasdeploy.data.classes import composed, likest, quoted
from nasdeploy.data.files import SUFFIXES, suffix_of
from nasdeploy.data.passed_over import held, some
from nasdeploy.data.walk import Part


def fault_in_train(part: Part) -> str | None:
    """What is wrong with the class folders of the training part, as a message; None if each of them holds images."""
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


def fault_in(part: Part, classes: Collection[str], train: Path) -> str | None:
    """What is wrong with a validation or test part for the classes of `train`, as a message; None if nothing is."""
    loose, deeper = _loose_images(part), _classes_below(part)
    if loose:
        return f"{loose}; put them into {part.path}/CLASS/, or {_apart(part)}"
    if not any(part.images.values()):
        return f"{part.path}: holds no images{_but(part)}; add some, or remove the folder"
    if deeper and set(deeper[1]) <= set(classes):
        return _too_deep(part, *deeper)
    unknown = next((label for label in part.images if label not in classes), None)
    return None if unknown is None else _unknown(part, unknown, classes, train)


def _loose_images(part: Part) -> str | None:
    """The beginning of a message about images outside class folders where there are none inside."""
    loose = sorted(name for name in part.loose if suffix_of(name) in SUFFIXES)
    if not loose or any(part.images.values()):
        return None
    begins = f"{part.path}: holds {len(loose)} images ({some(loose)})"
    return f"{begins} outside class folders: nothing says what they show"


def _no_classes(part: Part) -> str:
    if any(name.endswith(".tar") for name in part.loose):
        return f"{part.path}: holds tar shards; set data.kind: shards, or --set data.kind=shards"
    holds = f" (it holds {some(sorted(part.loose))})" if part.loose else ""
    return f"{part.path}: holds no class folders{holds}; put the images into {part.path}/CLASS/"


def _unknown(part: Part, label: str, classes: Collection[str], train: Path) -> str:
    where, same = part.path / label, likest(label, classes)
    if same is not None:
        renamed = f"mv {quote(str(where))} {quote(str(part.path / same))}"
        return f"{where}: in {train} it is written {quoted(same)}, not {quoted(label)}; run: {renamed}"
    said = f"{where}: no such class in {train}{suggestion(label, classes)}"
    if len(part.images) > 1 or nearest(label, classes) is not None:
        return said
    return f"{said}; if nothing says what these images show, {_apart(part)}"


def _apart(part: Part) -> str:
    """What to do with images that have no labels."""
    path = part.path
    elsewhere = quote(str(path.with_name(f"unlabelled-{path.name}")))
    return (
        f"keep them elsewhere (mv {quote(str(path))} {elsewhere}) and classify them once there is a model, with: "
        f"nasdeploy predict BUNDLE {elsewhere}"
    )


def _classes_below(part: Part) -> tuple[Path, list[str]] | None:
    """The folder of what look like the classes, and their names, where all images lie a level or more too deep."""
    with_images = [images for images in part.images.values() if images]
    if len(with_images) != 1:
        return None
    parents = {image.parent for image in with_images[0]}
    common = Path(os.path.commonpath(parents))
    return None if common in parents else (common, sorted({parent.relative_to(common).parts[0] for parent in parents}))


def _too_deep(part: Part, folder: Path, classes: list[str]) -> str:
    above, top = quote(str(part.path)), folder.relative_to(part.path).parts[0]
    return (
        f"{part.path}: all images lie in {escaped(top)}/, and {folder} holds folders that look like the classes "
        f"({some(classes)}); run: mv {quote(str(folder))}/* {above} && find {above} -type d -empty -delete"
    )


def notes_on_depth(part: Part) -> list[str]:
    """A line where every class holds only folders, and the same ones: these may be the classes."""
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


def _but(part: Part, label: str | None = None) -> str:
    """What a class, or a whole part, holds instead of images."""
    if label is not None and composed(str(part.path / label)) in map(composed, part.again):
        return " (it is a link to a folder that was read already)"
    counts = {suffix: found.total() if label is None else found[label] for suffix, found in part.others.items()}
    instead = held({suffix: count for suffix, count in counts.items() if count})
    return f" (but {instead})" if instead else ""
