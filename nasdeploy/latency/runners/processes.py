"""Processes of this machine that are started anew, one after the other, with nothing in them but NumPy and the runtime.

Where things lie in memory, and so how fast they are, differs by process. Medians of a small network in twelve processes
within two minutes went from 0.047 to 0.092 ms on a quiet virtual machine, while the runs in each varied little. What is
measured in one process alone is that process's.
"""

import json
import subprocess
import sys
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, replace
from math import ceil
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory, TemporaryFile
from types import TracebackType
from typing import Any

from nasdeploy.core.errors import UserError
from nasdeploy.core.settings import parse
from nasdeploy.latency.machine import Fingerprint
from nasdeploy.latency.measure import in_groups
from nasdeploy.latency.protocol import MeasurementProtocol, Noise, Rounds, SustainedCalls, Timing
from nasdeploy.latency.runners.open_runner import connected, crowding, open_runner
from nasdeploy.latency.runners.remote_program import PROGRAM, Answer, frame_of, shown
from nasdeploy.latency.runners.runner import ModelMaker, Outcome, Refusal, Runner, Say, made
from nasdeploy.runtimes import described_runtime, runtime_of
from nasdeploy.runtimes.device import Device
from nasdeploy.runtimes.runtime import LocalTarget, TorchModel, content_of

# Not what lies in the current directory: a user's file may be called numpy.py.
_COMMAND = (sys.executable, "-P", "-m", PROGRAM)
_ENDS_WITHIN_S = 10.0


class ProcessRunner:
    """One process. Raises `UserError` if the device's runtime cannot be used on this machine, or opens no files."""

    def __init__(self, device: Device) -> None:
        if runtime_of(device).form == "module":
            raise UserError(f"device {device.name}: {device.runtime} runs modules of this process, and of no other")
        self._device = device
        self._said = TemporaryFile()  # noqa: SIM115 (closed with the process)
        self._process = subprocess.Popen(_COMMAND, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=self._said)
        try:
            self._send({"do": "start", "device": asdict(LocalTarget.of(device))})
            machine = self._answer().machine
            assert machine is not None, "the runtime was there a moment ago"
        except BaseException:
            self._end()
            raise
        self.fingerprint: Fingerprint = machine

    def measure(
        self,
        models: Mapping[str, ModelMaker],
        rounds: Rounds,
        protocol: MeasurementProtocol,
        *,
        on_visits: Callable[[int], None],
        reference: ModelMaker | None = None,
    ) -> Iterator[dict[str, Outcome]]:
        """Measure as `Runner.measure` says; outcomes come group by group."""
        for group in in_groups(models, rounds.group, reference):
            # A reference that is refused tells nothing, and the models go without.
            if group.reference is not None:
                self._open(None, group.reference)
            opening = ((key, self._open(key, model)) for key, model in group.models.items())
            refused = {key: refusal for key, refusal in opening if refusal is not None}
            yield {**refused, **self._measure(rounds, protocol, on_visits)}

    def _open(self, key: str | None, model: ModelMaker) -> Refusal | None:
        content = made(model)
        if isinstance(content, Refusal):
            return content
        # PyTorch's modules, which are no files, were refused.
        assert not hasattr(content, "module")
        self._send({"do": "open", "key": key}, content_of(content)[1])
        refused = self._answer().refused
        return None if refused is None else Refusal(refused)

    def _measure(
        self, rounds: Rounds, protocol: MeasurementProtocol, on_visits: Callable[[int], None]
    ) -> dict[str, Outcome]:
        self._send({"do": "measure", "rounds": asdict(rounds), "protocol": asdict(protocol)})
        found: dict[str, Outcome] = {}
        while not (answer := self._answer()).done:
            on_visits(answer.visits)
            if answer.key is not None and answer.timing is not None:
                found[answer.key] = answer.timing
        return found

    def _send(self, frame: dict[str, Any], content: bytes = b"") -> None:
        assert self._process.stdin is not None
        try:
            self._process.stdin.write(frame_of(frame, content))
            self._process.stdin.flush()
        except BrokenPipeError:
            raise self._ended() from None

    def _answer(self) -> Answer:
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if not line:
            raise self._ended()
        answer = parse(Answer, json.loads(line), "the measuring process")
        if answer.error is not None:
            raise UserError(f"device {self._device.name}: {answer.error}")
        return answer

    def _ended(self) -> UserError:
        """Say why the process is not there any more."""
        status = self._process.wait(_ENDS_WITHIN_S)
        self._said.seek(0)
        last = (self._said.read().decode(errors="replace").strip().splitlines() or ["it said nothing"])[-1]
        how = f"was killed by signal {-status}" if status < 0 else f"ended with status {status}"
        return UserError(
            f"device {self._device.name}: the process that measures {how} ({shown(last)}); give it more memory, or use "
            "another runtime"
        )

    def _end(self) -> None:
        for stream in (self._process.stdin, self._process.stdout):
            if stream is not None:
                with suppress(BrokenPipeError):
                    stream.close()
        try:
            self._process.wait(_ENDS_WITHIN_S)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        self._said.close()

    def __enter__(self) -> "ProcessRunner":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if kind is not None:
            # It may be in the middle of a measurement that nobody waits for.
            self._process.kill()
        self._end()


