"""Training with each way of sampling: what it trains, what it validates, and that it restarts."""

import json
from pathlib import Path

import pytest
import torch

from nasdeploy.cli.wording import typed
from nasdeploy.core.arch import Arch
from nasdeploy.core.errors import UserError
from nasdeploy.core.progress import Progress
from nasdeploy.core.space import SearchSpace
from nasdeploy.latency.table import LatencyTable, network_terms
from nasdeploy.recipe import recipe_of, train_alone
from nasdeploy.store.run import Run
from nasdeploy.supernet.supernet import Supernet, extract
from nasdeploy.supernet.weights import load_supernet
from nasdeploy.training.checkpoint import Checkpoints
from nasdeploy.training.sandwich import SandwichStep
from nasdeploy.workflows import train as step
from nasdeploy.workflows.export import request_export
from nasdeploy.workflows.request import request_search
from tests.latency.tables import CONDITIONS, timing
from tests.training.recipes import tiny_recipe
from tests.wording import assert_stops

QUIET = Progress(quiet=True)
SPACE = tiny_recipe().load_space(10)
WAYS = {
    "best-up": ["train.sampling={kind: best-up, bin_macs_m: 0.02, prior_samples: 500}"],
    "worst-up": ["train.sampling={kind: worst-up, bin_macs_m: 0.02, prior_samples: 500}"],
    "single": ["train.sampling.kind=single"],
    "alone": [f"train.sampling={{kind: alone, arch: {SPACE.smallest().text}}}"],
    "stages": ["train.sampling.stages=[{from_epoch: 0, largest: {depth: 1}}, {from_epoch: 1}]"],
}


