"""What tells the images of some data apart, wherever that lies, and which of them are the same picture.

Copies of one picture prove nothing where it was learned from, and of two labels one is wrong. Images that are given as
`uses` are for training, held out, for validation and for testing, in this order; a number above these stands for no use
at all.
"""

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from hashlib import sha256
from unicodedata import normalize

import numpy as np
import numpy.typing as npt

from nasdeploy.core.escaping import escaped
from nasdeploy.data.facts import DIGEST_BYTES, Digests, Facts
from nasdeploy.data.images import ArrayImages, Images, Indices, as_indices


@dataclass(frozen=True)
class Identities:
    """What tells N images apart: paths below the folder of the data, sizes in bytes `[N]`, and digests of the bytes
    `[N, DIGEST_BYTES]`, or None where that many were not read."""

    paths: tuple[str, ...]
    sizes: Indices
    digests: Digests | None

    @classmethod
    def of(cls, facts: Facts, places: Indices) -> "Identities":
        """Return what tells some files apart."""
        return cls.named([facts.names[place] for place in places.tolist()], facts.sizes[places], facts.digests(places))

    @classmethod
    def named(cls, paths: Sequence[str], sizes: Indices, digests: Digests | None) -> "Identities":
        """Return identities with paths in one Unicode form: file systems change it when a folder is copied."""
        return cls(tuple(normalize("NFC", "\0".join(paths)).split("\0")) if paths else (), sizes, digests)

    @classmethod
    def of_arrays(cls, part: str, images: ArrayImages) -> "Identities":
        """Return what tells images in memory apart: their path is `part` and a number, and their bytes are their
        pixels."""
        count = len(images)
        # Not -1: a part may be empty.
        rows = np.ascontiguousarray(images.pixels).reshape(count, math.prod(images.pixels.shape[1:]))
        digests = b"".join(sha256(row.data).digest()[:DIGEST_BYTES] for row in rows)
        return cls(
            tuple(f"{part}/{number}" for number in range(count)),
            np.full(count, rows.shape[1], dtype=np.int64),
            np.frombuffer(digests, dtype=np.uint8).reshape(count, DIGEST_BYTES),
        )

    def subset(self, places: Indices) -> "Identities":
        """Return the identities at `places`, in that order."""
        paths = tuple(self.paths[place] for place in places.tolist())
        return Identities(paths, self.sizes[places], None if self.digests is None else self.digests[places])

    @classmethod
    def joined(cls, parts: Sequence["Identities"]) -> "Identities":
        """Join those of the images of several parts, one after the other; without digests if one part has none."""
        digests = [part.digests for part in parts if part.digests is not None]
        return cls(
            tuple(path for part in parts for path in part.paths),
            np.concatenate([part.sizes for part in parts]),
            np.concatenate(digests) if len(digests) == len(parts) else None,
        )


@dataclass(frozen=True)
class Inventory:
    """All images of some data: what tells them apart, and their labels `[N]` (indices into `classes`)."""

    classes: tuple[str, ...]
    labels: Indices
    identities: Identities

    def __len__(self) -> int:
        return len(self.labels)

    def places_in(self, other: "Inventory") -> Indices | None:
        """Return where each of these images stands in `other` `[N]`; None unless the two have the same images.

        The same are those with equal path, class and bytes, or size where the bytes of one were not read.
        """
        if self.classes != other.classes or len(self) != len(other):
            return None
        mine, others = contents(self, other)
        if self.identities.paths == other.identities.paths and np.array_equal(self.labels, other.labels):
            return np.arange(len(self), dtype=np.int64) if np.array_equal(mine, others) else None
        return _matched(rows(self, mine), rows(other, others))


Contents = Digests | Indices
Row = tuple[str, int, bytes]


def contents(one: Inventory, other: Inventory) -> tuple[Contents, Contents]:
    """Return what is known of the bytes of the images of both: digests, or sizes where one has no digests."""
    a, b = one.identities, other.identities
    return (a.sizes, b.sizes) if a.digests is None or b.digests is None else (a.digests, b.digests)


def rows(inventory: Inventory, found: Contents) -> list[Row]:
    """Return path, label and content of each image."""
    return list(
        zip(
            inventory.identities.paths, inventory.labels.tolist(), (content.tobytes() for content in found), strict=True
        )
    )


def _matched(mine: Sequence[Row], others: Sequence[Row]) -> Indices | None:
    """Return where each row stands among `others`, each taken once; None unless both have the same."""
    if Counter(mine) != Counter(others):
        return None
    at: dict[Row, list[int]] = {}
    for place in range(len(others) - 1, -1, -1):
        at.setdefault(others[place], []).append(place)
    return as_indices([at[row].pop() for row in mine])


@dataclass(frozen=True)
class OpenedData:
    """The images of some data by the part that they lie in: `train`, and `val` and `test` where it brings them.

    `identities`: of the images of each part. `notes`: one line each for what a user should know about the data.
    """

    classes: tuple[str, ...]
    parts: Mapping[str, Images]
    identities: Mapping[str, Identities]
    notes: tuple[str, ...] = ()

    @classmethod
    def of_arrays(cls, classes: tuple[str, ...], parts: Mapping[str, ArrayImages]) -> "OpenedData":
        """Return the data that images in memory are."""
        return cls(classes, parts, {name: Identities.of_arrays(name, images) for name, images in parts.items()})

    @cached_property
    def inventory(self) -> Inventory:
        """All images, part after part."""
        labels = np.concatenate([images.labels for images in self.parts.values()])
        return Inventory(self.classes, labels, Identities.joined([self.identities[name] for name in self.parts]))

    def first(self, part: str) -> int:
        """Return place of the first image of a part in the inventory."""
        lengths = {name: len(images) for name, images in self.parts.items()}
        return sum(lengths[name] for name in list(lengths)[: list(lengths).index(part)])


