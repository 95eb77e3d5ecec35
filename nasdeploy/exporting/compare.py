"""Whether model files compute what their network computes: PyTorch's answers, and how far the files' are from them.

A `Reference` is the network in PyTorch with samples of its inputs, `Yardstick` measures differences by the tolerance of
a precision. `compare_batches` looks at several batch sizes of every part of a network.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

import numpy as np

from nasdeploy.core.errors import one_line
from nasdeploy.core.plan import Plan
from nasdeploy.core.progress import Progress
from nasdeploy.exporting.record import TOLERANCES, Agreement, Tolerance
from nasdeploy.runtimes.runtime import Array, Precision, Session
from nasdeploy.tasks.file_scores import ProvenScore

if TYPE_CHECKING:
    from nasdeploy.nn.network import Network

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
