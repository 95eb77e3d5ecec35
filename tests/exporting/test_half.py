"""Exports in fp16 on a processor that computes in fp32: what fp16 does to the network is found out all the same."""

import json
import re
from pathlib import Path

import onnx
import pytest
import torch

from nasdeploy.cli.wording import typed
from nasdeploy.convert.precision import Unfit
from nasdeploy.core.errors import CheckFailed
from nasdeploy.exporting import conversions
from nasdeploy.exporting.bundle.write import load_bundle
from nasdeploy.exporting.export import Exporter
from nasdeploy.exporting.manifest import ExportManifest
from nasdeploy.runtimes import RUNTIMES
from tests.exporting.models import exporter, jobs
from tests.small_spaces import one_stage
from tests.wording import assert_stops

ARCH = one_stage().named["t0"]


def overflowing(root: Path) -> Exporter:
    """Its last block's depthwise normalisation is a million times as large; the next one takes it back."""
    made = exporter(root)
    with torch.no_grad():
        for name, parameter in made.supernet.named_parameters():
            if "block2" in name and "depthwise_norm.weight" in name:
                parameter.mul_(1e6)
    return made


@pytest.fixture(scope="module")
def mixed(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    """What came of an export to ONNX, and the refusal of that to OpenVINO."""
    root = tmp_path_factory.mktemp("half")
    with pytest.raises(CheckFailed) as caught:
        overflowing(root).export(ARCH, root / "out", jobs("onnx", "openvino", precision="fp16"))
    return root / "out", typed(caught.value)


def test_what_fp16_does_not_hold_stays_in_fp32_where_the_format_can(mixed: tuple[Path, str]) -> None:
    out, _ = mixed
    (made,) = load_bundle(out).artefacts
    half = made.proof.half
    assert made.file.name == "model.fp16.onnx" and half is not None
    assert half.calibration == 21 and half.largest < 65504
    graph = onnx.load(out / made.file.name).graph
    kept = [node for node in graph.node if node.name in half.kept]
    assert len(kept) == len(half.kept) and {"Conv"} <= {node.op_type for node in kept}
    assert 0 < [node.op_type for node in kept].count("Conv") < [node.op_type for node in graph.node].count("Conv") / 2
    assert half.accuracy.images == 75 and half.accuracy.difference < 0.01


def test_a_format_that_cannot_refuses_with_the_operator_and_a_way_out(mixed: tuple[Path, str]) -> None:
    _, refusal = mixed
    assert CheckFailed.exit_code == 4
    assert re.fullmatch(
        r"format openvino in fp16: the result of Conv \S+ reaches \S+e\+0\d, and fp16 ends at 65504, on training "
        r"images; so it is with \d of 1\d layers; use --precision fp32, or --format onnx, which keeps such "
        r"operators in fp32",
        refusal,
    )


def test_the_bundle_says_in_which_precision_was_computed(mixed: tuple[Path, str]) -> None:
    out, _ = mixed
    (made,) = load_bundle(out).artefacts
    assert made.proof.half is not None
    here = RUNTIMES["onnxruntime"].computes("fp16")
    assert made.proof.computed_in == here
    text = (out / "README.md").read_text(encoding="utf-8")
    assert f"| computed in | {here}" in text
    assert f"activations reach {made.proof.half.largest:.4g} of 65504 ({made.proof.half.operator})" in text
    assert f"| kept in fp32 | {len(made.proof.half.kept)} operators" in text


def test_what_only_test_images_take_beyond_fp16_is_rejected(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """ONNX Runtime computes such a file soundly here, in fp32."""
    monkeypatch.setattr(conversions, "unfit", lambda model, images: Unfit())
    with pytest.raises(CheckFailed, match=r"in fp16 Conv \S+ reaches \S+e\+0\d on the test images") as caught:
        overflowing(tmp_path).export(ARCH, tmp_path / "out", jobs(precision="fp16"))
    assert "and fp16 ends at 65504; use --precision fp32; see " in typed(caught.value)
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == [
        "manifest.rejected.json",
        "model.fp16.rejected.onnx",
    ]


def test_a_network_that_fp16_spoils_as_a_whole_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    every = Unfit(("a", "b"), "the result of Conv a reaches 7e+04, and fp16 ends at 65504", layers=9)
    monkeypatch.setattr(conversions, "unfit", lambda model, images: every)
    with assert_stops(CheckFailed, match=r"so it is with 9 of 1\d layers; use --precision fp32$"):
        overflowing(tmp_path).export(ARCH, tmp_path / "out", jobs(precision="fp16"))


def test_manifests_of_earlier_versions_are_still_read(mixed: tuple[Path, str]) -> None:
    content = load_bundle(mixed[0]).model_dump(mode="json")
    proof = content["artefacts"][0]["proof"]
    del proof["half"], proof["computed_in"]
    (made,) = ExportManifest.model_validate_json(json.dumps(content)).artefacts
    assert (made.proof.half, made.proof.computed_in) == (None, None)
