"""The format torch-tensorrt, as far as it goes without a GPU."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from nasdeploy.exporting.formats import FORMATS
from nasdeploy.exporting.formats.format import files_of
from nasdeploy.runtimes.device import load_device
from nasdeploy.runtimes.engine import read_header
from nasdeploy.spaces import load_space
from tests.exporting.models import interface

FORM = FORMATS["torch-tensorrt"]
CPU = load_device("cpu")


@pytest.fixture(scope="module")
def converted(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("converted")
    done = subprocess.run(
        [sys.executable, "-m", "tests.exporting.convert_without_gpu", str(folder)],
        cwd=Path(__file__).parents[2],
        env={**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-4000:]
    return folder / "model.torch-tensorrt.engine"


@pytest.mark.slow
def test_a0_is_converted_and_its_engine_built(converted: Path) -> None:
    assert sorted(converted.parent.iterdir()) == sorted(files_of(FORM, converted))
    header = read_header(converted.read_bytes())
    assert header.capabilities == ("SM86",)
    plan = load_space("alphanet", 1000).plan(load_space("alphanet", 1000).named["a0"])
    # All weights are in it: fp32, four bytes each.
    assert converted.stat().st_size > 4 * plan.params
    assert FORM.inspect(converted, *interface(plan)) == []


@pytest.mark.slow
def test_the_program_beside_it_is_the_network(converted: Path) -> None:
    _, program = files_of(FORM, converted)
    space = load_space("alphanet", 1000)
    side = space.named["a0"]["resolution"]
    with program.open("rb") as file:
        module = torch.export.load(file).module()
    assert module(torch.randn(3, 3, side, side)).shape == (3, 1000)


def test_what_it_lacks_here_is_said() -> None:
    assert FORM.missing() is None
    assert FORM.obstacle() is not None or torch.cuda.is_available()
    assert FORM.runtime(CPU) == "tensorrt-rtx"


def test_an_empty_engine_and_a_strange_program_are_found(tmp_path: Path) -> None:
    path = tmp_path / "model.torch-tensorrt.engine"
    for file in files_of(FORM, path):
        file.write_bytes(b"")
    plan = load_space("digits", 10).plan(load_space("digits", 10).smallest())
    empty, program = FORM.inspect(path, *interface(plan))
    assert empty == "header: the file is empty"
    assert program.startswith("torch.export: ")
