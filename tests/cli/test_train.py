"""`nasdeploy train` as a user types it: results, mistakes, interruptions."""

import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from time import monotonic, sleep
from typing import Any

import pytest
import torch
import yaml
from safetensors.torch import save_file

from nasdeploy.cli.main import main
from nasdeploy.training.trainer import Trainer
from tests.data.pictures import write_folder
from tests.forked import nasdeploy
from tests.training.recipes import CONTENT


@pytest.fixture(autouse=True)
def _inside(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    write("tiny.yaml")


def write(file: str, **changes: object) -> None:
    Path(file).write_text(yaml.safe_dump({**CONTENT, **changes}))


def run(monkeypatch: pytest.MonkeyPatch, *arguments: str) -> int:
    monkeypatch.setattr(sys, "argv", ["nasdeploy", *arguments])
    with pytest.raises(SystemExit) as stopped:
        main()
    assert isinstance(stopped.value.code, int)
    return stopped.value.code


def test_trains_and_tells_where_and_how_well(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(monkeypatch, "train", "tiny.yaml", "--set", "train.epochs=2") == 0
    printed = capsys.readouterr()
    assert printed.out.startswith("trained runs/tiny\n  smallest ")
    assert printed.out.endswith("continue with: nasdeploy profile --run runs/tiny\n")
    assert printed.out.count("top-1") == 3
    assert "train: runs/tiny, 100 images of 10 classes, space tiny with 32 architectures" in printed.err
    assert "epoch 2: top-1 smallest" in printed.err
    assert len(Path("runs/tiny/metrics.jsonl").read_text().splitlines()) == 2


def test_phases_are_named(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    phases = "[{name: one, epochs: 1, sampling: {kind: largest}}, {name: two, epochs: 2, sampling: {kind: single}}]"
    arguments = ["--set", f"train.phases={phases}", "--set", "train.validate_random=0"]
    assert run(monkeypatch, "train", "tiny.yaml", *arguments) == 0
    printed = capsys.readouterr()
    assert printed.out.startswith("trained runs/tiny\n  phase one  1 epoch\n  phase two  2 epochs\n  smallest   ")
    assert "epoch 1 (one): top-1 largest" in printed.err and "epoch 3 (two): top-1 smallest" in printed.err
    assert "train one: 4/4" in printed.err and "train two: 8/8" in printed.err


def test_quiet_json_is_json_and_nothing_else(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = ["--run", "runs/007", "--set", "train.epochs=1", "--json", "--quiet"]
    assert run(monkeypatch, "train", "tiny.yaml", *arguments) == 0
    printed = capsys.readouterr()
    assert printed.err == ""
    result = json.loads(printed.out)
    assert (result["run"], result["epoch"]) == ("runs/007", 1)
    assert 0 <= result["validation"]["largest"]["top1"] <= 1


def test_data_folder_and_weights_of_another_run(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    write_folder(Path("pictures"), {"train": {"ant": 12, "bee": 12}}, side=8)
    write("photos.yaml", name="photos", data={"kind": "folder", "path": "elsewhere", "size": 8, "workers": 0})
    assert run(monkeypatch, "train", "tiny.yaml", "--set", "train.epochs=1") == 0
    arguments = [
        "--data",
        "pictures",
        "--init",
        "runs/tiny",
        "--set",
        "train={epochs: 1, batch_size: 8, warmup_epochs: 0}",
    ]
    assert run(monkeypatch, "train", "photos.yaml", *arguments) == 0
    manifest = json.loads(Path("runs/photos/manifest.json").read_text())
    assert manifest["classes"] == ["ant", "bee"]
    assert manifest["data"]["images"] == {"train": 18, "search": 2, "val": 0, "test": 4, "unused": 0}
    assert Path("runs/photos/data.npz").is_file()
    assert manifest["recipe"]["data"]["path"] == str(Path("pictures").absolute())
    assert "of 2 classes" in capsys.readouterr().err


def test_starts_from_a_file_of_weights(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    """With a learning rate of nothing, the weights after training are those of before."""
    assert run(monkeypatch, "train", "tiny.yaml", "--set", "train.epochs=1", "--quiet") == 0
    before = torch.load("runs/tiny/checkpoints/epoch-000001.pt", weights_only=True)["weights"]
    save_file({name: value.contiguous() for name, value in before.items()}, "w.safetensors")
    still = ["--set", "train={epochs: 1, batch_size: 25, warmup_epochs: 0, learning_rate: 1.0e-30, weight_decay: 0}"]
    assert run(monkeypatch, "train", "tiny.yaml", "--init", "w.safetensors", "--run", "runs/b", *still) == 0
    after = torch.load("runs/b/checkpoints/epoch-000001.pt", weights_only=True)["weights"]
    head = "weights.head.classifier."
    assert all(torch.equal(after[name], before[name]) != name.startswith(head) for name in before if "bias" not in name)
    capsys.readouterr()
    assert (
        run(monkeypatch, "train", "tiny.yaml", "--init", "runs/b/checkpoints/best.pt", "--run", "runs/b", "--restart")
        == 2
    )
    assert capsys.readouterr().err == (
        "nasdeploy: --init runs/b/checkpoints/best.pt: --restart would discard that run; give the new one another "
        "directory with --run\n"
    )


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["digts"], "unknown recipe 'digts'; did you mean 'digits'?"),
        (["none.yaml"], "none.yaml: no such recipe file"),
        (["tiny.yaml", "--set", "train.epoch=3"], "unknown key 'train.epoch'; did you mean 'epochs'?"),
        (["tiny.yaml", "--set", "train.epochs=-1"], "train.epochs is -1: "),
        (["tiny.yaml", "--set", "train.epochs"], "--set train.epochs: write it as key.key=value"),
        (["tiny.yaml", "--set", "space=digts"], "unknown search space; did you mean 'digits'?"),
        (["tiny.yaml", "--set", "name=a/b"], 'name is "a/b": '),
        (["tiny.yaml", "--run", "runs/-x"], "run name '-x'"),
        (["tiny.yaml", "--data", "images"], "digits come with scikit-learn"),
        (["tiny.yaml", "--data", "images", "--set", "data.kind=folder"], "images: no such folder"),
        (["tiny.yaml", "--init", "runs/none"], "runs/none: no run there"),
        (["tiny.yaml", "--init", "."], ".: no run there (no manifest.json); give the directory of one"),
        (["tiny.yaml", "--init", "none.safetensors"], "--init none.safetensors: no such file; give --init another run"),
        (["tiny.yaml", "--init", "tiny.yaml"], "--init tiny.yaml: not a file of weights (.pt, .pth, .safetensors)"),
    ],
)
def test_a_mistake_ends_in_one_line_and_leaves_nothing_behind(
    arguments: list[str], said: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(monkeypatch, "train", *arguments) == 2
    printed = capsys.readouterr()
    assert printed.out == ""
    assert printed.err.startswith("nasdeploy: ")
    assert said in printed.err
    assert printed.err.count("\n") == 1
    assert not Path("runs").exists()


def test_a_finished_run_is_refused_and_restart_replaces_it(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    command = ["train", "tiny.yaml", "--set", "train.epochs=1", "--quiet"]
    assert run(monkeypatch, *command) == 0
    assert run(monkeypatch, *command) == 2
    assert "runs/tiny: training is finished" in capsys.readouterr().err
    assert run(monkeypatch, *command, "--set", "seed=1") == 2
    assert "runs/tiny: begun with another recipe (seed differs)" in capsys.readouterr().err
    assert run(monkeypatch, *command, "--set", "seed=1", "--restart") == 0
    assert json.loads(Path("runs/tiny/manifest.json").read_text())["seed"] == 1


def test_a_run_is_not_resumed_on_other_images(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    write_folder(Path("photos"), {"train": {"ant": 12, "bee": 12}, "test": {"ant": 3, "bee": 3}}, side=8)
    data = {"kind": "folder", "path": "photos", "size": 8, "workers": 0}
    write("photos.yaml", name="photos", data=data, train={"epochs": 1, "batch_size": 8, "warmup_epochs": 0})

    def stopped(*given: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(Trainer, "run", stopped)
        assert run(patch, "train", "photos.yaml") == 130
    Path("photos/test").rename("elsewhere")
    capsys.readouterr()
    assert run(monkeypatch, "train", "photos.yaml") == 2
    assert capsys.readouterr().err == (
        "nasdeploy: data: these are not the images that runs/photos was begun with, 6 missing (for testing; the first "
        "is test/ant/0.png); restore them, give the folder that holds them with --data, or train another run\n"
    )
    Path("elsewhere").rename("photos/test")
    assert run(monkeypatch, "train", "photos.yaml", "--quiet") == 0


def test_a_wrong_recipe_is_refused_before_torch_is_imported() -> None:
    script = (
        "import sys\nfrom nasdeploy.cli.main import main\n"
        "try:\n    main()\nfinally:\n    print(*sys.modules, file=sys.stderr)"
    )
    command = [sys.executable, "-c", script, "train", "tiny.yaml", "--set", "train.epoch=3"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert "torch" not in done.stderr.splitlines()[-1].split()
    assert "nasdeploy.recipe" in done.stderr.splitlines()[-1].split()


# -- whole processes


def newest() -> str:
    return max((path.name for path in Path("runs/long/checkpoints").glob("epoch-*.pt")), default="")


def stopped_after_an_epoch(stop: signal.Signals) -> tuple[int, str]:
    """Exit code and stderr of a training of many epochs that is stopped once it has finished one more."""
    before, deadline, said = newest(), monotonic() + 300, Path(f"said-{stop.name}")
    process = nasdeploy("train", "long.yaml", said=said)
    while newest() == before:
        assert process.poll() is None, said.read_text()
        assert monotonic() < deadline
        sleep(0.01)
    os.kill(process.pid, stop)
    return process.wait(300), said.read_text()


def metrics(path: str) -> list[dict[str, Any]]:
    lines = [json.loads(line) for line in Path(path).read_text().splitlines()]
    return [
        {key: value for key, value in line.items() if key not in ("images_per_s", "peak_memory_gib")} for line in lines
    ]


@pytest.mark.slow
def test_ctrl_c_and_kill_lose_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    train = {**CONTENT["train"], "epochs": 12, "validate_every": 6}
    write("long.yaml", name="long", train=train)
    write("calm.yaml", name="calm", train=train)
    code, said = stopped_after_an_epoch(signal.SIGINT)
    assert code == 130
    assert said.splitlines()[-1] == "nasdeploy: stopped; what was finished is kept, and the same command resumes"
    assert "Traceback" not in said
    code, said = stopped_after_an_epoch(signal.SIGKILL)
    assert code == -signal.SIGKILL
    assert "train: resumed after epoch" in said
    assert run(monkeypatch, "train", "long.yaml", "--quiet") == 0
    assert run(monkeypatch, "train", "calm.yaml", "--quiet") == 0
    assert metrics("runs/long/metrics.jsonl") == metrics("runs/calm/metrics.jsonl")
    last = [torch.load(f"runs/{name}/checkpoints/epoch-000012.pt", weights_only=True) for name in ("long", "calm")]
    for name, tensor in last[0]["weights"].items():
        assert torch.equal(tensor, last[1]["weights"][name]), name
