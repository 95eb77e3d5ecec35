"""What every search space has to keep; a new one starts with passing this."""

import json
from itertools import pairwise
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from nasdeploy.core import cost_registry as costs
from nasdeploy.core.arch import Arch
from nasdeploy.core.costs import Costs
from nasdeploy.core.counting.chain import extremes
from nasdeploy.core.errors import UserError
from nasdeploy.core.plan import Plan
from nasdeploy.core.space import SearchSpace
from nasdeploy.spaces import SPACES, load_space
from nasdeploy.spaces.kind import SpaceSettings
from tests.families.space import Writer
from tests.small_spaces import GROWN, OFA

CLASSES = 7
SMALL: dict[str, SpaceSettings] = {GROWN.name: GROWN, OFA.name: OFA}


def made(name: str, classes: int = CLASSES) -> SearchSpace:
    """A shipped space, a small one of a kind, or the one that is nothing like them."""
    if name in SMALL:
        return SMALL[name].build(classes)
    return Writer(classes) if name == Writer.name else load_space(name, classes)


LOADED = {name: made(name) for name in (*SPACES, *SMALL, Writer.name)}
SEEDS = st.integers(0, 2**32)


@pytest.fixture(params=sorted(LOADED))
def space(request: pytest.FixtureRequest) -> SearchSpace:
    return LOADED[request.param]


def archs(space: SearchSpace, count: int, seed: int = 0) -> list[Arch]:
    rng = np.random.default_rng(seed)
    return [space.smallest(), space.largest(), *space.named.values(), *(space.sample(rng) for _ in range(count))]


def assert_valid(plan: Plan) -> None:
    """Names are unique, every step takes the types that are there, and something is returned."""
    assert plan.parts
    assert len({part.name for part in plan.parts}) == len(plan.parts)
    assert len({step.name for step in plan}) == len(plan.steps)
    for part in plan.parts:
        types = dict(part.inputs)
        assert len(types) == len(part.inputs)
        for step in part:
            assert step.name not in types
            assert tuple(types[name] for name in step.takes) == step.block.inputs
            types[step.name] = step.block.output
        assert part.runs >= 1
        assert part.outputs
        assert set(part.outputs) <= {step.name for step in part}
        assert all(side >= 1 for tensor in types.values() for side in tensor.shape)


def test_choices_have_ascending_values_and_are_all_read(space: SearchSpace) -> None:
    assert len({choice.name for choice in space.choices}) == len(space.choices)
    for choice in space.choices:
        assert choice.values
        assert all(a < b for a, b in pairwise(choice.values))
    assert {name for slot in space.slots for name in slot.reads} == {choice.name for choice in space.choices}
    assert len({slot.name for slot in space.slots}) == len(space.slots)


def test_plans_are_valid(space: SearchSpace) -> None:
    for arch in archs(space, 50):
        plan = space.plan(arch)
        assert_valid(plan)
        assert plan.steps[-1].block.output.shape == (CLASSES,)


def test_a_space_that_says_so_has_chains(space: SearchSpace) -> None:
    for part in (part for arch in archs(space, 50) for part in space.plan(arch).parts if space.is_chain):
        made_before = [part.inputs[0][0], *(step.name for step in part)]
        assert len(part.inputs) == 1
        assert [step.takes for step in part] == [(name,) for name in made_before[:-1]]
        assert part.outputs == (made_before[-1],)


def test_weights_that_a_step_shares_are_those_of_a_step(space: SearchSpace) -> None:
    for arch in archs(space, 50):
        plan = space.plan(arch)
        assert {step.slot for step in plan} <= {step.name for step in plan}


def test_canonical_form_keeps_the_network(space: SearchSpace) -> None:
    codes = space.sample_codes(100, np.random.default_rng(0))
    for row, arch in zip(codes, space.decode(codes), strict=True):
        values = {choice.name: choice.values[index] for choice, index in zip(space.choices, row, strict=True)}
        for slot in space.slots:
            assert space.block_at(slot, arch) == space.block_at(slot, values)


@pytest.mark.parametrize("name", LOADED)
@given(seed=SEEDS)
def test_json_round_trip(name: str, seed: int) -> None:
    space = LOADED[name]
    arch = space.sample(np.random.default_rng(seed))
    again = space.arch(json.loads(arch.text))
    assert (again, again.digest, again.text, hash(again)) == (arch, arch.digest, arch.text, hash(arch))
    shuffled = dict(reversed(arch.to_json().items()))
    assert space.arch(shuffled).digest == arch.digest


