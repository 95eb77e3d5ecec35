"""Training with a teacher from outside the supernet, from the recipe on."""

from pathlib import Path
from typing import Any

import pytest
import torch
import torchvision

from nasdeploy.errors import UserError
from nasdeploy.nn.rescale import rescale
from nasdeploy.progress import Progress
from nasdeploy.recipe import Recipe, load_recipe
from nasdeploy.steps import train as step
from nasdeploy.steps.teacher import load_teacher
from nasdeploy.store.run import Run
from nasdeploy.supernet.weights import load_supernet
from nasdeploy.train.checkpoint import Checkpoints
from tests.train.recipes import CONTENT, tiny_recipe

CPU = torch.device("cpu")
CLASSES = tuple(str(digit) for digit in range(10))
TEACHER = "train.distillation.teacher"
WEIGHTS = "train.distillation.teacher_weights"


def train(recipe: Recipe, **options: Any) -> Run:
    return step.train(recipe, step.default_directory(recipe), Progress(quiet=True), **options)


@pytest.fixture
def weights(tmp_path: Path) -> Path:
    """Of a torchvision model with ten classes."""
    path = tmp_path / "squeezenet.pth"
    torch.save(torchvision.models.squeezenet1_1(weights=None, num_classes=10).state_dict(), path)
    return path


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Run:
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(tmp_path_factory.mktemp("teacher"))
        return Run.open(train(tiny_recipe("train.epochs=1", "name=teacher")).path.absolute())


@pytest.fixture(autouse=True)
def _inside(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def refusal(*assignments: str) -> str:
    with pytest.raises(UserError) as caught:
        load_teacher(tiny_recipe(*assignments), CLASSES, 4, CPU)
    return str(caught.value)


def test_without_a_teacher_the_largest_network_teaches() -> None:
    assert load_teacher(tiny_recipe(), CLASSES, 4, CPU) is None


def test_a_run_teaches_with_its_largest_network_by_batch_statistics(finished: Run) -> None:
    recipe = tiny_recipe(f"{TEACHER}=run:{finished.path}")
    teacher = load_teacher(recipe, CLASSES, 4, CPU)
    assert teacher is not None
    space = recipe.load_space(10)
    supernet = load_supernet(Checkpoints(finished.checkpoints).latest(), space)
    images = torch.randn(4, 3, 8, 8)
    with torch.no_grad():
        torch.testing.assert_close(teacher(images), supernet(rescale(images, 10), space.largest()))


def test_training_learns_from_another_teacher(finished: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    given = train(tiny_recipe("train.epochs=1", "name=a", f"{TEACHER}=run:{finished.path}"))
    plain = train(tiny_recipe("train.epochs=1", "name=b"))
    a, b = (torch.load(Checkpoints(run.checkpoints).latest(), weights_only=True)["weights"] for run in (given, plain))
    assert any(not torch.equal(a[name], b[name]) for name in a)
    again = train(tiny_recipe("train.epochs=1", "name=a", f"{TEACHER}=run:{finished.path}"), restart=True)
    same = torch.load(Checkpoints(again.checkpoints).latest(), weights_only=True)["weights"]
    assert all(torch.equal(a[name], same[name]) for name in a)


def test_a_run_that_does_not_fit_is_refused(finished: Run) -> None:
    place = f"{TEACHER}=run:{finished.path}"
    assert refusal(f"{TEACHER}=run:nowhere").startswith("nowhere: no run there")
    assert "set data.mean and data.std to that" in refusal(place, "data.mean=[0.5, 0.5, 0.5]")
    with pytest.raises(UserError, match=r"it learned the classes 0, 1, .*, and the data have ant, bee"):
        load_teacher(tiny_recipe(place), ("ant", "bee"), 4, CPU)


def test_an_unfinished_run_does_not_teach() -> None:
    recipe = tiny_recipe()
    run = Run.create(
        Path("runs"), "half", recipe=recipe.to_json(), space=recipe.load_space(10).digest, classes=CLASSES, seed=0
    )
    assert "'nasdeploy train' has not finished" in refusal(f"{TEACHER}=run:{run.path}")


def test_a_teacher_that_does_not_fit_ends_training_before_it_begins(weights: Path) -> None:
    assignments = [f"{TEACHER}=torchvision:squeezenet1_1", f"{WEIGHTS}={weights}"]
    with pytest.raises(UserError, match="torchvision:squeezenet1_1: refuses batches of shape 25x3x8x8"):
        train(tiny_recipe(*assignments))
    assert not Path("runs/tiny").exists()


def test_a_model_of_torchvision_teaches(weights: Path) -> None:
    recipe = tiny_recipe(f"{TEACHER}=torchvision:squeezenet1_1", f"{WEIGHTS}={weights}", "data.size=32")
    teacher = load_teacher(recipe, CLASSES, 4, CPU)
    assert teacher is not None
    assert teacher(torch.randn(4, 3, 32, 32)).shape == (4, 10)


# -- what a recipe may say


@pytest.mark.parametrize(
    ("assignments", "said"),
    [
        ([f"{TEACHER}=resnet50"], "write largest, run:DIR, torchvision:NAME or onnx:FILE"),
        ([f"{TEACHER}='run:'"], "write largest, run:DIR, torchvision:NAME or onnx:FILE"),
        ([f"{TEACHER}=torchvision:resnet50"], "teacher: torchvision:NAME and teacher_weights: FILE go together"),
        ([f"{WEIGHTS}=x.pth"], "teacher: torchvision:NAME and teacher_weights: FILE go together"),
        ([f"{TEACHER}=onnx:x", "train.distillation.kind=none"], "teacher has an effect only with kind: alpha or kl"),
        (["train.distillation.temperature=2"], "temperature has an effect only with kind: kl, and kind is alpha"),
        (
            ["train.distillation.kind=none", "train.distillation.beta=0.9"],
            "beta has an effect only with kind: alpha or kl",
        ),
        (["train.distillation.beta=0"], "train.distillation.beta is 0: input should be greater than 0"),
    ],
)
def test_mistakes_are_refused(assignments: list[str], said: str) -> None:
    with pytest.raises(UserError) as caught:
        tiny_recipe(*assignments)
    assert said in str(caught.value)


def test_paths_of_teachers_become_absolute(tmp_path: Path) -> None:
    import yaml

    Path("mine.yaml").write_text(yaml.safe_dump(CONTENT))

    def teacher(*assignments: str) -> tuple[str, str | None]:
        found = load_recipe("mine.yaml", assignments).train.distillation
        return found.teacher, found.teacher_weights

    assert teacher() == ("largest", None)
    assert teacher(f"{TEACHER}=run:runs/x") == (f"run:{tmp_path}/runs/x", None)
    assert teacher(f"{TEACHER}=onnx:x.onnx") == (f"onnx:{tmp_path}/x.onnx", None)
    assert teacher(f"{TEACHER}=torchvision:vgg11", f"{WEIGHTS}=w.pth") == ("torchvision:vgg11", f"{tmp_path}/w.pth")
