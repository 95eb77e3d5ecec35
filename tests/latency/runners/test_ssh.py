"""Measuring on a board: a real SSH server on the loopback interface."""

import json
import os
import signal
import sys
import threading
import time
from contextlib import suppress
from dataclasses import asdict
from pathlib import Path

import pytest

from nasdeploy.core.errors import UserError
from nasdeploy.latency.protocol import MeasurementProtocol, Rounds, Timing
from nasdeploy.latency.runners.connection import Connection, Ended, Timeouts
from nasdeploy.latency.runners.runner import LocalRunner, Refusal
from nasdeploy.runtimes.device import Device
from tests.latency.runners.boards import HASTY, MODELS, device, measured, model, runner, script, until


def test_outcomes_are_timings_of_every_model(server):
    visits = []
    with runner(server) as board:
        found = measured(board, on_visits=visits.append)
    assert list(found) == list(MODELS)
    assert all(isinstance(timing, Timing) and timing.n == 4 for timing in found.values())
    assert sum(visits) == 2 * len(MODELS)


def test_fingerprint_is_that_of_the_same_machine_measured_here(server):
    here = LocalRunner(Device(name="here", runtime="onnxruntime"))
    with runner(server) as board:
        assert board.fingerprint == here.fingerprint


def test_its_directory_is_there_as_long_as_the_place_is_open(server):
    with runner(server) as board:
        measured(board, dict(list(MODELS.items())[:1]))
        assert len(list(server.tmp.iterdir())) == len(server.programs()) == 1


def unknown_operator():
    return model(3, "Frobnicate")


@pytest.mark.parametrize("local", [True, False])
def test_a_model_that_the_runtime_cannot_run_does_not_stop_the_others(server, local):
    models = {**MODELS, "m2": unknown_operator}
    with LocalRunner(Device(name="here", runtime="onnxruntime")) if local else runner(server) as somewhere:
        found = measured(somewhere, models)
    assert {key for key, outcome in found.items() if isinstance(outcome, Timing)} == MODELS.keys() - {"m2"}
    assert isinstance(found["m2"], Refusal)
    assert "Frobnicate" in found["m2"].reason


# -- losses


def kill(pids):
    for pid in pids:
        # Where one was the other's parent it may have taken that along.
        with suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)


def killing(victims, at="m5"):
    """The models; when the given one is made for the first time, the victims are killed."""
    done = []

    def make():
        if not done:
            done.append(True)
            kill(victims())
        return MODELS[at]()

    return {**MODELS, at: make}


def sessions(server):
    """The server's processes for its connections, not the programs that these run."""
    return [pid for pid in server.descendants() if b"sshd" in cmdline(pid)]


def cmdline(pid):
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes()
    except OSError:
        return b""


def test_program_that_is_killed_is_started_again(server):
    said = []
    with runner(server, said.append) as board:
        assert list(measured(board, killing(server.programs))) == list(MODELS)
    (line,) = said
    assert line == (
        f"{server.url}: the measuring process was killed (SIGKILL, perhaps for want of memory); trying again in 0.05 s"
    )


def test_connection_that_is_cut_is_made_again(server):
    said = []
    with runner(server, said.append) as board:
        assert list(measured(board, killing(lambda: sessions(server)))) == list(MODELS)
    assert said == [f"{server.url}: the connection was lost; trying again in 0.05 s"]


def test_a_connection_that_is_cut_at_one_model_again_and_again_is_not_the_models_fault(server, tmp_path):
    """The board's program stops when it opens the model, until the connection is cut, three times."""
    (tmp_path / "sitecustomize.py").write_text(
        "import onnxruntime, os, time\n"
        "real = onnxruntime.InferenceSession\n"
        f"tried = {str(tmp_path / 'tried')!r}\n"
        "def session(*rest, **options):\n"
        "    with open(tried, 'a') as file: file.write('x')\n"
        "    end = time.monotonic() + 20\n"
        "    while os.path.getsize(tried) <= 3 and time.monotonic() < end: time.sleep(0.01)\n"
        "    return real(*rest, **options)\n"
        "onnxruntime.InferenceSession = session\n"
    )
    tried, done = tmp_path / "tried", threading.Event()

    def cut():
        seen = 0
        while not done.wait(0.01) and seen < 3:
            if tried.exists() and tried.stat().st_size > seen:
                seen += 1
                for pid in sessions(server):
                    with suppress(ProcessLookupError):
                        os.kill(pid, signal.SIGKILL)

    cutting = threading.Thread(target=cut)
    cutting.start()
    try:
        with runner(server, python=with_site(tmp_path)) as board:
            (outcome,) = measured(board, {"m1": lambda: model(1)}).values()
    finally:
        done.set()
        cutting.join()
    assert tried.stat().st_size == 4
    assert isinstance(outcome, Timing)