@pytest.mark.parametrize("name", LOADED)
@given(seed=SEEDS, count=st.integers(0, 10))
def test_codes_round_trip(name: str, seed: int, count: int) -> None:
    space = LOADED[name]
    found = space.decode(space.sample_codes(count, np.random.default_rng(seed)))
    codes = space.encode(found)
    assert codes.shape == (count, len(space.choices))
    assert space.decode(codes) == found
    assert np.array_equal(space.encode(space.decode(codes)), codes)


def test_batch_costs_are_those_of_the_plans(space: SearchSpace) -> None:
    codes = space.sample_codes(200, np.random.default_rng(1))
    found = Costs(space, [costs.macs, costs.params, lambda slot, block: float(slot.part.runs)])(codes)
    plans = [space.plan(arch) for arch in space.decode(codes)]
    assert np.array_equal(found, [[p.macs, p.params, p.total(lambda block: 1)] for p in plans])


def test_every_block_is_among_the_distinct_ones(space: SearchSpace) -> None:
    distinct = space.distinct_blocks()
    for arch in archs(space, 50):
        for step in space.plan(arch):
            assert distinct[step.block.key] == step.block
    assert len(set(distinct.values())) == len(distinct)


def test_extremes_bound_all_and_are_reached(space: SearchSpace) -> None:
    cheapest, dearest = extremes(space, costs.macs)
    assert (space.plan(cheapest.arch).macs, space.plan(dearest.arch).macs) == (cheapest.cost, dearest.cost)
    assert all(cheapest.cost <= space.plan(arch).macs <= dearest.cost for arch in archs(space, 50))


def test_smallest_and_largest(space: SearchSpace) -> None:
    small, large = space.plan(space.smallest()), space.plan(space.largest())
    assert small.macs < large.macs
    assert small.params < large.params


def outside(space: SearchSpace, choice_name: str) -> Any:
    values = dict(space.largest())
    values[choice_name] = max(space.values_of[choice_name]) + 1
    return Arch(values).to_json()


def test_a_value_outside_is_refused_with_choice_and_allowed_values(space: SearchSpace) -> None:
    for choice in space.choices:
        with pytest.raises(UserError) as caught:
            space.arch(outside(space, choice.name))
        allowed = ", ".join(str(value) for value in choice.values)
        assert str(caught.value) == f"architecture: {choice.name} is {choice.values[-1] + 1}; allowed: {allowed}"


def test_missing_and_unknown_choices_are_refused(space: SearchSpace) -> None:
    data = space.largest().to_json()
    first = next(iter(data))
    with pytest.raises(UserError, match=f"{first}.* is missing; allowed: "):
        space.arch({name: value for name, value in data.items() if name != first})
    with pytest.raises(UserError, match="'colour' is no choice of space"):
        space.arch(data | {"colour": 1})


def test_mutation_and_crossover_stay_inside(space: SearchSpace) -> None:
    rng = np.random.default_rng(2)
    sizes = np.array([len(choice.values) for choice in space.choices])
    codes, others = space.sample_codes(500, rng), space.sample_codes(500, rng)
    for made in (space.mutate(codes, 0.5, rng), space.crossover(codes, others, rng)):
        assert made.shape == codes.shape
        assert made.dtype == codes.dtype
        assert ((made >= 0) & (made < sizes)).all()
        for arch in space.decode(made[:20]):
            assert space.arch(arch.to_json()) == arch


def test_sampling_reaches_every_value(space: SearchSpace) -> None:
    codes = space.sample_codes(2000, np.random.default_rng(3))
    assert [len(np.unique(column)) for column in codes.T] == [len(choice.values) for choice in space.choices]


def test_the_digest_tells_classes_and_spaces_apart() -> None:
    digests = [made(name, classes).digest for name in LOADED for classes in (CLASSES, CLASSES + 1)]
    assert len(set(digests)) == len(digests)


def test_the_same_space_has_the_same_digest(space: SearchSpace) -> None:
    assert made(space.name).digest == space.digest


def test_named_architectures_are_reached_by_name(space: SearchSpace) -> None:
    for name, arch in space.named.items():
        assert space.arch(arch) == arch, name
