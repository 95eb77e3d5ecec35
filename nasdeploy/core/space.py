"""Search spaces: choices, and slots that read them. Plans, costs and the keys to measure derive from slots."""

from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from hashlib import sha256
from itertools import product
from math import prod

import numpy as np
import numpy.typing as npt

from nasdeploy.core.arch import Arch, Choice, Json, flatten
from nasdeploy.core.errors import UserError, suggestion
from nasdeploy.core.plan import Block, Part, Plan, Step, TensorType

Codes = npt.NDArray[np.int16]
Mask = npt.NDArray[np.bool_]
RESOLUTION = "resolution"
"""The name of the choice that is the side of the images, in spaces that have it."""


@dataclass(frozen=True)
class PartSpec:
    """A part of every network of a space: its name, and how often it runs for one sample."""

    name: str
    """The name of the part."""
    runs: int = 1
    """How often it runs for one sample."""


NETWORK = PartSpec("network")
"""The part of networks that have one."""


@dataclass(frozen=True)
class Sharing:
    """The rule by which blocks inherit from the weights of their slot: leading channels, and the centre of kernels.

    Another rule is a subclass, beside the blocks that it is for, whose family knows how to follow it.
    """


@dataclass(frozen=True)
class Slot:
    """One position of the network and the choices that it reads."""

    name: str
    """The name of the position."""
    reads: tuple[str, ...]
    """The names of the choices that it reads."""
    part: PartSpec = NETWORK
    """The part of the network that it is in."""
    weights: str = ""
    """The name of an earlier slot whose weights this one computes with; by default it has weights of its own."""
    sharing: Sharing = Sharing()
    """How the blocks that may stand here share its weights."""

    @property
    def shares(self) -> bool:
        """Whether it computes with the weights of another slot."""
        return self.weights not in ("", self.name)


