"""Seeded stratified splits, the sets of a run made with them, and the file that a run keeps of its split.

Own code rather than scikit-learn's: a split that changed with a library's version would let test images into the
training of a resumed run. The file holds NumPy arrays, since a million images have to be read in a moment; it also
tells what has become of the images since.
"""

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from hashlib import sha256
from io import BytesIO
from pathlib import Path
from zipfile import BadZipFile
from zlib import error as ZlibError

import numpy as np
import numpy.typing as npt

from nasdeploy.core.errors import UserError
from nasdeploy.core.escaping import escaped
from nasdeploy.core.randomness import generator
from nasdeploy.data.facts import texts_as_bytes, texts_from_bytes
from nasdeploy.data.images import Images, ImageSets, Indices
from nasdeploy.data.inventory import (
    Copies,
    Identities,
    Inventory,
    Mask,
    OpenedData,
    contents,
    copies_in,
    each_once,
    lines_about,
    rows,
)
from nasdeploy.data.settings import DataSettings
from nasdeploy.store.records import ComparedBy, CopyFacts, DataFacts

USES = ("train", "search", "val", "test", "unused")
TRAIN, SEARCH, VAL, TEST, UNUSED = range(len(USES))
_REMEDY = "remove the copies, or set data.duplicates to leave-out"


def stratified(
    labels: Sequence[int] | Indices, fraction: float, seed: int, purpose: str
) -> tuple[list[int], list[int]]:
    """Return indices of (the rest, `fraction` of each class), ascending; both parts have an image of every class.

    Each class needs two images.
    """
    rest, part = [], []
    for members in _shuffled_classes(labels, seed, purpose):
        taken = min(max(1, round(fraction * len(members))), len(members) - 1)
        part += members[:taken]
        rest += members[taken:]
    return sorted(rest), sorted(part)


def some_of_each(labels: Sequence[int] | Indices, count: int, seed: int) -> list[int]:
    """Return indices of `count` images of each class (all where it has fewer), ascending."""
    return sorted(i for members in _shuffled_classes(labels, seed, "images per class") for i in members[:count])


def _shuffled_classes(labels: Sequence[int] | Indices, seed: int, purpose: str) -> list[list[int]]:
    array = np.asarray(labels)
    return [
        generator(seed, purpose, int(label)).permutation(np.flatnonzero(array == label)).tolist()
        for label in np.unique(array)
    ]


@dataclass(frozen=True)
class Split:
    """What each image of some data is for: `uses` `[N]` are indices into `USES`, in the order of the inventory.

    `notes`: one line each for what a user should know when the run is begun.
    """

    inventory: Inventory
    uses: npt.NDArray[np.uint8]
    notes: tuple[str, ...] = ()

    @property
    def digest(self) -> str:
        """The digest of all images, their classes and what they are for."""
        return _digest_of(self.inventory, self.uses)

    @property
    def facts(self) -> DataFacts:
        """The split in a few figures."""
        found = self.inventory.identities
        counts = np.bincount(self.uses, minlength=len(USES)).tolist()
        compared_by: ComparedBy = "names and sizes" if found.digests is None else "contents"
        return DataFacts(
            images=dict(zip(USES, counts, strict=True)),
            compared_by=compared_by,
            digest=self.digest,
            test_digest=self.test_digest(compared_by),
            copies=self._copies(),
        )

    def _copies(self) -> CopyFacts | None:
        used = np.flatnonzero(self.uses != UNUSED)
        found = self.inventory.identities.digests
        if found is None:
            return None
        copies, uses = Copies.among(self.inventory.labels[used], found[used]), self.uses[used]
        learned = np.isin(copies.pictures, copies.pictures[(uses == TRAIN) | (uses == SEARCH)])
        return CopyFacts(
            test_in_training=int((learned & (uses == TEST)).sum()),
            in_several_classes=len(np.unique(copies.pictures[copies.contradicted])),
        )

    def test_digest(self, compared_by: ComparedBy) -> str:
        """Return the `set_digest` of the test images."""
        test = np.flatnonzero(self.uses == TEST)
        return set_digest(self.inventory.labels[test], self.inventory.identities.subset(test), compared_by)


def split(data: OpenedData, settings: DataSettings, seed: int) -> Split:
    """Decide which image is trained on, held out for the search, validated with, and tested on.

    Raises `UserError` if there are fewer than two classes or too few images of one.
    """
    usable: Mask = np.ones(len(data.inventory), dtype=np.bool_)
    notes: list[str] = []
    if settings.duplicates == "leave-out":
        usable, notes = each_once(data)
    uses = _given(data, usable)
    labels, has_test = data.parts["train"].labels, bool((uses == TEST).any())
    left = np.flatnonzero(usable[: len(labels)])
    counts = np.bincount(labels[left], minlength=len(data.classes)).tolist()
    require_enough(dict(zip(data.classes, counts, strict=True)), has_test)
    if not has_test:
        # No own test images, or none that is no training image.
        rest, part = stratified(labels[left], settings.test, seed, "test")
        uses[left[part]], left = TEST, left[rest]
    if settings.images_per_class is not None:
        left = left[some_of_each(labels[left], settings.images_per_class, seed)]
    rest, part = stratified(labels[left], settings.holdout, seed, "search")
    uses[left[rest]], uses[left[part]] = TRAIN, SEARCH
    if settings.duplicates == "keep":
        copies = copies_in(data.inventory)
        notes = lines_about(data.inventory, copies, uses, _REMEDY) if copies else []
    return Split(data.inventory, uses, tuple(notes))


