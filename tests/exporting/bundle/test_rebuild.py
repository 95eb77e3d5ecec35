"""Engines built again from a bundle, without nasdeploy."""

import subprocess
import sys
from pathlib import Path
from shutil import copytree

import pytest

from nasdeploy.exporting.bundle.write import load_bundle
from nasdeploy.exporting.formats import FORMATS, plan_jobs
from nasdeploy.runtimes.engine import read_header
from tests.exporting.models import DEVICE, exporter
from tests.small_spaces import one_stage

ENGINE, ONNX = "model.tensorrt-rtx.engine", "model.tensorrt-rtx.onnx"

pytestmark = pytest.mark.skipif(
    FORMATS["tensorrt-rtx"].missing() is not None, reason="TensorRT for RTX is not installed"
)


@pytest.fixture(scope="module")
def exported(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("rebuild")
    jobs = plan_jobs(["tensorrt-rtx"], DEVICE, capabilities=["sm86"])
    exporter(root, recalibrate=False).export(one_stage().named["t0"], root / "out", jobs)
    return root / "out"


def rebuild(bundle: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    """As it lies in a bundle, where nasdeploy cannot be imported."""
    start = (
        "import runpy, sys; sys.modules['nasdeploy'] = None; sys.argv[:] = sys.argv[1:]; "
        "runpy.run_path(sys.argv[0], run_name='__main__')"
    )
    command = [sys.executable, "-c", start, str(bundle / "rebuild.py"), *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=False, cwd=bundle.parent)


def test_the_model_behind_an_engine_travels_along(exported: Path) -> None:
    manifest = load_bundle(exported)
    assert [file.name for file in manifest.artefacts[0].files] == [ENGINE, ONNX]
    text = (exported / "README.md").read_text()
    assert f"`python rebuild.py`\n  builds it again, from `{ONNX}`" in text


def test_engines_are_built_for_other_gpus_and_the_bundle_stays_as_it_is(exported: Path, tmp_path: Path) -> None:
    done = rebuild(exported, "--compute-capability", "sm89,sm120", "--out", str(tmp_path / "new"))
    assert (done.returncode, done.stdout.splitlines()) == (0, [str(tmp_path / "new" / ENGINE)]), done.stderr
    before, after = (read_header((folder / ENGINE).read_bytes()) for folder in (exported, tmp_path / "new"))
    assert before.capabilities == ("SM86",)
    assert after.capabilities == ("SM89", "SM120")
    assert after.version == before.version
    load_bundle(exported)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--compute-capability", "sm87"], "rebuild.py: --compute-capability SM87: unknown to tensorrt_rtx 1."),
        (["--compute-capability", "sm86", "--out", "/dev/null/x"], "rebuild.py: [Errno 20] Not a directory"),
    ],
)
def test_mistakes_end_in_one_line(exported: Path, tmp_path: Path, arguments: list[str], message: str) -> None:
    done = rebuild(exported, "--out", str(tmp_path / "new"), *arguments)
    assert done.returncode == 2
    (line,) = done.stderr.splitlines()
    assert line.startswith(message)


def test_a_changed_model_is_not_built(exported: Path, tmp_path: Path) -> None:
    bundle = copytree(exported, tmp_path / "bundle")
    content = bytearray((bundle / ONNX).read_bytes())
    content[len(content) // 2] ^= 1
    (bundle / ONNX).write_bytes(content)
    done = rebuild(bundle, "--compute-capability", "sm86")
    assert done.returncode == 2
    assert done.stderr == f"rebuild.py: {ONNX}: not as it was exported (SHA256SUMS); get the folder again\n"
    assert list(tmp_path.glob("**/*.rebuilt*")) == []
