"""`nasdeploy doctor`: what is installed by the package's own metadata, and what the kernel tells of the machine."""

import json
import tomllib
from collections.abc import Mapping
from importlib.metadata import PackageNotFoundError
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from nasdeploy.cli.app import app
from nasdeploy.core.errors import CheckFailed
from nasdeploy.workflows import doctor
from nasdeploy.workflows.doctor import EXTRAS, Finding, diagnose
from tests.test_torch_free import HEAVY, imported_by

OF_DEVELOPERS = {"test", "dev", "docs"}
LINES = ["torch>=2.9", "numpy>=2.1", 'openvino>=2025.4; extra == "openvino"', "asyncssh>=2.20; extra == 'ssh'"]
INSTALLED = {"torch": "2.14.1+cpu", "numpy": "2.1", "onnxruntime": "1.32", "openvino": "2025.3.1"}
FILES = {
    "proc/cpuinfo": "model name : Fast\ncpu family : 6\nmodel : 1\nflags : sse2 avx2 avx512f avx512_vnni\n",
    "proc/loadavg": "0.25 0.5 0.5 1/100 999\n",
    "proc/meminfo": "MemTotal: 16777216 kB\nMemAvailable: 8388608 kB\n",
    "proc/self/cgroup": "0::/box\n",
    "proc/self/mountinfo": "26 23 0:22 / /sys/fs/cgroup rw - cgroup2 cgroup2 rw\n",
    "sys/fs/cgroup/box/cpu.max": "150000 100000\n",
    "sys/fs/cgroup/box/memory.max": "max\n",
    "sys/devices/system/cpu/cpu0/cpufreq/scaling_governor": "performance\n",
}


@pytest.fixture(autouse=True)
def _installed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def version(name: str) -> str:
        if name not in INSTALLED:
            raise PackageNotFoundError(name)
        return INSTALLED[name]

    monkeypatch.setattr(doctor, "requires", lambda name: LINES)
    monkeypatch.setattr(doctor, "version", version)
    monkeypatch.setattr(doctor, "missing_gpu", lambda: "there is no driver; install one")
    (tmp_path / "work").mkdir()
    monkeypatch.chdir(tmp_path / "work")


def findings(root: Path, changed: Mapping[str, str] = FILES) -> dict[str, Finding]:
    """What is found on a machine with these files in place of `FILES`."""
    for name, text in {**FILES, **changed}.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(text)
    return {each.check: each for each in diagnose(root).findings}


