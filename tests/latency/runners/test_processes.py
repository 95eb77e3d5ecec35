"""Several processes of this machine, started anew."""

import os
import signal
import subprocess
import sys
from dataclasses import replace

import pytest

from nasdeploy.core.cpus import bound_cpus
from nasdeploy.core.errors import UserError
from nasdeploy.latency.protocol import Rounds, SustainedCalls
from nasdeploy.latency.runners import processes
from nasdeploy.latency.runners import processes as process
from nasdeploy.latency.runners.open_runner import fingerprint
from nasdeploy.latency.runners.processes import ProcessRunner, combined, open_processes
from nasdeploy.latency.runners.runner import LocalRunner, Refusal
from nasdeploy.runtimes.device import Device
from nasdeploy.runtimes.runtime import TorchModel
from tests.latency.runners.boards import HASTY, MODELS, ROUNDS, measured, model
from tests.latency.tables import FINGERPRINT, timing

CPU = Device(name="cpu", runtime="onnxruntime")


@pytest.fixture
def started(monkeypatch):
    """Processes that were started."""
    found = []
    original = subprocess.Popen

    def popen(*command, **options):
        found.append(original(*command, **options))
        return found[-1]

    monkeypatch.setattr(process.subprocess, "Popen", popen)
    return found


def test_each_model_is_measured_in_each_process_and_made_once(started, tmp_path):
    made, visits = [], []

    def making(key):
        def make():
            made.append(key)
            return MODELS[key]()

        return make

    # A file is read as it is.
    (tmp_path / "m9.onnx").write_bytes(model(9))
    wanted = {"m9": lambda: tmp_path / "m9.onnx", "m1": making("m1"), "m2": making("m2")}
    with open_processes(CPU, number=3) as runner:
        found = measured(runner, wanted, Rounds(2, 4), replace(HASTY, sustained_s=0.01), visits.append)
    assert made == ["m1", "m2"]
    assert len({one.pid for one in started}) == 3
    assert [one.returncode for one in started] == [0] * 3
    for outcome in found.values():
        # Two visits in each process, of two runs.
        assert (outcome.n, len(outcome.processes)) == (3 * 2 * 2, 3)
        assert outcome.throughput.seconds >= 3 * 0.01
    assert sum(visits) == 3 * 4


def test_its_device_is_that_of_this_process():
    with open_processes(CPU) as runner:
        assert runner.fingerprint == fingerprint(CPU)


def test_no_torch_is_in_such_a_process():
    code = "import sys; import nasdeploy.latency.runners.board; print({'torch', 'pydantic', 'onnx'} & set(sys.modules))"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "set()\n"


def test_a_model_that_the_runtime_refuses_is_refused_once():
    with open_processes(CPU, number=2) as runner:
        found = measured(runner, {"good": lambda: model(3), "bad": lambda: b"junk"}, ROUNDS)
    assert isinstance(found["bad"], Refusal)
    assert "ONNX Runtime cannot load it" in found["bad"].reason
    assert not isinstance(found["good"], Refusal)


def test_a_process_that_is_killed_is_one_line(started):
    def kill():
        os.kill(started[-1].pid, signal.SIGKILL)
        started[-1].wait()
        return model(3)

    with (
        open_processes(CPU, number=2) as runner,
        pytest.raises(UserError, match=r"device cpu: the process that measures was killed by signal 9") as caught,
    ):
        measured(runner, {"m": kill})
    assert "\n" not in str(caught.value)


def test_a_process_ends_with_what_asked_for_it(started):
    def stop(visits):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt), ProcessRunner(CPU) as runner:
        measured(runner, on_visits=stop)
    assert started[0].returncode is not None


def test_what_a_library_prints_is_no_answer(monkeypatch):
    monkeypatch.setenv("PYTHONWARNINGS", "always")
    monkeypatch.setenv("PYTHONVERBOSE", "1")
    with open_processes(CPU, number=2) as runner:
        assert measured(runner).keys() == MODELS.keys()


def test_a_users_file_of_a_modules_name_is_not_imported(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "queue.py").write_text("raise SystemExit('the wrong file')")
    with ProcessRunner(CPU) as runner:
        assert runner.fingerprint.cores >= 1


@pytest.mark.parametrize("runtime", ["torch", "tensorrt"])
def test_modules_and_engines_stay_in_one_process(runtime, monkeypatch):
    opened = []
    monkeypatch.setattr(processes, "open_runner", lambda device, say: opened.append(device.runtime))
    open_processes(Device(name="x", runtime=runtime))
    assert opened == [runtime]


def test_modules_are_not_sent_to_another_process():
    torch_device = Device(name="x", runtime="torch")
    with pytest.raises(UserError, match="device x: torch runs modules of this process, and of no other"):
        ProcessRunner(torch_device)
    with open_processes(torch_device) as runner:
        assert isinstance(runner, LocalRunner)
    with ProcessRunner(CPU) as runner, pytest.raises(AssertionError):
        measured(runner, {"m": lambda: TorchModel(None, {})})


def test_more_threads_than_cores_are_said_once():
    said = []
    crowded = CPU.model_copy(update={"threads": bound_cpus() + 1})
    with open_processes(crowded, said.append, 2) as runner:
        measured(runner, {"m": lambda: model(3)})
    assert len(said) == 1
    assert f"{crowded.threads} threads for" in said[0]


def test_a_board_is_asked_again_for_each_process_and_its_threads_are_said_once(monkeypatch):
    said, opened = [], []

    class Board:
        fingerprint = replace(FINGERPRINT, cores=1)

        def __enter__(self):
            return self

        def __exit__(self, *error):
            pass

        def measure(self, models, rounds, protocol, *, on_visits, reference=None):
            opened.append(self)
            yield {key: timing(1e-3 * len(opened)) for key in models}

    monkeypatch.setattr(processes, "connected", lambda device, say: Board())
    board = Device(name="pi", runtime="onnxruntime", host="ssh://me@pi", threads=2)
    with open_processes(board, said.append, 3) as runner:
        found = measured(runner, {"m": lambda: model(3)})["m"]
    assert (len(set(map(id, opened))), found.processes) == (3, pytest.approx((1e-3, 2e-3, 3e-3)))
    assert len(said) == 1


def test_processes_are_put_together():
    slow, usual, fast = timing(2e-3), timing(1e-3), replace(timing(0.9e-3), reference=3e-4)
    found = combined(
        [replace(usual, throughput=SustainedCalls(100, 1.0)), replace(slow, throughput=SustainedCalls(50, 1.0)), fast]
    )
    assert (found.median, found.p10, found.p95, found.n) == (1e-3, usual.p10, usual.p95, 75)
    assert found.processes == (0.9e-3, 1e-3, 2e-3)
    assert found.throughput == SustainedCalls(150, 2.0)
    assert found.reference == 3e-4


@pytest.mark.parametrize(
    ("noises", "noise"),
    [
        (["", "", "spread"], ""),
        (["spread", "quota", "quota"], "quota"),
        (["quota", "", "spread", "quota"], "quota"),
        (["spread", ""], ""),
    ],
)
def test_noise_is_what_most_processes_say(noises, noise):
    assert combined([replace(timing(1e-3), noise=one) for one in noises]).noise == noise
