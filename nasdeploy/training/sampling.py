"""Which networks a step trains: one class for each way of drawing them, and the dictionary that names the ways.

Some are chosen by their loss among others of about the same cost (AttentiveNAS, sections 3.2 and 3.3).
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import product
from typing import Protocol

import numpy as np
import numpy.typing as npt

from nasdeploy.core import cost_registry
from nasdeploy.core.arch import Arch
from nasdeploy.core.costs import Costs, Floats
from nasdeploy.core.errors import UserError, suggestion
from nasdeploy.core.randomness import generator
from nasdeploy.core.space import RESOLUTION, Codes, SearchSpace
from nasdeploy.latency.table import LatencyTable
from nasdeploy.training.sandwich import LARGEST, LEADING, RANDOM, SMALLEST, Sandwich
from nasdeploy.training.settings import TrainSettings
from nasdeploy.training.step_settings import StageSettings

ChoiceValues = Mapping[str, tuple[int, ...]]
"""Values of each choice, by name and ascending."""
CostOf = Callable[[Codes], Floats]
"""A function from codes `[n, choices]` to costs `[n]`."""

TRIES = 100
"""The number of draws that may miss the bin before the nearest one is taken."""
CandidateLosses = Callable[[Sequence[Arch]], Sequence[float]]
"""A function from architectures to their label losses on the current batch, the same on all processes."""


@dataclass(frozen=True)
class Bins:
    """The equal bins of a cost: bin `i` holds costs from `start + i * width` on."""

    start: float
    width: float

    def numbers(self, costs: Floats) -> npt.NDArray[np.int64]:
        """Return the bin number of each cost."""
        return np.floor((costs - self.start) / self.width).astype(np.int64)

    def centre(self, number: int) -> float:
        """Return the cost in the middle of a bin."""
        return self.start + (number + 0.5) * self.width


def equal_bins(costs: Floats, count: int) -> Bins:
    """Return `count` bins over the range of the costs."""
    low, high = float(costs.min()), float(costs.max())
    # A little wider, so that the highest cost lies inside the last bin; and wide enough if all costs are equal.
    return Bins(low, max((high - low) / count * (1 + 1e-9), 1e-9 * max(abs(high), 1e-9)))


@dataclass(frozen=True)
class Prior:
    """A distribution of architectures over bins of a cost, and of each choice's values within a bin."""

    space: SearchSpace
    cost: CostOf
    bins: Bins
    numbers: npt.NDArray[np.int64]
    """The numbers of the occupied bins, `[occupied]`."""
    counts: npt.NDArray[np.int64]
    """The number of architectures counted in each of them, `[occupied]`."""
    cumulative: npt.NDArray[np.int64]
    """How many of them have this value of a choice or an earlier one, `[occupied, choices, values]`."""

    @classmethod
    def counted(cls, space: SearchSpace, cost: CostOf, codes: Codes, bins: Bins) -> "Prior":
        """Count codes `[n, choices]` that were drawn uniformly."""
        numbers, places, counts = np.unique(bins.numbers(cost(codes)), return_inverse=True, return_counts=True)
        values = max(len(choice.values) for choice in space.choices)
        flat = [np.bincount(places * values + column, minlength=len(numbers) * values) for column in codes.T]
        cumulative = np.stack([row.reshape(len(numbers), values) for row in flat], axis=1).cumsum(axis=2)
        return cls(space, cost, bins, numbers, counts, cumulative)

    def draw(self, count: int, rng: np.random.Generator) -> list[Arch]:
        """Draw `count` architectures from one bin, which is drawn from the histogram.

        Choices are drawn independently, each from its distribution in the bin. Where that misses the bin `TRIES` times,
        the draw nearest to the bin's centre is taken.
        """
        place = int(np.searchsorted(self.counts.cumsum(), rng.integers(self.counts.sum()), side="right"))
        drawn = rng.integers(self.counts[place], size=(count, TRIES, len(self.space.choices)))
        codes = (drawn[..., None] >= self.cumulative[place]).sum(axis=-1).astype(np.int16)
        costs = self.cost(codes.reshape(count * TRIES, -1)).reshape(count, TRIES)
        hits = self.bins.numbers(costs) == self.numbers[place]
        nearest = np.abs(costs - self.bins.centre(int(self.numbers[place]))).argmin(axis=1)
        taken = np.where(hits.any(axis=1), hits.argmax(axis=1), nearest)
        return self.space.decode(codes[np.arange(count), taken])