def _given(data: OpenedData, usable: Mask) -> npt.NDArray[np.uint8]:
    """Return uses `[N]` of the images that the data itself brings for validation and test; none of the others yet."""
    uses = np.full(len(data.inventory), UNUSED, dtype=np.uint8)
    for name, use in (("val", VAL), ("test", TEST)):
        if name in data.parts:
            count, first = len(data.parts[name]), data.first(name)
            if not count:
                raise UserError(f"data: no readable images in the {name} part; add some, or remove it")
            uses[first : first + count][usable[first : first + count]] = use
    return uses


def split_sets(data: OpenedData, settings: DataSettings, seed: int) -> ImageSets:
    """Split opened data, and return the images for each use; raises `UserError` like `split`."""
    return _sets(data, split(data, settings, seed), np.arange(len(data.inventory), dtype=np.int64))


def sets_of(data: OpenedData, made: Split) -> ImageSets | None:
    """Return the images of opened data in the order and for the uses of a split; None if they are not those split."""
    places = made.inventory.places_in(data.inventory)
    return None if places is None else _sets(data, made, places)


def _sets(data: OpenedData, made: Split, places: Indices) -> ImageSets:
    """Return the sets of a split whose images stand at `places` `[N]` in the inventory of `data`."""

    def images_for(use: int) -> Images | None:
        """Return the images of one part: no use is shared by two."""
        for name, images in data.parts.items():
            first = data.first(name)
            chosen = places[(made.uses == use) & (places >= first) & (places < first + len(images))] - first
            if len(chosen):
                if np.array_equal(chosen, np.arange(len(images))):
                    return images
                found = images.subset(chosen.tolist())
                # Where all images of a part have one use, so would those that could not be read.
                found.unreadable = 0 if name == "train" else images.unreadable
                return found
        return None

    train, search, val, test = (images_for(use) for use in (TRAIN, SEARCH, VAL, TEST))
    assert train is not None and search is not None and test is not None
    fingerprint = fingerprint_of(data.parts["train"])
    notes = (*data.notes, *made.notes)
    return ImageSets(data.classes, train, search, search if val is None else val, test, fingerprint, made, notes)


def set_digest(labels: Indices, found: Identities, compared_by: ComparedBy) -> str:
    """Return what is equal for sets of the same images with the same labels `[N]`, in any order and wherever they lie.

    The same are those of the same bytes or, if these were not read or are not compared, of one name and size.
    """
    if found.digests is None or compared_by == "names and sizes":
        sizes = found.sizes.astype("<i8")
        named = zip(sizes, (path.rpartition("/")[2] for path in found.paths), strict=True)
        contents = [size.tobytes() + name.encode(errors="surrogateescape") for size, name in named]
    else:
        contents = [digest.tobytes() for digest in found.digests]
    rows = zip(labels.astype("<i4"), contents, strict=True)
    return _short(b"\0".join(sorted(label.tobytes() + content for label, content in rows)))


def _digest_of(inventory: Inventory, uses: npt.NDArray[np.uint8]) -> str:
    found = inventory.identities
    texts = ("\0".join(inventory.classes), "\0".join(found.paths))
    arrays = (inventory.labels.astype("<i8"), found.sizes.astype("<i8"), uses)
    summed = b"\0\0".join(text.encode(errors="surrogateescape") for text in texts)
    digests = b"" if found.digests is None else found.digests.tobytes()
    return _short(summed + b"".join(array.tobytes() for array in arrays) + digests)


def _short(content: bytes) -> str:
    return sha256(content).hexdigest()[:32]


def fingerprint_of(images: Images) -> str:
    """Return how many images there are, and a digest of their labels and, where they have any, names."""
    labels = images.labels.astype("<i8").tobytes()
    return f"{len(images)} images, {sha256(labels + images.names()).hexdigest()[:12]}"


def require_enough(counts: Mapping[str, int], has_test: bool) -> None:
    """Raise `UserError` unless there are two classes, and for each part of a run's data an image of every class.

    `counts` are those of training images by class; `has_test` says whether the data brings its own test images.
    """
    if len(counts) < 2:
        raise UserError(f"data: only one class ({', '.join(counts)}); at least two are needed")
    fewest, purposes = (2, "training and search") if has_test else (3, "training, search and test")
    for label, count in counts.items():
        if count < fewest:
            raise UserError(
                f"data: class '{label}' has {count} image{'' if count == 1 else 's'}; at least {fewest} are needed "
                f"(for {purposes})"
            )


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
