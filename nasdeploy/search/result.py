"""What a search found, as JSON. Torch-free."""

from pathlib import Path
from typing import Any, Literal

from nasdeploy.errors import UserError
from nasdeploy.settings import Settings
from nasdeploy.store.records import read_record


class Found(Settings):
    """One architecture with what is known of it."""

    digest: str
    arch: dict[str, Any]
    top1: float
    """0..1, on training images that were held out."""
    top1_error: float
    """Standard error of `top1`."""
    cross_entropy: float | None
    """In nats; None if the network's logits were no numbers."""
    macs: int
    params: int
    predicted_ms: float | None
    measured_ms: float | None = None
    """Median of the whole network on the device."""
    measured_p90_ms: float | None = None


class BudgetRecord(Settings):
    """The bounds that were asked for."""

    latency_ms: float | None
    macs_m: float | None
    params_m: float | None


class SearchResult(Settings):
    """A finished search."""

    schema_version: Literal[1] = 1
    supernet: str
    """Digest of the weights and of how they were evaluated."""
    space: str
    device: str | None
    """None for a search without latency."""
    budget: BudgetRecord
    rounds: int
    """Rounds of search and measurement until a finalist met the budget."""
    evaluated: int
    """Architectures with known accuracy when it ended."""
    images: int
    """That accuracy was measured on."""
    winner: Found
    ties: tuple[str, ...]
    """Digests of finalists that meet the budget and are within one standard error of the winner."""
    finalists: tuple[Found, ...]
    front: tuple[Found, ...]
    """Pareto front of accuracy over predicted latency (or MACs), by rising cost."""


def load_result(path: Path) -> SearchResult:
    """The result of a run's latest search; raises `UserError` if there is none or it is damaged."""
    if not path.exists():
        raise UserError(f"{path}: no search result yet; run 'nasdeploy search --latency-ms X' first")
    return read_record(SearchResult, path, "search again with 'nasdeploy search'")