@pytest.fixture(autouse=True)
def _inside(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def train(*assignments: str, run: str = "runs/tiny") -> Run:
    given = dict(each.split("=", 1) for each in assignments)
    settings = {"train.epochs": "2", "train.validate_every": "2"} | given
    recipe = tiny_recipe(*(f"{key}={value}" for key, value in settings.items()))
    return step.train(recipe, Path(run), QUIET)


def weights(run: Run) -> Supernet:
    return load_supernet(Checkpoints(run.checkpoints).latest(), SPACE)


def validation(run: Run) -> list[str]:
    last = json.loads(run.metrics.read_text().splitlines()[-1])
    return [name.split("_")[0] for name in last["validation"]]


@pytest.mark.parametrize("way", WAYS)
def test_a_killed_run_ends_as_an_undisturbed_one(way: str, monkeypatch: pytest.MonkeyPatch) -> None:
    undisturbed = train(*WAYS[way])
    assert validation(undisturbed) == (["alone"] if way == "alone" else ["smallest", "largest", "random"])
    call, steps = SandwichStep.__call__, 0

    def killed(*given: object) -> object:
        nonlocal steps
        steps += 1
        if steps == 6:
            raise KeyboardInterrupt
        return call(*given)  # type: ignore[arg-type]

    with monkeypatch.context() as patch:
        patch.setattr(SandwichStep, "__call__", killed)
        with pytest.raises(KeyboardInterrupt):
            train(*WAYS[way], run="runs/killed")
    resumed = train(*WAYS[way], run="runs/killed")
    for (name, found), expected in zip(
        weights(resumed).named_parameters(), weights(undisturbed).parameters(), strict=True
    ):
        assert torch.equal(found, expected), name


def test_ways_of_sampling_train_differently() -> None:
    ends = [weights(train(*WAYS[way], run=f"runs/{way}")).weights["head"].classifier.bias for way in WAYS]
    for place, found in enumerate(ends):
        assert not any(torch.equal(found, other) for other in ends[:place])


def test_a_mistake_in_stages_keeps_the_run_that_restart_would_discard() -> None:
    before = train("train.epochs=1")
    recipe = tiny_recipe("train.sampling.stages=[{from_epoch: 0, largest: {dept: 1}}]")
    with pytest.raises(UserError, match="'dept' is no choice of space tiny"):
        step.train(recipe, Path("runs/tiny"), QUIET, restart=True)
    assert Run.open(before.path).is_finished("train")


# -- one network alone


def moved(a: torch.Tensor, b: torch.Tensor) -> bool:
    """By more than what a learning rate of next to nothing adds to zeros."""
    return bool((a - b).abs().max() > 1e-20)


def trained_parts(arch: Arch, run: Run) -> tuple[set[str], set[str]]:
    """Names of parameters that training changed: in the network, and in the supernet outside of it."""
    fresh = train("train.learning_rate=1e-30", "train.epochs=1", "train.warmup_epochs=0", run="runs/fresh")
    before, after = weights(fresh), weights(run)
    inside = {
        name
        for (name, a), b in zip(
            extract(before, arch).named_parameters(), extract(after, arch).parameters(), strict=True
        )
        if moved(a, b)
    }
    changed = {name for (name, a), b in zip(before.named_parameters(), after.parameters(), strict=True) if moved(a, b)}
    return inside, changed


def test_alone_trains_that_network_and_nothing_else() -> None:
    arch = SPACE.smallest()
    run = step.train(train_alone(tiny_recipe("train.epochs=1"), "smallest"), Path("runs/a"), QUIET)
    inside, changed = trained_parts(arch, run)
    assert {name.split(".")[1] for name in inside} == {one.name for one in SPACE.plan(arch)}
    absent = {slot.name for slot in SPACE.slots} - {one.name for one in SPACE.plan(arch)}
    assert absent
    assert not {name for name in changed if name.split(".")[1] in absent}
    line = json.loads(run.metrics.read_text())
    assert (line["loss_random"], line["loss_smallest"]) == (None, None)
    assert list(line["validation"]) == ["alone"]


def test_alone_goes_into_the_recipe_so_that_resuming_refuses_another_network() -> None:
    recipe = train_alone(tiny_recipe("train.epochs=1"), SPACE.largest().text)
    assert recipe.train.sampling.arch == SPACE.largest().to_json()
    step.train(recipe, Path("runs/tiny"), QUIET)
    for other in (tiny_recipe("train.epochs=1"), train_alone(tiny_recipe("train.epochs=1"), "smallest")):
        with pytest.raises(UserError, match=r"begun with another recipe \(train\.sampling\."):
            step.train(other, Path("runs/tiny"), QUIET)
    with pytest.raises(UserError, match="training is finished"):
        step.train(recipe, Path("runs/tiny"), QUIET)


@pytest.mark.parametrize(("text", "said"), [("a0", "--alone a0: not found"), ("{", "--alone: not valid JSON")])
def test_an_unknown_network_is_refused(text: str, said: str) -> None:
    with pytest.raises(UserError) as caught:
        train_alone(tiny_recipe(), text)
    assert typed(caught.value).startswith(said)


def test_alone_is_exported_without_a_search_and_searched_for_in_vain() -> None:
    arch = SPACE.largest()
    run = step.train(train_alone(tiny_recipe("train.epochs=1"), "largest"), Path("runs/a"), QUIET)
    assert run is not None
    request = request_export(run, recipe_of(run), None, None, QUIET)
    assert (request.arch, request.budget, request.device.name) == (arch, {}, "cpu")
    assert request_export(run, recipe_of(run), "smallest", None, QUIET).arch == SPACE.smallest()
    with pytest.raises(UserError) as caught:
        request_search(run, recipe_of(run), {"macs": ("1",)}, False, QUIET)
    assert typed(caught.value).startswith("runs/a: one network was trained alone there, so there is nothing to search")


def test_a_space_that_is_an_object_goes_the_same_way_as_long_as_it_is_passed() -> None:
    recipe = tiny_recipe("train.epochs=1", "space=digits").with_space(SPACE)
    alone = train_alone(recipe, "smallest")
    assert alone.load_space(10) is SPACE
    run = step.train(alone, Path("runs/a"), QUIET)
    assert run is not None
    assert run.manifest.space == SPACE.digest
    assert request_export(run, alone, None, None, QUIET).space is SPACE
    with pytest.raises(UserError, match=rf"space tiny \({SPACE.digest}\) is a Python object"):
        request_export(run, recipe_of(run), None, None, QUIET)
    with pytest.raises(UserError, match=r"begun with another recipe \(space\.digest"):
        step.train(
            train_alone(recipe.with_space(tiny_recipe("space.resolution=[8]").load_space(10)), "smallest"),
            run.path,
            QUIET,
        )


# -- a prior of latency


def fitted_table(space: SearchSpace) -> LatencyTable:
    """A table in which every block takes as long as it has MACs."""
    entries = {key: timing(1e-9 * block.macs) for key, block in space.distinct_blocks().items()}
    conditions = CONDITIONS.model_copy(update={"space": space.name, "space_digest": space.digest})
    measured = network_terms(entries, space, space.largest(), "calibration", timing(1e-3))
    return LatencyTable.fitted(conditions, "today", entries, [measured])


def test_a_latency_prior_without_a_table_says_how_to_measure_one() -> None:
    with assert_stops(UserError, match=r"no latency table yet of space tiny .*; measure it with 'nasdeploy profile"):
        train("train.sampling={kind: best-up, prior: latency}")
    assert not Path("runs/tiny").exists()


def test_with_a_latency_prior_the_device_may_not_change(monkeypatch: pytest.MonkeyPatch) -> None:
    table = fitted_table(SPACE)
    monkeypatch.setattr("nasdeploy.workflows.train.find_table", lambda space, device: table)
    prior = "train.sampling={kind: worst-up, prior: latency, latency_bins: 3, prior_samples: 500}"
    run = train(prior, "train.epochs=1")
    assert run.is_finished("train")
    with pytest.raises(UserError, match=r"begun with another recipe \(device differs\)"):
        train(prior, "train.epochs=1", "device=board")
