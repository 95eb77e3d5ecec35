"""Data as it is opened, before it is split."""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from nasdeploy.data.images import ArrayImages, Images
from nasdeploy.data.inventory import Identities, Inventory


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
        """Of images in memory."""
        return cls(classes, parts, {name: Identities.of_arrays(name, images) for name, images in parts.items()})

    @cached_property
    def inventory(self) -> Inventory:
        """All images, part after part."""
        labels = np.concatenate([images.labels for images in self.parts.values()])
        return Inventory(self.classes, labels, Identities.joined([self.identities[name] for name in self.parts]))

    def first(self, part: str) -> int:
        """Place of the first image of a part in the inventory."""
        lengths = {name: len(images) for name, images in self.parts.items()}
        return sum(lengths[name] for name in list(lengths)[: list(lengths).index(part)])
