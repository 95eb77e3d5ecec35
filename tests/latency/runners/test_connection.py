"""Boards that cannot be reached or used: one line each that says what to do."""

import re
import shutil
import socket
import subprocess
import sys
from pathlib import Path

import numpy
import pytest

from nasdeploy.core.errors import UserError
from nasdeploy.latency.runners import ssh as module
from nasdeploy.latency.runners.connection import Timeouts, Unreachable, address, connect
from nasdeploy.latency.runners.open_runner import open_runner
from nasdeploy.latency.runners.remote_program import command_of
from nasdeploy.latency.runners.ssh import SshRunner
from nasdeploy.runtimes.device import Device, SshHost
from tests.latency.runners.boards import MODELS, measured, runner, script
from tests.latency.runners.sshd import new_key


def trouble(open_it):
    with pytest.raises(UserError) as caught:
        open_it()
    text = str(caught.value)
    assert text.isprintable()
    return text


def known_hosts(server):
    return server.ssh / "known_hosts"


@pytest.fixture
def restored(server):
    """What a test changes of the user's files comes back."""
    saved = server.folder / "saved"
    shutil.copytree(server.ssh, saved)
    yield server
    shutil.rmtree(server.ssh)
    saved.rename(server.ssh)


@pytest.mark.parametrize("host", ["board", "me@board", "board:2222", "me@[fe80::1]:22"])
def test_address_is_as_in_the_device_file(host):
    assert address(Device(name="x", runtime="onnxruntime", host=f"ssh://{host}").boards[0]) == f"ssh://{host}"


def test_a_device_with_a_host_is_measured_there(server):
    device = Device(name="board", runtime="onnxruntime", host=server.url, python=sys.executable)
    with open_runner(device) as board:
        assert isinstance(board, SshRunner)


def test_nothing_listens(server):
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        host = f"ssh://127.0.0.1:{taken.getsockname()[1]}"
        found = trouble(lambda: runner(server, host=host))
    assert found.startswith(f"{host}: cannot be reached ([Errno 111]")
    assert found.endswith("; check its address and port, and that its SSH server runs")


def test_name_that_does_not_exist(server):
    found = trouble(lambda: runner(server, host="ssh://board.invalid"))
    assert found == "ssh://board.invalid: no machine of that name is known; check host in the device file"


def test_no_answer(server):
    import asyncio

    with socket.socket() as silent:
        silent.bind(("127.0.0.1", 0))
        silent.listen()
        board = SshHost("127.0.0.1", None, silent.getsockname()[1])
        with pytest.raises(Unreachable, match=r"no answer within 0\.2 s; check that it is on"):
            asyncio.run(connect(board, Timeouts(connect=0.2)))


def test_unknown_host_key_is_refused_and_the_command_adds_it(restored):
    known_hosts(restored).unlink()
    found = trouble(lambda: runner(restored))
    key = subprocess.run(
        ["ssh-keygen", "-lf", restored.folder / "host_key.pub"], capture_output=True, text=True, check=True
    ).stdout.split()[1]
    command = f"ssh-keyscan -p {restored.port} 127.0.0.1 >> ~/.ssh/known_hosts"
    assert found == (
        f"{restored.url}: its host key ({key}) is not known; compare it on the board, and add it with: {command}"
    )
    subprocess.run(command, shell=True, check=True, capture_output=True)
    with runner(restored) as board:
        assert list(measured(board)) == list(MODELS)


def test_changed_host_key_is_refused_with_the_command_that_forgets_the_old_one(restored, tmp_path):
    new_key(tmp_path / "other")
    other = (tmp_path / "other.pub").read_text()
    known_hosts(restored).write_text(f"[127.0.0.1]:{restored.port} {other}")
    found = trouble(lambda: runner(restored))
    assert re.fullmatch(
        rf"{restored.url}: its host key has changed, to SHA256:\S+, so it may be another machine; if that is right, "
        rf"forget the old key with: ssh-keygen -R '\[127\.0\.0\.1\]:{restored.port}'",
        found,
    )


@pytest.mark.parametrize("setting", ["UserKnownHostsFile none", "StrictHostKeyChecking no"])
def test_no_configuration_makes_it_believe_any_host(restored, setting):
    known_hosts(restored).unlink()
    (restored.ssh / "config").write_text(f"Host *\n  {setting}\n")
    assert "is not known; compare it" in trouble(lambda: runner(restored))


def test_login_that_is_refused(restored):
    new_key(restored.ssh / "id_ed25519")
    assert trouble(lambda: runner(restored)) == (
        f"{restored.url}: it refuses to log in {restored.user}; send it your key with: "
        f"ssh-copy-id -p {restored.port} {restored.user}@127.0.0.1 (a key with a passphrase has to be in ssh-agent)"
    )


def test_a_server_that_runs_no_commands(restored):
    authorized = restored.folder / "authorized_keys"
    saved = authorized.read_text()
    authorized.write_text(f'restrict,command="echo No." {saved}')
    try:
        found = trouble(lambda: runner(restored))
    finally:
        authorized.write_text(saved)
    assert found == f"{restored.url}: the measuring process ended with status 0 (No.)"