def test_each_extra_for_users_is_known() -> None:
    project = tomllib.loads((Path(__file__).parents[2] / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    assert set(EXTRAS) == set(project["optional-dependencies"]) - OF_DEVELOPERS


def test_what_is_there_is_in_order_and_what_could_be_added_is_a_note(tmp_path: Path) -> None:
    found = findings(tmp_path)
    assert found["packages"].verdict == "ok" and "torch 2.14.1+cpu, onnxruntime 1.32" in found["packages"].found
    old, absent = found["openvino"], found["ssh"]
    assert (old.verdict, absent.verdict) == ("note", "note")
    assert old.found.startswith("openvino 2025.3.1, older than 2025.4; would add: ")
    assert (old.advice, absent.advice) == ("run: pip install 'openvino>=2025.4'", "run: pip install 'asyncssh>=2.20'")


@pytest.mark.parametrize(
    ("version", "said"), [("2.8.1", "2.8.1, older than 2.9"), (None, "not installed")], ids=["old", "absent"]
)
def test_a_package_without_which_nothing_works_is_a_problem(
    version: str | None, said: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delitem(INSTALLED, "torch") if version is None else monkeypatch.setitem(INSTALLED, "torch", version)
    with pytest.raises(CheckFailed) as failed:
        CliRunner().invoke(app, ["doctor", "--json"], catch_exceptions=False)
    assert str(failed.value) == f"torch: {said}; run: pip install 'torch>=2.9'"
    assert failed.value.exit_code == 4


def test_the_machine_is_told_as_the_kernel_tells_it(tmp_path: Path) -> None:
    found = findings(tmp_path)
    assert found["processor"].found == "Fast (family 6, model 1); AVX2, AVX-512, VNNI"
    assert found["cores"].found.endswith("a quota of the time of 1.5")
    assert (found["governor"].verdict, found["load"].verdict) == ("ok", "ok")
    assert (found["memory"].found, found["memory"].verdict) == ("16 GiB, 8 GiB available, no limit", "ok")
    assert "int8" not in found
    assert {found[name].verdict for name in ("runs", "tables", "cache", "GPU")} == {"ok"}


@pytest.mark.parametrize(
    ("file", "text", "name", "said"),
    [
        ("proc/cpuinfo", "flags : sse2 avx2\n", "int8", "there is no VNNI"),
        ("proc/loadavg", "3.5 1 1 1/9 9\n", "load", "3.5 on "),
        ("proc/meminfo", "MemTotal: 1048576 kB\nMemAvailable: 524288 kB\n", "memory", "1 GiB, 0.5 GiB available"),
        ("sys/fs/cgroup/box/memory.max", "1073741824\n", "memory", "a limit of 1 GiB"),
        ("sys/devices/system/cpu/cpu0/cpufreq/scaling_governor", "powersave\n", "governor", "powersave: "),
        ("sys/bus/pci/devices/0000:01:00.0/vendor", "0x10de\n", "GPU", "one of NVIDIA, which cannot be used"),
    ],
)
def test_what_one_may_act_on_is_a_note(file: str, text: str, name: str, said: str, tmp_path: Path) -> None:
    found = findings(tmp_path, {file: text})[name]
    assert found.verdict == "note" and said in found.found


def test_a_place_that_cannot_be_written_to_is_a_problem(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("os.access", lambda path, mode: False)
    assert findings(tmp_path)["runs"].verdict == "problem"


def test_a_disk_that_is_nearly_full_is_a_note(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(doctor, "disk_usage", lambda path: type("Usage", (), {"free": 1 << 30}))
    found = findings(tmp_path)["runs"]
    assert (found.verdict, found.found) == ("note", "runs: 1 GiB free")


def test_programs_that_are_missing_are_notes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    there: dict[str, str] = {}
    monkeypatch.setattr(doctor, "which", there.get)
    monkeypatch.setattr("sys.platform", "linux")
    monkeypatch.setenv("DISPLAY", ":0")
    assert [findings(tmp_path)[name].verdict for name in ("adb", "browser")] == ["note", "note"]
    there |= {"adb": "/usr/bin/adb", "firefox": "/usr/bin/firefox"}
    assert [findings(tmp_path)[name].found for name in ("adb", "browser")] == ["/usr/bin/adb", "/usr/bin/firefox"]
    for name in ("DISPLAY", "WAYLAND_DISPLAY", "BROWSER"):
        monkeypatch.delenv(name, raising=False)
    assert findings(tmp_path)["browser"].verdict == "ok"


def test_a_gpu_that_pytorch_was_not_built_for_is_a_note(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(doctor, "missing_gpu", lambda: None)
    monkeypatch.setattr(doctor, "gpu", lambda: "NVIDIA X, driver for CUDA 13.0")
    assert findings(tmp_path)["GPU"].advice.startswith("torch 2.14.1+cpu is for processors only")
    monkeypatch.setitem(INSTALLED, "torch", "2.14.1")
    assert findings(tmp_path)["GPU"] == Finding("GPU", "ok", "NVIDIA X, driver for CUDA 13.0")


def test_without_files_of_the_kernel_and_without_an_installation(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def requires(name: str) -> Any:
        raise PackageNotFoundError(name)

    monkeypatch.setattr(doctor, "requires", requires)
    found = {each.check: each.verdict for each in diagnose(tmp_path / "nothing").findings}
    assert found["packages"] == "note" and "problem" not in found.values()


def test_text_and_json_say_the_same_and_quiet_leaves_out_what_is_in_order() -> None:
    def said(*arguments: str) -> str:
        done = CliRunner().invoke(app, ["doctor", *arguments], catch_exceptions=False)
        assert done.exit_code == 0
        return done.stdout

    checks = json.loads(said("--json"))
    assert checks["usable"] and checks["versions"] == {"torch": "2.14.1+cpu", "numpy": "2.1", "openvino": "2025.3.1"}
    names = [each["check"] for each in checks["checks"]]
    words = [line.split()[:2] for line in said().splitlines()]
    assert [word[1] for word in words if word and word[0] in ("ok", "note", "problem")] == names
    assert not any(line.startswith("ok ") for line in said("--quiet").splitlines())


def test_neither_torch_nor_a_runtime_is_imported() -> None:
    found = imported_by("from nasdeploy.cli.main import main; main()", "doctor")
    assert "nasdeploy" in found
    assert found & (HEAVY | {"openvino", "tensorrt_rtx", "asyncssh"}) == set()
