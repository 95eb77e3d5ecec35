"""Accuracies of finalists in int8, against the judge of exports, which runs the file by another path."""

from pathlib import Path

import pytest

from nasdeploy.core.progress import Progress
from nasdeploy.data.datasets import open_data
from nasdeploy.exporting.conversions import Conversions, Judge, scoring_device
from nasdeploy.exporting.deliverables import examples_of
from nasdeploy.latency.table import table_path
from nasdeploy.recipe import recipe_of
from nasdeploy.runtimes import runtime_of
from nasdeploy.runtimes.device import load_device
from nasdeploy.store.run import Run
from nasdeploy.supernet.evaluate import Evaluator
from nasdeploy.supernet.supernet import input_side
from nasdeploy.workflows import evaluator as deployed
from nasdeploy.workflows.evaluator import deploy_for, open_evaluator, supernet_of
from nasdeploy.workflows.request import SearchRequest, request_search
from tests.workflows.runs import SPACE, table_of, trained_run

QUIET = Progress(quiet=True)


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Run:
    monkeypatch.chdir(tmp_path)
    made = trained_run(tmp_path)
    for name in ("cpu", "cpu-int8"):
        table_of(load_device(name)).save(table_path(SPACE, load_device(name)))
    return made


def asked(run: Run, device: str) -> tuple[SearchRequest, Evaluator, str]:
    request = request_search(run, recipe_of(run), {"latency": (f"{device}=90%",)}, False, QUIET)
    evaluator = open_evaluator(run, request.recipe, SPACE, request.weights.path)
    return request, evaluator, supernet_of(run, request.recipe, request.weights.facts)


def test_a_score_is_that_of_the_quantised_file(run: Run) -> None:
    request, evaluator, supernet = asked(run, "cpu-int8")
    arch = SPACE.largest()
    (evaluation,) = deploy_for(request, evaluator, supernet, QUIET)([arch]).values()

    network = evaluator.network(arch)
    examples = examples_of(
        open_data(request.recipe.data, request.recipe.seed), request.recipe.data, input_side(network.plan)
    )
    device = scoring_device("onnxruntime")
    judge = Judge(lambda model: runtime_of(device).open(model, device), examples.held_out)
    model = Conversions(network, examples, max_drop=100).onnx("int8", "onnxruntime")
    assert evaluation.score.value == judge.score(model).value
    assert evaluation.score.samples == evaluator.samples == sum(len(labels) for _, labels in examples.held_out()) > 0


def test_what_was_scored_is_not_scored_again(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    request, evaluator, supernet = asked(run, "cpu-int8")
    archs = [SPACE.smallest(), SPACE.largest()]
    first = deploy_for(request, evaluator, supernet, QUIET)(archs[:1])
    scored = []
    score = deployed._score
    monkeypatch.setattr(deployed, "_score", lambda arch, *rest: scored.append(arch) or score(arch, *rest))
    found = deploy_for(request, evaluator, supernet, QUIET)(archs)
    assert scored == archs[1:]
    assert list(found) == archs
    assert found[archs[0]] == first[archs[0]]


def test_in_fp32_a_device_computes_what_the_supernet_does(run: Run) -> None:
    request, evaluator, supernet = asked(run, "cpu")
    assert deploy_for(request, evaluator, supernet, QUIET)([SPACE.largest()]) == {}
