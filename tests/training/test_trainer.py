"""Training runs: whatever stops them, they end as if nothing had happened, or say what to do."""

import json
import os
import shutil
import signal
from collections.abc import Container, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch

from nasdeploy.cli.wording import typed
from nasdeploy.core.arch import Arch
from nasdeploy.core.errors import Terminated, UserError
from nasdeploy.core.progress import Progress, Work
from nasdeploy.core.score import Score
from nasdeploy.recipe import Recipe
from nasdeploy.store.run import Run
from nasdeploy.supernet.evaluate import Evaluator
from nasdeploy.supernet.supernet import Supernet
from nasdeploy.tasks.metrics import TOP1
from nasdeploy.training.checkpoint import Checkpoints, TrainingState
from nasdeploy.training.monitor import Validation
from nasdeploy.training.sandwich import Losses, SandwichStep
from nasdeploy.workflows import train as step
from tests.data.pictures import noise, write_folder
from tests.training.recipes import tiny_recipe
from tests.wording import assert_stops

STEPS_PER_EPOCH = 4
QUIET = Progress(quiet=True)
Lines = list[dict[str, Any]]


def train(recipe: Recipe, progress: Progress, **options: Any) -> Run:
    return step.train(recipe, step.default_directory(recipe), progress, **options)


class Interrupting(Progress):
    """Stops the run after so many steps."""

    def __init__(self, steps: int) -> None:
        super().__init__(quiet=True)
        self._steps = steps

    @contextmanager
    def task(self, name: str, total: int, done: int = 0) -> Iterator[Work]:
        def show(done: int, note: str) -> None:
            if done == self._steps:
                raise KeyboardInterrupt

        yield Work(done, show)


