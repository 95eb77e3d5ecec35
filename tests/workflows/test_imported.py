"""A published supernet as a run like any other: made, refused, evaluated, searched, exported and started from."""

from collections.abc import Callable
from pathlib import Path

import pytest

import nasdeploy as nd
from nasdeploy.core.errors import UserError
from nasdeploy.core.progress import Progress
from nasdeploy.exporting.manifest import OWN_STATISTICS
from nasdeploy.importers.layouts import PUBLISHED
from nasdeploy.initial_recipe import from_run
from nasdeploy.recipe import recipe_of, space_of
from nasdeploy.store.checkpoints import trained_weights
from nasdeploy.supernet.weights import load_supernet
from nasdeploy.workflows.evaluate import evaluate, request_comparison
from tests.data.pictures import write_folder
from tests.hasty import measure_hastily
from tests.importers import published_alphanet as alphanet
from tests.importers.hostile_import import HEAD, SMALL, small_state
from tests.importers.published_files import difference, thousand_classes

FEW = {"recalibration.batch_size": 4, "recalibration.batches": 1, "recalibration.search_batches": 1}
SEARCH = {**FEW, "search.rounds": 1, "search.parents": 4, "search.mutations": 2, "search.crossovers": 2}


@pytest.fixture
def file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[int], Path]:
    """Return what writes a small supernet of so many classes in AlphaNet's layout; the working directory is empty."""
    monkeypatch.setitem(PUBLISHED, "alphanet", SMALL)
    monkeypatch.chdir(tmp_path)
    measure_hastily(monkeypatch)

    def written(classes: int) -> Path:
        state = small_state()
        state |= {f"{HEAD}.{part}": state[f"{HEAD}.{part}"][:classes] for part in ("weight", "bias")}
        return alphanet.write_file(Path("small.pth.tar"), state)

    return written


@pytest.fixture
def images(tmp_path: Path) -> Path:
    classes = ("ant", "bee", "cat")
    return write_folder(
        tmp_path / "images", {"train": dict.fromkeys(classes, 8), "test": dict.fromkeys(classes, 2)}, 12
    )


def test_a_run_without_images_is_finished_and_knows_where_its_weights_are_from(file: Callable[[int], Path]) -> None:
    run = nd.import_supernet("alphanet", file(1000), out="runs/small")
    recipe = recipe_of(run)
    assert (recipe.name, recipe.space, recipe.images.path) == ("small", "digits", f"{Path.cwd()}/imagenet")
    assert (recipe.images.size, recipe.images.resize) == (224, 256)
    assert (run.manifest.classes, run.manifest.output_size) == ((), 1000)
    origin = run.facts("train")["imported"]
    assert (origin["kind"], origin["file"]) == ("alphanet", "small.pth.tar")
    supernet = load_supernet(trained_weights(run).path, space_of(run))
    for key, tensor in small_state().items():
        own = next(name for name, published in SMALL.names(supernet.state_dict()).items() if published == key)
        assert supernet.state_dict()[own].equal(tensor)
    with pytest.raises(UserError, match="training is finished"):
        nd.train(recipe, run=run.path)
    with pytest.raises(UserError, match="imagenet: "):
        nd.export(run, space_of(run).smallest(), recalibrate=False)


def test_what_is_there_already_is_refused(file: Callable[[int], Path]) -> None:
    first = nd.import_supernet("alphanet", file(1000), out="runs/small")
    with pytest.raises(UserError, match="another directory with `out`, or `restart=True` to replace it"):
        nd.import_supernet("alphanet", file(1000), out="runs/small")
    again = nd.import_supernet("alphanet", file(1000), out="runs/small", restart=True)
    assert trained_weights(again).facts.epoch == 0
    assert again.path == first.path
    Path("other").mkdir()
    Path("other/x").touch()
    with pytest.raises(UserError, match="other: holds files but no run"):
        nd.import_supernet("alphanet", file(1000), out="other")
    assert sorted(path.name for path in Path().iterdir()) == ["other", "runs", "small.pth.tar"]
    assert [path.name for path in Path("runs").iterdir()] == ["small"]


