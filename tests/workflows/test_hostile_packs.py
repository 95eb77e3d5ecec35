"""A hundred packs that mean harm, or are none: each is refused in a line, nothing in it runs, and nothing is left."""

import json
import os
import tarfile
from pathlib import Path
from typing import get_args

import pytest

from nasdeploy.core.progress import Progress
from nasdeploy.core.resources import resource_names
from nasdeploy.latency.table import table_path
from nasdeploy.runtimes import RUNTIMES
from nasdeploy.runtimes.device import load_device
from nasdeploy.store.evaluations import Evaluations
from nasdeploy.store.networks import FINETUNED, RECORD, WEIGHTS, NetworkKind
from nasdeploy.supernet.weights import keep_trained
from nasdeploy.tasks.metrics import TOP1
from nasdeploy.workflows.pack import _AS_THEY_ARE, pack
from nasdeploy.workflows.unpack import _OF_A_RUN, unpack
from tests.exporting.models import DEVICE, supernet_of
from tests.forked import ForkedProcess
from tests.store.hostile_packs import packed
from tests.workflows import hostile_runs
from tests.workflows.runs import SPACE, table_of, trained_run
from tests.workflows.test_original import keep, other_network

MORE_MEMORY = 256 << 20
"""The largest pack has 10 MB."""


@pytest.fixture
def content(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, bytes]:
    """What is in the pack of a run that is right."""
    place = tmp_path / "made"
    place.mkdir()
    monkeypatch.chdir(place)
    run = trained_run(place)
    run.finish("train", keep_trained(run, SPACE.digest, supernet_of(SPACE).state_dict(), 1))
    keep(run, other_network())
    Evaluations(run.search_database, "0123456789abcdef", TOP1).close()
    table_of(DEVICE).save(table_path(SPACE, DEVICE))
    found = {}
    pack(run, Path("p"), Progress(quiet=True))
    with tarfile.open("p") as archive:
        for name in archive.getnames()[1:]:
            entry = archive.extractfile(name)
            assert entry is not None
            found[name] = entry.read()
    return found


@pytest.mark.slow
def test_each_is_refused_in_a_line_and_leaves_nothing(content: dict[str, bytes], tmp_path: Path) -> None:
    folder, place = tmp_path / "packs", tmp_path / "there"
    folder.mkdir()
    place.mkdir()
    files = dict(hostile_runs.files(content))
    assert len(files) >= 100
    for name, pack_of in files.items():
        (folder / name).write_bytes(pack_of)
    words = ["unpack", str(folder), str(tmp_path / "told"), str(MORE_MEMORY)]
    said = tmp_path / "said"
    process = ForkedProcess(hostile_runs.unpack_all, words, cwd=place, said=said)
    assert process.wait(300) == 0, said.read_text()
    told = json.loads((tmp_path / "told").read_text())
    assert set(told) == set(files)
    right = {name for name, line in told.items() if line.startswith(f"{folder / name}: ") and len(line) < 1000}
    assert {name: line for name, line in told.items() if name not in right or "\n" in line} == {}
    # The folder of the run that was asked for is made, and what was in it is gone.
    assert [str(path.relative_to(place)) for path in place.rglob("*")] in ([], ["new"])
    # What they were made from is accepted.
    (folder / "right").write_bytes(packed(content))
    os.chdir(place)
    assert unpack(folder / "right", None, Progress(quiet=True)).run.path == Path("runs/x")


@pytest.mark.parametrize(
    "place",
    [
        *(f"run/{name}" for name in _AS_THEY_ARE),
        *("run/manifest.json", "run/supernet.safetensors", "run/searches/12.json"),
        *("run/search.sqlite", *(f"run/search.int8.{runtime}.sqlite" for runtime in RUNTIMES)),
        *(f"run/networks/{kind}-{'0' * 12}/{name}" for kind in get_args(NetworkKind) for name in (RECORD, WEIGHTS)),
        *(f"run/finetune/{'0' * 12}/{name}" for name in (FINETUNED, "manifest.json", "metrics.jsonl")),
        *(f"tables/{table_path(SPACE, load_device(name)).name}" for name in resource_names("profiles")),
    ],
)
def test_what_is_packed_is_known_when_it_is_unpacked(place: str) -> None:
    assert _OF_A_RUN.fullmatch(place)
