"""The data of a report: curves, drawings, tables and fronts hold what the run's own records say."""

import json
from math import inf, nan

import numpy as np
import pytest

from nasdeploy.core.arch import Arch
from nasdeploy.core.errors import UserError
from nasdeploy.core.score import Score
from nasdeploy.core.settings import settings_in
from nasdeploy.core.space import SearchSpace
from nasdeploy.exporting.predictions import FilePredictions, Mistake
from nasdeploy.recipe import parse_recipe
from nasdeploy.report.architecture import drawn_network
from nasdeploy.report.artefacts import prediction_report
from nasdeploy.report.latency import table_report
from nasdeploy.report.networks import front_report, sub_networks
from nasdeploy.report.run import StepsTaken, commands_of, yaml_text
from nasdeploy.report.training import training_curves
from nasdeploy.spaces import load_space
from nasdeploy.store.evaluations import Evaluation
from nasdeploy.tasks.metrics import TOP1
from tests.exporting.models import latency_table
from tests.families.space import Writer
from tests.searching import results
from tests.small_spaces import LayerwiseSpace, ToySpace, grown, ofa, one_stage, two_stages
from tests.training.recipes import tiny_recipe

SPACES = [one_stage(), two_stages(), grown(), ofa(), ToySpace(), LayerwiseSpace(), Writer(), load_space("ofa-mbv3", 10)]


def line(epoch: int, **more: object) -> dict[str, object]:
    score = {"top1": 0.1 * epoch, "top1_error": 0.01, "cross_entropy": None, "images": 50}
    losses = {"loss_largest": 1 / epoch, "loss_random": None, "images_per_s": 9.0}
    return {"epoch": epoch, "learning_rate": 0.1, **losses, "validation": {"largest": score}, **more}


def test_curves_have_a_value_for_each_epoch_and_phases_know_theirs() -> None:
    lines = [line(1, phase="a"), {"epoch": 2, "phase": "a", "loss_largest": nan}, line(3, phase="b", loss_smallest=7)]
    found = training_curves("supernet", lines, TOP1, [("a", 2), ("b", 4), ("c", 1)])
    assert (found.epochs, found.planned, found.samples) == ((1, 2, 3), 7, 50)
    assert found.losses == {"largest": (1.0, None, 1 / 3), "smallest": (None, None, 7.0)}
    assert found.scores["largest"].values == (0.1, None, pytest.approx(0.3))
    assert found.scores["largest"].losses == (None, None, None)
    assert found.samples_per_s == (9.0, None, 9.0)
    assert [(phase.name, phase.first, phase.last) for phase in found.phases] == [
        ("a", 1, 2),
        ("b", 3, 3),
        ("c", None, None),
    ]


@pytest.mark.parametrize(
    ("early", "best"), [({"best_epoch": 1}, 1), ({}, None), (7, None), ({"best_epoch": "x"}, None)]
)
def test_a_phase_that_ended_early_knows_its_best_epoch(early: object, best: int | None) -> None:
    (phase,) = training_curves("supernet", [line(1), line(2, ended_early=early)], TOP1, [("", 9)]).phases
    assert (phase.last, phase.best_epoch) == (2, best)


@pytest.mark.parametrize("epoch", [None, "1", True, -1, [1]])
def test_a_line_of_no_epoch_is_refused(epoch: object) -> None:
    with pytest.raises(UserError, match="no number; remove that line"):
        training_curves("supernet", [{"epoch": epoch}], TOP1, [("", 1)])


@pytest.mark.parametrize("validation", [7, [], {"largest": 7}, {"largest": {"top1": "x"}}, {"largest": {"top1": inf}}])
def test_what_is_no_score_is_left_out(validation: object) -> None:
    found = training_curves("supernet", [{"epoch": 1, "validation": validation}], TOP1, [("", 1)])
    assert all(curve.values == (None,) for curve in found.scores.values())


@pytest.mark.parametrize("space", SPACES, ids=lambda space: space.name)
def test_drawn_stages_add_up_to_the_network_in_spaces_of_every_kind(space: SearchSpace) -> None:
    table = latency_table(space, 1e-4)
    for arch in (space.smallest(), space.largest(), space.sample(np.random.default_rng(0))):
        found, plan = drawn_network("chosen", arch, space, {"cpu": table}), space.plan(arch)
        assert sum(stage.macs for stage in found.stages) == plan.macs
        assert sum(stage.params for stage in found.stages) == plan.params
        assert [block.name for stage in found.stages for block in stage.blocks] == [step.name for step in plan]
        assert found.predicted_ms["cpu"] == pytest.approx(1e3 * table.predict(plan).seconds)
        assert sum(stage.share["cpu"] for stage in found.stages) == pytest.approx(1)


def test_a_drawing_tells_width_depth_kernel_expansion_and_resolution() -> None:
    space = load_space("alphanet", 10)
    found = drawn_network("largest", space.named["a6"], space, {})
    stages = {stage.name: stage for stage in found.stages}
    assert (found.names, found.resolution) == (("a6",), space.named["a6"]["resolution"])
    arch = space.named["a6"]
    for number in range(7):
        stage = stages[f"stage {number + 1}"]
        assert (stage.width, stage.depth) == (arch[f"width.{number + 1}"], arch[f"depth.{number}"])
        assert set(stage.kernel_sizes) == {arch[f"kernel_size.{number}"]}
        assert set(stage.expansions) == {arch[f"expand_ratio.{number}"]}
    assert stages["stem"].blocks[0].side == found.resolution // 2
    assert stages["head"].width == 10


