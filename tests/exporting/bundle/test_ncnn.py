"""A bundle of ncnn's files: run without nasdeploy, in Python and in C++, and refused where they were tampered with."""

import json
import os
import re
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from nasdeploy.core.progress import Progress
from nasdeploy.exporting.bundle.pictures import prepare, read_rgb
from nasdeploy.exporting.bundle.verify import Sample
from nasdeploy.exporting.bundle.write import load_bundle
from nasdeploy.exporting.formats import FORMATS
from nasdeploy.workflows.verify import verify
from tests.exporting.bundle.test_bundle import alone, resealed
from tests.exporting.models import exporter, jobs
from tests.small_spaces import one_stage

FORM = FORMATS["ncnn"]
pytestmark = pytest.mark.skipif(FORM.missing() is not None, reason="ncnn's converter is not installed")


@pytest.fixture(scope="module")
def exported(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("ncnn")
    exporter(root, recalibrate=False).export(one_stage().named["t0"], root / "out", jobs("ncnn"))
    return root


@pytest.fixture
def bundle(exported: Path, tmp_path: Path) -> Path:
    """A copy to damage."""
    return shutil.copytree(exported / "out", tmp_path / "bundle")


@pytest.fixture
def picture(exported: Path) -> Path:
    return min((exported / "images/test").rglob("*.png"))


def test_predict_py_and_the_sample_agree(bundle: Path, picture: Path) -> None:
    (made,) = load_bundle(bundle).artefacts
    assert [file.name for file in made.files] == ["model.param", "model.bin"]
    assert (made.largest_batch, made.proof.computed_in) == (1, "fp32")
    assert made.proof.agreement is not None and made.proof.agreement.batches == (1,)
    done = alone(bundle, str(picture), "--top", "3")
    assert (done.returncode, done.stderr) == (0, "")
    shares = [float(line.split("\t")[2]) for line in done.stdout.splitlines()]
    assert len(shares) == 3 and sum(shares) == pytest.approx(1, abs=1e-3)
    assert "`predict_ncnn.cpp` runs it" in (bundle / "README.md").read_text()


def test_the_input_is_saved_for_programs_in_other_languages(bundle: Path, picture: Path, tmp_path: Path) -> None:
    done = alone(bundle, "--save-input", str(tmp_path / "input.f32"), str(picture))
    assert (done.returncode, done.stderr) == (0, "")
    steps = json.loads((bundle / "manifest.json").read_text())["preprocessing"]
    expected = prepare(read_rgb(picture, steps), steps)
    np.testing.assert_array_equal(np.fromfile(tmp_path / "input.f32", "<f4"), expected.ravel())
    done = alone(bundle, "--save-input", str(tmp_path / "input.f32"), str(picture), str(picture))
    assert (done.returncode, done.stderr) == (2, "predict.py: --save-input: name one image\n")


def no_compiler() -> str | None:
    """Return why programs cannot be compiled for ncnn here, which CPATH and LIBRARY_PATH may be the place of."""
    if not shutil.which("g++"):
        return "no g++"
    tried = ["g++", "-E", "-include", "ncnn/net.h", "-x", "c++", os.devnull]
    found = subprocess.run(tried, capture_output=True, check=False).returncode == 0
    return None if found else "no headers of ncnn: they come with its source, not with its Python package"


@pytest.mark.skipif(no_compiler() is not None, reason=str(no_compiler()))
def test_the_program_in_cpp_says_what_the_runtime_says(bundle: Path, picture: Path, tmp_path: Path) -> None:
    example = FORM.example
    assert example is not None
    subprocess.run(example.command, shell=True, check=True, cwd=bundle)
    Sample.load(bundle).input.astype("<f4").tofile(tmp_path / "input.f32")
    command = ["./predict", "model.param", "model.bin", str(tmp_path / "input.f32")]
    done = subprocess.run(command, capture_output=True, text=True, check=True, cwd=bundle)
    (expected,) = Sample.load(bundle).outputs["model.param"]
    found = [(int(number), float(logit)) for number, logit in (line.split("\t") for line in done.stdout.splitlines())]
    assert [number for number, _ in found] == np.argsort(-expected, kind="stable")[:5].tolist()
    np.testing.assert_allclose([logit for _, logit in found], np.sort(expected)[::-1][:5], atol=1e-4)
    np.zeros((3, 8, 8), "<f4").tofile(tmp_path / "input.f32")
    done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=bundle)
    refusal = f"predict: {tmp_path / 'input.f32'}: of another side than the model takes\n"
    assert (done.returncode, done.stdout, done.stderr) == (2, "", refusal)


def other_stride(param: str) -> str:
    return param.replace("3=1", "3=0", 1)


def other_size(param: str) -> str:
    """Of the input, which the first convolution is not made for."""
    return param.replace("2=3", "2=4", 1)


def without_end(param: str) -> str:
    return param[: len(param) // 2]


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (other_stride, r"ncnn: layer \S+: setting 1?3 of Convolution is 0"),
        (other_size, r"input: input \[4, 12, 12\]; expected input \[3, 12, 12\]"),
        (without_end, "ncnn: "),
    ],
)
def test_tampered_files_under_right_sums_are_refused_in_one_line(
    bundle: Path, change: Callable[[str], str], said: str
) -> None:
    path = bundle / "model.param"
    whole = path.read_text()
    path.write_text(change(whole))
    assert path.read_text() != whole
    resealed(bundle)
    (problem,) = verify(bundle, Progress(quiet=True)).problems
    assert re.match(rf"model\.param: {said}", problem) and "\n" not in problem


def test_layers_that_do_not_fit_together_end_a_process_of_their_own_at_most(bundle: Path) -> None:
    """The classifier takes as many weights as it had, of more inputs: files cannot tell."""
    path = bundle / "model.param"
    lines = path.read_text().splitlines()
    last = next(place for place, line in reversed(list(enumerate(lines))) if line.startswith("InnerProduct"))
    found = re.search(r" 0=(\d+)", lines[last])
    assert found is not None
    outputs = int(found[1])
    few = next(number for number in range(outputs - 1, 0, -1) if outputs % number == 0)
    lines[last] = lines[last].replace(f" 0={outputs}", f" 0={few}")
    path.write_text("\n".join(lines) + "\n")
    weights = bundle / "model.bin"
    weights.write_bytes(weights.read_bytes()[: -4 * (outputs - few)])
    resealed(bundle)
    (problem,) = verify(bundle, Progress(quiet=True)).problems
    assert "\n" not in problem
