"""How the search goes. Torch-free; the defaults are AlphaNet's evolution."""

import re

from pydantic import Field, field_validator

from nasdeploy.settings import Settings


class SearchSettings(Settings):
    """Evolution under a budget: a first round of random architectures, then rounds of mutations and crossovers."""

    latency: str | None = None
    """Budget of `nasdeploy run`: milliseconds (`2.5ms`) or a part of the reachable range (`40%`)."""
    rounds: int = Field(default=20, ge=1, le=10_000)
    parents: int = Field(default=512, ge=1, le=1_000_000)
    """Random architectures of the first round."""
    mutations: int = Field(default=128, ge=0, le=1_000_000)
    crossovers: int = Field(default=128, ge=0, le=1_000_000)
    mutation_probability: float = Field(default=0.2, gt=0.0, le=1.0)
    """Per choice."""
    buckets: int = Field(default=100, ge=2, le=10_000)
    """Intervals of the cost range; the best network of each may be a parent (AlphaNet: 10 MFLOPs each)."""
    finalists: int = Field(default=8, ge=1, le=1000)
    """Networks that are measured on the device as a whole at the end of a round of search."""
    measured_rounds: int = Field(default=5, ge=1, le=5)
    """Searches, each with a table that knows what was measured before, until a finalist meets the budget."""
    reserve: float = Field(default=0.02, ge=0.0, lt=1.0)
    """Part of the latency budget that a finalist must leave free, for noise between this measurement and the next."""
    batch_size: int = Field(default=256, ge=1, le=65536)
    """Images scored at once."""

    @field_validator("latency")
    @classmethod
    def _budget(cls, text: str | None) -> str | None:
        if text is not None and not re.fullmatch(r"[0-9]+(\.[0-9]+)?(ms|%)", text):
            raise ValueError(
                "write it as milliseconds, such as 2.5ms, or as a part of the reachable range, such as 40%"
            )
        return text
