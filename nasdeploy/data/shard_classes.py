"""The classes of shards: lines of classes.txt where there is one, else the labels of the training samples."""

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from nasdeploy.core.errors import UserError
from nasdeploy.core.registry import suggestion
from nasdeploy.data.classes import class_names, composed, likest, quoted
from nasdeploy.data.images import Indices
from nasdeploy.data.label_text import NoLabel, is_number, lines_of
from nasdeploy.data.shard_index import ShardIndex

NAMES = "classes.txt"
"""A file beside the parts that may name the classes, one a line."""


def classes_of(root: Path, parts: Mapping[str, ShardIndex]) -> tuple[str, ...]:
    """Names of the classes of the shards in `root`, in NFC, in the order of their labels.

    Raises `UserError` for names with a fault, and for those in one part that are equal but for form, case or blanks.
    """
    labels = {name: class_names(index.texts, root / name) for name, index in parts.items()}
    named = _named(root / NAMES)
    if named is not None:
        return named
    return tuple(sorted(labels["train"].values(), key=_order))


def _order(label: str) -> tuple[bool, int, str]:
    """Numbers in their order before names."""
    return not is_number(label), int(label) if is_number(label) else 0, label


def labels_of(index: ShardIndex, classes: Sequence[str], root: Path) -> Indices:
    """Labels `[N]` for the texts of an index: names of classes or, with classes.txt, numbers of its lines from 0.

    Raises `UserError` for a text that is none of them.
    """
    numbers = {name: number for number, name in enumerate(classes)}
    named = (root / NAMES).exists()
    if named:
        numbers = {str(number): number for number in range(len(classes))} | numbers
    for place, text in enumerate(index.texts):
        if composed(text) not in numbers:
            where = index.path(int(np.argmax(index.text == place)))
            raise UserError(f"{where}: {_unknown(text, classes, root, named)}; correct one of them")
    return np.array([numbers[composed(text)] for text in index.texts], dtype=np.int64)[index.text]


def _unknown(text: str, classes: Sequence[str], root: Path, named: bool) -> str:
    if named and is_number(text):
        return f"label {text}, and {root / NAMES} names {len(classes)} classes, 0 to {len(classes) - 1}"
    known = f"{root / NAMES} names no such class" if named else f"{root / 'train'} has no such class"
    same = likest(text, classes)
    if same is not None:
        return f"label {quoted(text)}, and {known}; it is written {quoted(same)} there"
    return f"label {text!r}, and {known}{suggestion(text, classes)}"


def _named(file: Path) -> tuple[str, ...] | None:
    """Names in a file, one a line; None if there is no such file."""
    if not file.exists():
        return None
    try:
        classes = [line.strip() for line in lines_of(file.read_bytes())]
    except OSError as error:
        raise UserError(f"{file}: cannot be read ({error.strerror}); write the name of a class on each line") from None
    except NoLabel as reason:
        raise UserError(f"{file}: cannot be read ({reason}); write a name on each line, in UTF-8") from None
    if not classes:
        raise UserError(f"{file}: is empty; write the name of a class on each line, or remove it")
    for number, name in enumerate(classes):
        if not name or name in classes[:number]:
            raise UserError(f"{file}: line {number + 1} is {name!r}; write the name of another class on each line")
        if is_number(name) and int(name) != number:
            raise UserError(
                f"{file}: line {number + 1} is {name!r}, which as a label means line {int(name) + 1}; write names that "
                "are no numbers"
            )
    return tuple(class_names(classes, file).values())
