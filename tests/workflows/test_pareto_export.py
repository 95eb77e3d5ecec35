"""All networks of a search's front, exported with one table of figures."""

from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace

import pytest

from nasdeploy.cli.export import emit_family
from nasdeploy.core.errors import CheckFailed
from nasdeploy.core.progress import Progress
from nasdeploy.exporting.record import Proof
from nasdeploy.tasks.file_scores import Accuracy
from nasdeploy.workflows.export import export_family
from tests.exporting.test_manifest import manifest_of


@dataclass
class Request:
    arch: SimpleNamespace


REQUESTS = [Request(SimpleNamespace(digest=digest)) for digest in ("a" * 12, "b" * 12, "c" * 12)]
ACCURACY = Accuracy(images=100, top1=0.5, interval=(0.4, 0.6), top1_pytorch=0.5, changed=0, difference=0.0)


def export(request: Request, out: Path):
    if request.arch.digest.startswith("b"):
        raise CheckFailed("b: logits differ")
    return out, manifest_of(Proof(accuracy=ACCURACY)).model_copy(update={"digest": request.arch.digest})


def test_each_has_a_directory_and_one_that_fails_does_not_stop_the_others(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("COLUMNS", "400")
    family = export_family(REQUESTS, tmp_path, export, Progress(quiet=True))
    assert [directory.name for directory, _ in family.members] == ["a" * 12, "c" * 12]
    with pytest.raises(CheckFailed, match=r"^b: logits differ; 2 others were exported$"):
        emit_family(family, SimpleNamespace(path="runs/x"), as_json=False)
    heading, first, last = capsys.readouterr().out.splitlines()
    assert heading.split()[0] == "network"
    assert first.split() == ["a" * 12, "1e-06", "2e-06", "7e-06", "50", "40.00", "to", "60.00", "-", "-"]
    assert last.startswith("c" * 12)
