"""Several processes train like one with the whole batch."""

import json
import os
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from time import monotonic
from typing import Any

import numpy as np
import pytest
import torch
import torch.distributed as dist
import yaml
from onnx import numpy_helper
from PIL import Image
from torch import nn

from nasdeploy import distributed as reporting
from nasdeploy.cli.main import main
from nasdeploy.cli.wording import typed
from nasdeploy.core.errors import NasdeployError, Terminated, UserError
from nasdeploy.distributed import FailedElsewhere, exit_code_of, ranks, reported_once
from nasdeploy.distributed.ranks import Ranks, joined
from tests.forked import ForkedProcess, of_two
from tests.training import ranked
from tests.training.colours import DARKNESS, write_colours, write_teacher
from tests.training.losing import losing
from tests.training.ranked import trained
from tests.training.recipes import CONTENT
from tests.training.untried import untried

ROOT = Path(__file__).parents[2]
ENVIRONMENT = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
TORCHRUN = [
    str(Path(sys.executable).with_name("torchrun")),
    "--nproc-per-node",
    "2",
    "--rdzv-backend",
    "c10d",
    "--rdzv-endpoint",
    "127.0.0.1:0",
]
NASDEPLOY = str(Path(sys.executable).with_name("nasdeploy"))
PATIENCE_S = 300.0


