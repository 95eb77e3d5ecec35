"""What finished phases have trained, which decides where channels may still be moved."""

import json
from typing import Any

import pytest

from nasdeploy.core.settings import parse
from nasdeploy.core.space import SearchSpace
from nasdeploy.training.phase import Phase, trained_blocks
from nasdeploy.training.sampling import SamplerContext, sampler_from
from nasdeploy.training.settings import TrainSettings
from tests.small_spaces import ofa, one_stage

SPACE = ofa()
WHOLE = {"name": "whole", "epochs": 2, "sampling": {"kind": "largest"}}
WIDTHS = {2: 32, 3: 48, 6: 96}
"""The middle channels of the second block by its expansion."""


def elastic(
    *stages: tuple[int, dict[str, int]], name: str = "elastic", sampling: str = "single", **more: Any
) -> dict[str, Any]:
    found = [{"from_epoch": epoch, "largest": largest} for epoch, largest in stages]
    return {"name": name, "epochs": 4, "sampling": {"kind": sampling, "stages": found}, **more}


def middles(*phases: dict[str, Any], ended: tuple[int, ...], space: SearchSpace = SPACE) -> set[int]:
    """The middle channels of the second block of a stage, in the networks that were trained."""
    content = json.loads(json.dumps({"phases": phases, "warmup_epochs": 0}))
    made = [
        Phase(None, settings, sampler_from(SamplerContext(space, settings, 0)), {})
        for settings in parse(TrainSettings, content, "recipe").of_phases
    ]
    slot = next(slot.name for slot in space.slots if slot.name.endswith("block2"))
    return {block.mid_channels for block in trained_blocks(space, made, ended).get(slot, ())}


@pytest.mark.parametrize(
    ("phases", "ended", "expansions"),
    [
        ((), (), ()),
        ((WHOLE,), (2,), (6,)),
        ((WHOLE, elastic((0, {"expand_ratio": 2}))), (2,), (6,)),
        ((WHOLE, elastic((0, {"expand_ratio": 1}))), (2, 6), (6,)),
        ((WHOLE, elastic((0, {"expand_ratio": 2}))), (2, 6), (3, 6)),
        ((WHOLE, elastic((0, {"expand_ratio": 2}), (3, {}))), (2, 6), (2, 3, 6)),
        # The phase ended before its second stage, or before its first step.
        ((WHOLE, elastic((0, {"expand_ratio": 2}), (3, {}))), (2, 5), (3, 6)),
        ((WHOLE, elastic((0, {"expand_ratio": 2}))), (2, 2), (6,)),
        ((elastic((0, {"expand_ratio": 2}), sampling="uniform"),), (4,), (3, 6)),
        # A classifier that learns alone trains nothing inside.
        ((elastic((0, {}), trains="classifier"), elastic((0, {"expand_ratio": 1}), name="b")), (4, 8), (6,)),
        # No network has a second block.
        ((elastic((0, {"expand_ratio": 1})), elastic((0, {}), name="b")), (0, 0), ()),
    ],
)
def test_the_stages_of_earlier_phases_say_what_is_trained(phases, ended, expansions) -> None:
    assert middles(*phases, ended=ended) == {WIDTHS[ratio] for ratio in expansions}


def test_a_network_that_learns_alone_is_what_is_trained() -> None:
    arch = SPACE.arch({**SPACE.largest(), "expand_ratio.1": 3}).to_json()
    alone = {"name": "alone", "epochs": 1, "sampling": {"kind": "alone", "arch": arch}}
    assert middles(alone, ended=(1,)) == {48}
    shallow = SPACE.arch({**SPACE.largest(), "depth.0": 1}).to_json()
    assert middles({**alone, "sampling": {"kind": "alone", "arch": shallow}}, ended=(1,)) == set()


@pytest.mark.parametrize("kind", ["best-up", "worst-up", "sandwich"])
def test_whatever_is_drawn_from_the_whole_space_is_trained(kind: str) -> None:
    phase = {"name": "a", "epochs": 1, "sampling": {"kind": kind}}
    space = one_stage()
    slot = next(slot for slot in space.slots if slot.name.endswith("block2"))
    every = {block.mid_channels for block in space.blocks_of(slot) if block is not None}
    assert len(every) == 2
    assert middles(phase, ended=(1,), space=space) == every
