from itertools import product
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from nasdeploy.core.arch import Arch
from nasdeploy.core.errors import UserError
from nasdeploy.core.plan import Block, Part, Step, TensorType
from nasdeploy.core.space import PartSpec, Slot
from tests.small_spaces import Square, ToySpace

SPACE = ToySpace()
EVERY = [
    dict(zip(SPACE.values_of, values, strict=True)) for values in product(*(choice.values for choice in SPACE.choices))
]


def nested(**changes: int) -> dict[str, Any]:
    values = {"width": [2, 5], "depth": 3, "kind": [2, 5], "twist": 1, "skip": 0}
    return values | changes


def blocks(values: dict[str, int]) -> list[Block | None]:
    return [SPACE.block(slot, {name: values[name] for name in slot.reads}) for slot in SPACE.slots]


def test_plan_has_a_chain_of_present_blocks_for_each_part() -> None:
    plan = SPACE.plan(SPACE.arch(nested(depth=2)))
    given = (("input", TensorType((5,))),)
    steps = (Step("first", Square(8, 2, 2), ("input",)), Step("second", Square(2, 5, 5), ("first",)))
    assert plan.parts == (
        Part("network", (("input", TensorType((8,))),), steps, ("second",)),
        Part("loop", given, (Step("third", Square(5, 5, 5), ("input",)),), ("third",), runs=3),
        Part("end", given, (Step("last", Square(5, 5, 1), ("input",)),), ("last",)),
    )
    assert [step.name for step in plan] == ["first", "second", "third", "last"]
    assert plan.macs == 8 * 2 * 2 + 2 * 5 * 5 + 3 * 5 * 5 * 5 + 5 * 5
    assert plan.params == (16 + 2) + (10 + 5) + (25 + 5) + (25 + 1)
    assert plan.keys[0] == "Square(inside=8,outside=2,kind=2)"
    assert Square(8, 2, 2, doubled=True).key == "Square(inside=8,outside=2,kind=2,doubled=1)"


def test_a_part_without_blocks_is_left_out() -> None:
    plan = SPACE.plan(SPACE.arch(nested(depth=1, skip=1)))
    assert plan.only == plan.part("network") and len(plan.only.steps) == 2
    with pytest.raises(KeyError, match="loop"):
        plan.part("loop")
    with pytest.raises(ValueError, match="a network of one part is expected; it has network, loop, end"):
        _ = SPACE.plan(SPACE.arch(nested())).only


def test_a_choice_that_no_present_slot_reads_does_not_count() -> None:
    assert SPACE.arch(nested(depth=2, twist=1)) == SPACE.arch(nested(depth=2, twist=0))
    assert SPACE.arch(nested(depth=3, twist=1)) != SPACE.arch(nested(depth=3, twist=0))


def test_canonical_form_keeps_every_network() -> None:
    """Also where a choice makes the only slot that reads it absent, as `skip` does."""
    for values in EVERY:
        assert blocks(dict(SPACE._canonical(values))) == blocks(values)


def test_equal_networks_are_equal_architectures() -> None:
    networks = {tuple(blocks(values)) for values in EVERY}
    assert len({SPACE._canonical(values) for values in EVERY}) == len(networks)
    assert len(EVERY) == SPACE.size


def test_canonical_form_is_idempotent() -> None:
    for values in EVERY:
        arch = SPACE._canonical(values)
        assert SPACE.arch(arch) == arch
        assert SPACE.arch(arch.to_json()) == arch


@pytest.mark.parametrize(
    ("data", "said"),
    [
        (nested(kind=[2, 3]), "kind.1 is 3; allowed: 1, 2, 5"),
        (nested(depht=2), "'depht' is no choice of space toy; did you mean 'depth'?"),
        (nested(width=[2]), "width.1 is missing; allowed: 4, 5, 7"),
        (nested(width=[2, 4, 4]), "'width.2' is no choice of space toy"),
    ],
)
def test_refuses_what_lies_outside(data: dict[str, Any], said: str) -> None:
    with pytest.raises(UserError) as caught:
        SPACE.arch(data)
    assert said in str(caught.value)


def test_refuses_values_that_canonical_form_would_hide() -> None:
    with pytest.raises(UserError, match="twist is 9"):
        SPACE.arch(nested(depth=1, twist=9))


def test_smallest_and_largest() -> None:
    assert set(SPACE.smallest().values()) <= {0, 1, 2, 4}
    assert SPACE.largest() == SPACE.arch({"width": [3, 7], "depth": 3, "kind": [2, 5], "twist": 1, "skip": 1})


