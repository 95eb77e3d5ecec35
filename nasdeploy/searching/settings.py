"""How the search goes. Torch-free."""

from typing import Literal, Self

from pydantic import Field, field_validator, model_validator

from nasdeploy.core.errors import UserError, suggestion
from nasdeploy.core.score import Criterion, Metric
from nasdeploy.core.settings import Settings, refuse_unused
from nasdeploy.searching.budget import is_latency

STRATEGY_NAMES = (
    "evolution",
    "random",
    "nsga2",
    "coarse-to-fine",
    "predictor-guided",
    "reinforce",
    "differentiable",
    "additive",
)
"""The name of one of `nasdeploy.searching.strategies.STRATEGIES`, which is not imported here because strategies read
these settings."""


class SearchSettings(Settings):
    """A search under a budget: a first round of `parents`, then rounds of `mutations` and `crossovers`.

    Evolution's settings. The other strategies evaluate as many in the same rounds, each by its own rule. The defaults
    are AlphaNet's (section 4) but for `screening`, which finds better networks by as many evaluations; those of OFA
    (section 4.1: population 100, a quarter of it parents, 500 generations) are `rounds: 500, parents: 100,
    mutations: 50, crossovers: 50, mutation_probability: 0.1, buckets: 0, elite: 25, screening: 1`.
    """

    strategy: str = Field(default="evolution", json_schema_extra={"enum": [*STRATEGY_NAMES]})
    """How architectures are proposed."""
    latency: str | dict[str, str] | None = None
    """Budget of `nasdeploy run`: milliseconds (`2.5ms`), a part of the reachable range (`40%`), or a range of either
    (`2ms..2.5ms`); on several devices by their names."""
    score: Criterion = "metric"
    """What networks are ranked by: the task's `metric`, then the label loss; the label `loss`; the `divergence` of
    their outputs from those of the run's original; or `both` of these, added. On few held-out samples losses order
    networks better than the part that is right, which is much the same for many."""
    rounds: int = Field(default=20, ge=1, le=10_000)
    """The rounds of evaluations, the first one included."""
    parents: int = Field(default=512, ge=1, le=1_000_000)
    """Random architectures of the first round."""
    mutations: int = Field(default=128, ge=0, le=1_000_000)
    """The mutated architectures of each further round."""
    crossovers: int = Field(default=128, ge=0, le=1_000_000)
    """The architectures of each further round that two parents make."""
    mutation_probability: float = Field(default=0.2, gt=0.0, le=1.0)
    """The probability with which a mutation draws each choice anew."""
    buckets: int = Field(default=100, ge=0, le=10_000)
    """Intervals of the cost range; the best network of each may be a parent (AlphaNet: 10 MFLOPs each)."""
    elite: int = Field(default=0, ge=0, le=1_000_000)
    """The best networks of all, whatever their cost, that are parents too."""
    screening: int = Field(default=10, ge=1, le=1000)
    """Networks that evolution and nsga2 draw for each one that they evaluate, from the second round on. Above 1, those
    are evaluated that a Gaussian process over what is known finds most promising, and half of what evolution draws is
    random. The papers: 1."""
    finalists: int = Field(default=8, ge=1, le=1000)
    """Networks that are measured on the device as a whole at the end of a round of search."""
    prefer: Literal["accurate", "fast"] = "accurate"
    """The winner among the finalists that meet the budget: the best, or the fastest that is worse by no more than one
    standard error of the difference between the two, taken sample by sample."""
    measured_rounds: int = Field(default=5, ge=1, le=5)
    """Searches, each with a table that knows what was measured before, until a finalist meets the budget."""
    probability: float = Field(default=0.9, ge=0.5, lt=1.0)
    """The probability with which a network that is predicted to meet a latency budget does, by the table's
    uncertainty."""
    reserve: float = Field(default=0.02, ge=0.0, lt=1.0)
    """Part of the latency budget that a finalist must leave free, for noise between this measurement and the next.

    The probability is of a prediction, and ends where the network is measured; this is of the measurement.
    """
    batch_size: int = Field(default=256, ge=1, le=65536)
    """Images scored at once, or as many of them as fit into a GPU's memory."""
    cache_gib: float = Field(default=2.0, ge=0.0, le=65536)
    """The GiB of memory for images that are kept ready for networks; what does not fit is prepared anew for each."""
    halving: int = Field(default=1, ge=1, le=16)
    """Rungs of successive halving: 3 scores the networks of a round on a quarter of the held-out samples, the better
    half of them on half of these, and the better half of those on all. 1 scores every network on all."""
    predictor: Literal["mlp", "deep-mlp", "linear"] = "mlp"
    """The kind of accuracy predictor that `predictor-guided` and `differentiable` fit; `deep-mlp` is once-for-all's,
    three hidden layers of 400."""
    predictor_file: str | None = None
    """A predictor that an earlier search of the run kept, from which these two start."""
    reward: Literal["soft", "hard"] = "soft"
    """The reward of `reinforce` (MnasNet, section 3.1): `soft` gives a faster network more, `hard` nothing below the
    budget."""
    losses: bool = False
    """Whether a table of loss is measured for `evolution`, half of whose first round are then the networks of least
    loss; `additive` has one in any case."""
    gradient_steps: int = Field(default=300, ge=1, le=1_000_000)
    """The steps of gradient descent on soft choices that `differentiable` takes in each round."""

    @property
    def goes_by_losses(self) -> bool:
        """Whether the search has a table of loss."""
        return self.losses or self.strategy == "additive"

    @property
    def evaluations(self) -> int:
        """What a search evaluates at most: those of the first round and of each further one."""
        return self.parents + (self.rounds - 1) * self.offspring

    @property
    def offspring(self) -> int:
        """Architectures of each round after the first."""
        return self.mutations + self.crossovers

    @model_validator(mode="after")
    def _some_parents(self) -> Self:
        if not self.buckets and not self.elite:
            raise ValueError("buckets and elite are both 0, so that no network would be a parent; raise one of them")
        return self

    @field_validator("strategy")
    @classmethod
    def _registered(cls, name: str) -> str:
        if name not in STRATEGY_NAMES:
            raise ValueError(f"unknown search strategy{suggestion(name, STRATEGY_NAMES)}")
        return name

    @field_validator("latency")
    @classmethod
    def _budget(cls, given: str | dict[str, str] | None) -> str | dict[str, str] | None:
        for text in given.values() if isinstance(given, dict) else [given]:
            if text is not None and not is_latency(text):
                raise ValueError(
                    "write it as milliseconds, such as 2.5ms, as a part of the reachable range, such as 40%, or as a "
                    "multiple of what the largest network takes, such as 0.5x"
                )
        return given

    @property
    def latencies(self) -> tuple[str, ...]:
        """The latency budgets as on the command line: `40%` or `DEVICE=40%`; none if there is none."""
        if isinstance(self.latency, dict):
            return tuple(f"{device}={text}" for device, text in self.latency.items())
        return () if self.latency is None else (self.latency,)


def require_parts(metric: Metric, rungs: int) -> None:
    """Raise `UserError` for successive halving by a metric that parts of the samples say nothing about."""
    if rungs > 1 and not metric.is_mean:
        raise UserError(
            f"search.halving is {rungs}: {metric.name} of a part of the {metric.samples} says nothing about that of "
            "all; set search.halving to 1"
        )


_USERS = {
    "predictor": ("predictor-guided", "differentiable"),
    "predictor_file": ("predictor-guided", "differentiable"),
    "reward": ("reinforce",),
    "gradient_steps": ("differentiable",),
    "losses": ("evolution", "additive"),
}
"""The strategies that use a setting, where the others do not."""


def require_used(settings: SearchSettings) -> None:
    """Raise `UserError` if a setting was changed that has no effect with the chosen strategy.

    When a search is asked for, not when a recipe is read: runs of versions that took it are read as before.
    """
    try:
        refuse_unused(settings, "strategy", _USERS)
    except ValueError as error:
        raise UserError(f"search.{error}; set one of them anew") from None