def test_users_configuration_counts(restored):
    moved = restored.ssh / "elsewhere"
    (restored.ssh / "id_ed25519").rename(moved)
    known_hosts(restored).rename(restored.ssh / "hosts")
    (restored.ssh / "config").write_text(
        f"Host bench\n  HostName 127.0.0.1\n  Port {restored.port}\n  User {restored.user}\n"
        f"  IdentityFile {moved}\n  UserKnownHostsFile {restored.ssh}/hosts\n"
    )
    with runner(restored, host="ssh://bench") as board:
        assert list(measured(board)) == list(MODELS)


def test_configuration_that_is_wrong(restored):
    (restored.ssh / "config").write_text("Host *\n  Port many\n")
    found = trouble(lambda: runner(restored, host="ssh://127.0.0.1"))
    assert found.startswith("ssh://127.0.0.1: your SSH configuration or key cannot be used (")


@pytest.mark.parametrize("shell", ["/bin/sh", "/bin/bash"])
def test_the_command_runs_in_any_shell_and_leaves_nothing(tmp_path, shell):
    (tmp_path / "a b").mkdir()
    script(tmp_path / "a b" / "python", '#!/bin/sh\necho "$#" "$TMPDIR"; test -d "$3" && exit 5\n')
    environment = {"HOME": str(tmp_path), "TMPDIR": str(tmp_path), "PATH": "/usr/bin:/bin"}
    command = command_of("~/a b/python")
    done = subprocess.run([shell, "-c", command], env=environment, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (5, "")
    assert re.fullmatch(rf"3 {tmp_path}/nasdeploy-board\.\w{{8}}\n", done.stdout)
    assert [path.name for path in tmp_path.iterdir()] == ["a b"]


# -- what the board lacks


def test_no_python(server):
    assert trouble(lambda: runner(server, python="python4")) == (
        f"{server.url}: there is no python4; install it there, or name another as python in the device file"
    )


def test_old_python(server, tmp_path):
    code = "import sys; sys.version_info = (3, 8, 1); exec(sys.argv.pop(1))"
    python = script(tmp_path / "python", f"#!/bin/sh\nshift; exec {sys.executable} -c '{code}' \"$@\"\n")
    assert trouble(lambda: runner(server, python=python)) == (
        f"{server.url}: Python 3.8 there is too old; install 3.10 or later and name it as python in the device file"
    )


def without_packages(folder):
    """A Python without any package but those in `folder`."""
    return script(folder / "python", f'#!/bin/sh\nPYTHONPATH={folder} exec {sys.executable} -S "$@"\n')


def with_numpy(folder):
    installed = Path(numpy.__file__).parent
    for package in (installed, installed.with_name("numpy.libs")):
        if package.exists():
            (folder / package.name).symlink_to(package)
    return without_packages(folder)


def test_no_numpy(server, tmp_path):
    python = without_packages(tmp_path)
    assert trouble(lambda: runner(server, python=python)) == (
        f"{server.url}: numpy is not installed there; run on the board: {python} -m pip install numpy"
    )


@pytest.mark.parametrize("version", ["1.7.2", "0.9", "1.7.99rc1"])
def test_a_runtime_that_is_too_old_for_the_models(version, server, tmp_path):
    python = with_numpy(tmp_path)
    (tmp_path / "onnxruntime").mkdir()
    (tmp_path / "onnxruntime" / "__init__.py").write_text(f"__version__ = '{version}'")
    assert trouble(lambda: runner(server, python=python)) == (
        f"{server.url}: onnxruntime {version} is installed there, and models need 1.8 or later; run on the board: "
        f"{python} -m pip install --upgrade onnxruntime"
    )


def test_no_runtime(server, tmp_path):
    python = with_numpy(tmp_path)
    assert trouble(lambda: runner(server, python=python)) == (
        f"{server.url}: onnxruntime is not installed there; run on the board: {python} -m pip install onnxruntime"
    )


def test_no_place_for_temporary_files(own_server):
    own_server.start(TMPDIR="/nowhere")
    found = trouble(lambda: runner(own_server))
    assert found.startswith(f"{own_server.url}: the measuring process ended with status 73 (mktemp: ")


def test_disk_that_is_full(own_server):
    if subprocess.run(["mount", "-t", "tmpfs", "-o", "size=4k", "none", own_server.tmp], check=False).returncode:
        pytest.skip("a small disk needs the right to mount one")
    try:
        own_server.start()
        assert trouble(lambda: runner(own_server)) == (
            f"{own_server.url}: the disk for temporary files there is full; free some space, or set TMPDIR there to "
            "another one"
        )
    finally:
        subprocess.run(["umount", own_server.tmp], check=True)


def test_no_asyncssh_here(monkeypatch):
    monkeypatch.setattr(module, "find_spec", lambda name: None)
    device = Device(name="board", runtime="onnxruntime", host="ssh://board")
    assert trouble(lambda: open_runner(device)) == (
        "device board: asyncssh, which reaches boards, is not installed; run: pip install 'nasdeploy[ssh]'"
    )
