"""What the README says is typed here as it stands."""

import io
import json
import re
import runpy
import shlex
import subprocess
import sys
from contextlib import chdir, redirect_stderr, redirect_stdout
from functools import partial
from pathlib import Path

import pytest
import typer
import yaml

from nasdeploy.cli.app import app
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
from tests.exporting.converted import functions_read_once  # noqa: F401
from tests.hasty import measure_hastily
from tests.importers import hostile_import
from tests.importers import published_alphanet as alphanet
from tests.importers import published_ofa as ofa
from tests.importers.published_files import thousand_classes
from tests.noise import despite_noise

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text(encoding="utf-8")
DOCS = ROOT / "docs"
PAGES = {
    path.relative_to(DOCS).as_posix(): path.read_text(encoding="utf-8")
    for pattern in ("*.md", "guides/*.md", "concepts/*.md")
    for path in sorted(DOCS.glob(pattern))
}
SMALL = (
    "{name: small, resolution: [8, 12], stem: {width: [16, 24], stride: 1}, head: {width: [96], expand: 2}, stages: ["
    "{width: [24, 32], depth: [1, 2, 3], kernel: [3], expand: [2, 4], stride: 2}, "
    "{width: [40, 48], depth: [1, 2, 3], kernel: [3], expand: [3], stride: 2, se: true}]}"
)
QUICKER = {
    # A whole demo and an hour of training are too long for a test; everything else is as the README has it. With a
    # bound on MACs the demo measures no latency table; one is measured for the photos.
    "run digits": "--set train.epochs=1 --set train.warmup_epochs=0 --set data.images_per_class=24 "
    "--set search.rounds=1 --set search.parents=6 --macs-m 0.6",
    "init --data photos": "--hours 0.01",
    # The drafted space has 266 blocks to measure, and the drafted training dozens of epochs.
    "train recipe.yaml": f"--set train.epochs=5 --set 'space={SMALL}'",
    # A busy machine may be slower when it searches than when it was profiled.
    "search --latency 40%": "--set search.rounds=1 --set search.parents=6 --set search.probability=0.999",
}
BRIEFLY = MeasurementProtocol(
    networks=Rounds(group=16, visits=6),
    shortest_group_s=0.5,
    sustained_s=0.1,
    retries=0,
    calibration_networks=12,
    held_out_networks=8,
)
"""As good a table as a search within 40 % of its range needs, in a quarter of the time."""
_ARCH = json.dumps(load_space("digits").smallest().to_json())
QUICKER_IN_PAGES = {
    # A small supernet in AlphaNet's layout stands in for AlphaNet's.
    "export --run runs/alphanet --arch a0": f"--arch '{_ARCH}' --set recalibration.batches=1",
    # A space of a few blocks in place of one of 266.
    "profile --device cpu --space digits": "--space small.yaml",
    # Some runtimes take half a minute to convert for; all are compared in tests/conformance.
    "runtimes compare smallest --space digits --plot runtimes.png": "--device cpu,cpu-torch",
    # Minutes of training.
    "train my_space.yaml": "--set train.epochs=1 --set train.warmup_epochs=0 --set data.images_per_class=24 "
    "--set search.rounds=1 --set search.parents=6 --set recalibration.batches=1 --set recalibration.search_batches=1",
}


FENCED = re.MULTILINE | re.DOTALL


