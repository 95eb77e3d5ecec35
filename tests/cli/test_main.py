"""Errors end in one line on stderr and in the exit code of their kind."""

import os
import signal
import subprocess
import sys

import pytest

from nasdeploy import errors
from nasdeploy.cli.main import app, main

PROGRAM = """
import time
from nasdeploy.cli.main import app, main

@app.command()
def wait() -> None:
    print("ready", flush=True)
    time.sleep(60)

@app.command()
def other() -> None:
    pass

main()
"""


def run_raising(error: BaseException, monkeypatch: pytest.MonkeyPatch) -> int:
    def raising(self: object) -> None:
        raise error

    monkeypatch.setattr(type(app), "__call__", raising)
    with pytest.raises(SystemExit) as stopped:
        main()
    assert isinstance(stopped.value.code, int)
    return stopped.value.code


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (errors.UserError("r.yaml: wrong"), 2),
        (errors.InfeasibleBudget("too small"), 3),
        (errors.CheckFailed("disagrees"), 4),
        (errors.NasdeployError("no luck"), 1),
    ],
)
def test_each_kind_of_error_has_its_exit_code(
    error: errors.NasdeployError, code: int, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run_raising(error, monkeypatch) == code
    assert capsys.readouterr() == ("", f"nasdeploy: {error}\n")


@pytest.mark.parametrize(
    ("error", "said"),
    [
        (OSError(28, "No space left on device"), "nasdeploy: No space left on device\n"),
        (PermissionError(13, "Permission denied", "runs/a"), "nasdeploy: runs/a: Permission denied\n"),
    ],
)
def test_system_errors_are_one_line(
    error: OSError, said: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run_raising(error, monkeypatch) == 1
    assert capsys.readouterr().err == said


def test_a_mistake_of_ours_is_not_hidden(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(KeyError):
        run_raising(KeyError("width"), monkeypatch)


def test_other_exits_keep_their_code(monkeypatch: pytest.MonkeyPatch) -> None:
    assert run_raising(SystemExit(0), monkeypatch) == 0


def test_ctrl_c_says_that_the_same_command_resumes() -> None:
    process = subprocess.Popen(
        [sys.executable, "-c", PROGRAM, "wait"], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "ready\n"
    process.send_signal(signal.SIGINT)
    _, said = process.communicate()
    assert said == "nasdeploy: stopped; what was finished is kept, and the same command resumes\n"
    assert process.returncode == 130


def test_waiting_threads_sleep_unless_the_user_says_otherwise() -> None:
    program = (
        "import os; import nasdeploy.cli.main as m; m.app = lambda: print(os.environ['OMP_WAIT_POLICY']); m.main()"
    )
    environment = {name: value for name, value in os.environ.items() if name != "OMP_WAIT_POLICY"}
    for given, expected in (({}, "passive"), ({"OMP_WAIT_POLICY": "active"}, "active")):
        command = [sys.executable, "-c", program]
        done = subprocess.run(command, env={**environment, **given}, capture_output=True, text=True, check=True)
        assert done.stdout.strip() == expected
