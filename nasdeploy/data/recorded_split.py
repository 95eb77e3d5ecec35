"""The split that a run keeps as a file, and what has become of its images since.

The file holds NumPy arrays, since a million images have to be read in a moment.
"""

from collections import Counter
from collections.abc import Iterable, Sequence
from io import BytesIO
from pathlib import Path
from zipfile import BadZipFile
from zlib import error as ZlibError

import numpy as np

from nasdeploy.core.errors import UserError
from nasdeploy.core.escaping import escaped
from nasdeploy.data.facts import texts_as_bytes, texts_from_bytes
from nasdeploy.data.inventory import Identities, Inventory, contents, rows
from nasdeploy.data.split import USES, Split
from nasdeploy.store.records import DataFacts


def split_content(split: Split) -> bytes:
    """Return the file of a split, an archive of arrays.

    These are `classes`, and for each image `paths` (UTF-8, with a zero byte between two), `labels`, `sizes`, `digests`
    (SHA-256, the first 16 bytes) and `uses` (indices into `nasdeploy.data.split.USES`).
    """
    known, found = split.inventory, split.inventory.identities
    digests = {} if found.digests is None else {"digests": found.digests}
    content = BytesIO()
    np.savez(
        content,
        allow_pickle=False,
        classes=texts_as_bytes(known.classes),
        paths=texts_as_bytes(found.paths),
        labels=known.labels.astype(np.int32),
        sizes=found.sizes,
        uses=split.uses,
        **digests,
    )
    return content.getvalue()


def load_split(path: Path, classes: int, facts: DataFacts) -> Split:
    """Return the split in a file of a run with so many classes, which is that of `facts`.

    Raises `UserError` otherwise.
    """
    remedy = "restore it from a copy of the run, or train anew with `restart=True`"
    try:
        with np.load(path, allow_pickle=False) as stored:
            labels = stored["labels"].astype(np.int64)
            found = Identities(
                tuple(texts_from_bytes(stored["paths"], len(labels))),
                stored["sizes"],
                stored["digests"] if "digests" in stored.files else None,
            )
            names = tuple(texts_from_bytes(stored["classes"], classes))
            split = Split(Inventory(names, labels, found), stored["uses"])
            whole = split.digest == facts.digest
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror or error}); {remedy}") from None
    except (ValueError, KeyError, EOFError, IndexError, BadZipFile, ZlibError):
        whole = False
    if not whole:
        raise UserError(f"{path}: damaged, or of another run; {remedy}")
    return split


_USES_IN_WORDS = dict(zip(USES, ("for training", "held out", "for validation", "for testing", "not used"), strict=True))
_KINDS = ("missing", "changed", "in another class", "in another part", "renamed")


def changes(before: Split, now: Inventory) -> str:
    """Return how many images are missing, changed, moved and new, what for, and the first of each; empty if none.

    Both have the same classes. An image whose bytes lie elsewhere now has moved there. Where bytes were not read,
    images are compared by size, and none is known to have moved.
    """
    known, paths = before.inventory, before.inventory.identities.paths
    groups, new = _grouped(known, now)
    found = []
    for kind in _KINDS:
        places = groups.get(kind, [])
        if places:
            uses = (_USES_IN_WORDS[USES[before.uses[place]]] for place in places)
            found.append(_said(kind, uses, [paths[place] for place in places]))
    if new:
        fresh = [now.identities.paths[place] for place in new]
        found.append(_said("new", (f"in {path.partition('/')[0]}" for path in fresh), fresh))
    return ", ".join(found)


def _said(kind: str, uses: Iterable[str], paths: Sequence[str]) -> str:
    counts = Counter(uses)
    parts = [use if len(counts) == 1 else f"{count} {use}" for use, count in counts.most_common()]
    return f"{len(paths)} {kind} ({', '.join(parts)}; the first is {escaped(paths[0])})"


def _grouped(known: Inventory, now: Inventory) -> tuple[dict[str, list[int]], list[int]]:
    """Return places of the known images by what has become of them, and places of those that are new."""
    old, new = _unmatched(known, now)
    by_content = _moved(known, now, old, new)
    groups: dict[str, list[int]] = {}
    taken = set(by_content.values())
    by_path = {now.identities.paths[place]: place for place in new if place not in taken}
    for place in old:
        if place in by_content:
            kind = _kind(known, place, now, by_content[place])
        else:
            found = by_path.pop(known.identities.paths[place], None)
            kind = "missing" if found is None else "changed"
            taken |= set() if found is None else {found}
        groups.setdefault(kind, []).append(place)
    return groups, [place for place in new if place not in taken]


def _unmatched(known: Inventory, now: Inventory) -> tuple[list[int], list[int]]:
    """Return places of the images that only one of the two has."""
    mine, others = contents(known, now)
    at: dict[object, list[int]] = {}
    for place, row in enumerate(rows(now, others)):
        at.setdefault(row, []).append(place)
    old = [place for place, row in enumerate(rows(known, mine)) if not (at.get(row) and at[row].pop(0) >= 0)]
    return old, sorted(place for places in at.values() for place in places)


def _moved(known: Inventory, now: Inventory, old: Sequence[int], new: Sequence[int]) -> dict[int, int]:
    """Return places in `now` of those `old` images whose bytes are there among the `new`, preferably in the same
    class."""
    before, after = known.identities.digests, now.identities.digests
    if before is None or after is None:
        return {}
    at: dict[bytes, list[int]] = {}
    for place in new:
        at.setdefault(after[place].tobytes(), []).append(place)
    found = {}
    for place in old:
        candidates = at.get(before[place].tobytes(), [])
        if candidates:
            nearest = max(candidates, key=lambda other: _nearness(known, place, now, other))
            candidates.remove(nearest)
            found[place] = nearest
    return found


def _nearness(known: Inventory, place: int, now: Inventory, other: int) -> tuple[bool, bool]:
    """Return whether an image has the same class, and lies in the same part."""
    parts = (known.identities.paths[place].partition("/")[0], now.identities.paths[other].partition("/")[0])
    return bool(known.labels[place] == now.labels[other]), parts[0] == parts[1]


def _kind(known: Inventory, place: int, now: Inventory, other: int) -> str:
    same_class, same_part = _nearness(known, place, now, other)
    if not same_class:
        return "in another class"
    return "renamed" if same_part else "in another part"
