"""Whether model files compute what their network computes, and what a proof of them found, as the manifest has it.

A `Reference` is the network in PyTorch with samples of its inputs, `Yardstick` measures differences by the tolerance of
a precision, and `compare_batches` looks at several batch sizes of every part of a network. Torch-free.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any, Literal, Protocol

import numpy as np
from pydantic import Field, SerializerFunctionWrapHandler, model_serializer

from nasdeploy.core.errors import one_line
from nasdeploy.core.plan import Plan
from nasdeploy.core.progress import Progress
from nasdeploy.core.settings import Settings
from nasdeploy.latency.protocol import Timing
from nasdeploy.runtimes.runtime import Array, Precision, Session
from nasdeploy.tasks.file_scores import Accuracy, Count, Difference, FileScore, ProvenScore, Tally

if TYPE_CHECKING:
    from nasdeploy.nn.network import Network


Milliseconds = Annotated[float, Field(gt=0.0)]

Scale = Literal["value", "spread"]
"""What a difference of logits is compared with: the row's own largest value if that exceeds 1, or the spread (largest
minus smallest) of PyTorch's logits on the images that are looked at first."""

TOLERANCE = 1e-4
"""Largest difference between two rows of logits (`agreement.difference`) that still counts as agreement in fp32."""


class Tolerance(Settings):
    """How far logits may be from PyTorch's."""

    allowed: Difference | None
    """The largest difference that counts as agreement; with null outputs only have to be numbers, and the model is
    judged by its accuracy."""
    scale: Scale
    """What a difference is compared with: the row's own largest `value` if that exceeds 1, or the `spread` of PyTorch's
    outputs."""


TOLERANCES: dict[Precision, Tolerance] = {
    "fp32": Tolerance(allowed=TOLERANCE, scale="value"),
    "fp16": Tolerance(allowed=0.01, scale="spread"),
    "int8": Tolerance(allowed=None, scale="spread"),
}


def counted(images: int, unreadable: int, kind: str) -> str:
    """Return `24 test images`, or `23 of 24 test images, 1 unreadable left out`."""
    if not unreadable:
        return f"{images} {kind}"
    return f"{images} of {images + unreadable} {kind}, {unreadable} unreadable left out"


class Agreement(Settings):
    """Logits of the file beside PyTorch's, on test images, at several batch sizes."""

    batches: tuple[Count, ...] = Field(min_length=1)
    """The batch sizes that were tried."""
    difference: Difference
    """The largest difference over all of them, in terms of the tolerance's scale."""
    tolerance: Tolerance = TOLERANCES["fp32"]
    """How far logits might be from PyTorch's."""


class TimedRuns(Settings):
    """The time that calls took, in milliseconds."""

    median_ms: Milliseconds
    """The milliseconds that half of the calls took at most."""
    p10_ms: Milliseconds
    """The milliseconds that 10 % of the calls took at most."""
    p90_ms: Milliseconds
    """The milliseconds that 90 % of the calls took at most."""
    p95_ms: Milliseconds
    """The milliseconds that 95 % of the calls took at most."""
    runs: Count
    """The number of runs."""
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
    """The milliseconds of doing nothing before each call."""


class Throughput(Settings):
    """Images that were done, one call after the other, within some time of the clock."""

    images: Count
    """The number of images."""
    seconds: Annotated[float, Field(gt=0.0)]
    """The seconds in which they were done."""

    @property
    def images_per_s(self) -> float:
        """Images a second."""
        return self.images / self.seconds


class ModelLatency(TimedRuns):
    """The latency of the whole model on the device, beside what the latency table said.

    Calls came back to back, but for what is compared with tables and budgets: that is of calls as the device says.
    """

    batch: Count = 1
    """The images of a call."""
    usual_ms: Milliseconds | None = None
    """The median in milliseconds on a machine as fast and as quiet as when it was profiled, after the device's gaps;
    None without a latency table."""
    predicted_ms: Milliseconds | None
    """The prediction of the median in milliseconds, on a machine as quiet as when it was profiled; None without a
    latency table."""
    times_fp32: Annotated[float, Field(gt=0.0)] | None = None
    """Time as a multiple of that of the same network in fp32, measured in turn; None for fp32 itself."""
    remarks: tuple[str, ...] = ()
    """What keeps the two from being compared, e.g. that the table is of another device; and whether a lower precision
    does not pay here."""

    throughput: Throughput | None = None
    """How many images were done in some time; null where it was not measured, as in bundles of earlier versions."""
    after_gaps: RunsAfterGaps | None = None
    """The latency after the device's gaps, or after some that are usual; None in bundles of earlier versions."""
    idle_ms: Annotated[float, Field(ge=0.0)] = 0.0
    """The milliseconds of the device's gaps between calls."""

    @property
    def on_device_ms(self) -> float:
        """The median in milliseconds of calls as they come on the device.

        It is what a budget is held against without a latency table.
        """
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
    """How the file's outputs compare with PyTorch's at several batch sizes."""
    accuracy: Accuracy | None = None
    """The score on the test set, where images are classified."""
    latency: ModelLatency | None = None
    """The latency on the device, and beside it what the latency table said."""
    footprint: Footprint | None = None
    """What starting the model takes."""
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


SAMPLE = 32
"""The number of test samples that are looked at first."""

BATCHES = (1, 2, 7, SAMPLE, SAMPLE + 1)
"""The batch sizes that are tried: some runtimes choose another way of computing from a power of 2 on."""

Sessions = Mapping[str, Session]
"""The opened files of a network's parts, by the part's name."""


class Disagreement(Exception):
    """The file does not compute what its network computes; the text says where."""