def test_sample_is_uniform_over_values() -> None:
    rng = np.random.default_rng(0)
    depths = [SPACE.sample(rng)["depth"] for _ in range(3000)]
    counts = np.array([depths.count(value) for value in (1, 2, 3)])
    # Chi-square with two degrees of freedom: above 13.8 once in a thousand.
    assert ((counts - 1000) ** 2 / 1000).sum() < 13.8


def test_sample_depends_on_the_generator_alone() -> None:
    first = [SPACE.sample(np.random.default_rng(7)) for _ in range(2)]
    assert first[0] == first[1]
    assert SPACE.sample(np.random.default_rng(8)) != first[0]


@given(st.integers(0, 2**32), st.integers(0, 20))
def test_codes_round_trip(seed: int, count: int) -> None:
    rng = np.random.default_rng(seed)
    codes = SPACE.sample_codes(count, rng)
    archs = SPACE.decode(codes)
    assert codes.shape == (count, len(SPACE.choices))
    assert SPACE.decode(SPACE.encode(archs)) == archs
    for row, arch in zip(codes, archs, strict=True):
        values = {c.name: c.values[index] for c, index in zip(SPACE.choices, row, strict=True)}
        assert blocks(dict(arch)) == blocks(values)


def test_canonical_codes_are_those_of_canonical_architectures() -> None:
    codes = SPACE.encode([Arch(values) for values in EVERY])
    expected = SPACE.encode([SPACE.arch(values) for values in EVERY])
    assert not np.array_equal(codes, expected)
    assert np.array_equal(SPACE.canonical(codes), expected)
    assert SPACE.decode(codes) == [SPACE.arch(values) for values in EVERY]
    assert SPACE.canonical(codes[:0]).shape == (0, len(SPACE.choices))


def test_mutation_changes_the_expected_share_of_genes() -> None:
    rng = np.random.default_rng(0)
    codes = np.full((20000, len(SPACE.choices)), 0, dtype=np.int16)
    mutated = SPACE.mutate(codes, 0.3, rng)
    # A gene drawn anew keeps its value once in as many times as it has values.
    expected = np.array([0.3 * (1 - 1 / len(choice.values)) for choice in SPACE.choices])
    assert np.abs((mutated != 0).mean(axis=0) - expected).max() < 0.015
    assert np.array_equal(SPACE.mutate(codes, 0.0, rng), codes)
    assert all(mutated[:, place].max() == len(choice.values) - 1 for place, choice in enumerate(SPACE.choices))


def test_crossover_takes_each_gene_from_either_parent() -> None:
    rng = np.random.default_rng(0)
    a, b = SPACE.sample_codes(4000, rng), SPACE.sample_codes(4000, rng)
    child = SPACE.crossover(a, b, rng)
    assert ((child == a) | (child == b)).all()
    assert abs((child == a)[a != b].mean() - 0.5) < 0.02


def test_blending_reaches_from_the_codes_to_the_ends() -> None:
    rng = np.random.default_rng(0)
    codes = np.ones((4000, len(SPACE.choices)), dtype=np.int16)
    ends = np.stack([codes[0] * 0, codes[0] * 2])
    blended = SPACE.blend(codes, ends, rng)
    own = blended == 1
    # No row mixes the two ends, and any share of a row's own genes is as likely as any other.
    assert not ((blended == 0).any(axis=1) & (blended == 2).any(axis=1)).any()
    shares = np.bincount(own.sum(axis=1), minlength=len(SPACE.choices) + 1) / len(codes)
    assert np.abs(shares - 1 / (len(SPACE.choices) + 1)).max() < 0.02
    assert abs((blended == 0).sum() / (~own).sum() - 0.5) < 0.03


def test_distinct_blocks_are_those_of_all_architectures() -> None:
    held = {block.key: block for values in EVERY for block in blocks(values) if block is not None}
    assert SPACE.distinct_blocks() == held


def test_digest_tells_networks_apart() -> None:
    class Wider(ToySpace):
        def block(self, slot: Slot, values: Any) -> Block | None:
            return (
                Square(9, values["width.0"], values["kind.0"]) if slot.name == "first" else super().block(slot, values)
            )

    class Oftener(ToySpace):
        slots = (*ToySpace.slots[:-1], Slot("last", ("skip", "width.1"), PartSpec("end", runs=2)))

    digests = {SPACE.digest, Wider().digest, Oftener().digest}
    assert len(digests) == 3
    assert ToySpace().digest == SPACE.digest


def test_plan_of_an_architecture_is_made_once() -> None:
    arch = SPACE.arch(nested())
    assert SPACE.plan(Arch(dict(arch))) is SPACE.plan(arch)
