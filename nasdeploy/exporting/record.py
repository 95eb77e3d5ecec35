"""What the proof of an exported model found, as it stands in the manifest. Torch-free."""

from typing import Annotated, Any, Literal

from pydantic import Field, SerializerFunctionWrapHandler, model_serializer

from nasdeploy.core.settings import Settings
from nasdeploy.latency.protocol import Timing
from nasdeploy.runtimes.runtime import Precision
from nasdeploy.tasks.file_scores import Accuracy, Count, Difference, FileScore, ProvenScore, Tally

Milliseconds = Annotated[float, Field(gt=0.0)]

Scale = Literal["value", "spread"]
"""What a difference of logits is compared with: the row's own largest value if that exceeds 1, or the spread (largest
minus smallest) of PyTorch's logits on the images that are looked at first."""

TOLERANCE = 1e-4
"""Largest difference between two rows of logits (`agreement.difference`) that still counts as agreement in fp32."""


class Tolerance(Settings):
    """How far logits may be from PyTorch's."""

    allowed: Difference | None
    """None: they only have to be numbers; such a model is judged by its accuracy."""
    scale: Scale


TOLERANCES: dict[Precision, Tolerance] = {
    "fp32": Tolerance(allowed=TOLERANCE, scale="value"),
    "fp16": Tolerance(allowed=0.01, scale="spread"),
    "int8": Tolerance(allowed=None, scale="spread"),
}


def counted(images: int, unreadable: int, kind: str) -> str:
    """`24 test images`, or `23 of 24 test images, 1 unreadable left out`."""
    if not unreadable:
        return f"{images} {kind}"
    return f"{images} of {images + unreadable} {kind}, {unreadable} unreadable left out"


class Agreement(Settings):
    """Logits of the file beside PyTorch's, on test images, at several batch sizes."""

    batches: tuple[Count, ...] = Field(min_length=1)
    """Batch sizes tried."""
    difference: Difference
    """Largest over all of them, in terms of the tolerance's scale."""
    tolerance: Tolerance = TOLERANCES["fp32"]


class TimedRuns(Settings):
    """The time that calls took, in milliseconds."""

    median_ms: Milliseconds
    p10_ms: Milliseconds
    p90_ms: Milliseconds
    p95_ms: Milliseconds
    runs: Count
    noisy: bool
    """Whether the runs varied too much to be trusted."""

    @property
    def text(self) -> str:
        """The times as people read them."""
        return f"median {self.median_ms:.4g} ms (p10 {self.p10_ms:.4g}, p90 {self.p90_ms:.4g}, p95 {self.p95_ms:.4g})"


def milliseconds(timing: Timing) -> dict[str, float]:
    """Return the percentiles of a timing by their names in records, e.g. `p95_ms`."""
    return {f"{name}_ms": 1e3 * getattr(timing, name) for name in ("median", "p10", "p90", "p95")}


class RunsAfterGaps(TimedRuns):
    """The latency of calls that come after nothing was done for a while, as in an application with a camera."""

    gap_ms: Milliseconds


class Throughput(Settings):
    """Images that were done, one call after the other, within some time of the clock."""

    images: Count
    seconds: Annotated[float, Field(gt=0.0)]

    @property
    def images_per_s(self) -> float:
        """Images a second."""
        return self.images / self.seconds


class ModelLatency(TimedRuns):
    """The latency of the whole model on the device, beside what the latency table said.

    Calls came back to back, but for what is compared with tables and budgets: that is of calls as the device says.
    """

    batch: Count = 1
    usual_ms: Milliseconds | None = None
    """The median on a machine as fast and as quiet as when it was profiled, after the device's gaps; None without a
    latency table."""
    predicted_ms: Milliseconds | None
    """The prediction of the median on a machine as quiet as when it was profiled; None without a latency table."""
    times_fp32: Annotated[float, Field(gt=0.0)] | None = None
    """Time as a multiple of that of the same network in fp32, measured in turn; None for fp32 itself."""
    remarks: tuple[str, ...] = ()
    """What keeps the two from being compared, e.g. that the table is of another device; and whether a lower precision
    does not pay here."""

    throughput: Throughput | None = None
    """None where it was not measured, as in bundles of earlier versions."""
    after_gaps: RunsAfterGaps | None = None
    """The latency after the device's gaps, or after some that are usual; None in bundles of earlier versions."""
    idle_ms: Annotated[float, Field(ge=0.0)] = 0.0
    """The device's gaps."""

    @property
    def on_device_ms(self) -> float:
        """The median of calls as they come on the device: what a budget is held against without a latency table."""
        return self.after_gaps.median_ms if self.idle_ms and self.after_gaps else self.median_ms


class Footprint(Settings):
    """What starting the model in a process of its own takes, the runtime and Python included."""

    load_s: Annotated[float, Field(gt=0.0)]
    """Seconds to import the runtime, open the model and call it once."""
    peak_bytes: Count
    """Most memory that the process had (resident)."""


class HalfPrecision(Settings):
    """What fp16 does to the network on the test images, whatever precision the runtime computed in.

    Found by a model that computes in fp32 and rounds each operator's result to fp16 before it is handed on.
    """

    calibration: Tally
    """Training images by which it was decided what stays in fp32."""
    kept: tuple[str, ...] = ()
    """Operators that stay in fp32, because fp16 does not hold what they give, take or weigh with."""
    largest: Difference
    """Magnitude that an operator's result in fp16 reaches on the test images; fp16 ends at 65504."""
    operator: str
    """The operator."""
    accuracy: Accuracy
    """The accuracy of the model that rounds; it is the file's where fp16 is really computed."""


class Proof(Settings):
    """The findings, as far as the model got: a stage is None if one before it found a problem, or if it cannot run."""

    problems: tuple[str, ...] = ()
    """One line each; a model that passed has none."""
    computed_in: Precision | None = None
    """The precision that the runtime computed in on the machine of the proof; None if it was not run, or not asked."""
    agreement: Agreement | None = None
    accuracy: Accuracy | None = None
    """The score on the test set, where images are classified."""
    latency: ModelLatency | None = None
    footprint: Footprint | None = None
    half: HalfPrecision | None = None
    """What fp16 does to the network; None unless the model is in fp16."""
    score: FileScore | None = None
    """The score on the test set, for other tasks."""
    parts: dict[str, ModelLatency] = Field(default_factory=dict)
    """The latency of one run of each part, for a network of several; then `latency` is that of a sample."""

    @model_serializer(mode="wrap")
    def _of_one_part(self, serialise: SerializerFunctionWrapHandler) -> dict[str, Any]:
        """Leave out of JSON what classifiers and networks of one part do not have."""
        return without(serialise(self), "score", "parts")

    @property
    def tested(self) -> ProvenScore | None:
        """The score on the test set, if the model got that far."""
        return self.accuracy or self.score


def without(fields: dict[str, Any], *names: str) -> dict[str, Any]:
    """Return the fields of a record without those of these names that are empty."""
    return {name: value for name, value in fields.items() if name not in names or value}