@pytest.fixture(autouse=True)
def _inside(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> tuple[dict[str, Any], Lines]:
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(tmp_path_factory.mktemp("undisturbed"))
        return outcome(train(tiny_recipe(), QUIET))


def lines_of(run: Run) -> Lines:
    return [json.loads(line) for line in run.metrics.read_text().splitlines()]


def outcome(run: Run) -> tuple[dict[str, Any], Lines]:
    """Everything that must not depend on interruptions: the last checkpoint, and metrics but speed and memory."""
    content = torch.load(Checkpoints(run.path.absolute() / "checkpoints").latest(), weights_only=True)
    machine = {"images_per_s", "peak_memory_gib"}
    return content, [{key: value for key, value in line.items() if key not in machine} for line in lines_of(run)]


def assert_same(a: Any, b: Any) -> None:
    """Equality of nested containers, bit for bit."""
    assert type(a) is type(b)
    if isinstance(a, torch.Tensor):
        assert torch.equal(a, b)
    elif isinstance(a, dict):
        assert a.keys() == b.keys()
        for key in a:
            assert_same(a[key], b[key])
    elif isinstance(a, list | tuple):
        assert len(a) == len(b)
        for x, y in zip(a, b, strict=True):
            assert_same(x, y)
    else:
        assert a == b


def interrupted(steps: int, recipe: Recipe | None = None) -> Run:
    """Train on in runs/tiny until so many steps were made."""
    with pytest.raises(KeyboardInterrupt):
        train(recipe or tiny_recipe(), Interrupting(steps))
    return Run.open(Path("runs/tiny"))


@pytest.fixture(scope="module")
def stopped_runs(tmp_path_factory: pytest.TempPathFactory) -> dict[int, Path]:
    """Runs that were stopped after an epoch and a step, and after two and a step."""
    found = {}
    for steps in (STEPS_PER_EPOCH + 1, 2 * STEPS_PER_EPOCH + 1):
        with pytest.MonkeyPatch.context() as patch:
            patch.chdir(tmp_path_factory.mktemp("stopped"))
            found[steps] = interrupted(steps).path.absolute()
    return found


@pytest.fixture
def stopped(stopped_runs: dict[int, Path]) -> Run:
    """A copy of the run that was stopped after an epoch and a step, in runs/tiny."""
    return copied(stopped_runs[STEPS_PER_EPOCH + 1])


@pytest.fixture
def stopped_late(stopped_runs: dict[int, Path]) -> Run:
    """A copy of the run that was stopped after two epochs and a step, in runs/tiny."""
    return copied(stopped_runs[2 * STEPS_PER_EPOCH + 1])


def copied(run: Path) -> Run:
    shutil.copytree(run, "runs/tiny")
    return Run.open(Path("runs/tiny"))


def names(run: Run) -> list[str]:
    return [path.name for path in Checkpoints(run.checkpoints).all()]


def test_metrics_tell_each_epoch(undisturbed: tuple[dict[str, Any], Lines]) -> None:
    _, lines = undisturbed
    assert [line["epoch"] for line in lines] == [1, 2, 3]
    for line in lines:
        assert {"learning_rate", "loss_largest", "loss_random", "loss_smallest", "validation"} <= line.keys()
        kinds = sorted(name.split("_")[0] for name in line["validation"])
        assert kinds == ["largest", "random", "smallest"]
        for score in line["validation"].values():
            assert score.keys() == {"top1", "cross_entropy", "images", "top1_error"}
    assert lines[-1]["loss_largest"] < lines[0]["loss_largest"]


@pytest.mark.parametrize("steps", [1, STEPS_PER_EPOCH, STEPS_PER_EPOCH + 2, 3 * STEPS_PER_EPOCH])
def test_an_interrupted_run_ends_as_an_undisturbed_one(steps: int, undisturbed: tuple[dict[str, Any], Lines]) -> None:
    run = interrupted(steps)
    assert not run.is_finished("train")
    resumed = train(tiny_recipe(), QUIET)
    assert resumed.is_finished("train")
    assert_same(outcome(resumed), undisturbed)


def test_several_interruptions(undisturbed: tuple[dict[str, Any], Lines]) -> None:
    for steps in (2, 6, 10):
        interrupted(steps)
    assert_same(outcome(train(tiny_recipe(), QUIET)), undisturbed)


@pytest.mark.parametrize("epoch", [1, 2, 3])
def test_a_run_stopped_between_metrics_and_checkpoint(
    epoch: int, undisturbed: tuple[dict[str, Any], Lines], monkeypatch: pytest.MonkeyPatch
) -> None:
    save = Checkpoints.save

    def stop(self: Checkpoints, state: TrainingState) -> None:
        if (state.position.epoch, state.position.step) == (epoch, 0):
            raise KeyboardInterrupt
        save(self, state)

    with monkeypatch.context() as patch:
        patch.setattr(Checkpoints, "save", stop)
        with pytest.raises(KeyboardInterrupt):
            train(tiny_recipe(), QUIET)
    run = Run.open(Path("runs/tiny"))
    assert len(lines_of(run)) == epoch
    assert len(names(run)) == epoch - 1
    assert_same(outcome(train(tiny_recipe(), QUIET)), undisturbed)


def test_a_run_stopped_right_before_its_end_is_only_closed(
    undisturbed: tuple[dict[str, Any], Lines], monkeypatch: pytest.MonkeyPatch
) -> None:
    def stop(*arguments: Any) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(Run, "finish", stop)
        with pytest.raises(KeyboardInterrupt):
            train(tiny_recipe(), QUIET)
    monkeypatch.setattr(SandwichStep, "__call__", stop)
    run = train(tiny_recipe(), QUIET)
    assert_same(outcome(run), undisturbed)
    assert run.facts("train")["epoch"] == 3


def test_another_seed_is_another_run(undisturbed: tuple[dict[str, Any], Lines]) -> None:
    content, _ = outcome(train(tiny_recipe("seed=1"), QUIET))
    weights, others = content["weights"], undisturbed[0]["weights"]
    assert not torch.equal(weights["weights.stem.conv.weight"], others["weights.stem.conv.weight"])


def test_the_last_two_checkpoints_are_kept() -> None:
    assert names(train(tiny_recipe(), QUIET)) == ["epoch-000002.pt", "epoch-000003.pt"]


def test_a_finished_run_is_refused_with_the_ways_out() -> None:
    train(tiny_recipe("train.epochs=1"), QUIET)
    with pytest.raises(UserError) as caught:
        train(tiny_recipe("train.epochs=1"), QUIET)
    assert typed(caught.value).startswith("runs/tiny: training is finished; ")
    for way in ("nasdeploy search", "--run", "--restart"):
        assert way in typed(caught.value)


@pytest.mark.parametrize(
    ("assignment", "key"),
    [
        ("train.epochs=4", "train.epochs"),
        ("train.distillation.kind=kl", "train.distillation.kind"),
        ("seed=3", "seed"),
        ("data.augment.pad=2", "data.augment.pad"),
        ("space=digits", "space"),
        ("space.resolution=[8]", "space.resolution"),
    ],
)
def test_another_recipe_is_refused_naming_the_key(assignment: str, key: str, stopped: Run) -> None:
    before = names(stopped)
    with pytest.raises(UserError) as caught:
        train(tiny_recipe(assignment), QUIET)
    assert typed(caught.value).startswith(f"runs/tiny: begun with another recipe ({key} differs); ")
    assert names(Run.open(Path("runs/tiny"))) == before


@pytest.mark.usefixtures("stopped")
def test_settings_of_the_search_may_change() -> None:
    assert train(tiny_recipe("search.rounds=3", "device=board"), QUIET).is_finished("train")


def test_a_run_of_a_version_that_knew_fewer_keys_goes_on(
    undisturbed: tuple[dict[str, Any], Lines], stopped: Run
) -> None:
    file = stopped.path / "manifest.json"
    manifest = json.loads(file.read_text())
    for key in ("optimizer", "reference_batch", "decay", "clip_norm"):
        del manifest["recipe"]["train"][key]
    del manifest["recipe"]["train"]["distillation"]["teacher"]
    file.write_text(json.dumps(manifest))
    assert_same(outcome(train(tiny_recipe(), QUIET)), undisturbed)
    with pytest.raises(UserError, match=r"train\.optimizer differs"):
        train(tiny_recipe("train.optimizer=adamw"), QUIET)


def test_restart_replaces_a_run_of_another_recipe() -> None:
    train(tiny_recipe(), QUIET)
    run = train(tiny_recipe("train.epochs=1", "seed=5"), QUIET, restart=True)
    assert (run.manifest.seed, len(lines_of(run)), names(run)) == (5, 1, ["epoch-000001.pt"])
    assert train(tiny_recipe("name=other", "train.epochs=1"), QUIET, restart=True).path == Path("runs/other")


def test_restart_replaces_a_damaged_run(stopped: Run) -> None:
    manifest = stopped.path / "manifest.json"
    manifest.write_text("{")
    with pytest.raises(UserError, match=r"runs/tiny/manifest\.json: damaged"):
        train(tiny_recipe("train.epochs=1"), QUIET)
    assert train(tiny_recipe("train.epochs=1"), QUIET, restart=True).is_finished("train")


def test_restart_keeps_the_old_run_if_the_new_one_cannot_begin() -> None:
    finished = train(tiny_recipe("train.epochs=1"), QUIET)
    folder = tiny_recipe("data={kind: folder, path: missing, size: 8}")
    for call in (
        lambda: train(folder, QUIET, restart=True),
        lambda: train(tiny_recipe(), QUIET, init=Path("runs/none"), restart=True),
        lambda: train(tiny_recipe(), QUIET, init=finished.path, restart=True),
    ):
        with pytest.raises(UserError):
            call()
        assert names(Run.open(finished.path)) == ["epoch-000001.pt"]


# -- starting from another run


def folder_recipe(*assignments: str, epochs: int = 1, place: str = "pictures") -> Recipe:
    """Three classes of pictures, a learning rate that leaves every weight what it was, and the same space."""
    if not Path(place).exists():
        write_folder(Path(place), {"train": {"ant": 12, "bee": 12, "cat": 12}}, side=8)
    data = f"data={{kind: folder, path: {Path(place).absolute()}, size: 8, workers: 0}}"
    brief = (f"train.epochs={epochs}", "train.learning_rate=1e-30", "train.batch_size=8")
    return tiny_recipe("name=new", data, *brief, *assignments)


def test_init_starts_from_another_runs_weights_with_a_new_classifier() -> None:
    old = train(tiny_recipe("train.epochs=1"), QUIET)
    new = train(folder_recipe(), QUIET, init=old.path)
    assert new.manifest.classes == ("ant", "bee", "cat")
    (before, _), (after, _) = outcome(old), outcome(new)
    for name, tensor in after["weights"].items():
        if name.startswith("weights.head.classifier."):
            assert len(tensor) == 3
        else:
            assert torch.equal(tensor, before["weights"][name]), name


@pytest.mark.parametrize(("classes", "kept"), [(("ant", "bee", "cat"), True), (("ant", "bee", "cow"), False)])
def test_init_keeps_the_classifier_of_a_run_that_learned_the_same_classes(
    classes: tuple[str, ...], kept: bool, capsys: pytest.CaptureFixture[str]
) -> None:
    old = Run.open(train(folder_recipe("seed=7"), QUIET).path.rename("runs/old"))
    write_folder(Path("others"), {"train": dict.fromkeys(classes, 12)}, side=8)
    new = train(folder_recipe(place="others"), Progress(), init=old.path)
    (before, _), (after, _) = outcome(old), outcome(new)
    names = [name for name in after["weights"] if name.startswith("weights.head.classifier.")]
    assert names
    assert all(torch.equal(after["weights"][name], before["weights"][name]) for name in names) == kept
    told = "its classifier, which learned the same classes" if kept else "a new classifier"
    assert f"begins with the weights of {old.path} and {told}" in capsys.readouterr().err


def test_a_run_goes_on_with_its_images_wherever_they_lie_and_with_no_others() -> None:
    recipe = folder_recipe(epochs=2)
    with pytest.raises(KeyboardInterrupt):
        train(recipe, Interrupting(6))
    Path("pictures").rename("moved")
    moved = folder_recipe(epochs=2, place="moved")
    noise(8, 8, seed=99).save(Path("moved/train/cat/new.png"))
    with pytest.raises(UserError, match=r"not the images that runs/new was begun with, 1 .*new.*cat/new\.png"):
        train(moved, QUIET)
    Path("moved/train/cat/new.png").unlink()
    assert train(moved, QUIET).facts("train")["epoch"] == 2


def test_init_from_another_space_is_refused() -> None:
    old = train(tiny_recipe("train.epochs=1"), QUIET)
    with assert_stops(UserError, match=r"--init .*: weights of another search space"):
        train(folder_recipe("space.stem.width=[16]"), QUIET, init=old.path)
    assert not Path("runs/new").exists()


@pytest.mark.parametrize("steps", [None, 1])
def test_init_from_what_is_no_run_or_has_no_checkpoint(steps: int | None) -> None:
    if steps is not None:
        interrupted(steps)
    said = "no run there" if steps is None else "no checkpoint; train first"
    with assert_stops(UserError, match=said):
        train(folder_recipe(), QUIET, init=Path("runs/tiny"))
    assert not Path("runs/new").exists()


def test_a_run_stopped_early_is_the_latest_not_the_one_that_it_started_from() -> None:
    old = train(tiny_recipe("train.epochs=1"), QUIET)
    with pytest.raises(KeyboardInterrupt):
        train(folder_recipe(), Interrupting(1), init=old.path)
    assert Run.latest().path == Path("runs/new")


# -- damage


@pytest.mark.parametrize("damage", [lambda data: data[:1000], lambda data: b"", lambda data: data[:-30] + b"x" * 30])
def test_a_damaged_checkpoint_is_named_and_the_one_before_serves(
    damage: Any, undisturbed: tuple[dict[str, Any], Lines], stopped_late: Run, capsys: pytest.CaptureFixture[str]
) -> None:
    assert names(stopped_late) == ["epoch-000001.pt", "epoch-000002.pt"]
    newest = Checkpoints(stopped_late.checkpoints).latest()
    newest.write_bytes(damage(newest.read_bytes()))
    assert_same(outcome(train(tiny_recipe(), Progress())), undisturbed)
    said = capsys.readouterr().err
    assert "runs/tiny/checkpoints/epoch-000002.pt is damaged, and lies aside as epoch-000002.pt.damaged" in said
    assert "resumed after epoch 1 of 3" in said


@pytest.mark.parametrize(
    "change",
    [
        {"optimizer": {}},
        {"optimizer": [1]},
        {"epoch": "two"},
        {"epoch": None},
        {"epoch": -1},
        {"optimizer": {"state": {0: {"momentum_buffer": torch.zeros(3)}}}},
        {"optimizer": {"state": {1: {"momentum_buffer": torch.full((8,), float("nan"))}}}},
    ],
)
def test_a_checkpoint_with_a_foreign_optimizer_is_named(change: dict[str, Any], stopped: Run) -> None:
    newest = Checkpoints(stopped.checkpoints).latest()
    content = torch.load(newest, weights_only=True)
    if "state" in change.get("optimizer", ()):
        change = {"optimizer": {**content["optimizer"], **change["optimizer"]}}
    torch.save({**content, **change}, newest)
    with pytest.raises(UserError, match=r"epoch-000001\.pt: damaged; delete it"):
        train(tiny_recipe(), QUIET)


def test_a_checkpoint_under_a_wrong_name_is_refused(stopped: Run) -> None:
    newest = Checkpoints(stopped.checkpoints).latest()
    newest.rename(newest.with_name("epoch-000003.pt"))
    with pytest.raises(UserError, match=r"epoch-000003\.pt: holds the state of epoch-000001\.pt; give it that name"):
        train(tiny_recipe(), QUIET)


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("rubbish", "line 2 is damaged"),
        ("[1]", "line 2 holds no JSON object"),
        ('{"epoch": "2"}', 'line 2: epoch is "2"'),
        ("{}", "line 2: epoch is missing"),
        ('{"epoch": 2, "validation": {}}', "line 2: validation is {}"),
        ('{"epoch": 2, "validation": {"smallest": 1}}', "line 2: validation.smallest is 1"),
        ('{"epoch": 2, "validation": {"smallest": {}}}', "line 2: validation.smallest.top1 is missing"),
    ],
)
def test_damaged_metrics_are_named(line: str, said: str, stopped_late: Run) -> None:
    first = stopped_late.metrics.read_text().splitlines()[0]
    stopped_late.metrics.write_text(f"{first}\n{line}\n")
    with pytest.raises(UserError) as caught:
        train(tiny_recipe(), QUIET)
    assert typed(caught.value).startswith(f"runs/tiny/metrics.jsonl: {said}")
    assert typed(caught.value).endswith("remove that line")