def test_a_table_tells_predictions_beside_measurements() -> None:
    space = one_stage()
    table = latency_table(space, 1e-4)
    found = table_report(table, space, "x.json")
    assert (found.device, found.precision, found.entries) == ("cpu", "fp32", len(table.entries))
    assert (found.low_ms, found.high_ms) == pytest.approx(tuple(1e3 * end for end in table.range(space)))
    assert {one.digest for one in found.networks} == {space.smallest().digest, space.largest().digest}
    for one in found.networks:
        assert one.predicted_ms == pytest.approx(1e3 * table.predict(space.plan(space.arch(one.arch))).seconds)
        assert one.measured_ms == pytest.approx(0.1 * len(space.plan(space.arch(one.arch)).steps))
    assert [one.measured_ms for one in found.networks] == sorted(one.measured_ms for one in found.networks)


def test_a_front_has_its_axis_its_bounds_and_who_was_chosen() -> None:
    winner = results.found("aaaaaaaaaaaa", value=0.8, predicted=4.0, measured=4.2)
    other = results.found("bbbbbbbbbbbb", value=0.6, predicted=2.0)
    budget = results.at_most(latency_ms=4.5, macs=9.0)
    found = front_report(results.result(winner, budget, front=(other, winner), ties=("bbbbbbbbbbbb",)))
    assert (found.axis, found.is_latency) == ("latency in ms on cpu", True)
    assert [(bound.title, bound.high, bound.unit) for bound in found.bounds] == [
        ("latency on cpu", 4.5, "ms"),
        ("MACs", 9.0, "M"),
    ]
    assert found.axis_bound == found.bounds[0]
    assert [(point.digest, point.cost, point.chosen, point.tied) for point in found.front] == [
        ("bbbbbbbbbbbb", 2.0, False, True),
        ("aaaaaaaaaaaa", 4.0, True, False),
    ]
    assert found.winner.measured_ms["cpu"].median == 4.2


def test_a_front_without_latency_is_over_what_is_bounded() -> None:
    found = front_report(results.result(results.found(costs={"params": 2_000_000}), results.at_most(params=5.0)))
    assert (found.axis, found.is_latency, found.winner.cost) == ("parameters in millions", False, 2.0)


def evaluation(arch: Arch | str, value: float, loss: float = 1.0) -> Evaluation:
    text = arch if isinstance(arch, str) else arch.text
    return Evaluation("x", text, Score(TOP1, value, 0.01, 50, loss), 0.1)


def test_scored_networks_have_their_costs_and_those_of_another_space_are_left_out() -> None:
    space = one_stage()
    table, large = latency_table(space, 1e-4), space.largest()
    kept = [evaluation(large, 0.5, nan), evaluation('{"width": 7}', 0.9), evaluation("[", 0.9), evaluation(large, 0.6)]
    (only,) = sub_networks(kept, space, {"cpu": table}, ()).networks
    assert (only.value, only.loss, only.macs) == (0.5, None, space.plan(large).macs)
    assert only.predicted_ms["cpu"] == pytest.approx(1e3 * table.predict(space.plan(large)).seconds)


def test_predictions_become_a_confusion_matrix_and_pictures_of_known_kinds_alone() -> None:
    mistakes = (Mistake(2, "<script>", b"\x89PNG\r\n\x1a\nx"), Mistake(3, "b", b"<svg onload='x()'/>"))
    shares = np.array([0.9, 0.8, 0.7, 0.6], dtype=np.float32)
    found = FilePredictions(np.array([0, 1, 1, 2]), np.array([0, 1, 0, 0]), shares, 1 - shares, mistakes)
    shown = prediction_report(found, "abc", "model.onnx", ("ant", "bee", "cat"))
    assert shown.matrix == ((1, 0, 0), (1, 1, 0), (1, 0, 0))
    assert (shown.images, shown.correct) == (4, 2)
    first, second = shown.wrong
    assert (first.name, first.truth, first.predicted) == ("<script>", 1, 0)
    assert first.probability == pytest.approx(0.7)
    assert first.picture.startswith("data:image/png;base64,")
    assert second.picture == ""


def test_commands_are_those_that_a_shell_takes() -> None:
    winner = results.found(predicted=4.0)
    budget = results.at_most(latency_ms=4.5, device="bob's board", macs=9.0)
    steps = StepsTaken(["bob's board"], results.result(winner, budget, precision="int8"), [], [])
    assert commands_of("x.yaml", "x", None, steps) == (
        "nasdeploy train x.yaml",
        "nasdeploy profile --device 'bob'\"'\"'s board'",
        "nasdeploy search --latency-ms 'bob'\"'\"'s board=4.5' --macs-m 9 --precision int8",
    )
    first, *_ = commands_of("x.yaml", "x", {"kind": "ofa", "file": "a b.pth"}, StepsTaken([], None, [], []))
    assert first == "nasdeploy import ofa 'a b.pth' --out runs/x"


def test_a_recipe_in_yaml_is_read_back() -> None:
    recipe = tiny_recipe("data.kind=folder", 'data.path="/it is: [here] # no"')
    text = yaml_text(recipe.to_json())
    assert parse_recipe(settings_in(text.encode(), "x"), "x") == recipe
    assert json.loads(json.dumps(settings_in(text.encode(), "x"))) == recipe.to_json()
