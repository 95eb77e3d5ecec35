"""Budgets: what the network may cost. Torch-free."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from math import inf


@dataclass(frozen=True)
class Range:
    """A closed interval of a cost; without bounds everything is in it."""

    low: float = 0.0
    high: float = inf

    @property
    def bounded(self) -> bool:
        """Whether it excludes anything."""
        return self.low > 0 or self.high < inf

    def text(self, scale: float, unit: str) -> str:
        """The bounds times `scale`, as a user writes them: `5 ms`, `3..5 ms`, `3.. ms`; empty without bounds."""
        if not self.bounded:
            return ""
        low, high = (f"{scale * bound:.4g}" if 0 < bound < inf else "" for bound in (self.low, self.high))
        if self.low <= 0:
            return f"{scale * self.high:.4g} {unit}"
        return f"{low}..{high} {unit}"


ANY = Range()


def at_most(high: float | None) -> Range:
    """Everything up to `high`; everything if that is None."""
    return ANY if high is None else Range(high=high)


@dataclass(frozen=True)
class LatencyLimit:
    """Seconds of a call on a device: of the median one, and of the 95th percentile."""

    median: Range = ANY
    p95: Range = ANY

    def __str__(self) -> str:
        parts = [self.median.text(1e3, "ms"), self.p95.text(1e3, "ms in 95 % of calls")]
        return " and ".join(part for part in parts if part)


UNITS: Mapping[str, tuple[str, float, str]] = {
    "macs": ("MACs", 1e-6, "M"),
    "params": ("parameters", 1e-6, "M"),
    "size": ("file size", 1e-6, "MB"),
    "memory": ("peak activation memory", 1e-6, "MB"),
}
"""What costs other than latency are called, and the unit that they are shown in with the factor to it."""


@dataclass(frozen=True)
class Budget:
    """Bounds on what a network costs."""

    latency: Mapping[str, LatencyLimit] = field(default_factory=dict)
    """By device name; the first is the one that the search looks at first."""
    macs: Range = ANY
    params: Range = ANY
    size: Range = ANY
    """Bytes of the exported file."""
    memory: Range = ANY
    """Bytes of activations that live at once."""

    @classmethod
    def at_most(
        cls, latency: float | None = None, macs: float | None = None, params: float | None = None, device: str = "cpu"
    ) -> "Budget":
        """Upper bounds alone: seconds of the median call on one device, MACs, parameters."""
        limits = {} if latency is None else {device: LatencyLimit(at_most(latency))}
        return cls(limits, at_most(macs), at_most(params))

    def of(self, name: str) -> Range:
        """The bounds on one of `UNITS`."""
        return {"macs": self.macs, "params": self.params, "size": self.size, "memory": self.memory}[name]

    def __str__(self) -> str:
        several = len(self.latency) > 1
        parts = [f"{limit} on {name}" if several else str(limit) for name, limit in self.latency.items()]
        for name, (what, scale, unit) in UNITS.items():
            text = self.of(name).text(scale, unit)
            # The unit alone tells the megabytes of a file from nothing else.
            parts.append(f"{text} {'of ' if unit == 'MB' else ''}{what}" if text else "")
        return " and ".join(part for part in parts if part)
