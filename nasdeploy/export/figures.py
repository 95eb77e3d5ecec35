"""What the proof of an exported model found, as it stands in the manifest. Torch-free."""

from typing import Annotated

from pydantic import Field

from nasdeploy.settings import Settings

Fraction = Annotated[float, Field(ge=0.0, le=1.0)]
Difference = Annotated[float, Field(ge=0.0)]
Milliseconds = Annotated[float, Field(gt=0.0)]
Count = Annotated[int, Field(ge=1)]

TOLERANCE = 1e-4
"""Largest difference between two rows of logits (`agreement.difference`) that still counts as agreement in fp32."""


class Agreement(Settings):
    """Logits of the file beside PyTorch's, on test images, at several batch sizes."""

    batches: tuple[Count, ...] = Field(min_length=1)
    """Batch sizes tried."""
    difference: Difference
    """Largest over all of them, relative; see `agreement.difference`."""
    tolerance: Difference = TOLERANCE


class Accuracy(Settings):
    """Top-1 of the file on the whole test set, read from the image files through the manifest's preprocessing."""

    images: Count
    top1: Fraction
    interval: tuple[Fraction, Fraction]
    """Wilson's score interval at 95 %."""
    top1_pytorch: Fraction
    """Of the network that the file was made from, on the same images as evaluation during a search reads them."""
    changed: Annotated[int, Field(ge=0)]
    """Images whose class differs from PyTorch's: ties within the tolerance."""
    difference: Difference
    """Largest difference of logits over all images, relative."""


class Latency(Settings):
    """Latency of the whole model on the device, in milliseconds, beside what the latency table said."""

    median_ms: Milliseconds
    p10_ms: Milliseconds
    p90_ms: Milliseconds
    runs: Count
    noisy: bool
    """The runs varied too much to be trusted."""
    predicted_ms: Milliseconds | None
    """None without a latency table."""
    remarks: tuple[str, ...] = ()
    """What keeps the two from being compared, e.g. that the table is of another device."""


class Proof(Settings):
    """The findings, as far as the model got: a stage is None if one before it found a problem."""

    problems: tuple[str, ...] = ()
    """One line each; a model that passed has none."""
    agreement: Agreement | None = None
    accuracy: Accuracy | None = None
    latency: Latency | None = None
