"""How far arrays are from PyTorch's."""

from dataclasses import dataclass

import numpy as np

from nasdeploy.core.errors import one_line
from nasdeploy.exporting.figures import TOLERANCES, Tolerance
from nasdeploy.runtimes.runtime import Array, Precision, Session


class Disagreement(Exception):
    """The file does not compute what its network computes; the text says where."""


def difference(expected: Array, found: Array, spread: float | None = None) -> Array:
    """For each row of two arrays `[N, ...]` the largest difference, as a part of `spread` if that is given.

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
    """The largest of the differences; raises `Disagreement` if it is more than allowed, or no number."""
    largest = float(rows.max())
    if not np.isfinite(largest) or (allowed is not None and largest > allowed):
        limit = "" if allowed is None else f", allowed {allowed:g}"
        raise Disagreement(f"{what} from PyTorch's by up to {largest:.2g}{unit}{limit}")
    return largest


@dataclass(frozen=True)
class Yardstick:
    """Measures differences of logits for a precision."""

    tolerance: Tolerance
    spread: float
    """Largest minus smallest of PyTorch's logits on some images."""

    @classmethod
    def of(cls, precision: Precision, logits: Array) -> "Yardstick":
        """For a precision, by PyTorch's logits on some images."""
        return cls(TOLERANCES[precision], max(float(np.ptp(logits)), float(np.finfo(np.float32).tiny)))

    def rows(self, expected: Array, found: Array) -> Array:
        """The difference of each row; raises `Disagreement` for different shapes."""
        return difference(expected, found, None if self.tolerance.scale == "value" else self.spread)

    def within(self, rows: Array, what: str) -> float:
        """The largest difference; raises `Disagreement`, which begins with `what`, if it is not allowed."""
        unit = "" if self.tolerance.scale == "value" else " of their spread"
        return within(rows, self.tolerance.allowed, what, unit)

    def beyond(self, rows: Array) -> int:
        """How many rows are not within the tolerance."""
        allowed = np.inf if self.tolerance.allowed is None else self.tolerance.allowed
        return int((~(rows <= allowed)).sum())


def logits_of(session: Session, inputs: Array) -> Array:
    """The file's logits `[N, classes]` of images; raises `Disagreement` if the runtime does not get that far."""
    (name,) = session.inputs
    try:
        (logits,) = session.run({name: inputs})
    # Every runtime has errors of its own.
    except Exception as error:
        raise Disagreement(f"a batch of {len(inputs)} stops the runtime: {one_line(error)}") from None
    return logits
