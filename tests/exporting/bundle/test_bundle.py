"""What an export leaves: whole, checked before it is used, and good for something without nasdeploy."""

import csv
import io
import json
import shlex
import shutil
import subprocess
import sys
import venv
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from shutil import copytree

import numpy as np
import onnx
import pytest
from onnx import numpy_helper
from PIL import Image

from nasdeploy.cli.wording import typed
from nasdeploy.core.errors import CheckFailed, UserError
from nasdeploy.core.progress import Progress
from nasdeploy.data.decode import read_rgb
from nasdeploy.data.transforms import prepare
from nasdeploy.exporting.bundle import predict as program
from nasdeploy.exporting.bundle.verify import Sample
from nasdeploy.exporting.bundle.write import load_bundle, write_sums
from nasdeploy.runtimes.device import Device
from nasdeploy.supernet.supernet import extract
from nasdeploy.workflows.models import bench, predict
from nasdeploy.workflows.verify import verify
from tests.data.pictures import noise
from tests.exporting.models import QUICK, exporter, folder_data, jobs
from tests.small_spaces import ONE_STAGE, one_stage

QUIET = Progress(quiet=True)
FILES = ["README.md", "SHA256SUMS", "manifest.json", "model.onnx", "pictures.py", "predict.py", "sample.npz"]


