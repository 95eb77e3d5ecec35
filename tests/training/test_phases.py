"""Trainings in several phases: each as its settings say, and the whole the same whatever stops it."""

import json
import math
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from nasdeploy.core.errors import UserError
from nasdeploy.core.progress import Progress, Rows, Work
from nasdeploy.core.settings import override, parse
from nasdeploy.recipe import Recipe, parse_recipe, train_alone
from nasdeploy.store.checkpoints import supernet_file
from nasdeploy.store.run import Run
from nasdeploy.supernet.supernet import Supernet
from nasdeploy.training.checkpoint import Checkpoints
from nasdeploy.training.monitor import Validation
from nasdeploy.training.optimizer import classifier_parameters, make_optimizer, require_gradients, set_learning_rate
from nasdeploy.training.sampling import SAMPLERS
from nasdeploy.training.settings import TrainSettings
from nasdeploy.workflows import train as step
from tests.small_spaces import two_stages
from tests.training.recipes import CONTENT, tiny_recipe
from tests.training.test_trainer import STEPS_PER_EPOCH, assert_same, lines_of, outcome

QUIET = Progress(quiet=True)
CLASSIFIER = "{name: classifier, epochs: 1, trains: classifier, sampling: {kind: largest}, warmup_epochs: 0}"
WHOLE = (
    "{name: whole, epochs: 2, sampling: {kind: largest}, classifier_rate: 3.0, optimizer: adamw, learning_rate: 0.01}"
)
ELASTIC = "{name: elastic, epochs: 2, ema: 0.5, distillation: {kind: kl, temperature: 2.0}}"


OPTIONAL: dict[str, st.SearchStrategy[Any]] = {
    "learning_rate": st.floats(0.001, 1),
    "clip_value": st.one_of(st.none(), st.floats(0.1, 2)),
    "ema": st.one_of(st.none(), st.floats(0.1, 0.9)),
    "trains": st.sampled_from(["all", "classifier"]),
    "optimizer": st.sampled_from(["sgd", "adamw"]),
    "patience": st.one_of(st.none(), st.integers(1, 9)),
}
Outcome = tuple[dict[str, Any], list[dict[str, Any]]]


def phased(*phases: str, more: tuple[str, ...] = ()) -> Recipe:
    content = {**CONTENT, "train": {name: value for name, value in CONTENT["train"].items() if name != "epochs"}}
    return parse_recipe(override(content, [f"train.phases=[{', '.join(phases)}]", *more]), "tiny.yaml")


def train(recipe: Recipe, progress: Progress = QUIET, **options: Any) -> Run:
    run = step.train(recipe, step.default_directory(recipe), progress, **options)
    assert run is not None
    return run


