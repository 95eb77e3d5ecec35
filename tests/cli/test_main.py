"""Errors end in one line on stderr and in the exit code of their kind."""

import os
import signal
import subprocess
import sys

import pytest
import typer

from nasdeploy.cli.app import app
from nasdeploy.cli.main import main
from nasdeploy.core import errors

PROGRAM = """
import time, warnings
from nasdeploy.cli.app import app
from nasdeploy.cli.main import main

@app.command()
def wait() -> None:
    print("ready", flush=True)
    time.sleep(60)

@app.command()
def warn() -> None:
    warnings.warn("two\\nlines", UserWarning)
    raise OSError(2, "Not there", "a\\nb")

main()
"""


def run_raising(error: BaseException, monkeypatch: pytest.MonkeyPatch) -> int:
    def raising(self: object, standalone_mode: bool) -> None:
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
    assert run_raising(error, monkeypatch) == 2
    assert capsys.readouterr().err == said


@pytest.mark.parametrize("error", [OSError(9, "Bad file descriptor"), OSError(22, "Invalid argument"), OSError("what")])
def test_errors_of_the_system_that_no_user_can_mend_are_not_hidden(
    error: OSError, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(OSError, match=r"Bad|Invalid|what"):
        run_raising(error, monkeypatch)


def test_too_little_memory_is_one_line(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    assert run_raising(MemoryError("Unable to allocate 7.28 TiB"), monkeypatch) == 2
    assert capsys.readouterr().err.startswith("nasdeploy: not enough memory (Unable to allocate 7.28 TiB); use smaller")


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
        "import os; import nasdeploy.cli.main as m; m._run = lambda: print(os.environ['OMP_WAIT_POLICY']); m.main()"
    )
    environment = {name: value for name, value in os.environ.items() if name != "OMP_WAIT_POLICY"}
    for given, expected in (({}, "passive"), ({"OMP_WAIT_POLICY": "active"}, "active")):
        command = [sys.executable, "-c", program]
        done = subprocess.run(command, env={**environment, **given}, capture_output=True, text=True, check=True)
        assert done.stdout.strip() == expected


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["serch"], "no such command 'serch'. Did you mean 'search'"),
        (["search", "--lateny-ms", "3"], "no such option: --lateny-ms (Possible options: --latency"),
        (["evaluate", "--sample", "x"], "invalid value for '--sample': Input should be a valid integer"),
        (["search", "extra"], "no such command 'extra' (see 'nasdeploy search --help')"),
        (["train"], "no recipe given; name one, or with --run DIR a run to go on with"),
        (["run"], "missing argument 'RECIPE' (see 'nasdeploy run --help')"),
        (["space", "show", "a\nb"], "unknown search space 'a\\nb'"),
    ],
)
def test_misuse_ends_in_one_line(
    arguments: list[str], said: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "argv", ["nasdeploy", *arguments])
    with pytest.raises(SystemExit) as stopped:
        main()
    assert stopped.value.code == 2
    printed = capsys.readouterr()
    assert printed.out == ""
    assert printed.err.startswith(f"nasdeploy: {said}")
    assert printed.err.count("\n") == 1


@pytest.mark.parametrize(("arguments", "code"), [([], 2), (["space"], 2), (["--help"], 0), (["--version"], 0)])
def test_help_where_there_is_nothing_to_do(
    arguments: list[str], code: int, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "argv", ["nasdeploy", *arguments])
    with pytest.raises(SystemExit) as stopped:
        main()
    assert stopped.value.code == code
    printed = capsys.readouterr()
    assert "nasdeploy" in (printed.err if code else printed.out)
    assert (printed.out if code else printed.err) == ""


def test_warnings_and_errors_of_the_system_are_one_line_each() -> None:
    done = subprocess.run([sys.executable, "-c", PROGRAM, "warn"], capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert done.stderr == "nasdeploy: warning: two\\nlines\nnasdeploy: a\\nb: Not there\n"


def test_ctrl_c_while_commands_are_imported() -> None:
    program = """
import builtins, signal
import nasdeploy.cli.main as m
real = builtins.__import__
def importing(name, *rest, **more):
    if name == "typer":
        signal.raise_signal(signal.SIGINT)
    return real(name, *rest, **more)
builtins.__import__ = importing
m.main()
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr.count("\n")) == (130, 1)


def test_a_reader_that_has_had_enough() -> None:
    script = "from nasdeploy.cli.main import main; main()"
    command = f'set -o pipefail; "{sys.executable}" -c "{script}" space show alphanet | true'
    done = subprocess.run(["bash", "-c", command], capture_output=True, text=True, check=False)
    assert done.stderr == ""


def test_an_output_that_is_full_is_one_line() -> None:
    command = [sys.executable, "-c", "from nasdeploy.cli.main import main; main()", "space", "show", "digits"]
    with open("/dev/full", "wb") as full:
        done = subprocess.run(command, stdout=full, stderr=subprocess.PIPE, text=True, check=False)
    assert (done.returncode, done.stderr) == (2, "nasdeploy: No space left on device\n")


def test_what_an_output_lacks_is_escaped() -> None:
    """Also that of a reader of stderr: a path in Latin-1, and a character of another script."""
    command = [
        sys.executable,
        "-c",
        "from nasdeploy.cli.main import main; main()",
        "devices",
        b"M\xfcller \xe2\x82\xac\n.yaml",
    ]
    done = subprocess.run(command, env={**os.environ, "PYTHONIOENCODING": "ascii"}, capture_output=True, check=False)
    assert (done.returncode, done.stdout) == (2, b"")
    assert done.stderr.startswith(b"nasdeploy: ") and b"M\\xfcller \\u20ac\\n.yaml" in done.stderr
    assert done.stderr.count(b"\n") == 1


@pytest.mark.parametrize("name", ["train", "run", "search", "evaluate", "export"])
def test_commands_that_open_the_images_of_a_run_take_what_messages_suggest(name: str) -> None:
    """Messages about images suggest `--data DIR` for a folder that was moved, and `--set data.on_unreadable=skip`."""
    command = typer.main.get_command(app).commands[name]  # type: ignore[attr-defined]
    options = {option for parameter in command.params for option in parameter.opts}
    assert {"--data", "--set"} <= options