def test_metrics_of_the_last_epoch_that_are_lost_are_named(monkeypatch: pytest.MonkeyPatch) -> None:
    def killed(*given: Any) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(Run, "finish", killed)
        with pytest.raises(KeyboardInterrupt):
            train(tiny_recipe("train.epochs=1"), QUIET)
    Path("runs/tiny/metrics.jsonl").unlink()
    with pytest.raises(
        UserError, match=r"metrics\.jsonl: the line of epoch 1 is lost; .* delete that epoch's checkpoint"
    ):
        train(tiny_recipe("train.epochs=1"), QUIET)
    Path("runs/tiny/checkpoints/epoch-000001.pt").unlink()
    assert train(tiny_recipe("train.epochs=1"), QUIET).facts("train")["epoch"] == 1


def test_a_network_without_finite_logits_is_validated_too(monkeypatch: pytest.MonkeyPatch) -> None:
    def scored(self: Evaluator, arch: Arch, first: int = 0, end: int | None = None) -> Score:
        return Score(TOP1, 0.1, 0.1, 9, float("nan"))

    monkeypatch.setattr(Evaluator, "__call__", scored)
    facts = train(tiny_recipe("train.epochs=1"), QUIET).facts("train")
    assert facts["validation"]["smallest"]["cross_entropy"] is None