def test_what_was_cut_while_it_measured_is_measured_again_and_its_visits_count_once(server):
    slow = MeasurementProtocol(warmup=1, discarded=0, kept=1, shortest_run_s=0.1, shortest_group_s=0, retries=0)
    visits = []

    def on_visits(number):
        if not visits:
            os.kill(server.programs()[0], signal.SIGKILL)
        visits.append(number)

    with runner(server) as board:
        found = measured(board, dict(list(MODELS.items())[:3]), Rounds(3, 5), slow, on_visits)
    assert len(found) == 3
    assert sum(visits) == 15


def test_shell_and_program_killed_together_leave_a_directory_that_the_next_program_removes(server):
    def all_of_it():
        return [pid for pid in server.descendants() if b"sshd" not in cmdline(pid)]

    with runner(server) as board:
        assert list(measured(board, killing(all_of_it))) == list(MODELS)
        until(lambda: len(list(server.tmp.iterdir())) == 1)


def test_directories_of_others_that_are_at_work_stay(server):
    with runner(server) as first, runner(server) as second:
        assert len(list(server.tmp.iterdir())) == 2
        assert list(measured(first)) == list(measured(second)) == list(MODELS)


def test_server_that_does_not_come_back_is_given_up_and_everything_measured_is_there(own_server):
    own_server.start()
    found = {}

    def gone():
        victims = sessions(own_server)
        own_server.stop()
        return victims

    said = []
    with runner(own_server, said.append) as board:
        outcomes = board.measure(killing(gone), Rounds(3, 2), HASTY, on_visits=lambda visits: None)
        with pytest.raises(UserError) as caught:
            found.update(pair for some in outcomes for pair in some.items())
    assert list(found) == ["m1", "m2", "m3"]
    assert len(said) == 3
    assert str(caught.value).startswith(f"{own_server.url}: cannot be reached (")
    assert str(caught.value).endswith(
        "given up after 3 attempts, but what was measured is kept: run the same command again to go on"
    ), caught.value


def test_another_machine_in_its_place_is_refused(server, tmp_path):
    """The program says something else of its machine when it is started again."""
    (tmp_path / "sitecustomize.py").write_text(
        "import os, platform\n"
        f"again = {str(tmp_path / 'again')!r}\n"
        "if os.path.exists(again): platform.release = lambda: 'another'\n"
        "open(again, 'w').close()\n"
    )
    python = with_site(tmp_path)
    with runner(server, python=python) as board, pytest.raises(UserError) as caught:
        measured(board, killing(server.programs))
    assert str(caught.value).startswith(f"{server.url}: another machine than before (system: measured with ")


def with_site(folder):
    return script(folder / "python", f'#!/bin/sh\nPYTHONPATH={folder} exec {sys.executable} "$@"\n')


def test_model_that_crashes_the_runtime_is_refused_and_the_others_go_on(server, tmp_path):
    (tmp_path / "sitecustomize.py").write_text(
        "import os, signal, onnxruntime\n"
        "real = onnxruntime.InferenceSession\n"
        "def session(content, *rest, **options):\n"
        "    if b'Frobnicate' in content: os.kill(os.getpid(), signal.SIGSEGV)\n"
        "    return real(content, *rest, **options)\n"
        "onnxruntime.InferenceSession = session\n"
    )
    with runner(server, python=with_site(tmp_path)) as board:
        found = measured(board, {**MODELS, "m4": unknown_operator})
    assert found.keys() == MODELS.keys()
    assert found["m4"] == Refusal("the runtime crashes when it opens it (the measuring process was killed (SIGSEGV))")


