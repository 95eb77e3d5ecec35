"""What a board is sent."""

import ast
import fcntl
import json
import os
import subprocess
import sys
import threading
import zipfile
from dataclasses import asdict

import pytest

from nasdeploy.latency.runners import board
from nasdeploy.latency.runners.board import remove_forgotten
from nasdeploy.latency.runners.remote_program import PROGRAM, payload, payload_files
from nasdeploy.runtimes.runtime import LocalTarget
from tests.layers import modules

ABSENT = ("pydantic", "yaml", "torch", "scipy", "rich", "typer", "onnx")


def test_it_holds_the_program_and_every_runtime_and_is_small():
    assert {
        PROGRAM,
        "nasdeploy.core.cpus",
        "nasdeploy.latency.measure",
        "nasdeploy.latency.protocol",
        "nasdeploy.runtimes.onnxruntime",
    } <= payload_files().keys()
    assert payload_files().keys() <= modules().keys()
    assert "nasdeploy.runtimes.device" not in payload_files()
    assert len(payload()) < 1 << 17


def test_the_program_is_importable_from_it_where_there_is_numpy_alone(tmp_path):
    (tmp_path / "payload.zip").write_bytes(payload())
    code = f"""
import sys
for name in {ABSENT}: sys.modules[name] = None
sys.path[:] = [{str(tmp_path / "payload.zip")!r}] + [path for path in sys.path if not path.endswith("main")]
import {PROGRAM} as program
assert program.__file__.startswith({str(tmp_path)!r}), program.__file__
"""
    done = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")


@pytest.mark.parametrize("module", payload_files())
def test_files_are_python_3_10(module):
    text = payload_files()[module].read_text(encoding="utf-8")
    assert isinstance(ast.parse(text, feature_version=(3, 10)), ast.Module)


def test_bytes_are_the_same_each_time():
    payload.cache_clear()
    first = payload()
    payload.cache_clear()
    assert payload() == first


def test_the_program_ends_and_removes_its_directory_when_its_stdin_does(tmp_path):
    (tmp_path / "payload.zip").write_bytes(payload())
    own = tmp_path / "nasdeploy.abc"
    own.mkdir()
    code = f"import sys; sys.path.insert(0, sys.argv[1]); from {PROGRAM} import main; main(sys.argv[2])"
    program = [sys.executable, "-c", code, tmp_path / "payload.zip", own]
    start = json.dumps({"do": "start", "device": asdict(LocalTarget("x", "onnxruntime"))}) + "\n"
    with subprocess.Popen(program, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        process.stdin.write(start.encode())
        process.stdin.flush()
        assert "machine" in json.loads(process.stdout.readline())
        assert own.exists()
        process.stdin.close()
        process.wait(timeout=10)
    assert not own.exists()
    assert zipfile.is_zipfile(tmp_path / "payload.zip")


def test_only_directories_of_its_own_are_forgotten(tmp_path):
    def folder(name, *files, old=True):
        made = tmp_path / f"nasdeploy-board.{name}"
        made.mkdir()
        for file in files:
            (made / file).touch()
        if old:
            os.utime(made, (0, 0))
        return made

    own, fresh = folder("own", "lock"), folder("fresh", "nasdeploy.zip", old=False)
    strangers, killed = folder("photos", "holiday.jpg"), folder("killed", "lock", "nasdeploy.zip")
    early, busy = folder("early", "nasdeploy.zip"), folder("busy", "lock")
    with (busy / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        remove_forgotten(own)
    assert sorted(tmp_path.iterdir()) == sorted([own, fresh, strangers, busy])
    assert not killed.exists()
    assert not early.exists()


def test_the_program_gives_up_a_sender_that_is_silent(monkeypatch):
    monkeypatch.setattr(board, "SILENCE_S", 0.5)
    ended = threading.Event()
    reading, writing = os.pipe()
    with open(reading, "rb") as stdin, open(writing, "wb", buffering=0) as sender:
        frames = board.Frames(stdin, ended.set)
        for _ in range(4):
            sender.write(b'{"do": "stay"}\n')
            assert not ended.wait(0.25)
        sender.write(b'{"do": "open", "bytes": 3}\nabc')
        assert frames.next() == ({"do": "open", "bytes": 3}, b"abc")
        assert ended.wait(2)
