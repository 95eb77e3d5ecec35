"""Phases that grow: the smallest network first, then all of them, which begin with what it learned."""

from pathlib import Path

import numpy as np
import pytest

from nasdeploy.core.errors import UserError
from nasdeploy.recipe import space_of
from nasdeploy.supernet.growth import grow
from nasdeploy.supernet.weights import load_supernet
from nasdeploy.training.sampling import LEADING, SandwichRule, allowed_from, draw
from nasdeploy.training.sandwich import LARGEST, RANDOM, SMALLEST
from tests.small_spaces import two_stages
from tests.training.test_phases import QUIET, Outcome, Stopping, phased, train
from tests.training.test_trainer import STEPS_PER_EPOCH, assert_same, outcome

FIRST = "{name: first, epochs: 1, sampling: {kind: smallest}, distillation: {kind: none}}"
ALL = "{name: all, epochs: 1, grow: true, sampling: {kind: sandwich, largest_share: 0.25}, random_networks: 0}"


@pytest.fixture(autouse=True)
def _inside(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> Outcome:
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(tmp_path_factory.mktemp("undisturbed"))
        return outcome(train(phased(FIRST, ALL)))


def test_all_networks_begin_with_what_the_smallest_learned() -> None:
    run = train(phased(FIRST, ALL.replace("epochs: 1", "epochs: 0")))
    space = space_of(run)
    expected = load_supernet(run.checkpoints / "epoch-000001.pt", space)
    content, _ = outcome(run)
    small = {step.slot: {step.block} for step in space.plan(space.smallest())}
    grow(expected, small)
    assert_same(dict(content["weights"]), dict(expected.state_dict()))


def test_each_phase_trains_and_validates_its_networks(undisturbed: Outcome) -> None:
    first, then = undisturbed[1]
    assert list(first["validation"]) == [SMALLEST]
    assert first["loss_smallest"] is not None and first["loss_largest"] is None
    assert {name.split("_")[0] for name in then["validation"]} == {LARGEST, RANDOM, SMALLEST}
    assert then["loss_leading"] is not None and then["loss_smallest"] is not None


@pytest.mark.parametrize("stop", [("first", 2), ("all", 0), ("all", STEPS_PER_EPOCH - 1)])
def test_a_run_that_was_stopped_ends_as_one_that_was_not(stop: tuple[str, int], undisturbed: Outcome) -> None:
    resumed = phased(FIRST, ALL, more=("train.checkpoint_steps=1",))
    with pytest.raises(KeyboardInterrupt):
        train(resumed, Stopping(*stop))
    content, lines = outcome(train(resumed))
    assert_same(content, undisturbed[0])
    assert lines == undisturbed[1]


def test_the_largest_network_leads_a_part_of_the_steps() -> None:
    space = two_stages()
    rule = SandwichRule(allowed_from(space, ()), 1, 0.25)
    drawn = [rule.draw(np.random.default_rng(step), 0, lambda archs: []) for step in range(400)]
    for sandwich in drawn:
        assert sandwich.leader in (LARGEST, LEADING)
        assert list(sandwich.networks) == [sandwich.leader, RANDOM, SMALLEST]
        assert sandwich.networks[SMALLEST] == (space.smallest(),)
        if sandwich.leader == LARGEST:
            assert sandwich.networks[LARGEST] == (space.largest(),)
    assert 60 < sum(sandwich.leader == LARGEST for sandwich in drawn) < 140
    assert len({sandwich.archs[0] for sandwich in drawn}) > 20
    whole = SandwichRule(allowed_from(space, ()), 2)
    assert whole.draw(np.random.default_rng(0), 0, lambda archs: []) == draw(space, 2, np.random.default_rng(0))


@pytest.mark.parametrize(
    ("phases", "more", "said"),
    [
        ((ALL,), (), "phases.0 (all): grow begins with what earlier phases trained, and this is the first one"),
        ((FIRST, ALL), ("space=ofa-mbv3",), "train.grow: in space ofa-mbv3 smaller kernels are computed from larger"),
        (
            (FIRST, ALL.replace("sandwich", "uniform").replace("networks: 0", "networks: 1")),
            (),
            "largest_share has an effect only with",
        ),
    ],
)
def test_phases_that_cannot_grow_are_refused(phases: tuple[str, ...], more: tuple[str, ...], said: str) -> None:
    with pytest.raises(UserError) as caught:
        train(phased(*phases, more=more), QUIET)
    assert said in str(caught.value)
    assert not Path("runs").exists()


def test_pretrained_weights_are_not_grown_over() -> None:
    before = train(phased(FIRST, more=("name=before",)))
    with pytest.raises(UserError, match=r"train\.grow: what no phase has trained becomes zero, and this"):
        train(phased(FIRST, ALL), init=before.path)
    assert not Path("runs/tiny").exists()
