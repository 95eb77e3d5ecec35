"""Training with a teacher from outside the supernet, from the recipe on."""

import json
import re
import shlex
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torchvision
from onnx import TensorProto, numpy_helper
from PIL import Image

from nasdeploy.cli.wording import typed
from nasdeploy.core.errors import UserError
from nasdeploy.core.progress import Progress
from nasdeploy.data.datasets import open_data
from nasdeploy.data.transforms import draw_sample, normalise
from nasdeploy.nn.functional import rescale
from nasdeploy.recipe import Recipe, load_recipe
from nasdeploy.store.run import Run
from nasdeploy.supernet.weights import load_supernet
from nasdeploy.training.checkpoint import Checkpoints
from nasdeploy.training.trial import Trial
from nasdeploy.workflows import train as step
from nasdeploy.workflows.teacher import load_teacher
from tests.training.colours import DARKNESS, write_colours, write_teacher
from tests.training.recipes import CONTENT, tiny_recipe

CPU = torch.device("cpu")
CLASSES = tuple(str(digit) for digit in range(10))
TEACHER = "train.distillation.teacher"
WEIGHTS = "train.distillation.teacher_weights"
LEARNING = (
    "train.epochs=4",
    "train.learning_rate=4",
    "data.images_per_class=60",
    "train.random_networks=0",
    "train.validate_every=4",
    "train.validate_random=0",
)
"""What lets the tiny run learn more than to guess."""


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
        return Run.open(train(tiny_recipe("name=teacher", *LEARNING)).path.absolute())