def run(*command: str, cwd: Path) -> subprocess.CompletedProcess[str]:
    done = subprocess.run(command, cwd=cwd, env=ENVIRONMENT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done


def both(
    *words: str, cwd: Path, second: Path | None = None, function: Callable[[], object] = main
) -> tuple[list[int], list[str]]:
    """Exit codes of two processes, started as torchrun would without stopping one for the other, and their stderr.

    The second one is in a directory of its own, if that is given.
    """
    said = cwd / "said"
    started = [
        ForkedProcess(function, ["nasdeploy", *words], cwd=directory, environment=environment, said=said)
        for environment, directory in zip(of_two(), (cwd, second or cwd), strict=True)
    ]
    return [process.wait(PATIENCE_S) for process in started], said.read_text().splitlines()


@pytest.fixture(scope="module")
def together(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What two processes wrote that trained, counted their reductions and told the same numbers from different ones."""
    directory = tmp_path_factory.mktemp("together")
    codes, lines = both("two.pt", "counts.json", cwd=directory, function=ranked.main)
    assert codes == [0, 0], lines
    return directory


@pytest.mark.slow
def test_two_processes_with_synchronised_normalisation_equal_one(together: Path) -> None:
    one, two = trained(Ranks(torch.device("cpu"))), torch.load(together / "two.pt", weights_only=True)
    for exact, tolerance in ((True, 1e-9), (False, 1e-3)):
        for name, value in one[exact].items():
            assert (value - two[exact][name]).abs().max() <= tolerance, name


@pytest.mark.slow
def test_torchrun_trains_and_only_the_first_process_writes(tmp_path: Path) -> None:
    recipe: dict[str, Any] = {**CONTENT, "train": {**CONTENT["train"], "batch_size": 24, "sync_bn": True}}
    (tmp_path / "tiny.yaml").write_text(yaml.safe_dump(recipe))
    done = run(*TORCHRUN, "--no-python", NASDEPLOY, "train", "tiny.yaml", cwd=tmp_path)
    assert done.stderr.count("epoch 3: top-1") == 1
    lines = (tmp_path / "runs/tiny/metrics.jsonl").read_text().splitlines()
    assert len(lines) == 3
    codes, refused = both("train", "tiny.yaml", cwd=tmp_path)
    assert codes == [2, 2]
    assert len(refused) == 1
    assert refused[0].startswith("nasdeploy: runs/tiny: training is finished; go on with")


@pytest.mark.slow
@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["none.yaml"], "nasdeploy: none.yaml: no such recipe file; check the path, or write one with 'nasdeploy init"),
        (["odd.yaml"], "nasdeploy: train.batch_size is 25 and 2 processes share it; choose a multiple of 2"),
        (["tiny.yaml", "--run", "full"], "nasdeploy: full: holds files but no run; give another directory, or empty"),
    ],
    ids=["each", "all", "first"],
)
def test_a_mistake_that_each_or_all_or_only_the_first_process_sees_is_said_once(
    arguments: list[str], said: str, tmp_path: Path
) -> None:
    (tmp_path / "odd.yaml").write_text(yaml.safe_dump(CONTENT))
    (tmp_path / "tiny.yaml").write_text(yaml.safe_dump({**CONTENT, "train": {**CONTENT["train"], "batch_size": 24}}))
    (tmp_path / "full").mkdir()
    (tmp_path / "full/notes.txt").write_text("mine")
    codes, lines = both("train", *arguments, cwd=tmp_path)
    assert codes == [2, 2]
    assert len(lines) == 1, lines
    assert lines[0].startswith(said)
    assert not (tmp_path / "runs").exists()


@pytest.mark.slow
def test_an_image_without_a_number_ends_both_processes_in_one_line(tmp_path: Path) -> None:
    """It is in the part of one process only."""
    write_colours(tmp_path / "colours", ("a", "b"), count=10)
    black = tmp_path / "colours/train/b/04.png"
    Image.new("RGB", (8, 8)).save(black)
    teacher = write_teacher(
        tmp_path / "t.onnx",
        range(2),
        mean=(0, 0, 0),
        std=(1, 1, 1),
        ending=DARKNESS,
        outputs=("z",),
        values=[numpy_helper.from_array(np.array([1]), "axes")],
    )
    data = {"kind": "folder", "path": str(tmp_path / "colours"), "size": 8, "test": 0.01, "holdout": 0.01, "workers": 0}
    distillation = {"teacher": f"onnx:{teacher}", "teacher_mean": [0, 0, 0], "teacher_std": [1, 1, 1]}
    brief = {"epochs": 2, "batch_size": 4, "distillation": distillation, "threads": 1, "warmup_epochs": 0}
    (tmp_path / "tiny.yaml").write_text(yaml.safe_dump({**CONTENT, "data": data, "train": brief}))
    codes, lines = both("train", "tiny.yaml", "--quiet", cwd=tmp_path, function=untried)
    assert codes == [2, 2]
    assert len(lines) == 1, lines
    assert lines[0].startswith(f"nasdeploy: teacher onnx:{teacher}: gives numbers that are not finite for {black} (of ")


@pytest.mark.slow
def test_a_host_that_does_not_see_the_run_says_so_once(tmp_path: Path) -> None:
    recipe = yaml.safe_dump({**CONTENT, "train": {**CONTENT["train"], "batch_size": 24}})
    for host in ("a", "b"):
        (tmp_path / host).mkdir()
        (tmp_path / host / "tiny.yaml").write_text(recipe)
    codes, lines = both("train", "tiny.yaml", "--quiet", cwd=tmp_path / "a", second=tmp_path / "b")
    assert codes == [2, 2]
    assert len(lines) == 1, lines
    assert lines[0].startswith(
        "nasdeploy: runs/tiny: another host began the run there, and this one does not see it (runs/tiny: no run there"
    )
    assert not (tmp_path / "b/runs").exists()


@pytest.mark.slow
def test_processes_tell_whether_they_resume_the_same_checkpoint(together: Path) -> None:
    """They compared two numbers that are the same in both, and two that are not."""
    assert json.loads((together / "counts.json").read_text())["same"] == [True, True, False, False]


@pytest.mark.slow
def test_a_process_that_loses_the_other_says_so_in_a_line(tmp_path: Path) -> None:
    codes, lines = both(cwd=tmp_path, function=losing)
    assert codes == [1, 9]
    assert len(lines) == 1, lines
    assert lines[0].startswith("lost another process of this run (")
    assert lines[0].endswith("); see what it said, and repeat the command, which resumes, unless the launcher does")


@pytest.mark.slow
def test_a_step_reduces_once_and_each_gradient_once(together: Path) -> None:
    """One reduction for all networks, of as many bytes as the gradients, a loss for each role and a flag take."""
    counts = json.loads((together / "counts.json").read_text())
    for name, numbers in (("four", 4), ("one", 2)):
        assert counts[name]["reduced"] == [counts[name]["gradients"] + 4 * numbers]
    assert counts["four"]["gradients"] >= counts["one"]["gradients"] > 0
    assert len(counts["each"]["reduced"]) == 4


@pytest.fixture
def place(monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """The variables of the second of two processes; nobody listens at the port."""
    with socket.socket() as bound:
        bound.bind(("127.0.0.1", 0))
        port = str(bound.getsockname()[1])
        for name, value in {"RANK": "1", "LOCAL_RANK": "0", "WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1"}.items():
            monkeypatch.setenv(name, value)
        monkeypatch.setenv("MASTER_PORT", port)
        monkeypatch.setattr(ranks, "MEETING_S", 1)
        yield f"127.0.0.1:{port}"


def test_an_unreachable_rendezvous_ends_in_one_line_in_time(place: str, capfd: pytest.CaptureFixture[str]) -> None:
    began = monotonic()
    with pytest.raises(UserError) as caught, joined():
        pass
    assert monotonic() - began < 5
    assert typed(caught.value) == (
        f"rendezvous at {place}: the processes did not meet within 1 s ([Errno 111] Connection refused); check "
        "that this host is up and reachable from all others, and that all were started"
    )
    assert capfd.readouterr().err == ""


@pytest.mark.usefixtures("place")
def test_of_an_unreachable_rendezvous_one_process_of_a_host_speaks(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("LOCAL_RANK", "1")
    monkeypatch.setattr(reporting, "REPORTING_S", 0.0)
    with pytest.raises(FailedElsewhere) as caught, joined():
        pass
    assert caught.value.exit_code == 2


@pytest.mark.usefixtures("place")
def test_a_launcher_that_set_half_of_its_variables_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("MASTER_ADDR")
    with pytest.raises(UserError) as caught, joined():
        pass
    assert typed(caught.value) == "WORLD_SIZE is set and MASTER_ADDR is not; start with torchrun, or unset WORLD_SIZE"


@pytest.mark.parametrize(
    ("error", "reports", "becomes", "code"),
    [
        (UserError("a"), True, UserError, 2),
        (UserError("a"), False, FailedElsewhere, 2),
        (Terminated("a"), False, FailedElsewhere, 75),
        (FailedElsewhere(3), True, FailedElsewhere, 3),
        (PermissionError(13, "a"), False, FailedElsewhere, 1),
    ],
)
def test_only_one_process_reports(
    error: Exception,
    reports: bool,
    becomes: type[NasdeployError],
    code: int,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(reporting, "REPORTING_S", 0.0)
    with pytest.raises(becomes) as caught, reported_once(lambda: reports):
        raise error
    assert exit_code_of(caught.value) == code
    assert not reports or caught.value is error


def test_without_gradients_the_extras_alone_are_averaged(tmp_path: Path) -> None:
    """In a group of one process that says that it is two: the sum over it is halved."""
    dist.init_process_group("gloo", store=dist.FileStore(str(tmp_path / "store"), 1), rank=0, world_size=1)
    try:
        two = Ranks(torch.device("cpu"), world=2)
        assert two.average(nn.Linear(2, 1).parameters(), torch.tensor([1.0, 4.0])).tolist() == [0.5, 2.0]
    finally:
        dist.destroy_process_group()


def test_one_process_averages_nothing() -> None:
    layer = nn.Linear(2, 1)
    layer(torch.ones(1, 2)).sum().backward()
    before = [parameter.grad.clone() for parameter in layer.parameters() if parameter.grad is not None]
    extras = torch.tensor([1.0, 2.0])
    assert torch.equal(Ranks(torch.device("cpu")).average(layer.parameters(), extras), extras)
    assert all(torch.equal(a, p.grad) for a, p in zip(before, layer.parameters(), strict=True) if p.grad is not None)