def test_an_unfinished_line_of_metrics_is_written_anew(
    undisturbed: tuple[dict[str, Any], Lines], stopped_late: Run
) -> None:
    with stopped_late.metrics.open("a") as file:
        file.write('{"epoch": 3, "loss')
    assert_same(outcome(train(tiny_recipe(), QUIET)), undisturbed)


def refusal(*assignments: str, **options: Any) -> str:
    with pytest.raises(UserError) as caught:
        train(tiny_recipe(*assignments), QUIET, **options)
    assert "\n" not in typed(caught.value)
    return typed(caught.value)


def test_a_training_whose_weights_explode_blames_the_learning_rate() -> None:
    said = refusal(
        "train.learning_rate=100", "train.reference_batch=1", "train.warmup_epochs=0", "train.clip_value=null"
    )
    assert "outputs were not finite" in said or "(gradient)" in said
    assert said.endswith("; lower train.learning_rate and start anew with --restart")


def test_a_distillation_that_overflows_is_named_and_not_the_learning_rate() -> None:
    said = refusal("train.distillation={kind: kl, temperature: 1.0e-40}", "train.most_skipped=2")
    assert said == (
        "training diverged in epoch 1: not finite for 3 steps in a row: distillation loss of the random networks, "
        "though their outputs were finite; change train.distillation (kind, temperature, alpha_min, alpha_max, clip) "
        "and start anew with --restart"
    )
    assert names(Run.open(Path("runs/tiny"))) == []