@pytest.fixture(autouse=True)
def _inside(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def refusal(*assignments: str) -> str:
    with pytest.raises(UserError) as caught:
        load_teacher(tiny_recipe(*assignments), CLASSES, 4, CPU)
    return typed(caught.value)


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
    other = refusal(place, "data.mean=[0.5, 0.5, 0.5]")
    assert other.endswith("; set train.distillation.teacher_mean and teacher_std to that")
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
        ([f"{TEACHER}=resnet50"], "write largest, original, run:DIR, torchvision:NAME or onnx:FILE"),
        ([f"{TEACHER}='run:'"], "write largest, original, run:DIR, torchvision:NAME or onnx:FILE"),
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
    assert said in typed(caught.value)


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


# -- teachers that are wrong, or read wrongly

NUMBERS = tuple(sorted(str(number) for number in range(1, 13)))


@pytest.fixture
def colours() -> Path:
    """Twelve classes of plain colours, called 1 to 12."""
    return write_colours(Path("colours").absolute(), NUMBERS)


def colour_recipe(teacher: Path, *assignments: str, epochs: int = 1) -> Recipe:
    data = f"data={{kind: folder, path: {Path('colours').absolute()}, size: 8, workers: 0, augment: {{crop: none}}}}"
    brief = (f"train.epochs={epochs}", "train.batch_size=8", "train.validate_random=0")
    return tiny_recipe(data, *brief, f"{TEACHER}=onnx:{teacher.absolute()}", *assignments)


def said_of(teacher: Path, *assignments: str) -> str:
    """The refusal of a training that has not begun."""
    with pytest.raises(UserError) as caught:
        train(colour_recipe(teacher, *assignments))
    assert not Path("runs").exists()
    assert "\n" not in typed(caught.value)
    start = f"teacher onnx:{teacher.absolute()}: "
    assert typed(caught.value).startswith(start)
    return typed(caught.value).removeprefix(start)


def settings_in(said: str) -> list[str]:
    """The assignments that a refusal offers, as a shell would take them apart."""
    words = shlex.split(said.partition(" with ")[2].partition(": add that")[0])
    assert words[::2] == ["--set"] * (len(words) // 2)
    return words[1::2]


def test_a_teacher_that_is_right_is_shown_and_kept(colours: Path, capfd: pytest.CaptureFixture[str]) -> None:
    teacher = write_teacher(Path("t.onnx"), range(12))
    recipe = colour_recipe(teacher)
    run = step.train(recipe, Path("runs/tiny"), Progress())
    images = len(open_data(recipe.data, recipe.seed).train)
    line = f"teacher: onnx:{teacher.absolute()}, top-1 100.0 % on {images} training images"
    assert line in capfd.readouterr().err.splitlines()
    assert run is not None
    assert run.facts("train")["teacher"] == {"name": f"onnx:{teacher.absolute()}", "top1": 1.0, "images": images}


@pytest.mark.usefixtures("colours")
@pytest.mark.parametrize(
    ("names", "value"),
    [
        ([str(number) for number in range(1, 13)], "natural"),
        (NUMBERS[::-1], "reversed"),
        ((*NUMBERS[3:], *NUMBERS[:3]), json.dumps([*NUMBERS[3:], *NUMBERS[:3]])),
    ],
    ids=["numbers", "reversed", "turned"],
)
def test_another_order_of_classes_is_found_and_the_setting_applies_it(names: Sequence[str], value: str) -> None:
    teacher = write_teacher(Path("t.onnx"), [NUMBERS.index(name) for name in names])
    said = said_of(teacher)
    assert re.match(
        r"top-1 \d\.\d % on \d+ training images, where guessing has \d\.\d %; it has 100\.0 % with --set ", said
    )
    assert settings_in(said) == [f"train.distillation.teacher_classes={value}"]
    recipe = colour_recipe(teacher, *settings_in(said))
    loaded = load_teacher(recipe, NUMBERS, 8, CPU)
    assert loaded is not None
    sample = draw_sample(open_data(recipe.data, 0).train, NUMBERS, recipe.data, 0)
    logits = loaded(normalise(sample.pixels, recipe.data.mean, recipe.data.std))
    assert logits.argmax(1).tolist() == sample.labels.tolist()
    assert train(recipe).facts("train")["teacher"]["top1"] == 1.0


@pytest.mark.usefixtures("colours")
@pytest.mark.parametrize("dtype", [TensorProto.FLOAT, TensorProto.UINT8])
def test_a_teacher_of_0_to_255_with_a_softmax_and_a_fixed_batch(dtype: int) -> None:
    teacher = write_teacher(
        Path("t.onnx"),
        range(11, -1, -1),
        batch=5,
        mean=(0, 0, 0),
        std=(1 / 255,) * 3,
        dtype=dtype,
        ending=[("Softmax", ("y",), "z")],
        outputs=("z",),
    )
    said = said_of(teacher)
    assert said.startswith("gives probabilities, and has top-1 ")
    assert [assignment.partition("=")[0].rpartition("_")[2] for assignment in settings_in(said)] == [
        "classes",
        "outputs",
        "mean",
        "std",
    ]
    recipe = colour_recipe(teacher, *settings_in(said))
    assert train(recipe).facts("train")["teacher"]["top1"] == 1.0
    loaded = load_teacher(recipe, NUMBERS, 8, CPU)
    assert loaded is not None
    images = torch.randn(7, 3, 8, 8)
    torch.testing.assert_close(loaded(images).exp().sum(1), torch.ones(7), rtol=1e-4, atol=1e-4)


@pytest.mark.usefixtures("colours")
def test_a_teacher_that_knows_nothing() -> None:
    constant = write_teacher(Path("t.onnx"), range(12), ending=[("Sub", ("y", "y"), "z")], outputs=("z",))
    said = said_of(constant)
    assert re.match(r"top-1 \d\.\d % on \d+ training images, where guessing has \d\.\d %, and the same numbers ", said)
    assert "there is nothing to learn from it; choose another" in said


@pytest.mark.usefixtures("colours")
def test_images_for_which_a_teacher_gives_no_numbers_are_named(monkeypatch: pytest.MonkeyPatch) -> None:
    """Two of them are black, of whose brightness the teacher takes the logarithm."""
    black = [Path(f"colours/train/7/0{number}.png").absolute() for number in (2, 5)]
    for path in black:
        Image.new("RGB", (8, 8)).save(path)
    teacher = write_teacher(
        Path("t.onnx"),
        range(12),
        mean=(0, 0, 0),
        std=(1, 1, 1),
        ending=DARKNESS,
        outputs=("z",),
        values=[numpy_helper.from_array(np.array([1]), "axes")],
    )
    own = ("train.distillation.teacher_mean=[0, 0, 0]", "train.distillation.teacher_std=[1, 1, 1]", "data.holdout=0.01")
    trained_on = [str(path) for path in open_data(colour_recipe(teacher, *own).data, 0).train._paths if path in black]
    assert trained_on
    said = said_of(teacher, *own)
    assert said.startswith("gives numbers that are not finite for ")
    for path in trained_on:
        assert path in said
    # Where the images that are tried do not hold them, the step does.
    monkeypatch.setattr("nasdeploy.workflows.teacher.try_teacher", lambda *given: Trial(1, 1, 0.1))
    with pytest.raises(UserError) as caught:
        train(colour_recipe(teacher, *own, epochs=2))
    assert re.search(r"numbers that are not finite for \S+/7/0[25]\.png", typed(caught.value))
    assert re.search(r"\(of the 8 of step \d+ of epoch [12]\)", typed(caught.value))


def test_settings_of_a_teacher_need_one() -> None:
    for assignment in ("teacher_classes=natural", "teacher_outputs=probabilities"):
        with pytest.raises(UserError, match="has an effect only with a teacher of its own, and teacher is largest"):
            tiny_recipe(f"train.distillation.{assignment}")
    with pytest.raises(UserError, match="teacher_mean and teacher_std go together; write both"):
        tiny_recipe(f"{TEACHER}=onnx:x", "train.distillation.teacher_mean=[0, 0, 0]")
    with pytest.raises(UserError, match=r"teacher_classes: not the 10 classes .* \('0' is missing\)"):
        load_teacher(tiny_recipe(f"{TEACHER}=onnx:x", "train.distillation.teacher_classes=[a, b]"), CLASSES, 4, CPU)
