"""What the guides for code of one's own show is code that runs, and keeps what the project asks of such code."""

import re
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import pytest

import nasdeploy as nd
from nasdeploy.exporting.formats import FORMATS
from nasdeploy.recipe import parse_recipe
from nasdeploy.runtimes import RUNTIMES
from nasdeploy.runtimes.device import Device
from nasdeploy.spaces import KINDS
from nasdeploy.supernet.supernet import Supernet
from tests.conformance import test_formats, test_runtimes, test_spaces
from tests.exporting.converted import functions_read_once  # noqa: F401
from tests.training.recipes import CONTENT

ROOT = Path(__file__).parents[1]
GUIDES = ROOT / "docs" / "guides"
QUICKER = {
    "train.epochs": 1,
    "train.warmup_epochs": 0,
    "data.images_per_class": 24,
    "search.rounds": 1,
    "search.parents": 6,
    "recalibration.batches": 1,
    "recalibration.search_batches": 1,
}


def python_of(page: str) -> list[str]:
    """The Python blocks of a guide."""
    return re.findall(r"^```python\n(.*?)^```", (GUIDES / page).read_text(encoding="utf-8"), re.MULTILINE | re.DOTALL)


def module_of(name: str, code: str, patch: pytest.MonkeyPatch) -> ModuleType:
    """A module of that code, imported for the time of a test."""
    module = ModuleType(name)
    patch.setitem(sys.modules, name, module)
    exec(compile(code, name, "exec"), module.__dict__)
    return module


def test_the_space_is_one(monkeypatch: pytest.MonkeyPatch) -> None:
    own, _, kind = python_of("own-space.md")
    made = module_of("own_space", own, monkeypatch).TiedSpace
    for classes in (test_spaces.CLASSES, test_spaces.CLASSES + 1):
        monkeypatch.setitem(test_spaces.LOADED, f"tied-{classes}", made(classes))
    space: nd.SearchSpace = made(test_spaces.CLASSES)
    checks: list[Callable[[nd.SearchSpace], None]] = [
        test_spaces.test_choices_have_ascending_values_and_are_all_read,
        test_spaces.test_plans_are_valid,
        test_spaces.test_a_space_that_says_so_has_chains,
        test_spaces.test_canonical_form_keeps_the_network,
        test_spaces.test_batch_costs_are_those_of_the_plans,
        test_spaces.test_every_block_is_among_the_distinct_ones,
        test_spaces.test_extremes_bound_all_and_are_reached,
        test_spaces.test_smallest_and_largest,
        test_spaces.test_a_value_outside_is_refused_with_choice_and_allowed_values,
        test_spaces.test_mutation_and_crossover_stay_inside,
        test_spaces.test_sampling_reaches_every_value,
    ]
    for check in checks:
        check(space)
    Supernet(space)
    assert (space.size, space.networks) == (36, 36)
    monkeypatch.setitem(KINDS, "tied", KINDS["table"])
    module_of("own_space_kind", own + kind, monkeypatch)
    recipe = parse_recipe({**CONTENT, "space": {"kind": "tied", "name": "tied"}}, "mine.yaml")
    assert recipe.load_space(test_spaces.CLASSES).digest == space.digest


@pytest.mark.slow
def test_the_space_is_trained_and_searched(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    own, way, _ = python_of("own-space.md")
    assert '"train.epochs": 10, "train.warmup_epochs": 1' in way
    quicker = way.replace('"train.epochs": 10, "train.warmup_epochs": 1', f"**{QUICKER}")
    monkeypatch.chdir(tmp_path)
    found = module_of("own_space", own + quicker, monkeypatch)
    assert found.space.plan(found.space.arch(found.result.winner.arch)).macs <= 500_000
    assert found.run.manifest.space == found.space.digest


def test_the_runtime_is_one(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (code,) = python_of("own-runtime.md")
    found = module_of("nasdeploy.runtimes.onnx_reference", code, monkeypatch)
    monkeypatch.setattr("nasdeploy.runtimes.onnx_reference", found, raising=False)
    monkeypatch.setitem(RUNTIMES, "onnx-reference", found.OnnxReference())
    device = Device(name="here", runtime="onnx-reference")
    test_runtimes.test_result_is_numpys_for_any_batch_after_any(device, (0, 1, 2, 33, 1))
    for check in (
        test_runtimes.test_results_are_the_callers,
        test_runtimes.test_dynamic_batch_is_the_devices,
        test_runtimes.test_fixed_batch_is_the_models,
        test_runtimes.test_timed_calls_leave_results_alone,
        test_runtimes.test_an_operator_that_the_runtime_lacks_is_named,
        test_runtimes.test_version_is_a_version,
        test_runtimes.test_it_says_what_it_computes_in,
        test_runtimes.test_an_option_that_the_runtime_refuses_is_named,
    ):
        check(device)
    test_runtimes.test_model_can_be_a_file(device, tmp_path)
    test_runtimes.test_missing_file_is_a_user_error(device, tmp_path)
    for damaged in ("empty", "text", "cut"):
        test_runtimes.test_damaged_model_is_a_user_error(device, tmp_path, damaged)
    test_runtimes.test_what_is_missing_is_a_command("onnx-reference", monkeypatch)


@pytest.mark.slow
def test_the_format_is_one(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (code,) = python_of("own-format.md")
    found = module_of("nasdeploy.exporting.formats.ort", code, monkeypatch)
    monkeypatch.setitem(FORMATS, "ort", found.OrtFormat())
    digits, folders = test_formats.DIGITS, (tmp_path / "whole", tmp_path / "damaged")
    for folder in folders:
        folder.mkdir()
    test_formats.test_the_file_computes_what_the_network_computes("ort", "fp32", digits, digits.smallest(), folders[0])
    test_formats.test_what_is_no_such_file_is_found_by_its_form("ort", folders[1])
    assert [path.suffix for path in folders[0].rglob("model*")] == list(found.OrtFormat().suffixes)


def test_what_the_guide_shows_of_a_task_stands_in_it() -> None:
    task = (ROOT / "tests" / "families" / "task.py").read_text(encoding="utf-8")
    shown = python_of("own-task.md")
    assert len(shown) > 3
    for code in shown:
        assert code in task


def test_the_plan_that_the_page_prints_is_so(capsys: pytest.CaptureFixture[str]) -> None:
    page = (ROOT / "docs" / "concepts" / "plan.md").read_text(encoding="utf-8")
    (code,) = re.findall(r"^```python\n(.*?)^```", page, re.MULTILINE | re.DOTALL)
    (printed,) = re.findall(r"^```text\n(.*?)^```", page, re.MULTILINE | re.DOTALL)
    exec(compile(code, "plan.md", "exec"), {})
    assert capsys.readouterr().out == printed


def test_the_messages_that_are_explained_are_said() -> None:
    page = (ROOT / "docs" / "troubleshooting.md").read_text(encoding="utf-8")
    slurm = (GUIDES / "slurm.md").read_text(encoding="utf-8")
    tables = page.partition("## Messages")[2] + slurm.partition("goes wrong")[2]
    rows = re.findall(r"^\| `([^`]+)`", tables, re.MULTILINE)
    assert len(rows) > 30
    files = (path.read_text(encoding="utf-8") for path in (ROOT / "nasdeploy").rglob("*.py"))
    # Literals beside each other are one text.
    said = re.sub(r'"\s+f?"', "", "\n".join(files))
    for row in rows:
        for part in re.split(r"\.\.\.|\b[A-Z0-9]+\b", row):
            words = part.strip(" :(),;")
            assert not words or words in said, row
