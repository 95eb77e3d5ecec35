"""`nasdeploy devices`."""

import json
import subprocess
import sys

import pytest
from typer.testing import CliRunner

from nasdeploy.cli.app import app
from nasdeploy.core.errors import UserError
from nasdeploy.core.resources import resource_names
from nasdeploy.runtimes import RUNTIMES
from tests.test_torch_free import HEAVY, imported_by


def devices(*arguments):
    done = CliRunner().invoke(app, ["devices", *arguments], catch_exceptions=False)
    assert done.exit_code == 0
    return done.stdout


def listed(*arguments):
    return {entry["device"]: entry for entry in json.loads(devices(*arguments, "--json"))["devices"]}


def refused(*arguments):
    with pytest.raises(UserError) as caught:
        devices(*arguments)
    return str(caught.value)


def test_every_shipped_device_is_listed():
    found = listed()
    assert list(found) == resource_names("profiles")
    assert found["cpu"] == {
        "device": "cpu",
        "runtime": "onnxruntime",
        "precision": "fp32",
        "batch": 1,
        "threads": 1,
        "hosts": ["local"],
        "ready": True,
        "lacking": [],
    }
    assert found["raspberry-pi-5"]["hosts"] == ["ssh://pi@raspberrypi.local"]


def test_what_is_missing_here_is_said_with_how_to_get_it(monkeypatch):
    monkeypatch.setattr(RUNTIMES["openvino"], "missing", lambda: "pip install openvino")
    monkeypatch.setattr(RUNTIMES["tensorrt"], "missing", lambda: None)
    monkeypatch.setattr(RUNTIMES["tensorrt"], "obstacle", lambda: "there is no NVIDIA driver; install one")
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    found = listed()
    assert found["cpu-openvino"]["lacking"] == ["run: pip install openvino"]
    assert found["tensorrt-fp16"]["lacking"] == ["there is no NVIDIA driver; install one"]
    assert found["jetson-orin-fp16"]["lacking"] == ["run: pip install asyncssh"]
    assert not found["cpu-openvino"]["ready"]
    monkeypatch.setenv("COLUMNS", "300")
    text = devices()
    assert "run: pip install openvino" in text
    assert "ssh://nvidia@jetson-orin.local" in text


def test_one_line_a_device_where_there_is_room(monkeypatch):
    monkeypatch.setenv("COLUMNS", "300")
    heading, *lines, blank, machine = devices().splitlines()
    assert heading.split()[:2] == ["device", "runtime"]
    assert (blank, machine[:14]) == ("", "this machine: ")
    assert [line.split()[0] for line in lines] == resource_names("profiles")


def test_cores_and_the_quota_of_this_machine_are_told(monkeypatch):
    monkeypatch.setattr("nasdeploy.core.cpus.bound_cpus", lambda: 4)
    for quota, said in ((None, "no quota"), (1.5, "a quota that leaves the time of 1.5 of them")):
        monkeypatch.setattr("nasdeploy.core.cpus.cpu_quota", lambda quota=quota: quota)
        assert json.loads(devices("cpu", "--json"))["machine"] == {"cores": 4, "cpu_quota": quota}
        assert devices("cpu").splitlines()[-1] == f"this machine: 4 cores for this process, {said}"


def test_a_file_and_a_name(tmp_path):
    file = tmp_path / "mine.yaml"
    file.write_text("name: mine\nruntime: torch\nthreads: 2\n")
    assert list(listed(str(file), "cpu")) == ["mine", "cpu"]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("runtime: torch\nprecision: int8\n", "device mine: torch does not run int8; use fp32"),
        ("runtime: toch\n", "device mine: unknown runtime 'toch'; did you mean 'torch'?"),
        (
            "runtime: torch\nhost: ssh://me@pi\n",
            "device mine: torch runs on this machine only; use another runtime on a board",
        ),
    ],
)
def test_a_device_that_cannot_be_is_refused(tmp_path, text, message):
    file = tmp_path / "mine.yaml"
    file.write_text(f"name: mine\n{text}")
    assert refused(str(file)) == message


def test_an_unknown_name_offers_the_nearest():
    assert refused("cpu-openvin") == "unknown device 'cpu-openvin'; did you mean 'cpu-openvino'? (or give a .yaml file)"


def test_neither_torch_nor_a_runtime_is_imported():
    heavy = HEAVY | {"openvino", "tensorrt", "tensorrt_rtx", "asyncssh"}
    found = imported_by("from nasdeploy.cli.main import main; main()", "devices")
    assert "nasdeploy" in found
    assert found & heavy == set()


def test_text_goes_to_a_pipe_without_colours():
    done = subprocess.run(
        [sys.executable, "-c", "from nasdeploy.cli.main import main; main()", "devices"],
        capture_output=True,
        text=True,
        check=False,
    )
    assert "\x1b" not in done.stdout
    assert "cpu-openvino" in done.stdout