def test_other_classes_than_those_of_the_data_are_refused(file: Callable[[int], Path], images: Path) -> None:
    with pytest.raises(
        UserError, match=r"tells 5 classes apart, and ImageNet has 1000; give the folder .* with `data`"
    ):
        nd.import_supernet("alphanet", file(5), out="run")
    with pytest.raises(UserError, match=r"tells 5 classes apart, and .*/images has 3; .*`nd.init\(start=alphanet:FILE"):
        nd.import_supernet("alphanet", file(5), out="run", data=images)
    assert not Path("run").exists()
    run = nd.import_supernet("alphanet", file(1000), out="run")
    with pytest.raises(UserError, match=r"data: 3 classes, and the weights that run was imported with tell 1000 apart"):
        nd.export(run, space_of(run).smallest(), data=images)
    with pytest.raises(UserError, match=r"`set=space=.cifar10.`: the file says the space"):
        nd.import_supernet("alphanet", file(1000), out="other", changes={"space": "cifar10"})


@pytest.mark.slow
def test_later_steps_take_it_as_any_run(file: Callable[[int], Path], images: Path) -> None:
    run = nd.import_supernet("alphanet", file(3), out="runs/small", data=images)
    assert run.manifest.classes == ("ant", "bee", "cat")
    result = nd.search(run, changes=SEARCH, macs_m=1.0)
    assert result.winner.costs["macs"] <= 1e6
    exported = nd.export(run, changes=FEW)
    assert exported.manifest.digest == result.winner.digest
    assert exported.manifest.recalibration != OWN_STATISTICS


@pytest.mark.slow
def test_images_may_be_given_later(file: Callable[[int], Path], images: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("nasdeploy.workflows.start.IMAGENET_CLASSES", 3)
    run = nd.import_supernet("alphanet", file(3), out="runs/small")
    exported = nd.export(run, space_of(run).smallest(), data=images, recalibrate=False)
    assert (exported.manifest.labels, exported.manifest.recalibration) == (("ant", "bee", "cat"), OWN_STATISTICS)
    changes = [f"{key}={value}" for key, value in FEW.items()]
    compared = evaluate(request_comparison([run.path], 2, 1, changes, str(images)), None, Progress(True))
    assert compared["runs"][0]["run"] == str(run.path)


def test_a_recipe_begins_with_it(
    file: Callable[[int], Path], images: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(from_run, "seconds_per_image", lambda *given: 0.01)
    recipe = nd.init(images, start=f"alphanet:{file(1000)}", hours=0.01, out="recipe.yaml", progress=Progress())
    assert "a new classifier of 3 classes takes the place of that of 1000" in capsys.readouterr().err
    assert recipe.start is not None
    assert recipe.start.model == f"alphanet:{Path.cwd()}/small.pth.tar"
    assert (recipe.space, recipe.images.size, recipe.train.phases[1].sort_channels) == ("digits", 224, None)
    assert recipe.train.phases[0].classifier_rate == 3.0
    none = {f"train.phases.{number}.epochs": 0 for number in (0, 1)}
    run = nd.train("recipe.yaml", changes=none)
    weights = load_supernet(trained_weights(run).path, space_of(run)).state_dict()
    names, given = SMALL.names(weights), small_state()
    differing = [name for key, name in names.items() if not weights[key].equal(given[name])]
    assert differing == [f"{HEAD}.weight", f"{HEAD}.bias"]
    nd.init(images, start=f"alphanet:{file(3)}", hours=0.01, progress=Progress())
    assert "small.pth.tar is kept: its classes must be the folder's, in the same order" in capsys.readouterr().err


# -- AlphaNet at its full size


@pytest.mark.slow
def test_a_network_that_is_exported_computes_what_was_published(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    measure_hastily(monkeypatch)
    tensors = alphanet.state_dict()
    file = alphanet.write_file(tmp_path / "alphanet.pth.tar", tensors)
    run = nd.import_supernet("alphanet", file, out=tmp_path / "run", data=thousand_classes(tmp_path / "imagenet"))
    exported = nd.export(run, "a0", recalibrate=False)
    assert difference(exported.models[0], lambda images: alphanet.forward(tensors, "a0", images)) <= 1e-4