@dataclass(frozen=True)
class Attentive:
    """The sandwich rule whose random networks are chosen among candidates by their loss."""

    space: SearchSpace
    prior: Prior
    random_networks: int
    candidates: int
    choose: Callable[[Sequence[float]], int]
    """The function that gives the place of the loss that wins."""

    def allowed(self, epochs: int) -> Sequence[ChoiceValues]:
        """See `Sampler`."""
        return [self.space.values_of]

    def draw(self, rng: np.random.Generator, epoch: int, losses: CandidateLosses) -> Sandwich:
        """Draw both ends, and random networks of which each is the winner of candidates of about the same cost."""
        groups = [self.prior.draw(self.candidates, rng) for _ in range(self.random_networks)]
        # All at once: with several processes their losses are averaged in one go.
        found = iter(losses([arch for group in groups for arch in group]))
        chosen = tuple(group[self.choose([next(found) for _ in group])] for group in groups)
        return Sandwich({LARGEST: (self.space.largest(),), RANDOM: chosen, SMALLEST: (self.space.smallest(),)})


@dataclass(frozen=True)
class Allowed:
    """The architectures of a space whose choices have only some of their values, as coarse schedules allow them."""

    space: SearchSpace
    values: ChoiceValues
    """The values that are allowed."""

    def largest(self) -> Arch:
        """Return the architecture with the largest value of every choice."""
        return self.space.arch({name: values[-1] for name, values in self.values.items()})

    def sample(self, rng: np.random.Generator) -> Arch:
        """Draw an architecture with each choice uniform over the allowed values."""
        return self.space.arch({name: values[rng.integers(len(values))] for name, values in self.values.items()})

    def keeping(self, values: Mapping[str, tuple[int, ...]]) -> "Allowed":
        """Return the same with only the given values of some choices, by name."""
        return Allowed(self.space, {**self.values, **values})

    def at_one_resolution(self, rng: np.random.Generator) -> "Allowed":
        """Return the same at a resolution that is drawn, where the space has one."""
        allowed = self.values.get(RESOLUTION)
        return self if allowed is None else self.keeping({RESOLUTION: (allowed[rng.integers(len(allowed))],)})

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


def draw(space: SearchSpace | Allowed, count: int, rng: np.random.Generator, leader: str = LARGEST) -> Sandwich:
    """Draw the largest, `count` random and the smallest architecture of a space, or of what is allowed of one.

    With another leader than the largest, one more random architecture leads.
    """
    first = space.largest() if leader == LARGEST else space.sample(rng)
    random = tuple(space.sample(rng) for _ in range(count))
    return Sandwich({leader: (first,), RANDOM: random, SMALLEST: (space.smallest(),)}, leader)


class Sampler(Protocol):
    """Draws the networks of a step; everything random comes from the generator, and nothing is remembered."""

    def allowed(self, epochs: int) -> Sequence[ChoiceValues]:
        """Return the values by choice among which the networks of a phase's first `epochs` epochs have theirs.

        There is one for each stage of these epochs.
        """

    def draw(self, rng: np.random.Generator, epoch: int, losses: CandidateLosses) -> Sandwich:
        """Draw the networks of a step in `epoch` of a phase (from 0); `losses` serves those that choose by it."""


@dataclass(frozen=True)
class SandwichRule:
    """The largest, uniform random networks and the smallest of what is allowed (BigNAS, section 3.1)."""

    stages: Stages
    random_networks: int
    largest_share: float = 1.0
    """The part of the steps that have the largest; in the others a random one takes its place."""

    def allowed(self, epochs: int) -> Sequence[ChoiceValues]:
        """See `Sampler`."""
        return _within(self.stages, epochs)

    def draw(self, rng: np.random.Generator, epoch: int, losses: CandidateLosses) -> Sandwich:
        """See `Sampler`."""
        with_largest = self.largest_share == 1.0 or rng.random() < self.largest_share
        return draw(_current(self.stages, epoch), self.random_networks, rng, LARGEST if with_largest else LEADING)


@dataclass(frozen=True)
class SingleNetwork:
    """One uniform random network of what is allowed, which learns from the labels."""

    stages: Stages

    def allowed(self, epochs: int) -> Sequence[ChoiceValues]:
        """See `Sampler`."""
        return _within(self.stages, epochs)

    def draw(self, rng: np.random.Generator, epoch: int, losses: CandidateLosses) -> Sandwich:
        """See `Sampler`."""
        return Sandwich({LARGEST: (_current(self.stages, epoch).sample(rng),)})


@dataclass(frozen=True)
class UniformNetworks:
    """Uniform random networks of what is allowed, of one resolution, which learn alike (once-for-all, section 3.3)."""

    stages: Stages
    random_networks: int

    def allowed(self, epochs: int) -> Sequence[ChoiceValues]:
        """See `Sampler`."""
        return _within(self.stages, epochs)

    def draw(self, rng: np.random.Generator, epoch: int, losses: CandidateLosses) -> Sandwich:
        """See `Sampler`."""
        allowed = _current(self.stages, epoch).at_one_resolution(rng)
        drawn = tuple(allowed.sample(rng) for _ in range(self.random_networks))
        return Sandwich({RANDOM: drawn}, leader=None, all_regularised=True)


