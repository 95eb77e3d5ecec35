"""The range of values that a run is begun with is that of all later steps, whatever the images are by then."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from nasdeploy.core.errors import UserError
from nasdeploy.core.progress import Progress
from nasdeploy.data.datasets import open_data
from nasdeploy.data.settings import Preprocessing
from nasdeploy.exporting.bundle import pictures
from nasdeploy.recipe import Recipe, recipe_of
from nasdeploy.store.run import Run
from nasdeploy.workflows.resume import begun
from nasdeploy.workflows.train import train
from tests.training.recipes import tiny_recipe


class Said(Progress):
    """Keeps what is said."""

    def __init__(self) -> None:
        super().__init__(quiet=True)
        self.lines: list[str] = []

    def say(self, text: str) -> None:
        self.lines.append(text)


@pytest.fixture
def photos(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Pictures as of a thermal camera, of values from 29000 to 31000."""
    monkeypatch.chdir(tmp_path)
    rng = np.random.default_rng(0)
    for label, low in (("cold", 29_000), ("warm", 30_000)):
        (tmp_path / "photos/train" / label).mkdir(parents=True)
        for number in range(12):
            values = rng.integers(low, low + 1001, (8, 8)).astype(np.uint16)
            values[0, :2] = low, low + 1000
            Image.fromarray(values).save(tmp_path / "photos/train" / label / f"{number}.png")
    return tmp_path / "photos"


def recipe(photos: Path, *assignments: str) -> Recipe:
    data = f"data={{kind: folder, path: '{photos}', size: 8, workers: 0, augment: {{crop: none}}}}"
    return tiny_recipe(data, "train.epochs=1", "train.warmup_epochs=0", "train.batch_size=8", *assignments)


def trained(made: Recipe) -> tuple[Run, list[str]]:
    progress = Said()
    run = train(made, Path("runs/x"), progress)
    assert run is not None
    return run, progress.lines


def test_a_measured_range_is_kept_in_the_run(photos: Path) -> None:
    written = recipe(photos, "data.range=measured")
    run, lines = trained(written)
    bounds = run.manifest.range
    assert bounds is not None
    assert bounds == pytest.approx((29_000, 31_000), abs=20)
    assert (
        f"data: black and white of the pictures are {bounds[0]:g} and {bounds[1]:g}, measured on training images"
        in lines
    )
    assert run.manifest.recipe["data"]["range"] == "measured"
    for path in photos.glob("train/*/*"):
        Image.fromarray(np.full((8, 8), 29_500, np.uint16)).save(path)
    later = recipe_of(run)
    assert later.data.range == bounds
    assert begun(written, run.path) is not None
    image, _ = open_data(later.data, 0).train[0]
    assert image.getpixel((0, 0)) == (round((29_500 - bounds[0]) * 255 / (bounds[1] - bounds[0])),) * 3
    steps = Preprocessing.from_settings(later.data, 8)
    deployed = pictures.read_rgb(next(photos.glob("train/*/*")), steps.model_dump(mode="json"))
    assert deployed.tobytes() == image.tobytes()


@pytest.mark.parametrize("now", ["data.range=[29000, 30000]", "data.range=null"])
def test_the_range_of_a_run_cannot_be_changed(now: str, photos: Path) -> None:
    run, _ = trained(recipe(photos, "data.range=measured"))
    with pytest.raises(UserError, match=r"runs/x: begun with another recipe \(data\.range differs\)"):
        begun(recipe(photos, now), run.path)
    with pytest.raises(UserError, match=r"runs/x: data\.range cannot be changed any more"):
        recipe_of(run, [now])


def test_a_run_of_the_upper_eight_bits_is_told_what_it_loses(photos: Path) -> None:
    run, lines = trained(recipe(photos))
    assert run.manifest.range is None
    assert any("9 of 256 levels are left in their upper 8 bits; set data.range to measured" in line for line in lines)
    with pytest.raises(UserError, match=r"data\.range differs"):
        begun(recipe(photos, "data.range=measured"), run.path)
