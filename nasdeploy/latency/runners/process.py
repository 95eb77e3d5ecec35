"""A process of this machine that is started anew, with nothing in it but NumPy and the runtime."""

import json
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from dataclasses import asdict
from tempfile import TemporaryFile
from types import TracebackType
from typing import Any

from nasdeploy.core.errors import UserError
from nasdeploy.core.settings import parse
from nasdeploy.latency.machine import Fingerprint
from nasdeploy.latency.protocol import MeasurementProtocol, Rounds, in_groups
from nasdeploy.latency.runners import fresh
from nasdeploy.latency.runners.remote_program import Answer, frame_of, shown
from nasdeploy.latency.runners.run_models import Outcome, Refusal
from nasdeploy.latency.runners.runner import ModelMaker
from nasdeploy.runtimes import runtime_of
from nasdeploy.runtimes.device import Device
from nasdeploy.runtimes.runtime import Execution, content_of

# Not what lies in the current directory: a user's file may be called numpy.py.
_COMMAND = (sys.executable, "-P", "-m", fresh.__name__)
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
            self._send({"do": "start", "device": asdict(Execution.of(device))})
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
    ) -> Iterator[dict[str, Outcome]]:
        """See `Runner.measure`."""
        for group in in_groups(models, rounds.group):
            refused = {key: refusal for key, model in group.items() if (refusal := self._open(key, model)) is not None}
            yield {**refused, **self._measure(rounds, protocol, on_visits)}

    def _open(self, key: str, model: ModelMaker) -> Refusal | None:
        content = model()
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
        """Why the process is not there any more."""
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
