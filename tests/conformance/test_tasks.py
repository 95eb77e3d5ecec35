"""What every task has to give, and the whole way of each: train, profile, search, export, verify."""

from collections.abc import Iterator
from contextlib import nullcontext
from dataclasses import replace
from itertools import islice
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

import nasdeploy as nd
from nasdeploy.core.progress import Progress
from nasdeploy.exporting.export import DELIVERABLES
from nasdeploy.recipe import parse_recipe
from nasdeploy.store.networks import kept_original
from nasdeploy.supernet.evaluate import Evaluator
from nasdeploy.supernet.supernet import Supernet, extract
from nasdeploy.tasks import TASKS
from nasdeploy.tasks.task import Inputs, Task, TaskData
from nasdeploy.workflows.verify import verify
from tests.exporting.converted import functions_read_once  # noqa: F401
from tests.families import task as writing
from tests.hasty import HASTY, measure_hastily
from tests.training.recipes import CONTENT

WRITING: dict[str, Any] = {
    "name": "writer",
    "task": "writing",
    "space": {"kind": "writer", "name": "writer"},
    "data": {"kind": "counting", "train": 64, "others": 24},
    "train": {
        "epochs": 2,
        "batch_size": 16,
        "optimizer": "adamw",
        "learning_rate": 0.02,
        "warmup_epochs": 0,
        "threads": 1,
    },
}
RECIPES = {"classification": CONTENT, "writing": WRITING}
CHANGES = {"search.rounds": 1, "search.parents": 6, "search.finalists": 2, "train.epochs": 1, "train.warmup_epochs": 0}


@pytest.fixture(autouse=True, scope="module", params=RECIPES)
def task(request: pytest.FixtureRequest) -> Iterator[Task]:
    with writing.registered() if request.param == "writing" else nullcontext():
        yield TASKS[request.param]


@pytest.fixture(scope="module")
def recipe(task: Task) -> nd.Recipe:
    return parse_recipe(RECIPES[task.name], "recipe")


@pytest.fixture(scope="module")
def data(task: Task, recipe: nd.Recipe) -> TaskData:
    return task.open(recipe.data, recipe.seed)


@pytest.fixture(scope="module")
def supernet(recipe: nd.Recipe, data: TaskData) -> Supernet:
    torch.manual_seed(0)
    return Supernet(recipe.load_space(data.outputs))


def test_every_task_is_tested() -> None:
    assert set(TASKS) <= set(RECIPES)


def test_what_a_task_delivers_is_known(task: Task) -> None:
    assert task.delivery in DELIVERABLES


def equal(some: Inputs, other: Inputs) -> bool:
    return all(torch.equal(a, b) for a, b in zip(some, other, strict=True))


def test_batches_follow_from_seed_and_position(data: TaskData) -> None:
    first, second = islice(data.train_batches(8, 0, (0, 0)), 2)
    (again,) = islice(data.train_batches(8, 0, (0, 1)), 1)
    assert equal(second[0], again[0])
    (other,) = islice(data.train_batches(8, 1, (0, 0)), 1)
    assert not equal(first[0], other[0])
    assert len(list(data.train_batches(8, 0, (0, 0)))) == data.steps_per_epoch(8)


def test_shares_of_a_batch_are_the_batch(data: TaskData) -> None:
    ((whole, _),) = islice(data.train_batches(8, 0, (0, 0)), 1)
    parts = [next(iter(data.train_batches(8, 0, (0, 0), (place, 2))))[0] for place in range(2)]
    for number, tensor in enumerate(whole):
        together = torch.stack([part[number] for part in parts], dim=1).flatten(0, 1)
        assert torch.equal(tensor, together)


def test_inputs_fit_the_networks(task: Task, data: TaskData, supernet: Supernet) -> None:
    for arch in (supernet.space.smallest(), supernet.space.largest()):
        plan = supernet.space.plan(arch)
        assert set(task.tensor_names(plan)) == {part.name for part in plan.parts}
        for part in plan.parts:
            inputs, outputs = task.tensor_names(plan)[part.name]
            assert (len(inputs), len(outputs)) == (len(part.inputs), len(part.outputs))
        inputs, targets = next(iter(data.test(4)))
        found = task.outputs(supernet.bind(arch), inputs)
        assert isinstance(found, Tensor)
        assert len(found) == len(targets) == 4


def test_a_score_is_in_the_metrics_direction(task: Task, data: TaskData, supernet: Supernet) -> None:
    network = supernet.bind(supernet.space.smallest())
    score = task.score(network, data.test(8))
    assert score.metric is task.metric
    assert score.samples > 0
    assert task.metric.regret(score.value) >= 0
    assert score.error > 0
    # Batches of another size change nothing but rounding.
    assert task.score(network, data.test(5)).value == pytest.approx(score.value, rel=0.2)


