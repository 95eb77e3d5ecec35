"""What a run and its exports say of their images."""

from typing import Annotated, Literal

from pydantic import Field

from nasdeploy.core.settings import Settings

Count = Annotated[int, Field(ge=0)]
Digest = Annotated[str, Field(pattern=r"^[0-9a-f]{32}$")]
ComparedBy = Literal["contents", "names and sizes"]
"""What tells images apart; a set that is too large to be read is known by names and sizes, so that other images of the
same names and sizes would pass for them."""


class CopyFacts(Settings):
    """Images of a run that are the same, byte for byte."""

    test_in_training: Count
    """Test images that are also trained on, or held out of the training images for the search."""
    in_several_classes: Count
    """Pictures that are used under several classes."""


class DataFacts(Settings):
    """The images of a run in a few figures; each of them stands in the run's data.npz."""

    images: dict[str, Count]
    """By what they are for: train, search (held out), val, test, and those that are not used."""
    compared_by: ComparedBy
    digest: Digest
    """Of all images, their classes and what they are for."""
    test_digest: Digest
    """Of the test images and their classes, in any order and wherever they lie."""
    copies: CopyFacts | None = None
    """None where the bytes were not read."""