PROCESSES = 5
"""The number of processes: one that is twice as slow as the others moves no median."""
BUILT = ("tensorrt", "tensorrt-rtx")
"""The runtimes that build an engine whenever they open a model, for minutes; what is fast or slow is the engine."""


def open_processes(device: Device, say: Say = lambda text: None, number: int = PROCESSES) -> Runner:
    """Return a runner that measures in `number` processes started anew, here or on the device's board.

    It is one process where the runtime opens no files, or takes long to. Raises `UserError` if the device cannot be
    used.
    """
    if (device.is_local and described_runtime(device).form == "module") or device.runtime in BUILT or number == 1:
        return open_runner(device, say)
    return Processes(device, say, number)


class Processes:
    """Several processes of a device. The first one is started at once, so that what is wrong is known."""

    def __init__(self, device: Device, say: Say, number: int) -> None:
        self._device, self._say, self._number = device, say, number
        self._first: Runner | None = self._started()
        self.fingerprint: Fingerprint = self._first.fingerprint
        if (line := crowding(device, self.fingerprint)) is not None:
            say(line)

    def _started(self) -> Runner:
        return ProcessRunner(self._device) if self._device.is_local else connected(self._device, self._say)

    def measure(
        self,
        models: Mapping[str, ModelMaker],
        rounds: Rounds,
        protocol: MeasurementProtocol,
        *,
        on_visits: Callable[[int], None],
        reference: ModelMaker | None = None,
    ) -> Iterator[dict[str, Outcome]]:
        """Measure as `Runner.measure` says; all outcomes come at the end.

        Processes share the visits, and the shortest time of a group.
        """
        share = replace(rounds, visits=ceil(rounds.visits / self._number))
        part = replace(protocol, shortest_group_s=protocol.shortest_group_s / self._number)
        told = _Told(on_visits, rounds.visits * len(models), share.visits * len(models) * self._number)
        refused: dict[str, Outcome] = {}
        found: dict[str, list[Timing]] = {key: [] for key in models}
        with TemporaryDirectory() as folder:
            kept = {key: _kept(model, Path(folder, str(number))) for number, (key, model) in enumerate(models.items())}
            beside = None if reference is None else _kept(reference, Path(folder, "reference"))
            for _ in range(self._number):
                wanted = {key: model for key, model in kept.items() if key not in refused}
                if not wanted:
                    break
                runner, self._first = self._first or self._started(), None
                with runner:
                    for outcomes in runner.measure(wanted, share, part, on_visits=told.count, reference=beside):
                        for key, outcome in outcomes.items():
                            if isinstance(outcome, Refusal):
                                refused[key] = outcome
                            else:
                                found[key].append(outcome)
        yield {key: refused[key] if key in refused else combined(found[key]) for key in models}

    def __enter__(self) -> "Processes":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._first is not None:
            self._first.__exit__(kind, error, trace)


class _Told:
    """Tells of visits as if there were as many as the caller asked for, and no more for the processes' sake."""

    def __init__(self, tell: Callable[[int], None], asked: int, made: int) -> None:
        self._tell, self._asked, self._all = tell, asked, made
        self._made = self._said = 0

    def count(self, visits: int) -> None:
        self._made += visits
        due = min(self._asked, self._made * self._asked // self._all)
        if due > self._said:
            self._tell(due - self._said)
            self._said = due


def _kept(model: ModelMaker, path: Path) -> ModelMaker:
    """Return a maker that makes the model once, and keeps it in a file: making takes longer than measuring."""

    def kept() -> bytes:
        if not path.exists():
            content = model()
            assert not isinstance(content, TorchModel), "modules are measured in one process"
            path.write_bytes(content_of(content)[1])
        return path.read_bytes()

    return kept


def combined(timings: Sequence[Timing]) -> Timing:
    """Return a timing whose percentiles are the medians of those of the processes; it says what those differed by."""
    references = [timing.reference for timing in timings if timing.reference is not None]
    stretches = [timing.throughput for timing in timings if timing.throughput is not None]
    return Timing(
        median=median(timing.median for timing in timings),
        p10=median(timing.p10 for timing in timings),
        p90=median(timing.p90 for timing in timings),
        p95=median(timing.p95 for timing in timings),
        n=sum(timing.n for timing in timings),
        at=timings[-1].at,
        noise=_noise([timing.noise for timing in timings]),
        reference=median(references) if references else None,
        throughput=SustainedCalls(sum(each.calls for each in stretches), sum(each.seconds for each in stretches))
        if stretches
        else None,
        processes=tuple(sorted(timing.median for timing in timings)),
    )


def _noise(found: Sequence[Noise]) -> Noise:
    """Return what was wrong most often, where it was in more than half of the processes: else they are outvoted."""
    wrong = [noise for noise in found if noise]
    return Counter(wrong).most_common(1)[0][0] if len(wrong) > len(found) / 2 else ""
