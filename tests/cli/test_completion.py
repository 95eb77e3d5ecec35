"""What the shell completes words with, asked as bash, zsh and fish ask."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from typer.testing import CliRunner

from nasdeploy.cli import completion
from nasdeploy.cli.app import app
from nasdeploy.core.resources import resource_names
from nasdeploy.exporting.formats import FORMATS
from nasdeploy.report.plots import PLOTS
from nasdeploy.searching.settings import STRATEGY_NAMES
from nasdeploy.spaces import SPACES, load_space
from nasdeploy.supernet.settings import FROM_PUBLISHED
from tests.test_torch_free import HEAVY

RUN = {
    "runs/old": {"recipe": {"space": "alphanet"}},
    "runs/new": {"recipe": {"space": {"kind": "grown", "named": {}}}},
}
SEARCH = {"winner": {"digest": "0" * 12}, "finalists": [{"digest": "1" * 12}], "front": [{"digest": "0" * 12}, 3]}


@pytest.fixture(autouse=True)
def _inside(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for number, (name, manifest) in enumerate(RUN.items()):
        write(Path(name) / "manifest.json", manifest)
        os.utime(Path(name) / "manifest.json", ns=(number, number))
    write(Path("runs/old/search.json"), SEARCH)
    write(Path("runs/old/searches/10.json"), SEARCH)
    write(Path("runs/old/searches/9.json"), {})
    write(Path("runs/old/export/222222222222/manifest.json"), {})
    write(Path("profiles/tables/cpu-x.json"), {})
    Path("mine.yaml").write_text("name: mine\nspace: digits\n")
    Path("x.nasdeploy").touch()


def write(path: Path, content: object) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(content))


def completed(*words: str) -> list[str]:
    """The completions of the last word, as bash is told them."""
    asked = {"COMP_WORDS": " ".join(["nasdeploy", *words]), "COMP_CWORD": str(len(words))}
    environment = {"_NASDEPLOY_COMPLETE": "complete_bash", **asked}
    done = CliRunner().invoke(app, [], prog_name="nasdeploy", env=environment, catch_exceptions=False)
    return done.stdout.split()


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (["doc"], ["doctor"]),
        (["search", "sh"], ["show"]),
        (["train", "--al"], ["--alone"]),
        (["run", "dig"], ["digits"]),
        (["run", "min"], ["mine.yaml"]),
        (["run", "./min"], []),
        (["search", "--device", "cpu-op"], ["cpu-openvino"]),
        (["search", "--device", "cpu,cpu-op"], ["cpu,cpu-openvino"]),
        (["export", "--format", "onnx,tensorrt-"], ["onnx,tensorrt-rtx"]),
        (["export", "--precision", "fp"], ["fp32", "fp16"]),
        (["export", "--layout", ""], ["triton"]),
        (["search", "--strategy", "nsg"], ["nsga2"]),
        (["search", "--prefer", ""], ["accurate", "fast"]),
        (["search", "--run", ""], ["runs/new", "runs/old"]),
        (["train", "--run", "runs/o"], ["runs/old"]),
        (["evaluate", "runs/n"], ["runs/new"]),
        (["search", "show", "--run", "runs/old", ""], ["9", "10"]),
        (["verify", ""], ["runs/old/export/222222222222"]),
        (["table", "show", ""], ["profiles/tables/cpu-x.json"]),
        (["unpack", ""], ["x.nasdeploy"]),
        (["import", "a"], ["alphanet", "attentivenas"]),
        (["profile", "--space", "ofa-mbv3-w"], ["ofa-mbv3-w1.2"]),
        (["space", "show", "mine.yaml", "--arch", ""], ["smallest", "largest"]),
        (["space", "show", "alphanet", "--arch", "a5"], ["a5-small", "a5-base"]),
        (["train", "digits", "--alone", "l"], ["largest"]),
        (["export", "--arch", "o"], ["original"]),
        (["export", "--run", "runs/old", "--arch", "a6"], ["a6"]),
        (["export", "--run", "runs/old", "--arch", "0"], ["0" * 12]),
        (["export", "--run", "runs/old", "--arch", "2"], ["2" * 12]),
        (["runtimes", "compare", "--run", "runs/old", "1"], ["1" * 12]),
        (["predict", "b", "phot"], []),
    ],
    ids=lambda value: " ".join(value) or "nothing",
)
def test_a_word_is_completed(words: list[str], expected: list[str]) -> None:
    assert completed(*words) == expected


def test_all_that_nasdeploy_knows_is_offered() -> None:
    assert set(resource_names("recipes")) <= set(completed("run", ""))
    assert set(resource_names("profiles")) <= set(completed("devices", ""))
    assert completion.space_names() == sorted(SPACES)
    assert completed("export", "--format", "") == list(FORMATS)
    assert completed("search", "--strategy", "") == list(STRATEGY_NAMES)
    assert completed("import", "") == list(FROM_PUBLISHED)
    assert completed("plot", "") == [*PLOTS, "all"]
    named = ["smallest", "largest", *load_space("alphanet").named]
    assert completed("space", "show", "alphanet", "--arch", "") == named


def test_damaged_files_and_a_missing_run_complete_nothing_and_nothing_is_touched() -> None:
    Path("runs/old/search.json").write_text("{")
    Path("runs/new/manifest.json").write_bytes(b"\xff")
    Path("mine.yaml").write_text("[")
    before = {path: path.stat().st_mtime_ns for path in Path("runs").rglob("*")}
    assert completed("export", "--run", "runs/gone", "--arch", "") == ["smallest", "largest"]
    assert completed("export", "--run", "runs/new", "--arch", "") == ["smallest", "largest"]
    assert completed("space", "show", "mine.yaml", "--arch", "") == ["smallest", "largest"]
    assert "0" * 12 in completed("export", "--run", "runs/old", "--arch", "0")
    assert {path: path.stat().st_mtime_ns for path in Path("runs").rglob("*")} == before


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_each_shell_gets_a_script_and_answers_to_it_without_torch(shell: str) -> None:
    code = "import sys\nfrom nasdeploy.cli.main import main\ntry:\n    main()\nfinally:\n"
    code += "    print(*sys.modules, file=sys.stderr)"
    asked = {
        "_NASDEPLOY_COMPLETE": f"complete_{shell}",
        "COMP_WORDS": "nasdeploy export --format open",
        "COMP_CWORD": "3",
        "_TYPER_COMPLETE_ARGS": "nasdeploy export --format open",
        "_TYPER_COMPLETE_FISH_ACTION": "get-args",
    }
    program = f"import sys; sys.argv[0] = 'nasdeploy'\n{code}"
    done = subprocess.run(
        [sys.executable, "-c", program], env={**os.environ, **asked}, capture_output=True, text=True, check=True
    )
    assert "openvino" in done.stdout
    assert {name.split(".")[0] for name in done.stderr.split()} & (HEAVY | {"numpy"}) == set()
    environment = {"_NASDEPLOY_COMPLETE": f"source_{shell}"}
    script = CliRunner().invoke(app, [], prog_name="nasdeploy", env=environment, catch_exceptions=False).stdout
    assert f"_NASDEPLOY_COMPLETE=complete_{shell}" in script
