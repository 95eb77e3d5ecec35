"""Which networks a step trains: one class for each way of drawing them, and the dictionary that names the ways."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np

from nasdeploy.core import cost_registry
from nasdeploy.core.arch import Arch
from nasdeploy.core.costs import Costs
from nasdeploy.core.errors import UserError
from nasdeploy.core.randomness import generator
from nasdeploy.core.registry import suggestion
from nasdeploy.core.space import SearchSpace
from nasdeploy.latency.table import LatencyTable
from nasdeploy.training.attentive import Attentive, Bins, CandidateLosses, Prior, equal_bins
from nasdeploy.training.sandwich import LARGEST, RANDOM, SMALLEST, Sandwich
from nasdeploy.training.settings import StageSettings, TrainSettings


@dataclass(frozen=True)
class Allowed:
    """The architectures of a space whose choices have only some of their values, as coarse schedules allow them."""

    space: SearchSpace
    values: Mapping[str, tuple[int, ...]]
    """The allowed values of each choice, by name and ascending."""

    def largest(self) -> Arch:
        """Return the architecture with the largest value of every choice."""
        return self.space.arch({name: values[-1] for name, values in self.values.items()})

    def sample(self, rng: np.random.Generator) -> Arch:
        """Draw an architecture with each choice uniform over the allowed values."""
        return self.space.arch({name: values[rng.integers(len(values))] for name, values in self.values.items()})

    def smallest(self) -> Arch:
        """Return the architecture with the smallest allowed value of every choice."""
        return self.space.arch({name: values[0] for name, values in self.values.items()})


Stages = Sequence[tuple[int, Allowed]]
"""The first epoch of each stage with what it allows, in order."""


def allowed_from(space: SearchSpace, stages: Sequence[StageSettings]) -> Stages:
    """Return what each stage allows; everything from epoch 0 on if there are no stages.

    Raises `UserError` for a name that is no choice of the space.
    """
    return [(stage.from_epoch, _allowed(space, stage)) for stage in stages or (StageSettings(from_epoch=0),)]


def _allowed(space: SearchSpace, stage: StageSettings) -> Allowed:
    values = dict(space.values_of)
    for key, count in stage.largest.items():
        names = [name for name in values if name == key or name.partition(".")[0] == key]
        if not names:
            raise UserError(
                f"train.sampling.stages: '{key}' is no choice of space {space.name}"
                f"{suggestion(key, {name.partition('.')[0] for name in values} | values.keys())}"
            )
        for name in names:
            values[name] = values[name][-count:]
    return Allowed(space, values)


def draw(space: SearchSpace | Allowed, count: int, rng: np.random.Generator) -> Sandwich:
    """Draw the largest, `count` random and the smallest architecture of a space, or of what is allowed of one."""
    random = tuple(space.sample(rng) for _ in range(count))
    return Sandwich({LARGEST: (space.largest(),), RANDOM: random, SMALLEST: (space.smallest(),)})


class Sampler(Protocol):
    """Draws the networks of a step; everything random comes from the generator, and nothing is remembered."""

    def draw(self, rng: np.random.Generator, epoch: int, losses: CandidateLosses) -> Sandwich:
        """Draw the networks of a step in `epoch` (from 0); `losses` serves those that choose by it."""


@dataclass(frozen=True)
class SandwichRule:
    """The largest, uniform random networks and the smallest of what is allowed (BigNAS, section 3.1)."""

    stages: Stages
    random_networks: int

    def draw(self, rng: np.random.Generator, epoch: int, losses: CandidateLosses) -> Sandwich:
        """See `Sampler`."""
        return draw(_current(self.stages, epoch), self.random_networks, rng)


@dataclass(frozen=True)
class SingleNetwork:
    """One uniform random network of what is allowed, which learns from the labels."""

    stages: Stages

    def draw(self, rng: np.random.Generator, epoch: int, losses: CandidateLosses) -> Sandwich:
        """See `Sampler`."""
        return Sandwich({LARGEST: (_current(self.stages, epoch).sample(rng),)})


@dataclass(frozen=True)
class FixedNetwork:
    """Always the same network, which learns from the labels."""

    arch: Arch

    def draw(self, rng: np.random.Generator, epoch: int, losses: CandidateLosses) -> Sandwich:
        """See `Sampler`."""
        return Sandwich({LARGEST: (self.arch,)})


@dataclass(frozen=True)
class SamplerContext:
    """What samplers are made from."""

    space: SearchSpace
    settings: TrainSettings
    seed: int
    table: LatencyTable | None = None
    """The device's latency table; None unless the prior is one of latency."""

    @property
    def stages(self) -> Stages:
        """Return what the settings' stages allow; raises `UserError` if they do not fit the space."""
        return allowed_from(self.space, self.settings.sampling.stages)

    @property
    def arch(self) -> Arch:
        """The one network that is trained alone; raises `UserError` if it is none of the space."""
        try:
            return self.space.arch(self.settings.sampling.arch)
        except UserError as error:
            raise UserError(f"train.sampling.arch: {error}") from None

    def attentive(self, choose: Callable[[Sequence[float]], int]) -> Attentive:
        """Return the sampler that chooses among candidates by their losses."""
        settings = self.settings
        return Attentive(self.space, self._prior(), settings.random_networks, settings.sampling.candidates, choose)

    def _prior(self) -> Prior:
        space, sampling = self.space, self.settings.sampling
        codes = space.sample_codes(sampling.prior_samples, generator(self.seed, "prior"))
        if self.table is None:
            counted = Costs(space, [cost_registry.macs])
            return Prior.counted(space, lambda codes: counted(codes)[:, 0], codes, Bins(0.0, 1e6 * sampling.bin_macs_m))
        cost = self.table.latencies(space)
        return Prior.counted(space, cost, codes, equal_bins(cost(codes), sampling.latency_bins))


SAMPLERS: Mapping[str, Callable[[SamplerContext], Sampler]] = {
    "sandwich": lambda context: SandwichRule(context.stages, context.settings.random_networks),
    "best-up": lambda context: context.attentive(lambda losses: int(np.argmin(losses))),
    "worst-up": lambda context: context.attentive(lambda losses: int(np.argmax(losses))),
    "single": lambda context: SingleNetwork(context.stages),
    "alone": lambda context: FixedNetwork(context.arch),
}
"""The ways of drawing networks, by the name that a recipe gives (`settings.SAMPLING_KEYS` says what each reads)."""


def sampler_from(context: SamplerContext) -> Sampler:
    """Return the sampler that the settings name; raises `UserError` for stages or an architecture that do not fit."""
    return SAMPLERS[context.settings.sampling.kind](context)


def networks_to_validate(context: SamplerContext) -> dict[str, Arch]:
    """Return networks that show how training goes, by name: both ends and random ones, or the one trained alone."""
    space, settings = context.space, context.settings
    if settings.sampling.kind == "alone":
        return {"alone": context.arch}
    rng = generator(context.seed, "validation")
    random = [space.sample(rng) for _ in range(settings.validate_random)]
    ends = {SMALLEST: space.smallest(), LARGEST: space.largest()}
    return ends | {f"{RANDOM}_{arch.digest}": arch for arch in random}


def _current(stages: Stages, epoch: int) -> Allowed:
    return next(allowed for start, allowed in reversed(stages) if start <= epoch)
