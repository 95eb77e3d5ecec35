"""Which networks a step trains, for each way of sampling."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest

from nasdeploy.core.arch import Arch
from nasdeploy.core.errors import UserError
from nasdeploy.latency.table import LatencyTable, network_terms
from nasdeploy.training.sampling import SAMPLERS, SamplerContext, draw, networks_to_validate, sampler_from
from nasdeploy.training.sandwich import Sandwich
from nasdeploy.training.settings import TrainSettings
from tests.latency.tables import CONDITIONS, timing
from tests.small_spaces import two_stages

SPACE = two_stages()
ARCH = SPACE.sample(np.random.default_rng(7))
NEEDED: dict[str, dict[str, Any]] = {
    "alone": {"arch": ARCH.to_json()},
    "best-up": {"bin_macs_m": 0.02, "prior_samples": 2000},
    "worst-up": {"bin_macs_m": 0.02, "prior_samples": 2000},
}


def context(kind: str, table: LatencyTable | None = None, **settings: Any) -> SamplerContext:
    sampling = {"kind": kind, **NEEDED.get(kind, {}), **settings.pop("sampling", {})}
    return SamplerContext(
        SPACE, TrainSettings.model_validate({"sampling": sampling, **settings}, strict=False), 3, table
    )


def unasked(archs: Sequence[Arch]) -> Sequence[float]:
    raise AssertionError("needs no losses")


class Asked:
    """Gives every architecture the loss of its MACs, and remembers who was asked for."""

    def __init__(self) -> None:
        self.calls: list[list[Arch]] = []

    def __call__(self, archs: Sequence[Arch]) -> Sequence[float]:
        self.calls.append(list(archs))
        return [float(SPACE.plan(arch).macs) for arch in archs]


@pytest.mark.parametrize("kind", SAMPLERS)
def test_the_generator_decides_everything(kind: str) -> None:
    """Two processes that make their samplers themselves draw the same; a restart goes on with the same."""
    first, second = sampler_from(context(kind)), sampler_from(context(kind))
    steps = [first.draw(np.random.default_rng(step), 0, Asked()) for step in range(6)]
    assert [second.draw(np.random.default_rng(step), 0, Asked()) for step in reversed(range(6))] == steps[::-1]
    assert len({step.archs for step in steps}) == (1 if kind in ("alone", "largest", "smallest") else 6)


def test_the_default_is_the_sandwich_rule() -> None:
    sampler = sampler_from(SamplerContext(SPACE, TrainSettings(random_networks=3), 0))
    found = sampler.draw(np.random.default_rng(0), 5, unasked)
    assert found == draw(SPACE, 3, np.random.default_rng(0))
    assert (found.archs[0], len(found.archs), found.archs[-1]) == (SPACE.largest(), 5, SPACE.smallest())


def test_single_and_alone_train_one_network() -> None:
    found = sampler_from(context("single")).draw(np.random.default_rng(0), 0, unasked)
    assert found == Sandwich({"largest": (SPACE.sample(np.random.default_rng(0)),)})
    assert sampler_from(context("alone")).draw(np.random.default_rng(0), 0, unasked) == Sandwich({"largest": (ARCH,)})


@pytest.mark.parametrize(("kind", "choose"), [("best-up", min), ("worst-up", max)])
def test_attentive_sampling_takes_the_best_or_the_worst_of_its_candidates(kind: str, choose: Any) -> None:
    asked = Asked()
    sampler = sampler_from(context(kind, sampling={"candidates": 4}, random_networks=3))
    differing = 0
    for step in range(20):
        found = sampler.draw(np.random.default_rng(step), 0, asked)
        assert (found.archs[0], found.archs[-1]) == (SPACE.largest(), SPACE.smallest())
        candidates = asked.calls[-1]
        groups = [candidates[at : at + 4] for at in (0, 4, 8)]
        assert len(candidates) == 12
        for group, chosen in zip(groups, found.networks["random"], strict=True):
            macs = [SPACE.plan(arch).macs for arch in group]
            assert len({int(value // 20e3) for value in macs}) == 1
            assert chosen == group[macs.index(choose(macs))]
            differing += min(macs) != max(macs)
    assert len(asked.calls) == 20
    assert differing > 10


def test_a_latency_prior_bins_by_the_tables_prediction() -> None:
    """A table in which nothing but the resolution costs time: the networks of a bin have one resolution."""
    seconds = {key: timing(1e-9) for key in SPACE.distinct_blocks()}
    stems = SPACE.blocks_of(SPACE.slots[0])
    seconds |= {block.key: timing(float(block.inputs[0].shape[1])) for block in stems if block is not None}
    conditions = CONDITIONS.model_copy(update={"space": SPACE.name, "space_digest": SPACE.digest})
    measured = network_terms(seconds, SPACE, SPACE.largest(), "calibration", timing(9.0))
    table = LatencyTable.fitted(conditions, "today", seconds, [measured])
    sampler = sampler_from(
        context("best-up", table, sampling={"prior": "latency", "latency_bins": 2, "bin_macs_m": 25.0})
    )
    asked, resolutions = Asked(), set()
    for step in range(20):
        sampler.draw(np.random.default_rng(step), 0, asked)
        for group in (asked.calls[-1][:3], asked.calls[-1][3:]):
            assert len({arch["resolution"] for arch in group}) == 1
            resolutions.add(group[0]["resolution"])
    assert resolutions == {6, 9}


# -- stages

STAGES = [
    {"from_epoch": 0, "largest": {"depth": 1, "kernel_size.0": 1}},
    {"from_epoch": 3, "largest": {"depth": 1}},
    {"from_epoch": 5},
]


@pytest.mark.parametrize("kind", ["sandwich", "single"])
def test_stages_widen_the_choices(kind: str) -> None:
    sampler = sampler_from(context(kind, sampling={"stages": STAGES}, random_networks=8))
    seen: dict[int, dict[str, set[int]]] = {}
    for epoch in (0, 2, 3, 4, 5, 100):
        seen[epoch] = {name: set() for name in SPACE.values_of}
        for step in range(40):
            found = sampler.draw(np.random.default_rng(step), epoch, unasked)
            if kind == "sandwich":
                assert found.archs[0] == SPACE.largest()
            for arch in found.archs:
                for name, value in arch.items():
                    seen[epoch][name].add(value)
    every = {name: set(values) for name, values in SPACE.values_of.items()}
    deepest = every | {"depth.0": {2}, "depth.1": {2}}
    for epoch in (0, 2):
        assert seen[epoch] == deepest | {"kernel_size.0": {5}}
    for epoch in (3, 4):
        assert seen[epoch] == deepest
    for epoch in (5, 100):
        assert seen[epoch] == every


def test_the_smallest_network_is_that_of_the_stage() -> None:
    sampler = sampler_from(context("sandwich", sampling={"stages": STAGES}))
    early, late = (sampler.draw(np.random.default_rng(0), epoch, unasked).archs[-1] for epoch in (0, 5))
    assert early is not None
    assert dict(early) == dict(SPACE.smallest()) | {"depth.0": 2, "depth.1": 2, "kernel_size.0": 5}
    assert late == SPACE.smallest()


def test_more_values_than_there_are_means_all() -> None:
    sampler = sampler_from(context("sandwich", sampling={"stages": [{"from_epoch": 0, "largest": {"depth": 9}}]}))
    assert sampler.draw(np.random.default_rng(0), 0, unasked) == draw(SPACE, 2, np.random.default_rng(0))


def test_a_stage_of_an_unknown_choice_is_refused() -> None:
    with pytest.raises(UserError) as caught:
        sampler_from(context("single", sampling={"stages": [{"from_epoch": 0, "largest": {"dept": 1}}]}))
    assert str(caught.value).startswith(
        "train.sampling.stages: 'dept' is no choice of space tiny; did you mean 'depth'"
    )


# -- validation


def test_networks_that_are_validated() -> None:
    found = networks_to_validate(context("sandwich", validate_random=2))
    assert list(found)[:2] == ["smallest", "largest"]
    assert (found["smallest"], found["largest"]) == (SPACE.smallest(), SPACE.largest())
    assert all(name == f"random_{arch.digest}" for name, arch in list(found.items())[2:])
    assert len(found) == 4
    assert networks_to_validate(context("alone")) == {"alone": ARCH}


def test_an_architecture_of_another_space_is_refused_naming_the_key() -> None:
    with pytest.raises(UserError, match=r"train\.sampling\.arch: architecture: resolution is 7; allowed: 6, 9"):
        sampler_from(context("alone", sampling={"arch": ARCH.to_json() | {"resolution": 7}}))