def test_networks_that_overflow_in_the_first_step_do_not_blame_the_learning_rate(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def enormous(supernet: Supernet, path: Path, **options: object) -> None:
        supernet.load_state_dict({name: 1e30 * value for name, value in supernet.state_dict().items()})

    monkeypatch.setattr("nasdeploy.workflows.start.initialise", enormous)
    monkeypatch.setattr("nasdeploy.workflows.start.require_initialises", lambda *given, **options: None)
    Path("w.pt").touch()
    said = refusal("train.most_skipped=0", init=Path("w.pt"))
    assert said.startswith("training diverged in epoch 1: not finite: ")
    assert "no step was made before, so that it lies in the weights: " in said
    assert "start from others (--init)" in said


def broken(monkeypatch: pytest.MonkeyPatch, steps: Container[int], network: str = "random") -> None:
    """Let the loss and all gradients of these steps of a process (the first is 1) be infinite."""
    step, calls = SandwichStep.__call__, []

    def perhaps_broken(*given: Any) -> Any:
        calls.append(given)
        losses = step(*given)
        if len(calls) not in steps:
            return losses
        for parameter in given[0].supernet.parameters():
            if parameter.grad is not None:
                parameter.grad.fill_(float("nan"))
        return Losses({**losses.by_role, network: float("inf")})

    monkeypatch.setattr(SandwichStep, "__call__", perhaps_broken)


def test_more_than_a_few_skipped_steps_end_a_training_whatever_their_order(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every third of 20 steps, never two in a row."""
    broken(monkeypatch, range(3, 100, 3), "largest")
    said = refusal("train.epochs=5", "train.validate_every=5")
    assert said.startswith(
        "training diverged in epoch 3: 4 of 20 steps were skipped: 4 in epochs 1 to 3 (label loss of the largest "
        "network), and at most 3 may be; lower train.learning_rate"
    )


def test_skipped_steps_are_counted_across_interruptions(monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as patch:
        broken(patch, (2, 4, 6))
        interrupted(2 * STEPS_PER_EPOCH + 1)
    broken(monkeypatch, (2,))
    said = refusal()
    assert "4 of 12 steps were skipped: 4 in epochs 1 to 3 (distillation loss of the random networks" in said


def test_a_few_skipped_steps_are_told_at_the_end(
    monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    broken(monkeypatch, (3, 6))
    run = train(tiny_recipe(), Progress())
    reason = "distillation loss of the random networks, though their outputs were finite"
    told = f"train: 2 of 12 steps were skipped: 2 in epochs 1 to 2 ({reason})"
    assert told in capfd.readouterr().err.splitlines()
    facts = run.facts("train")
    assert facts["steps"] == 12
    assert facts["skipped"] == [{"epoch": epoch, "reason": reason, "steps": 1} for epoch in (1, 2)]
    assert [line["skipped"] for line in lines_of(run)] == [{reason: 1}, {reason: 1}, {}]


def test_a_step_that_is_not_finite_is_skipped_and_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    broken(monkeypatch, (3,))
    run = train(tiny_recipe(), QUIET)
    assert [line["skipped_steps"] for line in lines_of(run)] == [1, 0, 0]
    content, _ = outcome(run)
    assert all(torch.isfinite(value).all() for value in content["weights"].values())


@pytest.mark.parametrize("steps", [1, 3, 6, 11])
def test_a_run_stopped_between_checkpoints_goes_on_from_the_last_step(
    steps: int, undisturbed: tuple[dict[str, Any], Lines]
) -> None:
    often = tiny_recipe("train.checkpoint_steps=1", "train.kept_checkpoints=3")
    run = interrupted(steps, often)
    position = (steps - 1) // STEPS_PER_EPOCH, (steps - 1) % STEPS_PER_EPOCH
    if steps > 1:
        newest = names(run)[-1]
        assert newest == f"epoch-{position[0]:06d}" + (f"-step-{position[1]:06d}" if position[1] else "") + ".pt"
    assert_same(outcome(train(often, QUIET)), undisturbed)


def test_asked_to_stop_saves_and_says_so(undisturbed: tuple[dict[str, Any], Lines]) -> None:
    class Terminating(Interrupting):
        @contextmanager
        def task(self, name: str, total: int, done: int = 0) -> Iterator[Work]:
            yield Work(done, lambda done, note: os.kill(os.getpid(), signal.SIGTERM) if done == 5 else None)

    with pytest.raises(Terminated, match="saved after epoch 1 and 2 steps more") as caught:
        train(tiny_recipe(), Terminating(5))
    assert caught.value.exit_code == 75
    assert names(Run.open(Path("runs/tiny"))) == ["epoch-000001.pt", "epoch-000001-step-000002.pt"]
    assert_same(outcome(train(tiny_recipe(), QUIET)), undisturbed)


@pytest.mark.parametrize("links", [True, False])
def test_the_best_epoch_is_marked(links: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    accuracies = iter([0.3, 0.5, 0.4])

    def validation(*given: Any) -> dict[str, Any]:
        return {"smallest": {"top1": next(accuracies)}}

    def no_links(*given: Any) -> None:
        raise PermissionError

    if not links:
        monkeypatch.setattr("os.link", no_links)
    monkeypatch.setattr(Validation, "__call__", validation)
    run = train(tiny_recipe("train.kept_checkpoints=1"), QUIET)
    assert names(run) == ["epoch-000003.pt"]
    assert torch.load(run.checkpoints / "best.pt", weights_only=True)["epoch"] == 2