@pytest.fixture(scope="module")
def exported(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("bundle")
    exporter(root, recalibrate=False).export(one_stage().named["t0"], root / "out", jobs())
    return root


@pytest.fixture
def bundle(exported: Path, tmp_path: Path) -> Path:
    """A copy to damage."""
    return copytree(exported / "out", tmp_path / "bundle")


@pytest.fixture
def pictures(exported: Path) -> Path:
    return exported / "images/test"


def alone(bundle: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    """predict.py as it lies in a bundle, where nothing but runtime, NumPy and Pillow can be imported."""
    block = "; ".join(
        f"sys.modules[{name!r}] = None" for name in ("nasdeploy", "torch", "torchvision", "onnx", "scipy")
    )
    start = f"import runpy, sys; {block}; sys.argv[:] = sys.argv[1:]; runpy.run_path(sys.argv[0], run_name='__main__')"
    command = [sys.executable, "-c", start, str(bundle / "predict.py"), *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=False, cwd=bundle.parent)


def test_sha256sum_finds_every_file_right(bundle: Path) -> None:
    assert sorted(path.name for path in bundle.iterdir()) == [".gitattributes", *FILES]
    done = subprocess.run(["sha256sum", "-c", "SHA256SUMS"], cwd=bundle, capture_output=True, text=True, check=True)
    assert done.stdout.splitlines() == [f"{name}: OK" for name in FILES if name != "SHA256SUMS"]


def test_predict_py_ends_quietly_where_its_output_is_not_read(bundle: Path, pictures: Path) -> None:
    line = f"{shlex.quote(sys.executable)} {bundle}/predict.py {pictures} {pictures} {pictures} | true"
    done = subprocess.run(line, shell=True, capture_output=True, text=True, check=False)
    assert done.stderr == ""


def test_predict_py_says_what_pytorch_says(bundle: Path, exported: Path, pictures: Path, tmp_path: Path) -> None:
    done = alone(bundle, str(pictures), "--top", "3")
    assert (done.returncode, done.stderr) == (0, "")
    rows = [line.split("\t") for line in done.stdout.splitlines()]
    manifest = load_bundle(bundle)
    network = extract(exporter(tmp_path, recalibrate=False).supernet, one_stage().named["t0"]).eval()
    files = sorted(pictures.rglob("*.png"))
    assert [row[0] for row in rows[::3]] == [str(path) for path in files]
    for number, path in enumerate(files):
        logits = network(prepare(manifest.preprocessing, [read_rgb(path)]))
        shares = logits.softmax(dim=1)[0]
        found = rows[3 * number : 3 * number + 3]
        assert [manifest.labels[index] for index in shares.argsort(descending=True)] == [row[1] for row in found]
        assert float(found[0][2]) == pytest.approx(shares.max().item(), abs=1e-4)


def test_predict_py_names_what_is_wrong_and_classifies_the_rest(bundle: Path, pictures: Path, tmp_path: Path) -> None:
    (tmp_path / "cut.png").write_bytes(next(pictures.rglob("*.png")).read_bytes()[:40])
    done = alone(bundle, str(tmp_path / "cut.png"), str(pictures / "ant"))
    assert done.returncode == 2
    assert done.stderr.startswith(f"predict.py: {tmp_path}/cut.png: cannot be read as an image (")
    assert (done.stderr.count("\n"), done.stdout.count("\n")) == (1, 25)
    done = alone(bundle, "nowhere")
    assert (done.returncode, done.stderr) == (2, "predict.py: nowhere: no such file or folder\n")
    done = alone(bundle, str(pictures), "--model", "model.int8.onnx")
    assert done.stderr == "predict.py: no model model.int8.onnx in this bundle; it has model.onnx\n"


@pytest.mark.slow
def test_predict_py_in_a_fresh_environment(bundle: Path, pictures: Path, tmp_path: Path) -> None:
    """Where pip reaches no package index this is skipped."""
    # This environment's pip installs into that one, which saves making it one of its own.
    venv.create(tmp_path / "fresh")
    python = str(tmp_path / "fresh/bin/python")
    install = [sys.executable, "-m", "pip", "--python", python, "install", "--quiet", "--no-compile"]
    install += ["onnxruntime", "numpy", "pillow"]
    if subprocess.run(install, capture_output=True, check=False).returncode:
        pytest.skip("pip cannot install onnxruntime here")
    command = [str(bundle / "predict.py"), str(pictures)]
    fresh = subprocess.run([python, *command], capture_output=True, text=True, check=True, cwd=tmp_path)
    assert fresh.stdout == alone(bundle, str(pictures)).stdout
    assert fresh.stdout.count("\n") == 75


def test_the_text_has_the_figures(bundle: Path) -> None:
    manifest, text = load_bundle(bundle), (bundle / "README.md").read_text()
    proof = manifest.artefacts[0].proof
    assert proof.accuracy and proof.latency
    for part in (
        f"# Network {manifest.digest}",
        "ant, bee, cat",
        f"{100 * proof.accuracy.top1:.2f} %",
        f"median {proof.latency.median_ms:.4g} ms",
        "the shorter side to 9",
        "Rescale to 12 x 12",
        manifest.artefacts[0].fingerprint.cpu if manifest.artefacts[0].fingerprint else "",
    ):
        assert part in text
    assert max(map(len, text.splitlines())) < 250


# -- damage


def flip(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 4
    path.write_bytes(content)


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-20])


def lose(path: Path) -> None:
    path.unlink()


def one_line_less(path: Path) -> None:
    path.write_text("".join(path.read_text().splitlines(keepends=True)[:-1]))


@contextmanager
def refused(kind: type[Exception]) -> Iterator[list[str]]:
    """Exactly one line is said."""
    said: list[str] = []
    with pytest.raises(kind) as caught:
        yield said
    said.append(typed(caught.value))
    assert "\n" not in said[0]


@pytest.mark.parametrize("damage", [flip, cut, lose])
@pytest.mark.parametrize("name", FILES)
def test_damage_is_refused_by_everything(
    name: str, damage: Callable[[Path], None], bundle: Path, pictures: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    damage(bundle / name)
    with refused(UserError) as said:
        load_bundle(bundle)
    with refused(CheckFailed):
        verify(bundle, QUIET)
    with refused(UserError):
        bench([str(bundle)], Device(name="cpu", runtime="onnxruntime"), QUIET, protocol=QUICK)
    with refused(UserError):
        predict(bundle, [pictures], QUIET)
    assert program.main([str(pictures)], bundle) == 2
    printed = capsys.readouterr()
    assert (printed.out, printed.err.count("\n")) == ("", 1)
    assert name in said[0] or "SHA256SUMS" in said[0] or (name, damage) == ("manifest.json", lose)


def test_sums_that_lack_a_file_are_refused(bundle: Path) -> None:
    one_line_less(bundle / "SHA256SUMS")
    with pytest.raises(UserError, match=r"sample\.npz: not in SHA256SUMS, so no part of the bundle; remove it"):
        load_bundle(bundle)


def test_what_is_hidden_or_rejected_is_left_alone(bundle: Path) -> None:
    for name in (".DS_Store", "model.rejected.onnx", "__pycache__/predict.pyc"):
        (bundle / name).parent.mkdir(exist_ok=True)
        (bundle / name).touch()
    assert load_bundle(bundle).digest


def test_names_that_lead_elsewhere_are_refused(bundle: Path) -> None:
    for name in ("../secret", "/etc/passwd", "a//b", ".hidden"):
        (bundle / "SHA256SUMS").write_text(f"{'0' * 64}  manifest.json\n{'0' * 64}  {name}\n")
        with pytest.raises(UserError, match="SHA256SUMS: damaged"):
            load_bundle(bundle)


# -- sums made anew: then only trying it helps


def resealed(bundle: Path, change: Callable[[dict], None] = lambda manifest: None) -> None:
    """Write manifest and sums anew, of the files as they are."""
    path = bundle / "manifest.json"
    manifest = json.loads(path.read_text())
    for file in manifest["artefacts"][0]["files"]:
        path_of = bundle / file["name"]
        file["sha256"], file["bytes"] = program.sha256(path_of), path_of.stat().st_size
    change(manifest)
    path.write_text(json.dumps(manifest))
    write_sums(bundle)


def test_another_model_under_right_sums_fails_its_sample(bundle: Path) -> None:
    model = onnx.load(bundle / "model.onnx")
    tensor = next(t for t in model.graph.initializer if len(t.dims) == 4)
    tensor.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(tensor) * 1.1, tensor.name))
    onnx.save(model, bundle / "model.onnx")
    resealed(bundle)
    (found,) = verify(bundle, QUIET, protocol=QUICK).found
    assert found.problems[0].startswith("outputs on the sample differ from those when it was exported by up to")


