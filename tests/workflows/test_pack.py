"""A run in one file: packed here, unpacked elsewhere, and gone on with there as if it were here."""

import json
import os
import shutil
import signal
import sqlite3
import tarfile
from pathlib import Path
from time import sleep
from typing import Any

import pytest
import torch

import nasdeploy as nd
from nasdeploy.core.errors import UserError
from nasdeploy.core.progress import Progress
from nasdeploy.latency.table import TABLES, table_path
from nasdeploy.recipe import recipe_of
from nasdeploy.runtimes.device import load_device
from nasdeploy.store.checkpoints import supernet_file, trained_weights
from nasdeploy.store.networks import kept_networks
from nasdeploy.store.run import Run
from nasdeploy.supernet.networks import load_network
from nasdeploy.supernet.weights import keep_trained, load_supernet
from nasdeploy.workflows.evaluator import supernet_of
from nasdeploy.workflows.pack import pack
from nasdeploy.workflows.unpack import unpack
from tests.exporting.models import DEVICE
from tests.exporting.models import supernet_of as random_supernet
from tests.forked import nasdeploy
from tests.hasty import measure_hastily
from tests.training.test_disk_full import SAID, fill, small
from tests.workflows.runs import SPACE, table_of, trained_run
from tests.workflows.test_original import keep, other_network

__all__ = ["small"]
QUIET = Progress(quiet=True)
BUDGET = {"macs_m": 1.0}


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    place = tmp_path / "here"
    place.mkdir()
    monkeypatch.chdir(place)
    return place


@pytest.fixture(params=["of this version", "of an earlier version"])
def run(here: Path, request: pytest.FixtureRequest) -> Run:
    made = trained_run(here)
    if request.param == "of this version":
        made.finish("train", keep_trained(made, SPACE.digest, random_supernet(SPACE).state_dict(), 1))
        shutil.rmtree(made.checkpoints)
    keep(made, other_network())
    Path("board.yaml").write_text("name: board\nruntime: onnxruntime\nthreads: 2\n")
    for device in (DEVICE, load_device("board.yaml")):
        table_of(device).save(table_path(SPACE, device))
    return made


def elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Another folder, with the images in another place."""
    there = tmp_path / "there"
    there.mkdir()
    (tmp_path / "here/images").rename(there / "pictures")
    monkeypatch.chdir(there)
    return there


def models(run: Run, data: str | None = None) -> list[Any]:
    found = nd.export(run, "smallest", data=data, out="small")
    return [artefact.file.sha256 for artefact in found.manifest.artefacts]


def test_it_is_the_same_run_elsewhere(run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    weights, tensors = trained_weights(run), load_supernet(trained_weights(run).path, SPACE).state_dict()
    supernet = supernet_of(run, recipe_of(run), weights.facts)
    run.finish("export", {"directory": "export/a"})
    packed = nd.pack(run, "x.nasdeploy").resolve()
    elsewhere(tmp_path, monkeypatch)
    again = nd.unpack(packed)
    assert again.path == Path("runs/x")
    assert trained_weights(again).path == supernet_file(again)
    assert trained_weights(again).facts == weights.facts
    assert supernet_of(again, recipe_of(again), weights.facts) == supernet
    found = load_supernet(supernet_file(again), SPACE).state_dict()
    assert found.keys() == tensors.keys()
    assert all(torch.equal(found[name], tensor) for name, tensor in tensors.items())
    (kept,) = kept_networks(again, "original")
    assert load_network(kept, SPACE).state_dict().keys() == other_network().state_dict().keys()
    assert not again.is_finished("export")


@pytest.mark.slow
@pytest.mark.parametrize("run", ["of an earlier version"], indirect=True)
def test_it_goes_on_elsewhere_as_it_would_here(run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    measure_hastily(monkeypatch)
    result, weights = nd.search(run, **BUDGET), trained_weights(run).facts
    supernet = supernet_of(run, recipe_of(run), weights)
    exported = models(run)
    packed = nd.pack(run, "x.nasdeploy").resolve()
    there = elsewhere(tmp_path, monkeypatch)
    again = nd.unpack(packed)
    with pytest.raises(UserError, match=f"{tmp_path}/here/images.*"):
        nd.search(again, **BUDGET)
    found = nd.search(again, data="pictures", **BUDGET)
    assert (found.winner, found.front, found.supernet) == (result.winner, result.front, supernet)
    again.search_database.unlink()
    anew = nd.search(again, changes={"data.path": str(there / "pictures")}, **BUDGET)
    assert (anew.winner.digest, anew.winner.value, anew.front) == (
        result.winner.digest,
        result.winner.value,
        result.front,
    )
    assert models(again, "pictures") == exported
    assert sorted(path.name for path in TABLES.iterdir()) == [table_path(SPACE, DEVICE).name]


def test_what_is_packed_and_what_is_not(run: Run, tmp_path: Path) -> None:
    (run.path / "export/a").mkdir(parents=True)
    (run.path / "export/a/model.onnx").write_bytes(b"model")
    run.finish("export", {"directory": "export/a"})
    (run.path / "tensorboard").mkdir()
    (run.path / "tensorboard/events").write_bytes(b"curves")
    (run.path / "notes.txt").write_text("mine")
    connection = sqlite3.connect(run.search_database)
    connection.executescript(
        "PRAGMA journal_mode = WAL; CREATE TABLE evaluations (digest TEXT); INSERT INTO evaluations VALUES ('a')"
    )
    packed = pack(run, Path("p"), QUIET)
    with tarfile.open("p") as archive:
        names = archive.getnames()
        manifest = json.load(archive.extractfile("run/manifest.json"))  # type: ignore[arg-type]
        Path("copy.sqlite").write_bytes(archive.extractfile("run/search.sqlite").read())  # type: ignore[union-attr]
    connection.close()
    network = f"run/networks/original-{SPACE.largest().digest}"
    assert names == [
        *(
            "pack.json",
            "run/data.npz",
            "run/manifest.json",
            f"{network}/network.json",
            f"{network}/weights.safetensors",
        ),
        *("run/search.sqlite", "run/supernet.safetensors", f"tables/{table_path(SPACE, DEVICE).name}"),
    ]
    assert packed.tables == (table_path(SPACE, DEVICE).name,)
    assert "export" not in manifest["finished"]
    # What a search that still runs had written is in it, too.
    assert sqlite3.connect("copy.sqlite").execute("SELECT * FROM evaluations").fetchall() == [("a",)]
    here = {path.name for path in Path().iterdir()}
    assert here == {"board.yaml", "copy.sqlite", "images", "p", "profiles", "runs"}


def test_a_table_that_is_there_stays(run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    packed = nd.pack(run, tmp_path / "p")
    elsewhere(tmp_path, monkeypatch)
    table = table_path(SPACE, DEVICE)
    table_of(DEVICE, 5e-4).save(table)
    before = table.read_bytes()
    found = unpack(packed, None, QUIET)
    assert (found.tables, found.kept, table.read_bytes() == before) == ((), (table,), True)
    assert not found.data_found
    assert found.data == str(tmp_path / "here/images")


def test_nothing_that_is_there_is_replaced(run: Run, tmp_path: Path) -> None:
    packed = nd.pack(run)
    assert packed == Path("x.nasdeploy")
    with pytest.raises(UserError, match=r"x\.nasdeploy: exists already; name another file with `out=FILE`"):
        nd.pack(run)
    with pytest.raises(UserError, match="runs/x: exists already; give another directory with `out=DIR`"):
        nd.unpack(packed)
    Path("empty").mkdir()
    with pytest.raises(UserError, match="empty: exists already"):
        nd.unpack(packed, "empty")
    assert nd.unpack(packed, "deep/er").path == Path("deep/er")


def test_a_run_that_is_not_trained_is_not_packed(here: Path) -> None:
    run = Run.create(Path("runs"), "y", recipe={}, space="0", seed=0)
    with pytest.raises(UserError, match="has not finished in this run"):
        nd.pack(run)
    assert [path.name for path in here.iterdir()] == ["runs"]


def test_damaged_weights_are_not_packed(run: Run) -> None:
    (kept,) = kept_networks(run, "original")
    kept.weights.write_bytes(b"damaged")
    with pytest.raises(UserError, match=r"weights\.safetensors: damaged"):
        nd.pack(run, "p")
    shutil.rmtree(kept.path)
    trained_weights(run).path.write_bytes(b"damaged")
    with pytest.raises(UserError, match="damaged, or not the weights that training ended with"):
        nd.pack(run, "p")
    assert not [path for path in Path().iterdir() if "p" in path.suffixes or path.name.startswith(".p")]


def test_a_full_disk_is_told_and_nothing_is_left(small: Path, tmp_path: Path) -> None:
    run = trained_run(small)
    packed = nd.pack(run, tmp_path / "p")
    fill(leaving=16 << 10)
    before = sorted(Path().rglob("*"))
    with pytest.raises(UserError, match=f"^p: {SAID}"):
        nd.pack(run, "p")
    with pytest.raises(UserError, match=f"^runs/y: {SAID}"):
        nd.unpack(packed, "runs/y")
    assert sorted(Path().rglob("*")) == before


@pytest.mark.slow
@pytest.mark.parametrize("command", ["pack", "unpack"])
def test_what_is_killed_leaves_no_file_and_the_same_command_does_it(command: str, here: Path) -> None:
    run = trained_run(here)
    run.finish("train", keep_trained(run, SPACE.digest, random_supernet(SPACE).state_dict(), 1))
    with run.metrics.open("wb") as file:
        # Long enough to be killed while it is copied.
        file.truncate(200 << 20)
    words, made = ("pack", "runs/x", "--out", "p"), Path("p")
    if command == "unpack":
        assert nasdeploy(*words).wait(120) == 0
        words, made = ("unpack", "p", "--out", "runs/y"), Path("runs/y")
    process = nasdeploy(*words)
    while not list(made.parent.glob(f".{made.name}.*.partial/*")):
        assert process.poll() is None
        sleep(0.01)
    os.killpg(process.pid, signal.SIGKILL)
    process.wait(60)
    assert not made.exists()
    assert nasdeploy(*words).wait(120) == 0
    assert made.exists()
    assert not [path.name for path in made.parent.iterdir() if path.name.startswith(".")]
