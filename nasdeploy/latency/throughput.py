"""What is really done in some time, which the time of one call does not tell."""

from dataclasses import dataclass


@dataclass(frozen=True)
class SustainedCalls:
    """Calls that were done back to back within so many seconds of the clock, whatever stopped them meanwhile.

    One over the median call is no throughput: where a quota lets processors work half of the time, it is twice that.
    Raises `ValueError` if nothing was done.
    """

    calls: int
    seconds: float

    def __post_init__(self) -> None:
        if self.calls < 1 or not 0 < self.seconds < float("inf"):
            raise ValueError(f"a throughput is of calls that take time; found {self}")

    @property
    def per_s(self) -> float:
        """Calls a second."""
        return self.calls / self.seconds
