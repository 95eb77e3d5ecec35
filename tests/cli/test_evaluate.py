"""`nasdeploy evaluate` as a user types it."""

import json
import shutil
import sys
from pathlib import Path
from typing import Any

import pytest

from nasdeploy.cli.main import main
from nasdeploy.core.progress import Progress
from nasdeploy.recipe import space_of
from nasdeploy.store.run import Run
from nasdeploy.supernet.evaluate import Evaluator
from nasdeploy.workflows import train as step
from tests.training.recipes import tiny_recipe


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two runs: `tiny`, and `wide` of another space."""
    directory = tmp_path_factory.mktemp("evaluate")
    for recipe in (tiny_recipe("train.epochs=1"), tiny_recipe("train.epochs=1", "name=wide", "space.head.width=[32]")):
        step.train(recipe, directory / "runs" / recipe.name, Progress(quiet=True))
    return directory


@pytest.fixture(autouse=True)
def _copy(trained: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    shutil.copytree(trained / "runs", tmp_path / "runs")
    monkeypatch.chdir(tmp_path)


@pytest.fixture
def scored(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Digests of the architectures that were really evaluated."""
    digests: list[str] = []
    call = Evaluator.__call__

    def counting(self: Evaluator, arch: Any) -> Any:
        digests.append(arch.digest)
        return call(self, arch)

    monkeypatch.setattr(Evaluator, "__call__", counting)
    return digests


def run(monkeypatch: pytest.MonkeyPatch, *arguments: str) -> int:
    monkeypatch.setattr(sys, "argv", ["nasdeploy", "evaluate", *arguments])
    with pytest.raises(SystemExit) as stopped:
        main()
    assert isinstance(stopped.value.code, int)
    return stopped.value.code


def test_numbers_of_one_run(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], scored: list[str]
) -> None:
    arguments = ["runs/tiny", "--sample", "6", "--bins", "3", "--json", "--quiet"]
    assert run(monkeypatch, *arguments) == 0
    printed = capsys.readouterr()
    assert printed.err == ""
    result = json.loads(printed.out)
    assert result.pop("picture") == "runs/tiny/evaluate.png"
    assert json.loads(Path("runs/tiny/evaluate.json").read_text()) == result
    (entry,) = result["runs"]
    space = space_of(Run.open(Path("runs/tiny")))
    networks = {network["digest"]: network for network in entry["networks"]}
    assert {space.smallest().digest, space.largest().digest} <= networks.keys() == set(scored)
    for network in networks.values():
        assert space.plan(space.arch(network["arch"])).macs == network["macs"]
        assert network["images"] == 20  # 12 images of each of 10 classes, of which 0.15 are held out.
    edges = result["edges_macs_m"]
    for low, high, box in zip(edges, edges[1:], entry["regimes"], strict=False):
        inside = [n["top1"] for n in networks.values() if low <= n["macs"] / 1e6 <= high]
        assert (box["count"], box["minimum"], box["maximum"]) == (2, min(inside), max(inside))
    assert Path("runs/tiny/evaluate.png").read_bytes().startswith(b"\x89PNG")


def test_nothing_is_evaluated_twice(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], scored: list[str]
) -> None:
    for sample in ("4", "4", "8"):
        assert run(monkeypatch, "runs/tiny", "--sample", sample, "--bins", "2") == 0
    assert len(scored) == len(set(scored)) == 8
    said = capsys.readouterr().err
    assert [f"{number} known already" in said for number in (0, 4, 8)] == [True, True, False]


def test_an_interrupted_evaluation_goes_on_where_it_was(monkeypatch: pytest.MonkeyPatch, scored: list[str]) -> None:
    counting = Evaluator.__call__

    def stopping(self: Evaluator, arch: Any) -> Any:
        if len(scored) == 3:
            raise KeyboardInterrupt
        return counting(self, arch)

    arguments = ["runs/tiny", "--sample", "6", "--bins", "2", "--quiet"]
    with monkeypatch.context() as patch:
        patch.setattr(Evaluator, "__call__", stopping)
        assert run(monkeypatch, *arguments) == 130
    assert not Path("runs/tiny/evaluate.json").exists()
    assert run(monkeypatch, *arguments) == 0
    assert len(scored) == len(set(scored)) == 6


def test_runs_side_by_side(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(monkeypatch, "runs/tiny", "runs/wide", "--sample", "4", "--bins", "2", "--out", "compared") == 0
    printed = capsys.readouterr()
    assert printed.out.count("top-1 in % on training images held out for the search") == 2
    assert printed.out.endswith("drawn in compared/evaluate.png\n")
    assert "different images" not in printed.err
    result = json.loads(Path("compared/evaluate.json").read_text())
    tiny, wide = result["runs"]
    assert (tiny["run"], wide["run"]) == ("runs/tiny", "runs/wide")
    assert tiny["space"] != wide["space"]
    macs = [network["macs"] / 1e6 for entry in (tiny, wide) for network in entry["networks"]]
    assert (result["edges_macs_m"][0], result["edges_macs_m"][-1]) == pytest.approx((min(macs), max(macs)))


def test_runs_with_other_images_are_pointed_out(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    manifest = Path("runs/wide/manifest.json")
    content = json.loads(manifest.read_text())
    content["recipe"]["seed"] = 7
    manifest.write_text(json.dumps(content))
    assert run(monkeypatch, "runs/tiny", "runs/wide", "--sample", "2", "--bins", "1") == 0
    assert "the runs hold out different images" in capsys.readouterr().err


LARGEST = tiny_recipe("space.head.width=[32]").load_space(10).largest().to_json()
ALONE = tiny_recipe("space.head.width=[32]", f"train.sampling={{kind: alone, arch: {json.dumps(LARGEST)}}}").to_json()


def change(**values: Any) -> None:
    path = Path("runs/wide/manifest.json")
    path.write_text(json.dumps({**json.loads(path.read_text()), **values}))


@pytest.mark.parametrize(
    ("arguments", "changes", "said"),
    [
        (
            ["runs/tiny", "runs/wide"],
            {"classes": [f"class {n}" for n in range(10)]},
            "runs/wide: learned other classes",
        ),
        (["runs/tiny", "runs/wide"], {"finished": {}}, "runs/wide: 'nasdeploy train' has not finished"),
        (["runs/wide"], {"recipe": ALONE}, "runs/wide: one network was trained alone there"),
        (["runs/tiny", "runs/../runs/tiny"], {}, "runs/../runs/tiny: given twice"),
        (["runs/none"], {}, "runs/none: no run there"),
        (["runs/tiny", "--sample", "4"], {}, "--sample 4: give 5 or more"),
        (["runs/tiny", "--sample", "-1", "--bins", "1"], {}, "--sample -1: give 2 or more"),
        (["runs/tiny", "--out", "runs/tiny/manifest.json"], {}, "manifest.json/evaluate.json: cannot be written"),
    ],
)
def test_a_mistake_ends_in_one_line_before_anything_is_evaluated(
    arguments: list[str],
    changes: dict[str, Any],
    said: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    scored: list[str],
) -> None:
    change(**changes)
    assert run(monkeypatch, *arguments) == 2
    printed = capsys.readouterr()
    assert said in printed.err
    assert printed.err.count("\n") == 1
    assert (printed.out, scored) == ("", [])


def test_the_latest_run_is_the_default(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    Run.open(Path("runs/wide"))
    assert run(monkeypatch, "--sample", "2", "--bins", "1", "--json") == 0
    assert [entry["run"] for entry in json.loads(capsys.readouterr().out)["runs"]] == ["runs/wide"]
