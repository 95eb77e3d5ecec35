"""Every example runs, as far as it can here."""

import os
import re
import runpy
import stat
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

import nasdeploy as nd
from nasdeploy.core.progress import Progress
from nasdeploy.core.settings import override
from nasdeploy.data.folder import list_folder
from nasdeploy.data.shards import list_shards
from nasdeploy.recipe import load_recipe
from nasdeploy.workflows import train as step
from tests.data.pictures import write_folder
from tests.exporting.converted import functions_read_once  # noqa: F401
from tests.hasty import measure_hastily
from tests.training.recipes import CONTENT

EXAMPLES = Path(__file__).parents[2] / "examples"
QUICK = ["train.epochs=1", "train.warmup_epochs=0", "data.images_per_class=8", "recalibration.search_batches=1"]


def test_the_examples_are_these() -> None:
    assert {path.name for path in EXAMPLES.iterdir()} == {
        "make_shards.py",
        "own_space.yaml",
        "train_on_slurm.sh",
        "whole_way.py",
    }


def test_packed_shards_hold_the_images_of_the_folder_in_random_order(tmp_path: Path) -> None:
    folder = write_folder(tmp_path / "photos", {"train": {"ant": 12, "bee": 15}, "test": {"ant": 2, "bee": 1}})
    shards = tmp_path / "shards"
    command = [sys.executable, EXAMPLES / "make_shards.py", folder, shards, "--per-shard", "10"]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert done.stdout == "train: 27 images\ntest: 3 images\n"
    assert sorted(str(path.relative_to(shards)) for path in shards.rglob("*.*")) == [
        "classes.txt",
        "test/000000.tar",
        *(f"train/00000{number}.tar" for number in range(3)),
    ]
    found, expected = list_shards(shards), list_folder(folder)
    assert found.classes == expected.classes
    for part, images in found.parts.items():
        packed = sorted((label, images.content(index)) for index, label in enumerate(images.labels))
        files = enumerate(expected.parts[part].values())
        assert packed == sorted((label, path.read_bytes()) for label, paths in files for path in paths)
    labels = found.parts["train"].labels.tolist()
    assert labels != sorted(labels)


@pytest.mark.slow
def test_a_space_of_ones_own_trains(tmp_path: Path) -> None:
    recipe = load_recipe(str(EXAMPLES / "own_space.yaml"), QUICK)
    run = step.train(recipe, tmp_path / "runs/own", Progress(quiet=True))
    assert run is not None
    assert run.is_finished("train")
    assert recipe.load_space(10).size == 1024


@pytest.mark.slow
def test_the_whole_way_in_python(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    # A file of that name comes before the shipped recipe, which trains for minutes.
    content = override(CONTENT, ["train.epochs=1", "train.warmup_epochs=0", "search.rounds=1", "search.parents=4"])
    (tmp_path / "digits").write_text(yaml.safe_dump(content))
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", ["whole_way.py"])
    measure_hastily(monkeypatch)
    search, budgets = nd.search, []

    def generous(run: nd.Run, *, latency_ms: str, progress: bool) -> nd.SearchResult:
        """Search within a budget that no busy machine misses."""
        budgets.append(latency_ms)
        return search(run, latency_ms=1000.0, progress=progress)

    monkeypatch.setattr(nd, "search", generous)
    runpy.run_path(str(EXAMPLES / "whole_way.py"))
    assert budgets == ["40%"]
    measured, winner, wrote = capsys.readouterr().out.splitlines()
    assert re.fullmatch(r"measured \d+ blocks on cpu", measured)
    assert re.fullmatch(r"[0-9a-f]{12}: \d+\.\d{3} ms", winner)
    assert (tmp_path / wrote.removeprefix("wrote ")).is_file()


def test_the_slurm_script_starts_torchrun_on_all_nodes(tmp_path: Path) -> None:
    called = tmp_path / "called"
    for name, body in {"scontrol": "echo node1; echo node2", "srun": f'echo "$@" > {called}'}.items():
        script = tmp_path / name
        script.write_text(f"#!/bin/sh\n{body}\n")
        script.chmod(script.stat().st_mode | stat.S_IXUSR)
    environment = {
        **os.environ,
        "PATH": f"{tmp_path}:{os.environ['PATH']}",
        "SLURM_JOB_NODELIST": "node[1-2]",
        "SLURM_NNODES": "2",
        "SLURM_JOB_ID": "7",
    }
    subprocess.run(["bash", EXAMPLES / "train_on_slurm.sh", "/data/images"], env=environment, check=True)
    expected = "--rdzv-endpoint node1:29400 --no-python nasdeploy train alphanet-imagenet --data /data/images"
    assert expected in called.read_text()