# -- answers that are not to be trusted

MACHINE = {"machine": asdict(LocalRunner(Device(name="here", runtime="onnxruntime")).fingerprint)}
TIMING = {"median": 1.0, "p10": 1.0, "p90": 1.0, "p95": 1.0, "n": 5, "at": "2026-11-24T00:00:00+00:00"}


@pytest.mark.parametrize(
    ("answers", "message"),
    [
        (["{"], "the board sent what is no result ("),
        (["[]"], "the board sent what is no result ("),
        ([{"machine": 5}], "the board sent what is no result (its answer: machine is 5"),
        ([{"machine": {**MACHINE["machine"], "cpu": "\033[31mred"}}], "nothing readable about its machine"),
        (["x" * 200_000], "the board sent what is no result (a line of more than 65536 bytes)"),
        ([MACHINE, {"done": True}], "an answer to another question"),
        ([MACHINE, {"opened": True}, {"key": "m1", "timing": {**TIMING, "median": float("nan")}}], "is no result ("),
        ([MACHINE, {"opened": True}, {"key": "m1", "timing": {**TIMING, "n": "many"}}], "timing.n is"),
        ([MACHINE, {"opened": True}, {"key": "m1", "timing": {**TIMING, "p10": -1}}], "0 < p10 <= median"),
        ([MACHINE, {"opened": True}, {"key": "x", "timing": TIMING}], "a timing that was not asked for"),
        ([MACHINE, {"opened": True}, {"done": True}], "no timing of 1 models"),
        ([MACHINE, {"opened": True}, {"visits": 10**9}, {"done": True}], "no timing of 1 models"),
        ([MACHINE, {"opened": True}, {"visits": -1}], "visits is -1"),
        ([{"error": "MemoryError: \033[2J"}], "MemoryError: ?[2J"),
    ],
)
def test_an_answer_that_is_none_is_one_line(server, tmp_path, answers, message):
    lines = [answer if isinstance(answer, str) else json.dumps(answer) for answer in answers]
    (tmp_path / "answers").write_text("\n".join(["hello", "nasdeploy is ready", *lines]) + "\n")
    python = script(tmp_path / "python", f"#!/bin/sh\ncat {tmp_path}/answers; exec cat >/dev/null\n")
    with pytest.raises(UserError) as caught, runner(server, python=python) as board:
        measured(board, {"m1": MODELS["m1"]})
    assert message in str(caught.value)
    assert str(caught.value).startswith(f"{server.url}: ")
    assert str(caught.value).isprintable()


def test_greetings_of_the_boards_shell_do_not_matter(server, tmp_path):
    python = script(tmp_path / "python", f'#!/bin/sh\necho "Welcome!"; exec {sys.executable} "$@"\n')
    with runner(server, python=python) as board:
        assert list(measured(board)) == list(MODELS)


def test_what_libraries_print_does_not_get_between_the_answers(server, tmp_path):
    (tmp_path / "sitecustomize.py").write_text(
        "import onnxruntime, os\n"
        "real = onnxruntime.InferenceSession\n"
        "def session(*rest, **options):\n"
        "    print('loading'); os.write(1, b'loading')\n"
        "    return real(*rest, **options)\n"
        "onnxruntime.InferenceSession = session\n"
    )
    with runner(server, python=with_site(tmp_path)) as board:
        assert list(measured(board, {"m1": lambda: model(1)})) == ["m1"]


def test_connection_that_falls_silent_is_noticed(server):
    """As when a cable is pulled: nothing is closed."""
    board = device(server).boards[0]
    connection = Connection(board, "cat", b"", Timeouts(alive_every=0.2, dead_after=2))
    stopped = sessions(server)
    try:
        connection.send(b"one\n")
        assert connection.receive() == b"one"
        for pid in stopped:
            os.kill(pid, signal.SIGSTOP)
        start = time.monotonic()
        with pytest.raises(Ended) as caught:
            connection.receive()
        assert time.monotonic() - start < 5
        assert caught.value.status is None
    finally:
        connection.close()
        for pid in stopped:
            os.kill(pid, signal.SIGCONT)