@dataclass(frozen=True)
class FixedNetwork:
    """Always the same network, which learns from the labels."""

    arch: Arch
    role: str = LARGEST

    def allowed(self, epochs: int) -> Sequence[ChoiceValues]:
        """See `Sampler`."""
        return [{name: (value,) for name, value in self.arch.items()}]

    def draw(self, rng: np.random.Generator, epoch: int, losses: CandidateLosses) -> Sandwich:
        """See `Sampler`."""
        return Sandwich({self.role: (self.arch,)}, self.role)


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

    @property
    def largest(self) -> Sampler:
        """The sampler of the largest network alone; raises `UserError` if it is to have a resolution of no choice."""
        space, values = self.space, self.space.values_of
        if self.settings.sampling.resolutions == "largest":
            return FixedNetwork(space.largest())
        if RESOLUTION not in values:
            raise UserError(f"train.sampling.resolutions: space {space.name} has no resolutions; leave it out")
        only = Allowed(space, {name: (choices[-1],) for name, choices in values.items()})
        return SingleNetwork([(0, only.keeping({RESOLUTION: values[RESOLUTION]}))])

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
    "sandwich": lambda context: SandwichRule(
        context.stages, context.settings.random_networks, context.settings.sampling.largest_share
    ),
    "best-up": lambda context: context.attentive(lambda losses: int(np.argmin(losses))),
    "worst-up": lambda context: context.attentive(lambda losses: int(np.argmax(losses))),
    "single": lambda context: SingleNetwork(context.stages),
    "uniform": lambda context: UniformNetworks(context.stages, context.settings.random_networks),
    "largest": lambda context: context.largest,
    "smallest": lambda context: FixedNetwork(context.space.smallest(), SMALLEST),
    "alone": lambda context: FixedNetwork(context.arch),
}
"""The ways of drawing networks, by a recipe's name for them (`step_settings.SAMPLING_KEYS` says what each reads)."""


def sampler_from(context: SamplerContext) -> Sampler:
    """Return the sampler that the settings name; raises `UserError` for stages or an architecture that do not fit."""
    return SAMPLERS[context.settings.sampling.kind](context)


def networks_to_validate(context: SamplerContext) -> dict[str, Arch]:
    """Return networks that show how training goes, by name: both ends and random ones, or the one that is trained.

    Uniform sampling has also those at both ends of each choice, and nothing that its last stage does not allow.
    """
    space, settings = context.space, context.settings
    if settings.sampling.kind == "alone":
        return {"alone": context.arch}
    if settings.sampling.kind in (LARGEST, SMALLEST):
        return {LARGEST: space.largest()} if settings.sampling.kind == LARGEST else {SMALLEST: space.smallest()}
    rng = generator(context.seed, "validation")
    found: SearchSpace | Allowed = space if settings.sampling.kind != "uniform" else context.stages[-1][1]
    between = _at_ends(found) if isinstance(found, Allowed) else {}
    random = [found.sample(rng) for _ in range(settings.validate_random)]
    ends = {SMALLEST: found.smallest(), LARGEST: found.largest()}
    return ends | between | {f"{RANDOM}_{arch.digest}": arch for arch in random}


def _at_ends(allowed: Allowed) -> dict[str, Arch]:
    """Return networks of the largest resolution by name, such as `kernel3-depth4`.

    Choices of a kind, such as all depths, are all at their smallest value or all at their largest, in every combination
    but that of the largest network.
    """
    kinds: dict[str, list[str]] = {}
    for name, values in allowed.values.items():
        if name != RESOLUTION and len(values) > 1:
            kinds.setdefault(name.partition(".")[0], []).append(name)
    found = {}
    for smallest in list(product((True, False), repeat=len(kinds)))[:-1]:
        ends = {
            kind: {name: allowed.values[name][0 if small else -1] for name in names}
            for (kind, names), small in zip(kinds.items(), smallest, strict=True)
        }
        named = zip(ends.items(), smallest, strict=True)
        name = "-".join(_named(kind, values.values(), small) for (kind, values), small in named)
        only = {name: (value,) for values in ends.values() for name, value in values.items()}
        found[name] = allowed.keeping(only).largest()
    return found


def _named(kind: str, values: Iterable[int], smallest: bool) -> str:
    """Return the first word of a kind of choices with their value, or which one that is where it differs."""
    different = set(values)
    return kind.partition("_")[0] + (str(*different) if len(different) == 1 else "-min" if smallest else "-max")


def _within(stages: Stages, epochs: int) -> list[ChoiceValues]:
    return [allowed.values for start, allowed in stages if start < epochs]


def _current(stages: Stages, epoch: int) -> Allowed:
    return next(allowed for start, allowed in reversed(stages) if start <= epoch)