Mask = npt.NDArray[np.bool_]
Uses = npt.NDArray[np.uint8]

_IN_WORDS = ("training", "held-out", "validation", "test")
_OF_PARTS = {"train": 0, "val": 2, "test": 3}


@dataclass(frozen=True)
class Copies:
    """The relation that says which of N images are the same picture.

    `pictures` `[N]`: the number of each image's picture, `firsts` the place of each picture's first image, and
    `contradicted` `[N]` whether the picture lies under several classes.
    """

    pictures: Indices
    firsts: Indices
    contradicted: Mask

    @classmethod
    def among(cls, labels: Indices, digests: Digests) -> "Copies":
        """Find the copies among images with such labels `[N]` and digests `[N, DIGEST_BYTES]`."""
        rows = np.ascontiguousarray(digests).view(f"S{DIGEST_BYTES}").ravel()
        _, firsts, pictures = np.unique(rows, return_index=True, return_inverse=True)
        several = np.zeros(len(firsts), dtype=np.bool_)
        several[pictures[labels != labels[firsts][pictures]]] = True
        return cls(pictures.astype(np.int64), firsts.astype(np.int64), several[pictures])

    @property
    def once(self) -> Mask:
        """Return images `[N]` that are the first of their picture, if it has one class only."""
        firsts: Mask = self.firsts[self.pictures] == np.arange(len(self.pictures))
        return firsts & ~self.contradicted

    def earlier(self, uses: Uses) -> Uses:
        """Return the first use `[N]` that any image of the same picture has."""
        first = np.full(len(self.firsts), 255, dtype=np.uint8)
        np.minimum.at(first, self.pictures, uses)
        return first[self.pictures]


def copies_in(inventory: Inventory) -> Copies | None:
    """Return the copies in some data; None where its bytes were not read."""
    digests = inventory.identities.digests
    return None if digests is None else Copies.among(inventory.labels, digests)


def each_once(data: OpenedData) -> tuple[Mask, list[str]]:
    """Return images `[N]` that use each picture once, none that lies under several classes, and lines about the others.

    Of copies in several parts the training images stay. Where bytes were not read, all images stay.
    """
    inventory, copies = data.inventory, copies_in(data.inventory)
    if copies is None:
        return np.ones(len(inventory), dtype=np.bool_), ["too large to be read, so that copies in it are not known"]
    uses = np.repeat(
        np.array([_OF_PARTS[name] for name in data.parts], dtype=np.uint8), [len(part) for part in data.parts.values()]
    )
    lines = [*lines_about(inventory, copies, uses, "left out"), *_repeated(inventory, copies, uses)]
    lines += [
        f"no image in {name} is left; some of the training images are set apart instead"
        for name in data.parts
        if not copies.once[uses == _OF_PARTS[name]].any()
    ]
    return copies.once, lines


def lines_about(inventory: Inventory, copies: Copies, uses: Uses, remedy: str) -> list[str]:
    """Return a line for each use with images that have an earlier one, and one for pictures under several classes."""
    earlier, lines = copies.earlier(uses), []
    for use in range(1, len(_IN_WORDS)):
        found = np.flatnonzero((uses == use) & (earlier < use))
        if len(found):
            others = " or ".join(_IN_WORDS[other] for other in np.unique(earlier[found]))
            original = _first(copies.pictures, uses == earlier[found[0]], found[0])
            lines.append(
                f"{_IN_WORDS[use]} images that are also {others} images, byte for byte: {len(found)} of "
                f"{(uses == use).sum()} ({_pair(inventory, found[0], original)}), figures on them prove nothing; "
                f"{remedy}"
            )
    found = np.flatnonzero(copies.contradicted & (uses < len(_IN_WORDS)))
    if len(found):
        other = _first(copies.pictures, inventory.labels != inventory.labels[found[0]], found[0])
        count, pair = len(np.unique(copies.pictures[found])), _pair(inventory, found[0], other)
        lines.append(f"pictures under several classes, of which one is right at most: {count} ({pair}); {remedy}")
    return lines


def _repeated(inventory: Inventory, copies: Copies, uses: Uses) -> list[str]:
    """Return a line about training images that are there several times in their class, if there are any."""
    firsts = copies.firsts[copies.pictures]
    found = np.flatnonzero((uses == 0) & (firsts != np.arange(len(uses))) & ~copies.contradicted)
    if not len(found):
        return []
    pair = _pair(inventory, found[0], int(firsts[found[0]]))
    return [f"training images that are copies of others in their class: {len(found)} ({pair}); left out"]


def _first(pictures: Indices, among: Mask, place: int) -> int:
    """Return place of the first image of the same picture as that at `place`, `among` some."""
    return int(np.flatnonzero(among & (pictures == pictures[place]))[0])


def _pair(inventory: Inventory, one: int, other: int) -> str:
    paths = inventory.identities.paths
    return f"{escaped(paths[one])} is {escaped(paths[other])}"