def test_outputs_are_compared_with_those_of_an_original(task: Task, data: TaskData, supernet: Supernet) -> None:
    """A search may rank by the divergence: scores are the same with it, and it is nothing for the original itself."""
    held_out, largest = data.held_out(8, None, torch.device("cpu"), None), supernet.space.largest()
    calibration = data.calibration(8, 1, 0)
    torch.manual_seed(1)
    own = {largest: extract(Supernet(supernet.space), largest)}
    evaluator = Evaluator(supernet, task, calibration, held_out, own=own)
    smallest, compared = evaluator(supernet.space.smallest()), evaluator.ranking_by("both")
    found = compared(supernet.space.smallest())
    assert replace(found, divergence=None, criterion="metric") == smallest
    assert found.divergence is not None and found.divergence > 1e-6
    assert compared(largest).divergence == pytest.approx(0.0, abs=1e-6)
    sampled = evaluator.sample_scores(supernet.space.smallest())
    assert (sampled is None) == (not task.metric.is_mean)
    if sampled is not None:
        assert (sampled.values.mean(), sampled.losses.mean()) == pytest.approx(
            (smallest.value, smallest.loss), rel=1e-5
        )


def test_what_is_learned_from_improves(task: Task, recipe: nd.Recipe, data: TaskData) -> None:
    torch.manual_seed(0)
    supernet = Supernet(recipe.load_space(data.outputs))
    network = supernet.bind(supernet.space.largest())
    objective = task.objective(recipe.train, data)
    optimizer = torch.optim.AdamW(supernet.parameters(), lr=3e-3)
    losses = []
    for epoch in range(4):
        for inputs, targets in data.train_batches(16, 0, (epoch, 0)):
            optimizer.zero_grad()
            loss = objective.label(task.outputs(network, inputs), targets)
            loss.backward()
            optimizer.step()
            losses.append(float(loss.detach()))
    assert sum(losses[-4:]) < 0.97 * sum(losses[:4])


def test_a_student_that_equals_its_teacher_has_no_gradient_but_rounding(
    task: Task, recipe: nd.Recipe, data: TaskData, supernet: Supernet
) -> None:
    objective = task.objective(recipe.train, data)
    assert objective.distillation is not None
    inputs, _ = next(iter(data.train_batches(8, 0, (0, 0))))
    outputs = task.outputs(supernet.bind(supernet.space.largest()), inputs).detach().requires_grad_()
    loss = objective.distillation(outputs, outputs.detach().clone())
    (gradient,) = torch.autograd.grad(loss, outputs)
    assert float(gradient.abs().max()) < 1e-5


def test_phases_end_with_networks_that_learn_from_the_original(
    task: Task, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    train = {name: value for name, value in RECIPES[task.name]["train"].items() if name != "epochs"}
    taught = {"kind": "kl", "teacher": "original"}
    phases = [
        {"name": "original", "epochs": 1, "sampling": {"kind": "largest"}},
        {"name": "elastic", "epochs": 1, "sort_channels": "projection", "distillation": taught},
    ]
    run = nd.train({**RECIPES[task.name], "train": {**train, "warmup_epochs": 0, "phases": phases}})
    kept = kept_original(run)
    assert kept is not None and kept.record.after is not None
    assert run.facts("train")["phase"] == "elastic"
    space = parse_recipe(run.manifest.recipe, "recipe").load_space(run.manifest.output_size)
    assert kept.arch(space) == space.largest()


@pytest.mark.slow
def test_the_whole_way(task: Task, recipe: nd.Recipe, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    measure_hastily(monkeypatch)
    run = nd.train(recipe, changes=CHANGES)
    validation = run.facts("train")["validation"]
    assert all(task.metric.key in score for score in validation.values())
    table = nd.profile(run, "cpu")
    assert set(table.entries) == set(recipe.load_space(run.manifest.output_size).distinct_blocks())
    result = nd.search(run, latency_ms=1000.0, changes=CHANGES)
    assert result.winner.latency["cpu"].measured_ms is not None
    export = nd.export(run)
    space = recipe.load_space(run.manifest.output_size)
    parts = space.plan(space.arch(result.winner.arch)).parts
    expected = {"model.onnx"} if len(parts) == 1 else {f"{part.name}.onnx" for part in parts}
    assert {file.name for artefact in export.manifest.artefacts for file in artefact.files} == expected
    assert all(not artefact.proof.problems for artefact in export.manifest.artefacts)
    verified = verify(export.directory, Progress(quiet=True), protocol=HASTY)
    assert not verified.problems
    (model,), tested = verified.found, export.manifest.artefacts[0].proof.tested
    assert tested is not None
    assert model.samples == tested.samples
    assert model.score == pytest.approx(tested.value, rel=0.01)