@pytest.fixture(autouse=True)
def _inside(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> Outcome:
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(tmp_path_factory.mktemp("undisturbed"))
        return outcome(train(phased(CLASSIFIER, WHOLE, ELASTIC)))


def test_each_phase_is_named_and_has_a_schedule_of_its_own(undisturbed: Outcome) -> None:
    content, lines = undisturbed
    assert [(line["epoch"], line["phase"]) for line in lines] == [
        (1, "classifier"),
        (2, "whole"),
        (3, "whole"),
        (4, "elastic"),
        (5, "elastic"),
    ]
    # The rate at an epoch's last step: a cosine over the phase, from 25 of 256 images' share of what the phase says.
    assert lines[0]["learning_rate"] == pytest.approx(0.4 * 25 / 256 * (1 + math.cos(math.pi * 3 / 4)) / 2)
    assert lines[1]["learning_rate"] == pytest.approx(
        0.01 * 25 / 256 * (0.001 + 0.999 * 3 / 4) * (1 + math.cos(math.pi * 3 / 8)) / 2
    )
    assert lines[2]["learning_rate"] == pytest.approx(0.01 * 25 / 256 * (1 + math.cos(math.pi * 7 / 8)) / 2)
    assert [sorted(name.split("_")[0] for name in line["validation"]) for line in lines] == [
        ["largest"],
        ["largest"],
        ["largest"],
        ["largest", "random", "smallest"],
        ["largest", "random", "smallest"],
    ]
    assert all(line["loss_smallest"] is None for line in lines[:3]) and lines[3]["loss_smallest"] is not None
    assert (content["epoch"], content["phases_ended"]) == (5, [1, 3, 5])
    # The last phase alone has an average, of its own steps.
    assert content["averaged_steps"] == 2 * STEPS_PER_EPOCH


class Stopping(Progress):
    """Stops a run in a phase after so many steps of it; after 0 of them it has just begun."""

    def __init__(self, phase: str, steps: int) -> None:
        super().__init__(quiet=True)
        self._at = (f"train {phase}", steps)

    @contextmanager
    def task(self, name: str, total: int, done: int = 0, table: Callable[[], Rows] = lambda: ()) -> Iterator[Work]:
        def show(done: int, note: str = "") -> None:
            if (name, done) == self._at:
                raise KeyboardInterrupt

        show(done)
        yield Work(done, show)


@pytest.mark.parametrize(
    "stops",
    [
        [("classifier", 2), ("whole", 0), ("whole", STEPS_PER_EPOCH), ("elastic", 0)],
        [("whole", STEPS_PER_EPOCH + 2), ("elastic", 3), ("elastic", 2 * STEPS_PER_EPOCH)],
    ],
)
def test_a_run_that_is_stopped_ends_as_an_undisturbed_one(stops: list[tuple[str, int]], undisturbed: Outcome) -> None:
    recipe = phased(CLASSIFIER, WHOLE, ELASTIC, more=("train.checkpoint_steps=1",))
    for stop in stops:
        with pytest.raises(KeyboardInterrupt):
            train(recipe, Stopping(*stop))
    content, lines = outcome(train(recipe))
    assert_same(content, undisturbed[0])
    assert lines == undisturbed[1]


def test_one_phase_is_what_a_recipe_without_phases_says() -> None:
    plain, lines = outcome(train(tiny_recipe("train.epochs=2", "name=plain")))
    phases, of_phases = outcome(train(phased("{name: only, epochs: 2}")))
    assert_same(phases, plain)
    assert [{key: value for key, value in line.items() if key != "phase"} for line in of_phases] == lines


def test_checkpoints_that_tell_no_phases_are_gone_on_with() -> None:
    run = train(tiny_recipe("train.epochs=2"))
    finished, _ = outcome(run)
    for path in Checkpoints(run.checkpoints).all():
        content = torch.load(path, weights_only=True)
        del content["phases_ended"]
        torch.save(content, path)
    Checkpoints(run.checkpoints).latest().unlink()
    supernet_file(run).unlink()
    assert_same(outcome(train(tiny_recipe("train.epochs=2")))[0], finished)


def test_the_classifier_alone_learns() -> None:
    other = "{name: other, epochs: 1, trains: classifier, warmup_epochs: 0}"
    run = train(phased("{name: all, epochs: 1}", other))
    first, second = (torch.load(path, weights_only=True)["weights"] for path in Checkpoints(run.checkpoints).all())
    changed = {name for name, tensor in first.items() if not torch.equal(tensor, second[name])}
    assert changed == {"weights.head.classifier.weight", "weights.head.classifier.bias"}


@pytest.mark.parametrize("optimizer", ["sgd", "rmsprop", "adamw"])
@pytest.mark.parametrize("trains", ["all", "classifier"])
def test_the_classifier_may_learn_at_a_rate_of_its_own(optimizer: str, trains: str) -> None:
    supernet = Supernet(two_stages())
    settings = TrainSettings.model_validate(
        {"optimizer": optimizer, "trains": trains, "classifier_rate": 3.0, "weight_decay": 0.5}
    )
    require_gradients(supernet, settings.trains)
    made = make_optimizer(supernet, settings)
    set_learning_rate(made, 0.25)
    own = {id(parameter) for parameter in classifier_parameters(supernet)}
    assert len(own) == 2
    found = {id(p): (group["lr"], group["weight_decay"]) for group in made.param_groups for p in group["params"]}
    wanted = supernet.parameters() if trains == "all" else classifier_parameters(supernet)
    assert found == {id(p): (0.75 if id(p) in own else 0.25, 0.5 if p.ndim > 1 else 0.0) for p in wanted}
    supernet(torch.randn(2, 3, 9, 9), supernet.space.largest()).sum().backward()
    made.step()
    kept = make_optimizer(supernet, settings)
    kept.load_state_dict(made.state_dict())
    set_learning_rate(kept, 0.5)
    assert {group["lr"] for group in kept.param_groups if group["params"]} == ({0.5, 1.5} if trains == "all" else {1.5})


def test_every_way_of_drawing_networks_may_be_that_of_a_phase() -> None:
    settings: dict[str, dict[str, Any]] = {kind: {"kind": kind} for kind in SAMPLERS}
    for kind in ("best-up", "worst-up"):
        settings[kind] |= {"prior_samples": 200, "bin_macs_m": 0.02}
    settings["alone"]["arch"] = tiny_recipe().load_space(10).smallest().to_json()
    phases = [json.dumps({"name": kind, "epochs": 1, "sampling": each}) for kind, each in settings.items()]
    prior = ("train.warmup_epochs=0", "train.validate_random=0")
    lines = lines_of(train(phased(*phases, more=prior)))
    assert [line["phase"] for line in lines] == list(SAMPLERS)
    trained = {
        line["phase"]: [role for role in ("largest", "random", "smallest") if line[f"loss_{role}"] is not None]
        for line in lines
    }
    roles = {kind: ["largest"] for kind in ("single", "largest", "alone")}
    roles |= {"uniform": ["random"], "smallest": ["smallest"]}
    assert trained == {kind: roles.get(kind, ["largest", "random", "smallest"]) for kind in SAMPLERS}


def test_a_run_does_not_go_on_with_other_phases() -> None:
    with pytest.raises(KeyboardInterrupt):
        train(phased(CLASSIFIER, WHOLE), Stopping("whole", 1))
    with pytest.raises(UserError, match=r"begun with another recipe \(train\.phases differs\)"):
        train(phased(CLASSIFIER, WHOLE, more=("train.phases.1.epochs=3",)))


@pytest.mark.parametrize("ended", [[2, 1], [1, 1], [9], ["x"], None])
def test_a_checkpoint_with_damaged_phases_is_named(ended: object) -> None:
    with pytest.raises(KeyboardInterrupt):
        train(phased(CLASSIFIER, WHOLE), Stopping("whole", STEPS_PER_EPOCH + 1))
    path = Checkpoints(Path("runs/tiny/checkpoints")).latest()
    torch.save({**torch.load(path, weights_only=True), "phases_ended": ended}, path)
    with pytest.raises(UserError, match="damaged; delete it to go on from the one before"):
        train(phased(CLASSIFIER, WHOLE))


class Scripted:
    """Validation whose scores are given, one for each epoch that is validated, on and on."""

    def __init__(self, *scores: float) -> None:
        self._scores = scores
        self.epochs = 0

    def __call__(self, supernet: Supernet, asked_to_stop: Callable[[], bool]) -> dict[str, dict[str, Any]]:
        score = self._scores[self.epochs % len(self._scores)]
        self.epochs += 1
        return {"largest": {"top1": score, "loss": 1.0, "images": 9, "top1_error": 0.1}}


def test_a_phase_ends_early_with_its_best_epoch(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    scripted = Scripted(0.9, 0.2, 0.4, 0.4, 0.3, 0.1, 0.0)
    monkeypatch.setattr(Validation, "__call__", lambda _, *given: scripted(*given))
    patient = "{name: patient, epochs: 9, patience: 2}"
    first = "{name: first, epochs: 1, warmup_epochs: 0}"
    recipe = phased(first, patient, "{name: last, epochs: 2}", more=("train.kept_checkpoints=9",))
    run = train(recipe, Progress())
    said = capsys.readouterr().err
    # Epoch 1, of another phase, was better; 3 is the first of the two best of this one, and 5 the second after it.
    assert "phase patient ends after epoch 5, no better since epoch 3, whose weights it ends with" in said
    lines = lines_of(run)
    assert [line["phase"] for line in lines] == ["first", *["patient"] * 4, "last", "last"]
    assert [line.get("ended_early") for line in lines] == [*[None] * 4, {"best_epoch": 3}, None, None]
    third, fifth = (torch.load(run.checkpoints / f"epoch-00000{number}.pt", weights_only=True) for number in (3, 5))
    assert_same(dict(fifth["weights"]), dict(third["weights"]))
    assert fifth["phases_ended"] == [1, 5]
    assert run.facts("train")["steps"] == 7 * STEPS_PER_EPOCH
    content, _ = outcome(run)
    shutil.copytree(run.path, "runs/again")
    for number in (6, 7):
        Path(f"runs/again/checkpoints/epoch-00000{number}.pt").unlink()
    Path("runs/again/supernet.safetensors").unlink()
    scripted.epochs = 5
    again = step.train(recipe, Path("runs/again"), QUIET)
    assert again is not None
    assert_same(outcome(again)[0], content)


def test_the_best_epoch_has_to_be_there(monkeypatch: pytest.MonkeyPatch) -> None:
    scripted = Scripted(0.4, 0.3, 0.2)
    monkeypatch.setattr(Validation, "__call__", lambda _, *given: scripted(*given))
    patient = phased("{name: patient, epochs: 9, patience: 2}")
    with pytest.raises(KeyboardInterrupt):
        train(patient, Stopping("patient", 2 * STEPS_PER_EPOCH + 1))
    best = Path("runs/tiny/checkpoints/best.pt")
    best.rename("moved")
    # Marked anew only where its epoch is the newest one.
    with pytest.raises(UserError, match=r"best\.pt: gone, and the weights of epoch 1 with it; start anew"):
        train(patient)


def test_a_run_that_ends_early_hands_on_the_best_score(monkeypatch: pytest.MonkeyPatch) -> None:
    scripted = Scripted(0.4, 0.3, 0.2)
    monkeypatch.setattr(Validation, "__call__", lambda _, *given: scripted(*given))
    run = train(tiny_recipe("train.epochs=9", "train.patience=1"))
    assert (run.facts("train")["epoch"], run.facts("train")["validation"]["largest"]["top1"]) == (2, 0.4)
    with pytest.raises(UserError, match="training is finished"):
        train(tiny_recipe("train.epochs=9", "train.patience=1"))


def test_a_network_alone_has_the_same_phases() -> None:
    recipe = train_alone(phased(WHOLE, ELASTIC.replace("temperature: 2.0", "teacher: original")), "smallest")
    phases = recipe.train.of_phases
    assert [settings.sampling.kind for settings in phases] == ["alone", "alone"]
    assert [settings.distillation.kind for settings in phases] == ["alpha", "none"]
    assert [settings.classifier_rate for settings in phases] == [3.0, 1.0]


@pytest.mark.parametrize(
    ("phases", "said"),
    [
        (
            ["{name: a, epochs: 1, learning_rat: 1}"],
            "'phases.0.learning_rat'; did you mean 'learning_rate'?",
        ),
        (["{name: a, epochs: 1, batch_size: 8}"], "unknown key 'phases.0.batch_size'; known: betas, classifier_rate"),
        (["{name: a}"], "train.phases.0.epochs is missing"),
        (["{name: a, epochs: 1}"] * 2, "phases: two are called a; give each a name of its own"),
        (["{name: a, epochs: 1, warmup_epochs: 2}"], "phases.0 (a): warmup_epochs is 2.0, more than the 1 epochs"),
        (
            ["{name: a, epochs: 1, epsilon: 1}"],
            "phases.0 (a): epsilon has an effect only with optimizer",
        ),
        (["{name: a, epochs: 1, clip_norm: 1.0}"], "phases.0 (a): clip_value and clip_norm exclude each other"),
        (["{name: a, epochs: 1, trains: head}"], "input should be 'all' or 'classifier'"),
        (
            [WHOLE, "{name: a, epochs: 1, sampling: {kind: largest}, distillation: {teacher: original}}"],
            "phases.1 (a): distillation.teacher is original, and no phase before trained the largest network alone",
        ),
    ],
)
def test_mistakes_are_named(phases: list[str], said: str) -> None:
    with pytest.raises(UserError) as caught:
        phased(*phases)
    assert said.replace("'phases", "'train.phases") in str(caught.value)


def test_epochs_of_phases_add_up() -> None:
    assert phased(WHOLE, ELASTIC).train.epochs == phased(WHOLE, ELASTIC, more=("train.epochs=4",)).train.epochs == 4
    with pytest.raises(UserError, match="epochs is 5, and those of the phases add up to 4; leave epochs out"):
        phased(WHOLE, ELASTIC, more=("train.epochs=5",))


@given(st.lists(st.fixed_dictionaries({"epochs": st.integers(1, 9)}, optional=OPTIONAL), min_size=1, max_size=4))
def test_what_is_written_is_read_back(phases: list[dict[str, Any]]) -> None:
    named = [{"name": f"p{number}", **phase} for number, phase in enumerate(phases)]
    written = parse(TrainSettings, {"warmup_epochs": 0, "phases": named}, "train")
    assert parse(TrainSettings, written.model_dump(mode="json"), "again") == written
    for given_phase, settings in zip(named, written.of_phases, strict=True):
        expected = {**written.model_dump(mode="json"), **given_phase, "phases": []}
        del expected["name"]
        assert settings.model_dump(mode="json") == expected
