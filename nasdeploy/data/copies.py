"""The same picture, byte for byte, several times: what was learned from proves nothing, and of two labels one is wrong.

Images that are given as `uses` are for training, held out, for validation and for testing, in this order; a number
above these stands for no use at all.
"""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from nasdeploy.core.escaping import escaped
from nasdeploy.data.facts import DIGEST_BYTES, Digests
from nasdeploy.data.images import Indices
from nasdeploy.data.inventory import Inventory
from nasdeploy.data.opened import OpenedData

Mask = npt.NDArray[np.bool_]
Uses = npt.NDArray[np.uint8]

_IN_WORDS = ("training", "held-out", "validation", "test")
_OF_PARTS = {"train": 0, "val": 2, "test": 3}


@dataclass(frozen=True)
class Copies:
    """Which of N images are the same picture.

    `pictures` `[N]`: the number of each image's picture, `firsts` the place of each picture's first image, and
    `contradicted` `[N]` whether the picture lies under several classes.
    """

    pictures: Indices
    firsts: Indices
    contradicted: Mask

    @classmethod
    def among(cls, labels: Indices, digests: Digests) -> "Copies":
        """Of images with such labels `[N]` and digests `[N, DIGEST_BYTES]`."""
        rows = np.ascontiguousarray(digests).view(f"S{DIGEST_BYTES}").ravel()
        _, firsts, pictures = np.unique(rows, return_index=True, return_inverse=True)
        several = np.zeros(len(firsts), dtype=np.bool_)
        several[pictures[labels != labels[firsts][pictures]]] = True
        return cls(pictures.astype(np.int64), firsts.astype(np.int64), several[pictures])

    @property
    def once(self) -> Mask:
        """Images `[N]` that are the first of their picture, if it has one class only."""
        firsts: Mask = self.firsts[self.pictures] == np.arange(len(self.pictures))
        return firsts & ~self.contradicted

    def earlier(self, uses: Uses) -> Uses:
        """The first use `[N]` that any image of the same picture has."""
        first = np.full(len(self.firsts), 255, dtype=np.uint8)
        np.minimum.at(first, self.pictures, uses)
        return first[self.pictures]


def copies_in(inventory: Inventory) -> Copies | None:
    """The copies in some data; None where its bytes were not read."""
    digests = inventory.identities.digests
    return None if digests is None else Copies.among(inventory.labels, digests)


def each_once(data: OpenedData) -> tuple[Mask, list[str]]:
    """Images `[N]` that use each picture once, and none that lies under several classes; and lines about the others.

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
    """A line for each use with images that have an earlier one, and one for pictures under several classes."""
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
    """A line about training images that are there several times in their class, if there are any."""
    firsts = copies.firsts[copies.pictures]
    found = np.flatnonzero((uses == 0) & (firsts != np.arange(len(uses))) & ~copies.contradicted)
    if not len(found):
        return []
    pair = _pair(inventory, found[0], int(firsts[found[0]]))
    return [f"training images that are copies of others in their class: {len(found)} ({pair}); left out"]


def _first(pictures: Indices, among: Mask, place: int) -> int:
    """Place of the first image of the same picture as that at `place`, `among` some."""
    return int(np.flatnonzero(among & (pictures == pictures[place]))[0])


def _pair(inventory: Inventory, one: int, other: int) -> str:
    paths = inventory.identities.paths
    return f"{escaped(paths[one])} is {escaped(paths[other])}"
