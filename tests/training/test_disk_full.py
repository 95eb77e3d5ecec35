"""A disk that is full while training writes: one line, nothing lost, and the same command goes on."""

import json
import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml

from nasdeploy.core.errors import UserError
from nasdeploy.core.progress import Progress
from nasdeploy.recipe import Recipe
from nasdeploy.store.run import Run
from nasdeploy.tasks.metrics import TOP1
from nasdeploy.training.checkpoint import Checkpoints
from nasdeploy.training.monitor import scalars_in
from nasdeploy.workflows import train as step
from tests.forked import nasdeploy
from tests.training.recipes import CONTENT, tiny_recipe
from tests.training.test_sigterm import After

SAID = "cannot be written, disk full; free some space and run the same command again"


@pytest.fixture
def small(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A file system of 2 MiB, which is the current directory."""
    place = tmp_path / "small"
    place.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=2m", "tmpfs", place], capture_output=True, check=False
    )
    if mounted.returncode:
        pytest.skip("file systems cannot be mounted here")
    with monkeypatch.context() as patch:
        patch.chdir(place)
        yield place
    # A process that helped one that has ended may be in it for a moment more.
    subprocess.run(["umount", "--lazy", place], check=True)


def fill(leaving: int) -> None:
    """Fill the file system but for some bytes."""
    free = os.statvfs(".")
    Path("filler").write_bytes(bytes(max(0, free.f_bavail * free.f_frsize - leaving)))


def train(recipe: Recipe, progress: Progress | None = None) -> Run | None:
    return step.train(recipe, Path("runs/tiny"), progress or Progress(quiet=True))


def names() -> list[str]:
    return [path.name for path in Checkpoints(Path("runs/tiny/checkpoints")).all()]


def test_a_checkpoint_that_does_not_fit(small: Path) -> None:
    with pytest.raises(UserError) as caught:
        train(tiny_recipe(), After(6, lambda: fill(leaving=64 << 10)))
    assert str(caught.value) == f"runs/tiny/checkpoints/epoch-000002.pt: {SAID}"
    assert names() == ["epoch-000001.pt"]
    assert not list(Path("runs").rglob(".*.partial"))
    with pytest.raises(UserError, match="disk full"):
        train(tiny_recipe())
    assert names() == ["epoch-000001.pt"]
    Path("filler").unlink()
    train(tiny_recipe())
    assert names() == ["epoch-000002.pt", "epoch-000003.pt"]


def test_weights_that_do_not_fit(small: Path) -> None:
    train(tiny_recipe())
    before = Path("runs/tiny/manifest.json").read_bytes()
    Path("runs/tiny/supernet.safetensors").unlink()
    fill(leaving=32 << 10)
    with pytest.raises(UserError) as caught:
        train(tiny_recipe())
    assert str(caught.value) == f"runs/tiny/supernet.safetensors: {SAID}"
    assert not list(Path("runs").rglob(".*.partial"))
    assert Path("runs/tiny/manifest.json").read_bytes() == before
    Path("filler").unlink()
    train(tiny_recipe())
    assert Path("runs/tiny/supernet.safetensors").exists()


def test_metrics_that_do_not_fit(small: Path) -> None:
    with pytest.raises(UserError) as caught:
        train(tiny_recipe("train.checkpoint_steps=2"), After(3, lambda: fill(leaving=0)))
    assert str(caught.value) == f"runs/tiny/metrics.jsonl: {SAID}"
    assert names() == ["epoch-000000-step-000002.pt"]
    Path("filler").unlink()
    train(tiny_recipe("train.checkpoint_steps=2"))
    assert [json.loads(line)["epoch"] for line in Path("runs/tiny/metrics.jsonl").read_text().splitlines()] == [1, 2, 3]


@pytest.mark.parametrize("at", ["writing", "closing"])
def test_scalars_that_do_not_fit(at: str, small: Path, capfd: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("tensorboard")

    def write(points: int) -> None:
        with scalars_in(Path("runs/tiny/tensorboard"), 0, TOP1) as scalars:
            fill(leaving=0)
            for number in range(1, points + 1):
                scalars.step(10 * number, {"loss": 1.0})

    with pytest.raises(UserError) as caught:
        write(200_000 if at == "writing" else 400)
    assert str(caught.value) == f"runs/tiny/tensorboard: {SAID}"
    assert "Traceback" not in capfd.readouterr().err


@pytest.mark.slow
def test_the_command_says_it_in_one_line(small: Path, tmp_path: Path) -> None:
    Path("tiny.yaml").write_text(yaml.safe_dump(CONTENT))
    fill(leaving=112 << 10)
    assert nasdeploy("train", "tiny.yaml", "--quiet", said=tmp_path / "said").wait() == 2
    said = (tmp_path / "said").read_text()
    assert said.splitlines()[-1] == f"nasdeploy: runs/tiny/checkpoints/epoch-000001.pt: {SAID}"
    assert "Traceback" not in said
