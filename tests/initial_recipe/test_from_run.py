"""First recipes that start from a trained run."""

import re
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

import nasdeploy as nd
from nasdeploy.core.errors import UserError
from nasdeploy.core.progress import Progress
from nasdeploy.data.settings import AugmentSettings
from nasdeploy.initial_recipe import from_run
from nasdeploy.initial_recipe.from_run import open_run, run_draft
from nasdeploy.initial_recipe.text import check, recipe_text
from nasdeploy.recipe import Recipe, load_recipe, parse_recipe, recipe_of
from nasdeploy.store.checkpoints import trained_weights
from nasdeploy.store.files import write_json
from nasdeploy.store.run import Run
from nasdeploy.supernet import weights
from nasdeploy.supernet.settings import StartSettings
from nasdeploy.supernet.supernet import Supernet
from nasdeploy.workflows.start import beginning
from tests.data.pictures import write_folder
from tests.initial_recipe.drafts import summary
from tests.small_spaces import grown
from tests.training.recipes import CONTENT
from tests.training.test_trainer import assert_same
from tests.workflows.runs import SPACE, trained_run

START = StartSettings(model="run:runs/x")
CLASSES = ("ant", "bee", "cat")


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Run:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(from_run, "seconds_per_image", lambda *given: 0.01)
    return trained_run(tmp_path)


def begun(recipe: Recipe, labels: Sequence[str]) -> dict[str, Any]:
    """Return the weights that a training begins with."""
    supernet = Supernet(SPACE)
    beginning(recipe, SPACE, labels, None, None)(supernet)
    return dict(supernet.state_dict())


def test_a_recipe_has_the_runs_space_weights_and_preprocessing(run: Run, tmp_path: Path) -> None:
    out = tmp_path / "recipe.yaml"
    recipe, theirs = nd.init("images", start="run:runs/x", hours=0.01, out=out), recipe_of(run)
    assert load_recipe(str(out)) == recipe
    assert recipe.start == StartSettings(model=f"run:{tmp_path}/runs/x")
    assert recipe.space == theirs.space
    for name in ("size", "resize", "mean", "std", "augment"):
        assert getattr(recipe.images, name) == getattr(theirs.images, name)
    # Its networks were trained with their channels where they are.
    assert [(phase.name, phase.sort_channels) for phase in recipe.train.phases] == [
        ("original", None),
        ("elastic", None),
    ]
    assert recipe.train.original_phase == 0
    assert recipe.finetune.epochs > 0
    none = {f"train.phases.{number}.epochs": 0 for number in (0, 1)}
    trained = nd.train(out, changes=none)
    before, after = (weights.read(trained_weights(each).path)["weights"] for each in (run, trained))
    assert_same(dict(after), dict(before))
    assert_same(begun(recipe, CLASSES), dict(before))
    other = begun(recipe, ("ant", "bee", "dog"))
    differing = {name for name, tensor in before.items() if not other[name].equal(tensor)}
    assert differing == {"weights.head.classifier.weight", "weights.head.classifier.bias"}


@pytest.mark.parametrize(
    ("classes", "classifier", "rate", "told"),
    [
        (CLASSES, "keep", 1.0, "the classifier of /.*/runs/x is kept: it learned the same classes"),
        (
            ("ant", "bee", "dog"),
            "new",
            3.0,
            "a new classifier is begun: the classes of /.*/runs/x are others than those",
        ),
        (("ant", "bee"), "new", 3.0, "a new classifier of 2 classes takes the place of that of 3"),
    ],
)
def test_the_classifier_is_kept_for_the_same_classes(
    classes: Sequence[str], classifier: str, rate: float, told: str, run: Run, capsys: pytest.CaptureFixture[str]
) -> None:
    write_folder(Path("x"), {"train": dict.fromkeys(classes, 12)}, side=11)
    recipe = nd.init("x", start="run:runs/x", progress=Progress())
    assert recipe.start is not None
    assert (recipe.start.classifier, recipe.train.phases[0].classifier_rate) == (classifier, rate)
    said = capsys.readouterr().err
    (line,) = (line for line in said.splitlines() if "classifier" in line)
    assert re.match(told, line)
    # Another name than that of the run, which it would take the place of.
    assert recipe.name == "x-2"


@pytest.mark.parametrize("space", ["digits", CONTENT["space"], grown().settings.model_dump(mode="json")])
def test_every_kind_of_space_is_read_back(space: object, run: Run) -> None:
    theirs = parse_recipe({**CONTENT, "space": space}, "recipe")
    network = replace(open_run(START, CLASSES), recipe=theirs)
    text = recipe_text(run_draft(summary(), START, network, 1.0), "recipe.yaml")
    assert check(text, "recipe.yaml").space == theirs.space


@pytest.mark.parametrize(
    "augment",
    [
        AugmentSettings(crop="pad", pad=3, flip=False, policy="trivial"),
        AugmentSettings(scale=(0.2, 0.9), ratio=(0.5, 2.0), policy="rand-m9-mstd0.5"),
        AugmentSettings(crop="none"),
    ],
)
def test_images_are_augmented_as_in_the_run(augment: AugmentSettings, run: Run) -> None:
    network = open_run(START, CLASSES)
    data = network.recipe.images.model_copy(update={"augment": augment})
    theirs = replace(network, recipe=network.recipe.model_copy(update={"data": data}))
    text = recipe_text(run_draft(summary(), START, theirs, 1.0), "recipe.yaml")
    assert check(text, "recipe.yaml").images.augment == augment


def test_a_largest_network_alone_has_its_channels_sorted(run: Run) -> None:
    network = open_run(START, CLASSES)
    alone = network.recipe.changed(["train.sampling={kind: largest}"])
    text = recipe_text(run_draft(summary(), START, replace(network, recipe=alone), 1.0), "recipe.yaml")
    assert [phase.sort_channels for phase in check(text, "recipe.yaml").train.phases] == [None, "variation"]


def test_a_run_that_cannot_be_started_from_is_refused(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    def refusal(text: str = "run:runs/x") -> str:
        with pytest.raises(UserError) as caught:
            nd.init("images", start=text)
        assert "\n" not in str(caught.value)
        return str(caught.value)

    assert "runs/y: no run there (no manifest.json)" in refusal("run:runs/y")
    with pytest.raises(UserError, match="weights belong to a model of a library"):
        nd.init("images", start="run:runs/x", weights="own.pth")
    begun_with = recipe_of(run)
    for changed, said in (
        (begun_with.model_copy(update={"task": "translation"}), "it learned task translation, and a folder of images"),
        (begun_with.with_space(SPACE), "is a Python object, which no recipe can hold"),
    ):
        with monkeypatch.context() as patch:
            patch.setattr(from_run, "recipe_of", lambda run, changed=changed: changed)
            assert said in refusal()
    checkpoint = trained_weights(run).path
    whole = checkpoint.read_bytes()
    checkpoint.write_bytes(whole[:1000])
    assert "damaged, or not the weights that training ended with" in refusal()
    checkpoint.write_bytes(whole)
    write_json(run.path / "manifest.json", {**run.manifest.model_dump(mode="json"), "finished": {}})
    assert "`nd.train()` has not finished in this run" in refusal()


def test_a_restart_does_not_discard_what_is_started_from(run: Run) -> None:
    recipe = nd.init("images", start="run:runs/x")
    with pytest.raises(UserError, match=r"start.model run:/.*/runs/x: `restart=True` would discard that run"):
        nd.train(recipe, run=run.path, restart=True)
    assert trained_weights(run).path.exists()
