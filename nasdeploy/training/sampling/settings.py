"""Which networks a training step trains. Torch-free."""

from itertools import pairwise
from typing import Annotated, Any, Literal

from pydantic import Field, field_validator, model_validator

from nasdeploy.core.settings import Settings, refuse_unused

SamplingKind = Literal["sandwich", "best-up", "worst-up", "single", "alone"]


class StageSettings(Settings):
    """Choices from an epoch (counted from 0) on: `largest` values of those named, all values of the others.

    `{depth: 2}` allows the two largest depths of every stage, `{depth.3: 2}` those of one; progressive shrinking (OFA)
    is a list of such stages.
    """

    from_epoch: int = Field(ge=0)
    largest: dict[str, Annotated[int, Field(ge=1)]] = Field(default_factory=dict)


class SamplingSettings(Settings):
    """The networks of a step.

    `sandwich`: the largest, `random_networks` uniform ones and the smallest. `best-up`, `worst-up`: the same, each
    random one being that of `candidates` with the lowest or highest label loss on the batch; they are drawn from one
    bin of cost, the bin from the `prior` (AttentiveNAS). `single`: one uniform network, by labels. `alone`: always the
    network `arch`, by labels.
    """

    kind: SamplingKind = "sandwich"
    candidates: int = Field(default=3, ge=1, le=64)
    prior: Literal["macs", "latency"] = "macs"
    """Cost of the bins: MACs, or the latency that the recipe's device's table predicts."""
    prior_samples: int = Field(default=100_000, ge=100, le=10_000_000)
    """Uniform architectures that the prior is counted from."""
    bin_macs_m: float = Field(default=25.0, gt=0.0)
    """Width of a bin of MACs, in millions."""
    latency_bins: int = Field(default=40, ge=1, le=10_000)
    """Number of equal bins of latency."""
    arch: dict[str, Any] | None = None
    stages: tuple[StageSettings, ...] = ()

    @field_validator("stages")
    @classmethod
    def _in_order(cls, stages: tuple[StageSettings, ...]) -> tuple[StageSettings, ...]:
        if stages and stages[0].from_epoch != 0:
            raise ValueError("the first stage starts with from_epoch: 0")
        if any(a.from_epoch >= b.from_epoch for a, b in pairwise(stages)):
            raise ValueError("each stage has to start after the one before")
        return stages

    @model_validator(mode="after")
    def _consistent(self) -> "SamplingSettings":
        attentive = ("best-up", "worst-up")
        users = dict.fromkeys(("candidates", "prior", "prior_samples", "bin_macs_m", "latency_bins"), attentive)
        refuse_unused(self, "kind", {**users, "arch": ("alone",), "stages": ("sandwich", "single")})
        refuse_unused(self, "prior", {"bin_macs_m": ("macs",), "latency_bins": ("latency",)})
        if self.kind == "alone" and self.arch is None:
            raise ValueError("arch is missing: the network to train alone; name it with 'nasdeploy train --alone ARCH'")
        return self
