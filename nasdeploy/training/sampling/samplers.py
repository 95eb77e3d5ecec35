"""Which networks a step trains: one class for each way, and the dictionary that names them."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np

from nasdeploy.core import cost_registry
from nasdeploy.core.arch import Arch
from nasdeploy.core.costs import Costs
from nasdeploy.core.errors import UserError
from nasdeploy.core.randomness import generator
from nasdeploy.core.space import SearchSpace
from nasdeploy.latency.table import LatencyTable
from nasdeploy.training.sampling.prior import Bins, Prior, equal_bins
from nasdeploy.training.sampling.settings import SamplingKind
from nasdeploy.training.sampling.subspace import Allowed, allowed_from
from nasdeploy.training.sandwich import Sandwich, draw
from nasdeploy.training.settings import TrainSettings

CandidateLosses = Callable[[Sequence[Arch]], Sequence[float]]
"""Label losses of architectures on the current batch, the same on all processes."""


class Sampler(Protocol):
    """Draws the networks of a step; everything random comes from the generator, and nothing is remembered."""

    def draw(self, rng: np.random.Generator, epoch: int, losses: CandidateLosses) -> Sandwich:
        """The networks of a step in `epoch` (from 0); `losses` serves those that choose by it."""


@dataclass(frozen=True)
class SandwichRule:
    """The largest, uniform random networks and the smallest (BigNAS, section 3.1)."""

    stages: Sequence[tuple[int, Allowed]]
    random_networks: int

    def draw(self, rng: np.random.Generator, epoch: int, losses: CandidateLosses) -> Sandwich:
        """Of what is allowed in `epoch`."""
        return draw(_current(self.stages, epoch), self.random_networks, rng)


@dataclass(frozen=True)
class SingleNetwork:
    """One uniform random network, which learns from the labels."""

    stages: Sequence[tuple[int, Allowed]]

    def draw(self, rng: np.random.Generator, epoch: int, losses: CandidateLosses) -> Sandwich:
        """Of what is allowed in `epoch`."""
        return Sandwich(_current(self.stages, epoch).sample(rng))


@dataclass(frozen=True)
class FixedNetwork:
    """Always the same network, which learns from the labels."""

    arch: Arch

    def draw(self, rng: np.random.Generator, epoch: int, losses: CandidateLosses) -> Sandwich:
        """That network."""
        return Sandwich(self.arch)


@dataclass(frozen=True)
class Attentive:
    """The sandwich rule whose random networks are chosen among candidates by their loss (AttentiveNAS, section 3.3)."""

    space: SearchSpace
    prior: Prior
    random_networks: int
    candidates: int
    choose: Callable[[Sequence[float]], int]
    """The place of the loss that wins."""

    def draw(self, rng: np.random.Generator, epoch: int, losses: CandidateLosses) -> Sandwich:
        """Each random network is the winner of candidates of about the same cost."""
        groups = [self.prior.draw(self.candidates, rng) for _ in range(self.random_networks)]
        # All at once: with several processes their losses are averaged in one go.
        found = iter(losses([arch for group in groups for arch in group]))
        chosen = tuple(group[self.choose([next(found) for _ in group])] for group in groups)
        return Sandwich(self.space.largest(), chosen, self.space.smallest())


@dataclass(frozen=True)
class Origin:
    """What samplers are made from; `table` is None unless the prior is one of latency."""

    space: SearchSpace
    settings: TrainSettings
    seed: int
    table: LatencyTable | None = None


def sampler_from(origin: Origin) -> Sampler:
    """The sampler that the settings name; raises `UserError` for stages or an architecture that do not fit."""
    return SAMPLERS[origin.settings.sampling.kind](origin)


def validated(origin: Origin) -> dict[str, Arch]:
    """The networks that show how training goes, by name: both ends and random ones, or the only one that is trained."""
    space, settings = origin.space, origin.settings
    if settings.sampling.kind == "alone":
        return {"alone": _arch(origin)}
    ends = {"smallest": space.smallest(), "largest": space.largest()}
    random = draw(space, settings.validate_random, generator(origin.seed, "validation")).random
    return ends | {f"random_{arch.digest}": arch for arch in random}


def _sandwich(origin: Origin) -> Sampler:
    return SandwichRule(_stages(origin), origin.settings.random_networks)


def _single(origin: Origin) -> Sampler:
    return SingleNetwork(_stages(origin))


def _alone(origin: Origin) -> Sampler:
    return FixedNetwork(_arch(origin))


def _best_up(origin: Origin) -> Sampler:
    return _attentive(origin, lambda losses: int(np.argmin(losses)))


def _worst_up(origin: Origin) -> Sampler:
    return _attentive(origin, lambda losses: int(np.argmax(losses)))


SAMPLERS: Mapping[SamplingKind, Callable[[Origin], Sampler]] = {
    "sandwich": _sandwich,
    "best-up": _best_up,
    "worst-up": _worst_up,
    "single": _single,
    "alone": _alone,
}


def _attentive(origin: Origin, choose: Callable[[Sequence[float]], int]) -> Sampler:
    settings = origin.settings
    return Attentive(origin.space, _prior(origin), settings.random_networks, settings.sampling.candidates, choose)


def _prior(origin: Origin) -> Prior:
    space, sampling, table = origin.space, origin.settings.sampling, origin.table
    codes = space.sample_codes(sampling.prior_samples, generator(origin.seed, "prior"))
    if table is None:
        counted = Costs(space, [cost_registry.macs])
        return Prior.counted(space, lambda codes: counted(codes)[:, 0], codes, Bins(0.0, 1e6 * sampling.bin_macs_m))
    cost = table.latencies(space)
    return Prior.counted(space, cost, codes, equal_bins(cost(codes), sampling.latency_bins))


def _stages(origin: Origin) -> Sequence[tuple[int, Allowed]]:
    return allowed_from(origin.space, origin.settings.sampling.stages)


def _current(stages: Sequence[tuple[int, Allowed]], epoch: int) -> Allowed:
    return next(allowed for start, allowed in reversed(stages) if start <= epoch)


def _arch(origin: Origin) -> Arch:
    try:
        return origin.space.arch(origin.settings.sampling.arch)
    except UserError as error:
        raise UserError(f"train.sampling.arch: {error}") from None
