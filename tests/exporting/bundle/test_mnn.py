"""A bundle of MNN's file: run without nasdeploy, and refused where it was tampered with."""

import shutil
from pathlib import Path

import numpy as np
import pytest

from nasdeploy.core.progress import Progress
from nasdeploy.exporting.bundle.verify import Sample
from nasdeploy.exporting.bundle.write import load_bundle
from nasdeploy.exporting.formats import FORMATS
from nasdeploy.runtimes.mnn_file import FlatTable
from nasdeploy.workflows.verify import verify
from tests.exporting.bundle.test_bundle import alone, resealed
from tests.exporting.models import exporter, jobs
from tests.small_spaces import one_stage

pytestmark = pytest.mark.skipif(FORMATS["mnn"].missing() is not None, reason="MNN is not installed")
CONVOLUTION = 12


@pytest.fixture(scope="module")
def exported(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("mnn")
    exporter(root, recalibrate=False).export(one_stage().named["t0"], root / "out", jobs("mnn"))
    return root


def test_predict_py_and_the_sample_agree(exported: Path) -> None:
    bundle = exported / "out"
    (made,) = load_bundle(bundle).artefacts
    assert [file.name for file in made.files] == ["model.mnn"]
    assert (made.largest_batch, made.proof.computed_in) == (None, "fp32")
    # Nothing but the answers is printed, whatever MNN says of the processor.
    done = alone(bundle, str(min((exported / "images/test").rglob("*.png"))), "--top", "3")
    assert (done.returncode, done.stderr) == (0, "")
    shares = [float(line.split("\t")[2]) for line in done.stdout.splitlines()]
    assert len(shares) == 3 and sum(shares) == pytest.approx(1, abs=1e-3)
    sample = Sample.load(bundle)
    np.testing.assert_allclose(sample.outputs["model.mnn"], sample.logits, atol=1e-4)


@pytest.mark.parametrize(
    ("field", "value", "said"),
    [(10, 4096, "a convolution has "), (4, 0, "a convolution has no such shape"), (9, 3, "a convolution has no such ")],
)
def test_tampered_files_under_right_sums_are_refused_in_one_line(
    exported: Path, tmp_path: Path, field: int, value: int, said: str
) -> None:
    bundle = shutil.copytree(exported / "out", tmp_path / "bundle")
    path = bundle / "model.mnn"
    content = bytearray(path.read_bytes())
    layers = (each.table(2) for each in FlatTable.root(bytes(content)).tables(3) if each.integer(5) == CONVOLUTION)
    commons = [common for layer in layers if layer is not None and (common := layer.table(0)) is not None]
    at = next(place for common in commons if (place := common.place(field)))
    content[at : at + 4] = value.to_bytes(4, "little")
    path.write_bytes(bytes(content))
    resealed(bundle)
    (problem,) = verify(bundle, Progress(quiet=True)).problems
    assert problem.startswith(f"model.mnn: MNN: {said}") and "\n" not in problem
