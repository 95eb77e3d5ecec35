"""What tells the images of some data apart, wherever that lies, and when two of them are the same."""

import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from hashlib import sha256
from unicodedata import normalize

import numpy as np

from nasdeploy.data.facts import DIGEST_BYTES, Digests, Facts
from nasdeploy.data.images import ArrayImages, Indices, as_indices


@dataclass(frozen=True)
class Identities:
    """Of N images: paths below the folder of the data, sizes in bytes `[N]`, and digests of the bytes
    `[N, DIGEST_BYTES]`, or None where that many were not read."""

    paths: tuple[str, ...]
    sizes: Indices
    digests: Digests | None

    @classmethod
    def of(cls, facts: Facts, places: Indices) -> "Identities":
        """Of some files."""
        return cls.named([facts.names[place] for place in places.tolist()], facts.sizes[places], facts.digests(places))

    @classmethod
    def named(cls, paths: Sequence[str], sizes: Indices, digests: Digests | None) -> "Identities":
        """With paths in one Unicode form: file systems change it when a folder is copied."""
        return cls(tuple(normalize("NFC", "\0".join(paths)).split("\0")) if paths else (), sizes, digests)

    @classmethod
    def of_arrays(cls, part: str, images: ArrayImages) -> "Identities":
        """Of images in memory: their path is `part` and a number, and their bytes are their pixels."""
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
        """Those at `places`, in that order."""
        paths = tuple(self.paths[place] for place in places.tolist())
        return Identities(paths, self.sizes[places], None if self.digests is None else self.digests[places])

    @classmethod
    def joined(cls, parts: Sequence["Identities"]) -> "Identities":
        """Of the images of several parts, one after the other; without digests if one part has none."""
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
        """Where each of these images stands in `other` `[N]`; None unless the two have the same images.

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
    """What is known of the bytes of the images of both: digests, or sizes where one has no digests."""
    a, b = one.identities, other.identities
    return (a.sizes, b.sizes) if a.digests is None or b.digests is None else (a.digests, b.digests)


def rows(inventory: Inventory, found: Contents) -> list[Row]:
    """Path, label and content of each image."""
    return list(
        zip(
            inventory.identities.paths, inventory.labels.tolist(), (content.tobytes() for content in found), strict=True
        )
    )


def _matched(mine: Sequence[Row], others: Sequence[Row]) -> Indices | None:
    """Where each row stands among `others`, each taken once; None unless both have the same."""
    if Counter(mine) != Counter(others):
        return None
    at: dict[Row, list[int]] = {}
    for place in range(len(others) - 1, -1, -1):
        at.setdefault(others[place], []).append(place)
    return as_indices([at[row].pop() for row in mine])