def blocks(language: str, page: str = README) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```", page, FENCED)


def typed(page: str = README) -> list[str]:
    """Commands in console blocks, in order."""
    return [line.removeprefix("$ ") for block in blocks("console", page) for line in block.splitlines()]


def mentioned() -> list[str]:
    """Commands in indented blocks of all pages, and in those with a title, continuation lines joined."""
    pages = [page.replace("\\\n", " ") for page in (README, *PAGES.values())]
    indented = [line.strip() for page in pages for line in page.splitlines() if line.startswith("    ")]
    titled = [block for page in pages for block in re.findall(r'^```console title=".+"\n(.*?)^```', page, FENCED)]
    lines = [*indented, *(line.removeprefix("$ ") for block in titled for line in block.splitlines())]
    return [line for line in lines if re.match(r"(nasdeploy|(srun .*)?torchrun .*nasdeploy) ", line)]


def write_shown(page: str, folder: Path) -> None:
    """Write the files that a page shows whole, whose names are the titles of their blocks."""
    for name, content in re.findall(r'^```yaml title="([a-z0-9_-]+\.yaml)"\n(.*?)^```', page, FENCED):
        (folder / name).write_text(content, encoding="utf-8")


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


@pytest.mark.slow
def test_commands_run_as_typed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    measure_hastily(monkeypatch, BRIEFLY)
    write_folder(tmp_path / "photos", {"train": {"ant": 24, "bee": 24}, "test": {"ant": 6, "bee": 6}}, side=12)
    for command in typed():
        given = command.removeprefix("nasdeploy ")
        done = despite_noise(
            partial(run, f"{command} {QUICKER.get(given, '')}", tmp_path),
            partial(run, "nasdeploy profile --restart --quiet", tmp_path),
        )
        assert done.returncode == 0, f"{command}: {done.stderr}"
    for name in ("digits", "photos"):
        (model,) = (tmp_path / "runs" / name / "export").glob("*/model.onnx")
        assert model.stat().st_size > 10_000


def test_what_is_made_quicker_is_there() -> None:
    assert set(QUICKER) <= {command.removeprefix("nasdeploy ") for command in typed()}
    in_pages = {command.removeprefix("nasdeploy ") for page in PAGES.values() for command in typed(page)}
    assert set(QUICKER_IN_PAGES) <= in_pages


@pytest.mark.slow
@pytest.mark.parametrize("name", [name for name, page in PAGES.items() if typed(page)])
def test_commands_of_pages_run_as_typed(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    measure_hastily(monkeypatch)
    if name == "published.md":
        monkeypatch.setitem(PUBLISHED, "alphanet", hostile_import.SMALL)
        alphanet.write_file(tmp_path / "alphanet.pth.tar", hostile_import.small_state())
        ofa.write_file(tmp_path / "ofa-mbv3.pth", ofa.state_dict(1.0))
        thousand_classes(tmp_path / "imagenet")
        write_folder(tmp_path / "photos", {"train": {"ant": 12, "bee": 12}, "test": {"ant": 2, "bee": 2}}, side=12)
    write_shown(PAGES[name], tmp_path)
    (tmp_path / "small.yaml").write_text(
        f"name: small\nspace: {SMALL}\ndata: {{kind: digits, size: 12}}\n", encoding="utf-8"
    )
    for command in typed(PAGES[name]):
        done = run(f"{command} {QUICKER_IN_PAGES.get(command.removeprefix('nasdeploy '), '')}", tmp_path)
        assert done.returncode == 0, f"{command}: {done.stderr}"


def test_pictures_of_pages_are_what_their_scripts_draw() -> None:
    for script in (ROOT / "docs").glob("draw_*.py"):
        drawn = runpy.run_path(str(script))
        assert drawn["PATH"].read_text(encoding="utf-8") == drawn["drawing"]()


@pytest.mark.parametrize("command", mentioned())
def test_mentioned_commands_have_these_options(command: str) -> None:
    words = shlex.split(command[command.index("nasdeploy") :], comments=True)[1:]
    found = typer.main.get_command(app)
    # `search` is a command itself and has commands.
    while words and words[0] in getattr(found, "commands", {}):
        found = found.commands[words[0]]
        words = words[1:]
    with found.make_context(command, words) as context:
        assert "as_json" in context.params


def test_the_table_of_ones_own_is_a_space() -> None:
    text, *_ = blocks("yaml")
    table = parse(MobileNetTable, yaml.safe_load(text)["space"], "README.md")
    assert table.build(3).size > 100


def test_the_small_once_for_all_space_is_one() -> None:
    _, text, *_ = blocks("yaml")
    space = parse(OfaTable, yaml.safe_load(text)["space"], "README.md").build(10)
    # A stage of depths 2 to 4 with 6 choices a block, twice, and one of depths 2 and 3.
    assert space.networks == 3 * (6**2 + 6**3 + 6**4) ** 2 * (6**2 + 6**3)


def test_the_grown_space_is_one() -> None:
    _, _, text, *_ = blocks("yaml")
    space = parse(GrownSettings, yaml.safe_load(text)["space"], "README.md").build(10)
    assert space.size == 2 * (3 * 2 * 3)
    assert space.named["original"] == space.largest()


def test_the_phases_are_those_of_a_training() -> None:
    *_, text, _, _ = blocks("yaml")
    train = parse(TrainSettings, yaml.safe_load(text)["train"], "README.md")
    assert (train.epochs, train.original_phase) == (12, 1)


def test_the_devices_of_ones_own_are_devices() -> None:
    board, phone = (parse(Device, yaml.safe_load(text), "README.md") for text in blocks("yaml")[-2:])
    assert [type(host) for device in (board, phone) for host in device.boards] == [SshHost, AdbHost]