class SearchSpace(ABC):
    """A set of architectures, given by choices and by the block that each slot holds for given values.

    A subclass sets `name`, `choices` and `slots` and defines `block` and `inputs`. Where a part is more than a chain of
    its present blocks, from its one input on, it also sets `is_chain` to False and overrides `takes` and `outputs`.
    """

    name: str
    """The name of the space, which its latency tables have too."""
    choices: tuple[Choice, ...]
    """The choices, in the order of codes."""
    slots: tuple[Slot, ...]
    """The positions of blocks, in the order in which they are computed."""
    is_chain: bool = True
    """Whether each part is a chain in every network: what decides how its peak of memory is found."""

    @abstractmethod
    def block(self, slot: Slot, values: Mapping[str, int]) -> Block | None:
        """Return the block in `slot` for the `values` of the choices that it reads; None where the network has none."""

    @abstractmethod
    def inputs(self, part: str, arch: Arch) -> tuple[tuple[str, TensorType], ...]:
        """Return names and types of the inputs of the part called `part` in the network of `arch`."""

    def takes(self, slot: Slot, values: Mapping[str, int], made: Sequence[str]) -> tuple[str, ...]:
        """Return the names of what the block in `slot` takes, in the order of its inputs.

        `made` are the inputs of its part, and the steps of the part that are present and come before it. By default it
        takes the last of them. `values` are those of all choices that the slot reads.
        """
        return (made[-1],)

    def outputs(self, part: str, made: Sequence[str]) -> tuple[str, ...]:
        """Return the names of the steps that the part called `part` gives out, of its present steps `made`.

        By default that is the last one.
        """
        return (made[-1],)

    @property
    def named(self) -> Mapping[str, Arch]:
        """Architectures with a published name."""
        return {}

    # -- architectures

    def arch(self, data: Json) -> Arch:
        """Return the canonical architecture of `data`, values by name or nested JSON.

        Canonical: a choice that no present slot reads has its first value, so equal networks are equal architectures.
        Raises `UserError` naming what does not fit.
        """
        values = data if isinstance(data, Arch) else flatten(data)
        names = {choice.name for choice in self.choices}
        for name in values:
            if name not in names:
                raise UserError(f"architecture: '{name}' is no choice of space {self.name}{suggestion(name, names)}")
        for choice in self.choices:
            if choice.name not in values:
                raise UserError(f"architecture: {choice.name} is missing; allowed: {_list(choice.values)}")
            if values[choice.name] not in choice.values:
                found = values[choice.name]
                raise UserError(f"architecture: {choice.name} is {found}; allowed: {_list(choice.values)}")
        return self._canonical({choice.name: values[choice.name] for choice in self.choices})

    def _canonical(self, values: Mapping[str, int]) -> Arch:
        read: set[str] = set()
        absent = []
        for slot in self.slots:
            if self.block_at(slot, values) is None:
                absent.append(slot)
            else:
                read.update(slot.reads)
        while True:
            arch = {c.name: values[c.name] if c.name in read else c.values[0] for c in self.choices}
            # A choice that only absent slots read may be the one that makes them absent.
            appeared = [slot for slot in absent if self.block_at(slot, arch) is not None]
            if not appeared:
                return Arch(arch)
            read.update(name for slot in appeared for name in slot.reads)

    def plan(self, arch: Arch) -> Plan:
        """Return the network of `arch`, made once; a part of which no slot is present is left out.

        Raises `ValueError` for a space that has a slot without the one whose weights it shares: costs would be wrong.
        """
        cached = self._plans.get(arch)
        if cached is None:
            if len(self._plans) >= _PLANS_KEPT:
                self._plans.clear()
            parts = (self._part(part, arch) for part in self.parts)
            cached = self._plans[arch] = Plan(tuple(part for part in parts if part.steps))
            if self._shares and not {step.slot for step in cached} <= {step.name for step in cached}:
                raise ValueError(f"space {self.name}: a slot has the weights of another, which is absent in {arch}")
        return cached

    @cached_property
    def _plans(self) -> dict[Arch, Plan]:
        return {}

    @cached_property
    def _shares(self) -> bool:
        return any(slot.shares for slot in self.slots)

    @cached_property
    def parts(self) -> tuple[PartSpec, ...]:
        """The parts of the networks, in the order of the slots; raises `ValueError` if two have one name."""
        found = tuple(dict.fromkeys(slot.part for slot in self.slots))
        if len({part.name for part in found}) < len(found):
            raise ValueError(f"space {self.name}: a part runs equally often wherever it is named; found {found}")
        return found

    def _part(self, part: PartSpec, arch: Arch) -> Part:
        inputs = self.inputs(part.name, arch)
        made, steps = [name for name, _ in inputs], []
        for slot in self.slots:
            block = self.block_at(slot, arch) if slot.part == part else None
            if block is not None:
                values = {name: arch[name] for name in slot.reads}
                steps.append(Step(slot.name, block, self.takes(slot, values, made), slot.weights))
                made.append(slot.name)
        outputs = self.outputs(part.name, made[len(inputs) :]) if steps else ()
        return Part(part.name, inputs, tuple(steps), outputs, part.runs)

    def sample(self, rng: np.random.Generator) -> Arch:
        """Return an architecture with each choice uniform over its values, drawn by `rng`, as training draws them."""
        return self._canonical({c.name: c.values[rng.integers(len(c.values))] for c in self.choices})

    def smallest(self) -> Arch:
        """Return the architecture with the smallest value of every choice."""
        return self._canonical({c.name: c.values[0] for c in self.choices})

    def largest(self) -> Arch:
        """Return the architecture with the largest value of every choice."""
        return self._canonical({c.name: c.values[-1] for c in self.choices})

    # -- integer arrays

    @property
    def size(self) -> int:
        """Number of combinations of values."""
        return prod(len(choice.values) for choice in self.choices)

    @cached_property
    def networks(self) -> int:
        """The number of different networks: fewer than combinations where a choice is not read in all of them."""
        groups: list[tuple[set[int], set[int]]] = []
        for marked, decisive, _ in self._presence[1]:
            group, deciding = {*marked, *decisive}, {*decisive}
            for other in [each for each in groups if each[0] & group]:
                groups.remove(other)
                group, deciding = group | other[0], deciding | other[1]
            groups.append((group, deciding))
        sizes = np.array([len(choice.values) for choice in self.choices])
        alone = np.delete(sizes, [place for group, _ in groups for place in group])
        ways = (self._ways(sizes, group, sorted(deciding)) for group, deciding in groups)
        return prod([*map(int, alone), *ways])

    def _ways(self, sizes: npt.NDArray[np.int64], group: set[int], decisive: list[int]) -> int:
        """Return the number of canonical combinations of choices of a group, some of which decide which are read."""
        codes = np.zeros((prod(sizes[decisive].tolist()), len(sizes)), dtype=np.int16)
        codes[:, decisive] = list(product(*(range(sizes[place]) for place in decisive)))
        read, free = self.read(codes), [place for place in group if place not in decisive]
        canonical = (read | (codes == 0)).all(axis=1)
        return sum(prod(row) for row in np.where(read[canonical][:, free], sizes[free], 1).tolist())

    def sample_codes(self, count: int, rng: np.random.Generator) -> Codes:
        """Return `count` codes `[count, choices]`, each choice drawn uniformly by `rng`; they are not canonical."""
        return np.stack([rng.integers(len(c.values), size=count, dtype=np.int16) for c in self.choices], axis=1)

    def mutate(self, codes: Codes, probability: float, rng: np.random.Generator) -> Codes:
        """Return `codes` `[n, choices]` with each gene drawn anew by `rng`, uniformly, with the given `probability`."""
        return np.where(rng.random(codes.shape) < probability, self.sample_codes(len(codes), rng), codes)

    def crossover(self, a: Codes, b: Codes, rng: np.random.Generator) -> Codes:
        """Return a crossover of equally long `a` and `b` `[n, choices]`: `rng` takes each gene from either, 0.5."""
        return np.where(rng.random(a.shape) < 0.5, a, b)

    def blend(self, codes: Codes, ends: Codes, rng: np.random.Generator) -> Codes:
        """Return `codes` `[n, choices]` of which a random share of genes, from none to all, is that of one of `ends`.

        `rng` draws both. Choices drawn uniformly give networks of middling cost; blended with extreme ones they cover
        the whole range.
        """
        own = rng.random(codes.shape) < rng.random((len(codes), 1))
        return np.where(own, codes, ends[rng.integers(len(ends), size=len(codes))])

    def encode(self, archs: Sequence[Arch]) -> Codes:
        """Return the codes `[n, choices]` of `archs`: for each choice the index of its value."""
        places = [(c.name, {value: index for index, value in enumerate(c.values)}) for c in self.choices]
        return np.array([[place[arch[name]] for name, place in places] for arch in archs], dtype=np.int16).reshape(
            len(archs), len(self.choices)
        )

    def decode(self, codes: Codes) -> list[Arch]:
        """Return the canonical architectures of `codes` `[n, choices]`."""
        columns = [
            [choice.values[place] for place in column]
            for choice, column in zip(self.choices, self.canonical(codes).T.tolist(), strict=True)
        ]
        return [Arch(dict(zip(self.values_of, values, strict=True))) for values in zip(*columns, strict=True)]

    def canonical(self, codes: Codes) -> Codes:
        """Return codes `[n, choices]` of the same networks as `codes`, 0 for each choice that no present slot reads."""
        return np.where(self.read(codes), codes, 0).astype(codes.dtype)

    def read(self, codes: Codes) -> Mask:
        """Return which choices of `codes` `[n, choices]` some present slot reads, in the same shape."""
        always, sometimes = self._presence
        result, read = codes, np.broadcast_to(always, codes.shape).copy()
        while True:
            for marked, decisive, present in sometimes:
                read[:, marked] |= present[tuple(result[:, place] for place in decisive)][:, None]
            canonical = np.where(read, codes, 0).astype(codes.dtype)
            # A choice that only absent slots read may be the one that makes them absent.
            if np.array_equal(canonical, result):
                return read
            result = canonical

    @cached_property
    def _presence(self) -> tuple[Mask, list[tuple[list[int], list[int], Mask]]]:
        """Return which choices count in every network; and others, with what decides whether they do.

        That is, the places of choices that some slots read, the places of those that decide whether there is a block in
        one of these slots, and for which of their values there is.
        """
        place = {choice.name: index for index, choice in enumerate(self.choices)}
        always, slots = np.zeros(len(self.choices), dtype=bool), []
        for slot in self.slots:
            present = np.array([block is not None for block in self.blocks_of(slot)])
            places = [place[name] for name in slot.reads]
            always[places] |= present.all()
            slots.append((places, present.reshape([len(self.values_of[name]) for name in slot.reads])))
        sometimes: dict[tuple[tuple[int, ...], tuple[int, ...]], Mask] = {}
        for places, present in slots:
            marked = tuple(one for one in places if not always[one])
            axes = [axis for axis in range(present.ndim) if np.ptp(present.astype(int), axis=axis).any()]
            key = marked, tuple(places[axis] for axis in axes)
            reduced = present[tuple(slice(None) if axis in axes else 0 for axis in range(present.ndim))]
            sometimes[key] = sometimes[key] | reduced if key in sometimes else reduced
        return always, [(list(m), list(d), present) for (m, d), present in sometimes.items() if m]

    # -- blocks

    def block_at(self, slot: Slot, values: Mapping[str, int]) -> Block | None:
        """Return the `block` of `slot` for `values`, remembered: a space has few blocks and asks for them often."""
        place: tuple[str | int, ...] = (slot.name, *(values[name] for name in slot.reads))
        if place not in self._blocks:
            self._blocks[place] = self.block(slot, {name: values[name] for name in slot.reads})
        return self._blocks[place]

    @cached_property
    def _blocks(self) -> dict[tuple[str | int, ...], Block | None]:
        return {}

    @cached_property
    def values_of(self) -> Mapping[str, tuple[int, ...]]:
        """Admissible values by choice name."""
        return {choice.name: choice.values for choice in self.choices}

    def blocks_of(self, slot: Slot) -> Iterator[Block | None]:
        """Yield the block of `slot` for every combination of values that it reads; the last choice varies fastest."""
        for combination in product(*(self.values_of[name] for name in slot.reads)):
            yield self.block_at(slot, dict(zip(slot.reads, combination, strict=True)))

    def distinct_blocks(self) -> dict[str, Block]:
        """Return every block that some architecture holds, by key, in order of first appearance."""
        return {key: block for block, key in self._keys.items()}

    @cached_property
    def _keys(self) -> Mapping[Block, str]:
        """Return the key of each block, made once: most blocks stand in many places."""
        found = (block for slot in self.slots for block in self.blocks_of(slot) if block is not None)
        return {block: block.key for block in dict.fromkeys(found)}

    @cached_property
    def output_size(self) -> int:
        """The length of the first axis of what the networks compute, which the task's data decide: classes, say."""
        return self.plan(self.smallest()).steps[-1].block.output.shape[0]

    @cached_property
    def digest(self) -> str:
        """Twelve hexadecimal digits for choices, slots and blocks: equal for spaces with equal networks."""
        choices = [f"{c.name}={_list(c.values)}" for c in self.choices]
        blocks = [
            f"{_place(slot)}*{slot.part.runs}:{self._keys[block] if block else '-'}"
            for slot in self.slots
            for block in self.blocks_of(slot)
        ]
        return sha256("\n".join([*choices, *blocks]).encode()).hexdigest()[:12]


def _place(slot: Slot) -> str:
    """Return how the digest names a slot: by its name alone where its part and its weights are the usual ones."""
    part = "" if slot.part.name == NETWORK.name else f"{slot.part.name}/"
    rule = "" if slot.sharing == Sharing() else f" by {slot.sharing}"
    return f"{part}{slot.name}{f'={slot.weights}' if slot.shares else ''}{rule}"


_PLANS_KEPT = 4096


def _list(values: Sequence[int]) -> str:
    return ", ".join(str(value) for value in values)
