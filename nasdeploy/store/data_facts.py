"""What a run and its exports say of their images."""

from typing import Annotated, Literal

from pydantic import Field

from nasdeploy.settings import Settings

Count = Annotated[int, Field(ge=0)]
Digest = Annotated[str, Field(pattern=r"^[0-9a-f]{32}$")]
ComparedBy = Literal["contents", "names and sizes"]
"""What tells images apart; a set that is too large to be read is known by names and sizes, so that other images of the
same names and sizes would pass for them."""


class DataFacts(Settings):
    """The images of a run in a few figures; each of them stands in the run's data.npz."""

    images: dict[str, Count]
    """By what they are for: train, search (held out), val, test, and those that are not used."""
    compared_by: ComparedBy
    digest: Digest
    """Of all images, their classes and what they are for."""
    test_digest: Digest
    """Of the test images and their classes, in any order and wherever they lie."""