def test_another_preprocessing_under_right_sums_fails_the_sample(bundle: Path) -> None:
    resealed(bundle, lambda manifest: manifest["preprocessing"].update(mean=[0.4, 0.5, 0.5]))
    with pytest.raises(CheckFailed, match="the sample's input, made here, differs by up to"):
        verify(bundle, QUIET)


def test_what_is_no_manifest_under_right_sums_is_one_line(
    bundle: Path, pictures: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for content in ("[]", "{}", '{"labels": []}', "[" * 9999, '{"labels": ["a"], "preprocessing": 3, "artefacts": []}'):
        (bundle / "manifest.json").write_text(content)
        write_sums(bundle)
        assert program.main([str(pictures)], bundle) == 2
        assert capsys.readouterr().err.count("\n") == 1
        with refused(UserError):
            load_bundle(bundle)


# -- the sample


def test_the_sample_is_what_the_network_makes_of_a_picture(bundle: Path, exported: Path, tmp_path: Path) -> None:
    sample, manifest = Sample.load(bundle), load_bundle(bundle)
    network = extract(exporter(tmp_path, recalibrate=False).supernet, one_stage().named["t0"]).eval()
    inputs = prepare(manifest.preprocessing, [Image.fromarray(sample.pixels)])
    np.testing.assert_allclose(sample.input, inputs.numpy(), atol=1e-6)
    np.testing.assert_allclose(sample.logits, network(inputs).detach().numpy(), atol=1e-5)
    np.testing.assert_allclose(sample.outputs["model.onnx"], sample.logits, atol=1e-5)
    assert (bundle / "sample.npz").stat().st_size < 20_000


@pytest.mark.parametrize("content", [b"", b"PK\x03\x04junk", b"\x93NUMPY"])
def test_a_damaged_sample_is_named(content: bytes, bundle: Path) -> None:
    (bundle / "sample.npz").write_bytes(content)
    with pytest.raises(UserError, match=r"sample\.npz: cannot be read \(.*\); export again"):
        Sample.load(bundle)


# -- predict and verify


def test_predictions_are_a_table(bundle: Path, pictures: Path, tmp_path: Path) -> None:
    (tmp_path / "more").mkdir()
    (tmp_path / "more/broken, by comma.png").write_bytes(b"")
    predictions = predict(bundle, [pictures / "bee", tmp_path / "more"], QUIET, top=2)
    rows = list(csv.DictReader(io.StringIO(predictions.table())))
    assert len(rows) == 25
    assert list(rows[0]) == ["file", "class", "probability", "class_2", "probability_2"]
    assert float(rows[0]["probability"]) >= float(rows[0]["probability_2"])
    assert len(predictions.unreadable) == 1
    said = alone(bundle, str(pictures / "bee")).stdout.splitlines()
    assert [row["class"] for row in rows] == [line.split("\t")[1] for line in said]


def test_a_folder_without_images_is_named(bundle: Path, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    with pytest.raises(UserError, match="empty: holds no images"):
        predict(bundle, [tmp_path / "empty"], QUIET)


def test_verification_on_test_images_finds_the_exports_accuracy(bundle: Path, pictures: Path) -> None:
    for folder in (pictures, pictures.parent / "test"):
        found = verify(bundle, QUIET, data=str(folder), protocol=QUICK)
        (model,) = found.found
        assert found.problems == ()
        assert (model.samples, model.score) == (75, model.score_exported)
        assert model.difference == 0
        assert model.median_ms and model.median_ms_exported


def test_verification_notices_another_accuracy(bundle: Path, exported: Path, tmp_path: Path) -> None:
    """All pictures in the folder of a class that the network, which is not trained, gives to none of them.

    A bundle of an earlier version does not know which images it was tested on; others do not try them.
    """
    wrong = next(row.classes for row in predict(bundle, [exported / "images/test"], QUIET, top=3).found)[-1][0]
    for name in ("ant", "bee", "cat"):
        for path in (exported / "images/test" / name).iterdir():
            target = tmp_path / "data" / wrong / f"{name}-{path.name}"
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_bytes(path.read_bytes())
    with pytest.raises(UserError, match=r"data: its 75 test images, or their classes, are not the 75 that the models"):
        verify(bundle, QUIET, data=str(tmp_path / "data"), protocol=QUICK)
    manifest = json.loads((bundle / "manifest.json").read_text())
    del manifest["data"]
    (bundle / "manifest.json").write_text(json.dumps(manifest))
    write_sums(bundle)
    found = verify(bundle, QUIET, data=str(tmp_path / "data"), protocol=QUICK)
    assert found.problems[0].startswith("model.onnx: top-1 0.00 % on 75 images, when it was exported 33.33 %, allowed ")


def test_verification_finds_classes_in_the_other_form_of_unicode(bundle: Path, exported: Path, tmp_path: Path) -> None:
    manifest = json.loads((bundle / "manifest.json").read_text())
    (bundle / "manifest.json").write_text(json.dumps({**manifest, "labels": ["ant", "Mu\u0308ller", "cat"]}))
    write_sums(bundle)
    shutil.copytree(exported / "images/test", tmp_path / "data")
    (tmp_path / "data/bee").rename(tmp_path / "data/M\u00fcller")
    assert not verify(bundle, QUIET, data=str(tmp_path / "data"), protocol=QUICK).problems


def changed_pixels(images: Path) -> None:
    noise(11, 11, seed=999).save(images / "test/ant/0.png")


def training_images_for_testing(images: Path) -> None:
    for file in (images / "train/ant").iterdir():
        shutil.copy(file, images / "test/ant" / file.name)


@pytest.mark.parametrize(
    ("change", "count"),
    [
        (lambda images: shutil.rmtree(images / "test"), 6),
        (lambda images: shutil.rmtree(images / "train"), 75),
        (changed_pixels, 75),
        (training_images_for_testing, 75),
        (lambda images: (images / "test/bee/1.png").rename(images / "test/cat/1a.png"), 75),
        (lambda images: (images / "test/bee/1.png").unlink(), 74),
    ],
)
def test_verification_is_on_the_test_images_of_the_export_only(
    change: Callable[[Path], object], count: int, bundle: Path, exported: Path, tmp_path: Path
) -> None:
    copytree(exported / "images", tmp_path / "images")
    manifest = json.loads((bundle / "manifest.json").read_text())
    data, _ = folder_data(tmp_path / "images")
    recipe = {"name": "x", "space": ONE_STAGE.model_dump(mode="json"), "data": data.model_dump(mode="json")}
    manifest["origin"]["recipe"] = recipe
    (bundle / "manifest.json").write_text(json.dumps(manifest))
    write_sums(bundle)
    change(tmp_path / "images")
    if (tmp_path / "images/train").is_dir():
        with pytest.raises(UserError, match=rf"images: its {count} test images, or their classes, are not the 75 that"):
            verify(bundle, QUIET, data=str(tmp_path / "images"), protocol=QUICK)
    else:
        found = verify(bundle, QUIET, data=str(tmp_path / "images"), protocol=QUICK)
        assert (found.problems, found.found[0].samples) == ((), count)


def test_verification_without_images_says_why(bundle: Path) -> None:
    found = verify(bundle, QUIET, protocol=QUICK)
    assert found.images.startswith("accuracy is not tried without `data` (")
    assert found.problems == ()


@pytest.mark.parametrize(
    ("folder", "message"),
    [
        ("nowhere", "nowhere: no such folder; give one that holds CLASS/*.jpg, or test/CLASS/*.jpg"),
        (".", "holds no images in folders called ant, bee, cat; name them after the classes"),
    ],
)
def test_data_that_does_not_fit_is_named(
    folder: str, message: str, bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UserError) as caught:
        verify(bundle, QUIET, data=folder)
    assert message in typed(caught.value)


# -- whole or not at all


def test_what_no_export_wrote_is_not_removed(bundle: Path) -> None:
    (bundle / "notes.txt").write_text("mine")
    made = exporter(bundle.parent, recalibrate=False)
    with pytest.raises(UserError, match=r"bundle: holds notes\.txt, which no export wrote and a new one would remove"):
        made.export(one_stage().named["t0"], bundle, jobs())
    assert (bundle / "notes.txt").read_text() == "mine"
    (bundle / "notes.txt").unlink()
    load_bundle(bundle)


@pytest.mark.parametrize(("content", "said"), [(None, "missing"), (b"x = 1\n", "another's"), (b"def (\0", "damaged")])
def test_predict_py_without_its_other_half_says_so(bundle: Path, content: bytes | None, said: str) -> None:
    beside = bundle / "pictures.py"
    beside.unlink() if content is None else beside.write_bytes(content)
    done = alone(bundle, "x.png")
    assert done.returncode == 1
    (line,) = done.stderr.splitlines()
    assert line.startswith("predict.py: pictures.py beside it is") and said in line and "copy the bundle again" in line
