"""Device files."""

import subprocess
import sys

import pytest

from nasdeploy.core.errors import UserError
from nasdeploy.core.resources import resource_names
from nasdeploy.runtimes import RUNTIMES, described_runtime, runtime_of
from nasdeploy.runtimes.device import AdbHost, Device, SshHost, load_device, missing_to_reach


@pytest.mark.parametrize("name", resource_names("profiles"))
def test_shipped_devices_have_their_files_name_and_a_known_runtime(name):
    device = load_device(name)
    assert device.name == name
    assert device.runtime in RUNTIMES


def test_cpu_is_onnx_runtime_on_one_thread():
    device = load_device("cpu")
    assert (device.runtime, device.threads, device.batch, device.precision) == ("onnxruntime", 1, 1, "fp32")


def test_a_users_own_file(tmp_path):
    file = tmp_path / "mine.yaml"
    file.write_text('name: mine\nruntime: onnxruntime\nthreads: 2\noptions: {session.x64quantprecision: "1"}\n')
    assert load_device(file) == Device(
        name="mine", runtime="onnxruntime", threads=2, options={"session.x64quantprecision": "1"}
    )
    assert load_device(str(file)).threads == 2


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("name: mine\nruntime: onnxruntime\nthread: 2\n", "unknown key 'thread'; did you mean 'threads'"),
        ("name: mine\n", "runtime is missing"),
        ("name: mine\nruntime: onnxruntime\nthreads: 0\n", "threads is 0"),
        ("name: mine\nruntime: onnxruntime\nthreads: 100000\n", "threads is 100000"),
        ("name: a/b\nruntime: onnxruntime\n", "name is"),
        ("name: mine\nruntime: onnxruntime\noptions: {a: 1}\n", r"options\.a is 1"),
        ("name: [\n", "not valid YAML"),
        (
            "name: mine\nruntime: onnxruntime\nprecision: fp8\n",
            "precision is \"fp8\": input should be 'fp32', 'fp16' or",
        ),
        (
            "name: mine\nruntime: onnxruntime\nhost: adb://x\n",
            "host is \"adb://x\": 'adb://x' is no host; write",
        ),
        ("name: mine\nruntime: onnxruntime\nhosts: [ssh://a, b]\n", r"hosts\.1 is \"b\": 'b' does not say how"),
        ("name: mine\nruntime: onnxruntime\nhosts: [local]\n", r"this machine \(local\) cannot be one of them"),
        ("name: mine\nruntime: onnxruntime\nhosts: [ssh://a, ssh://a]\n", "names a board twice; name each once"),
        ("name: mine\nruntime: onnxruntime\nhost: ssh://a\nhosts: [ssh://b]\n", "both say where it is; write one"),
        ("name: mine\nruntime: onnxruntime\npython: /opt/python\n", "python is that of a board, and this device is"),
        ("name: mine\nruntime: litert\nhost: adb:x\n", "host is a phone, and benchmark is missing: the file of"),
        ("name: mine\nruntime: litert\nbenchmark: x\n", "benchmark is the program that measures on a phone, and"),
        ("name: mine\nruntime: litert\nhost: adb:x\nbenchmark: b\npython: z\n", "python is that of a board, and this"),
    ],
)
def test_wrong_files_are_user_errors(tmp_path, text, message):
    file = tmp_path / "mine.yaml"
    file.write_text(text)
    with pytest.raises(UserError, match=message) as caught:
        load_device(file)
    assert str(file) in str(caught.value)


def test_boards_of_a_device():
    assert load_device("cpu").boards == ()
    one = Device(name="pi", runtime="onnxruntime", host="ssh://me@pi:2222")
    assert one.boards == (SshHost("pi", "me", 2222),)
    two = Device(name="pis", runtime="onnxruntime", hosts=("ssh://me@a", "ssh://me@b"))
    assert two.boards == (SshHost("a", "me", None), SshHost("b", "me", None))
    phones = Device(name="phones", runtime="litert", hosts=("adb:a", "adb:b"), benchmark="x")
    assert phones.boards == (AdbHost("a"), AdbHost("b"))
    assert not phones.is_local
    assert not one.is_local
    assert not two.is_local
    assert load_device("cpu").is_local


def test_networks_of_a_board_are_not_opened_here():
    board = Device(name="pi", runtime="onnxruntime", host="ssh://me@pi")
    assert described_runtime(board) is RUNTIMES["onnxruntime"]
    with pytest.raises(UserError, match="device pi: its networks run on another machine, not on this one; use a local"):
        runtime_of(board)


def test_a_precision_that_a_runtime_lacks_is_refused(monkeypatch):
    monkeypatch.setattr(RUNTIMES["onnxruntime"], "precisions", ("fp32", "fp16"))
    with pytest.raises(UserError, match="device mine: onnxruntime does not run int8; use fp32 or fp16"):
        runtime_of(Device(name="mine", runtime="onnxruntime", precision="int8"))


def test_unknown_device_offers_the_nearest():
    with pytest.raises(UserError, match="unknown device 'cpuu'; did you mean 'cpu'"):
        load_device("cpuu")


def test_unknown_runtime_offers_the_nearest():
    with pytest.raises(UserError, match="device mine: unknown runtime 'onnxruntim'; did you mean 'onnxruntime'"):
        runtime_of(Device(name="mine", runtime="onnxruntim"))


def test_runtime_that_is_not_installed_says_what_to_run(monkeypatch):
    monkeypatch.setattr("nasdeploy.runtimes.onnxruntime.find_spec", lambda name: None)
    with pytest.raises(UserError, match="run: pip install onnxruntime"):
        runtime_of(Device(name="mine", runtime="onnxruntime"))


def test_looking_at_devices_imports_neither_torch_nor_a_runtime():
    code = (
        "import sys; from nasdeploy.runtimes.device import load_device; from nasdeploy.latency import table;"
        "load_device('cpu'); print(sorted({'torch', 'onnxruntime', 'onnx', 'scipy'} & set(sys.modules)))"
    )
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "[]\n"


def test_what_reaches_a_phone_is_said_where_it_is_missing(monkeypatch):
    phone = Device(name="phone", runtime="litert", host="adb:x", benchmark="b")
    monkeypatch.setattr("nasdeploy.runtimes.device.which", lambda name: f"/usr/bin/{name}")
    assert missing_to_reach(phone) is None
    monkeypatch.setattr("nasdeploy.runtimes.device.which", lambda name: None)
    assert missing_to_reach(phone) == "apt-get install adb"
    assert missing_to_reach(load_device("cpu")) is None
