"""What README.md and the pages of docs/ say is typed here as it stands."""

import io
import json
import re
import runpy
import subprocess
import sys
from contextlib import chdir, redirect_stderr, redirect_stdout
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import yaml

from nasdeploy.cli.main import main
from nasdeploy.core.settings import parse
from nasdeploy.importers.layouts import PUBLISHED
from nasdeploy.latency.protocol import MeasurementProtocol, Rounds
from nasdeploy.runtimes.device import AdbHost, Device, SshHost
from nasdeploy.spaces import load_space
from nasdeploy.spaces.grown import GrownSettings
from nasdeploy.spaces.mobilenet import MobileNetTable
from nasdeploy.spaces.ofa import OfaTable
from nasdeploy.training.settings import TrainSettings
from tests.data.pictures import write_folder
from tests.docs.pages import PAGES, ROOT, fences, typed
from tests.exporting.converted import functions_read_once  # noqa: F401
from tests.hasty import measure_hastily
from tests.importers import hostile_import
from tests.importers import published_alphanet as alphanet
from tests.importers import published_ofa as ofa
from tests.importers.published_files import thousand_classes
from tests.noise import despite_noise
from tests.pretrained import COLOURS, MODEL, fitted, write_pictures

README = PAGES["README.md"]
SMALL = (
    "{name: small, resolution: [8, 12], stem: {width: [16, 24], stride: 1}, head: {width: [96], expand: 2}, stages: ["
    "{width: [24, 32], depth: [1, 2, 3], kernel: [3], expand: [2, 4], stride: 2}, "
    "{width: [40, 48], depth: [1, 2, 3], kernel: [3], expand: [3], stride: 2, se: true}]}"
)
USING = ["README.md", "tutorial.md", *(name for name in PAGES if name.startswith("using/") and name != "using/runs.md")]
USING.append("using/runs.md")
"""Pages whose commands work on one run, those that make another run last."""
FEW = "--set search.rounds=1 --set search.parents=6"
QUICKER = {
    # A whole demo and an hour of training are too long for a test; everything else is as the page has it. With a
    # bound on MACs the demo measures no latency table; one is measured for the photos.
    "run digits": f"--set train.epochs=1 --set train.warmup_epochs=0 --set data.images_per_class=24 {FEW} --macs-m 0.6",
    # A network of a tenth of the size, whose weights are in the file of that name.
    "init --data photos --from timm:tf_efficientnet_lite0 --weights efficientnet-lite0.pth --hours 0.15": (
        f"--from timm:{MODEL} --hours 0.01"
    ),
    "init --data photos --out scratch.yaml": "--hours 0.01",
    "train recipe.yaml": "--set 'data.augment.scale=[0.35, 1.0]' --set 'space.resolution=[64, 96]' "
    "--set train.phases.0.epochs=1 --set train.phases.0.warmup_epochs=0 --set train.phases.0.learning_rate=1e-6",
    # A busy machine may be slower when it searches than when it was profiled.
    "search --latency 0.5x": f"{FEW} --set search.probability=0.999",
    "search --macs-m 0..1000 --size-mb 20 --memory-mb 20": FEW,
    "search --run runs/copy --data photos --macs-m 1000": FEW,
    "export --finetune-epochs 10": "--finetune-epochs 1",
    # The search's winner, which was trained further before, may be the smallest network.
    "finetune --arch smallest --epochs 8 --set finetune.learning_rate=5e-4": "--epochs 1 --restart",
    "evaluate --sample 100": "--sample 5",
    # A small supernet in AlphaNet's layout stands in for AlphaNet's.
    "export --run runs/alphanet --arch a0": (
        f"--arch '{json.dumps(load_space('digits').smallest().to_json())}' --set recalibration.batches=1"
    ),
    # A space of a few blocks in place of one of 266.
    "profile --device cpu --space digits": "--space small.yaml",
    "train my_space.yaml": "--set train.epochs=1 --set train.warmup_epochs=0 --set data.images_per_class=24 "
    f"{FEW} --set recalibration.batches=1 --set recalibration.search_batches=1",
    # Some runtimes take half a minute to convert for; all are compared in tests/conformance.
    "runtimes compare smallest --space digits --plot runtimes.png": "--device cpu,cpu-torch",
}
"""What is added to a command, so that it takes seconds."""
BRIEFLY = MeasurementProtocol(
    networks=Rounds(group=16, visits=6),
    shortest_group_s=0.5,
    sustained_s=0.1,
    retries=0,
    calibration_networks=12,
    held_out_networks=8,
)
"""As good a table as a search within 44 % of its range needs, in a quarter of the time."""


def space(number: int) -> Any:
    """Return the space of a table on the page about spaces."""
    return yaml.safe_load(fences(PAGES["using/spaces.md"], "yaml")[number].text)["space"]