def difference(expected: Array, found: Array, spread: float | None = None) -> Array:
    """Return for each row of two arrays `[N, ...]` the largest difference, as a part of `spread` if that is given.

    Without it: max |found - expected| / max(1, max |expected|), since float32 keeps seven digits, so that rounding
    grows with the numbers. Raises `Disagreement` for different shapes.
    """
    if found.shape != expected.shape:
        raise Disagreement(f"output of shape {list(found.shape)}, expected {list(expected.shape)}")
    distance = np.abs(found - expected).reshape(len(expected), -1).max(axis=1)
    scale = np.abs(expected).reshape(len(expected), -1).max(axis=1)
    rows: Array = distance / (np.maximum(1.0, scale) if spread is None else spread)
    return rows


def within(rows: Array, allowed: float | None, what: str, unit: str = "") -> float:
    """Return the largest of the differences; raises `Disagreement` if it is more than allowed, or no number."""
    largest = float(rows.max())
    if not np.isfinite(largest) or (allowed is not None and largest > allowed):
        limit = "" if allowed is None else f", allowed {allowed:g}"
        raise Disagreement(f"{what} from PyTorch's by up to {largest:.2g}{unit}{limit}")
    return largest


@dataclass(frozen=True)
class Yardstick:
    """Measures differences of outputs for a precision."""

    tolerance: Tolerance
    spread: float
    """The largest minus the smallest of PyTorch's outputs on some samples."""

    @classmethod
    def of(cls, precision: Precision, outputs: Array) -> "Yardstick":
        """Return the yardstick of a precision, by PyTorch's outputs on some samples."""
        return cls(TOLERANCES[precision], max(float(np.ptp(outputs)), float(np.finfo(np.float32).tiny)))

    def rows(self, expected: Array, found: Array) -> Array:
        """Return the difference of each row; raises `Disagreement` for different shapes."""
        return difference(expected, found, None if self.tolerance.scale == "value" else self.spread)

    def within(self, rows: Array, what: str) -> float:
        """Return the largest difference; raises `Disagreement`, which begins with `what`, if it is not allowed."""
        unit = "" if self.tolerance.scale == "value" else " of their spread"
        return within(rows, self.tolerance.allowed, what, unit)

    def beyond(self, rows: Array) -> int:
        """Return how many rows are not within the tolerance."""
        allowed = np.inf if self.tolerance.allowed is None else self.tolerance.allowed
        return int((~(rows <= allowed)).sum())


def outputs_of(session: Session, inputs: Sequence[Array]) -> list[Array]:
    """Return the file's outputs for one array per input, in the order of both.

    Raises `Disagreement` if the runtime does not get that far.
    """
    try:
        return session.run(dict(zip(session.inputs, inputs, strict=True)))
    # Every runtime has errors of its own.
    except Exception as error:
        raise Disagreement(f"a batch of {len(inputs[0])} stops the runtime: {one_line(error)}") from None


def logits_of(session: Session, inputs: Array) -> Array:
    """Return the one output of a file with one input; raises `Disagreement` if the runtime does not get that far."""
    (logits,) = outputs_of(session, [inputs])
    return logits


class Reference(Protocol):
    """What model files have to agree with: a network in PyTorch on the CPU, and samples of what it is given."""

    @property
    def network(self) -> "Network":
        """The network, in evaluation mode."""

    @property
    def names(self) -> Mapping[str, tuple[tuple[str, ...], tuple[str, ...]]]:
        """The names of the inputs and outputs of each part's file, by the part's name."""

    def samples(self) -> Mapping[str, tuple[Array, ...]]:
        """Return inputs of each part, from all over the test set: at most `SAMPLE` rows."""

    def outputs(self, part: str, inputs: Sequence[Array]) -> list[Array]:
        """Return PyTorch's outputs of a part; raises `Disagreement` if they are no numbers."""

    def score(self, sessions: Sessions, yardstick: Yardstick, progress: Progress) -> ProvenScore:
        """Return the score of the files on the whole test set, beside PyTorch's.

        Raises `Disagreement` if any output differs from PyTorch's by more than the tolerance.
        """


def yardstick_of(precision: Precision, reference: Reference) -> Yardstick:
    """Return the yardstick of a precision by what PyTorch makes of the reference's samples, in its first part."""
    part, inputs = next(iter(reference.samples().items()))
    return Yardstick.of(precision, reference.outputs(part, inputs)[0])


def compare_batches(
    sessions: Sessions, reference: Reference, yardstick: Yardstick, largest_batch: int | None = None
) -> Agreement:
    """Compare the files' outputs with PyTorch's at several batch sizes, on samples from all over the test set.

    The first size is tried again after the others. Raises `Disagreement` if they differ by more than the tolerance.
    """
    sizes = tuple(size for size in BATCHES if largest_batch is None or size <= largest_batch)
    largest = 0.0
    for part, inputs in reference.samples().items():
        expected, (_, outputs) = reference.outputs(part, inputs), reference.names[part]
        for size in (*sizes, sizes[0]):
            # There may be fewer samples.
            places = np.arange(size) % len(inputs[0])
            found = outputs_of(sessions[part], [array[places] for array in inputs])
            for name, right, wrong in zip(outputs, expected, found, strict=True):
                rows = yardstick.rows(right[places], wrong)
                largest = max(largest, yardstick.within(rows, f"{name} in a batch of {size} differ"))
    return Agreement(batches=sizes, difference=largest, tolerance=yardstick.tolerance)


def is_single(plan: Plan) -> bool:
    """Return whether a network has one part, so that it is one file."""
    return len(plan.parts) == 1