def run(line: str, folder: Path) -> subprocess.CompletedProcess[str]:
    """What a command gives, of the shell's words: in a process of its own most would go into importing PyTorch."""
    split = subprocess.run(f"printf '%s\\0' {line}", shell=True, cwd=folder, capture_output=True, text=True, check=True)
    program, *words = split.stdout.split("\0")[:-1]
    assert program == "nasdeploy"
    with (
        chdir(folder),
        redirect_stdout(io.StringIO()) as out,
        redirect_stderr(io.StringIO()) as err,
        pytest.MonkeyPatch.context() as patch,
    ):
        patch.setattr(sys, "argv", [program, *words])
        with pytest.raises(SystemExit) as ended:
            main()
    assert isinstance(ended.value.code, int)
    return subprocess.CompletedProcess(words, ended.value.code, out.getvalue(), err.getvalue())


def given(command: str) -> str:
    """Return a command with what makes it quicker."""
    return f"{command} {QUICKER.get(command.removeprefix('nasdeploy '), '')}"


@pytest.mark.slow
def test_the_demo_runs_as_typed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    measure_hastily(monkeypatch, BRIEFLY)
    demo, *_ = typed(README)
    assert demo == "nasdeploy run digits"
    done = run(given(demo), tmp_path)
    assert done.returncode == 0, done.stderr
    (model,) = (tmp_path / "runs/digits/export").glob("*/model.onnx")
    assert model.stat().st_size > 10_000


@pytest.mark.slow
def test_commands_run_as_typed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    measure_hastily(monkeypatch, BRIEFLY)
    write_pictures(tmp_path / "photos", {"train": 24, "test": 6})
    fitted(tmp_path / "photos", list(COLOURS), tmp_path / "efficientnet-lite0.pth")
    _, *commands = dict.fromkeys(command for name in USING for command in typed(PAGES[name]))
    for command in commands:
        done = despite_noise(
            partial(run, given(command), tmp_path), partial(run, "nasdeploy profile --restart --quiet", tmp_path)
        )
        assert done.returncode == 0, f"{command}: {done.stderr}"
    (model,) = (tmp_path / "runs/photos/export").glob("*/model.onnx")
    assert model.stat().st_size > 10_000


def test_what_is_made_quicker_is_there() -> None:
    assert set(QUICKER) <= {command.removeprefix("nasdeploy ") for page in PAGES.values() for command in typed(page)}


@pytest.mark.slow
@pytest.mark.parametrize("name", [name for name in PAGES if name not in (*USING, "index.md") and typed(PAGES[name])])
def test_commands_of_pages_run_as_typed(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    measure_hastily(monkeypatch)
    if name == "published.md":
        monkeypatch.setitem(PUBLISHED, "alphanet", hostile_import.SMALL)
        alphanet.write_file(tmp_path / "alphanet.pth.tar", hostile_import.small_state())
        ofa.write_file(tmp_path / "ofa-mbv3.pth", ofa.state_dict(1.0))
        thousand_classes(tmp_path / "imagenet")
        write_folder(tmp_path / "photos", {"train": {"ant": 12, "bee": 12}, "test": {"ant": 2, "bee": 2}}, side=12)
    (tmp_path / "small.yaml").write_text(
        f"name: small\nspace: {SMALL}\ndata: {{kind: digits, size: 12}}\n", encoding="utf-8"
    )
    for fence in fences(PAGES[name], "yaml"):
        if re.fullmatch(r"[\w-]+\.yaml", fence.title):
            (tmp_path / fence.title).write_text(fence.text, encoding="utf-8")
    for command in typed(PAGES[name]):
        done = run(given(command), tmp_path)
        assert done.returncode == 0, f"{command}: {done.stderr}"


def test_the_first_page_begins_with_the_demo() -> None:
    assert typed(PAGES["index.md"]) == typed(README)[:1]


def test_pictures_of_pages_are_what_their_scripts_draw() -> None:
    for script in (ROOT / "docs").glob("draw_*.py"):
        drawn = runpy.run_path(str(script))
        assert drawn["PATH"].read_text(encoding="utf-8") == drawn["drawing"]()


def test_the_table_of_ones_own_is_a_space() -> None:
    table = parse(MobileNetTable, space(0), "spaces.md")
    assert table.build(3).size > 100


def test_the_small_once_for_all_space_is_one() -> None:
    table = parse(OfaTable, space(1), "spaces.md").build(10)
    # A stage of depths 2 to 4 with 6 choices a block, twice, and one of depths 2 and 3.
    assert table.networks == 3 * (6**2 + 6**3 + 6**4) ** 2 * (6**2 + 6**3)


def test_the_grown_space_is_one() -> None:
    grown = parse(GrownSettings, space(2), "spaces.md").build(10)
    assert grown.size == 2 * (3 * 2 * 3)
    assert grown.named["original"] == grown.largest()


def test_the_phases_are_those_of_a_training() -> None:
    (fence,) = fences(PAGES["using/training.md"], "yaml")
    train = parse(TrainSettings, yaml.safe_load(fence.text)["train"], "training.md")
    assert (train.epochs, train.original_phase) == (12, 1)


def test_the_devices_of_ones_own_are_devices() -> None:
    board, phone = (
        parse(Device, yaml.safe_load(fence.text), "devices.md") for fence in fences(PAGES["using/devices.md"], "yaml")
    )
    assert [type(host) for device in (board, phone) for host in device.boards] == [SshHost, AdbHost]
