"""A phone by `adb`: models go there, and the runtime's own benchmark program measures them.

Phones have no Python, so that a visit is one call of that program, in a process of its own, which opens the model anew.
This differs from the protocol elsewhere (`nasdeploy.latency.measure`):

- The program gives the median of a visit's runs, or, where it is older, their mean; that is one run here, and the
  percentiles are over visits. They hold what differs between processes, too.
- Every visit has all warm-up runs. Visits to fast models are longer, rather than more of them.
- Runs are timed one by one, in whole microseconds.
- Its input lies in the model's memory before the clock starts, and its output stays there.
- Integers are drawn as the program draws them.
- Throughput is calls by the sum of their times.
- Nothing is asked of a phone's sensors; that it is hot is told by the reference graph.

What interrupts a visit costs that visit only: it is made again.
"""

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from hashlib import sha256
from pathlib import Path
from tempfile import TemporaryDirectory
from types import TracebackType
from typing import TypeVar

from nasdeploy.core.errors import UserError
from nasdeploy.latency.machine import Fingerprint, differences
from nasdeploy.latency.measure import REFERENCE_EVERY, Group, in_groups, summary, undisturbed
from nasdeploy.latency.protocol import MeasurementProtocol, Rounds, SustainedCalls
from nasdeploy.latency.runners.benchmark_model import (
    LONGEST_S,
    USAGE,
    Inferences,
    VisitLength,
    check_usage,
    command_of,
    inferences_in,
    program_of,
)
from nasdeploy.latency.runners.connection import Unreachable
from nasdeploy.latency.runners.phone import Phone
from nasdeploy.latency.runners.runner import ModelMaker, Outcome, Refusal, Say, made
from nasdeploy.latency.runners.ssh import WAITS_S
from nasdeploy.runtimes import described_runtime
from nasdeploy.runtimes.device import AdbHost, Device

T = TypeVar("T")

_PROGRAM = "benchmark_model"
_NOT_RUN = (126, 127)
_REFERENCE = "reference.tflite"


@dataclass
class _OnPhone:
    """A model that was sent, and what its visits yielded."""

    file: Path
    """The file on this machine, for a phone that was lost meanwhile."""
    runs: list[float] = field(default_factory=list)
    throughput: SustainedCalls | None = None


class AdbRunner:
    """One phone. It is reached at once, so that what is wrong with it is known before anything is measured."""

    def __init__(self, device: Device, host: AdbHost, say: Say, waits: Sequence[float] = WAITS_S) -> None:
        """Raise `UserError` if the phone or the program for it cannot be used."""
        if described_runtime(device).form != "tflite":
            raise UserError(f"device {device.name}: phones are measured with runtime litert, not {device.runtime}")
        self._device, self._host, self._say, self._waits = device, host, say, waits
        self._program = program_of(device)
        self._failures = 0
        self._sent: dict[str, _OnPhone] = {}
        self._phone: Phone | None = None
        self._folder = TemporaryDirectory()
        try:
            self.fingerprint: Fingerprint = self._connect()
        except BaseException:
            self._close()
            raise

    # -- measuring

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
            yield self._group(group, rounds, protocol, on_visits)
            self._failures = 0

    def _group(
        self,
        group: Group[ModelMaker],
        rounds: Rounds,
        protocol: MeasurementProtocol,
        on_visits: Callable[[int], None],
    ) -> dict[str, Outcome]:
        found: dict[str, Outcome] = {}
        # A reference that is refused tells nothing, and the models go without.
        beside = group.reference is not None and self._send(_REFERENCE, group.reference) is None
        names = {key: f"model-{number}.tflite" for number, key in enumerate(group.models)}
        for key, maker in group.models.items():
            refusal = self._send(names[key], maker)
            if refusal is not None:
                found[key] = refusal
        length = VisitLength.of(rounds, protocol, len(self._sent) or 1)
        for _ in range(rounds.visits):
            accepted = [names[key] for key in group.models if key not in found]
            for name in _in_turn(accepted, beside and bool(accepted)):
                refusal = self._visit(name, length)
                if name != _REFERENCE:
                    on_visits(1)
                if refusal is not None:
                    found |= {key: refusal for key in group.models if names[key] == name}
        usual = undisturbed(self._sent[_REFERENCE].runs) if beside and self._sent[_REFERENCE].runs else None
        found |= {key: self._outcome(names[key], protocol, usual) for key in group.models if key not in found}
        self._forget()
        return found

    def _outcome(self, name: str, protocol: MeasurementProtocol, usual: float | None) -> Outcome:
        timing = summary(self._sent[name].runs, protocol, usual)
        if not protocol.sustained_s:
            return timing
        found = self._called(name, VisitLength.sustained(protocol))
        if isinstance(found, Refusal):
            return found
        return replace(timing, throughput=SustainedCalls(found.calls, found.calls * found.mean))

    def _send(self, name: str, maker: ModelMaker) -> Refusal | None:
        """Send a model and try it; return why it cannot run, if it cannot."""
        content = made(maker)
        if isinstance(content, Refusal):
            return content
        # Of the form of phones nothing but files is made.
        assert isinstance(content, bytes)
        file = Path(self._folder.name, name)
        file.write_bytes(content)
        self._sent[name] = _OnPhone(file)
        self._persistently(lambda phone: phone.push(file, name))
        tried = self._called(name, VisitLength.trial())
        if isinstance(tried, Refusal):
            del self._sent[name]
            return tried
        return None

    def _visit(self, name: str, length: VisitLength) -> Refusal | None:
        found = self._called(name, length)
        if isinstance(found, Refusal):
            return found
        self._sent[name].runs.append(found.seconds)
        return None

    def _called(self, name: str, length: VisitLength) -> Inferences | Refusal:
        """Call the program, again if the phone is lost meanwhile; return what it says, or why the model cannot run."""

        def call(phone: Phone) -> Inferences | Refusal:
            command = command_of(self._device, phone.path(_PROGRAM), phone.path(name), length)
            said = phone.run(command, timeout=3 * LONGEST_S)
            if said.status:
                return Refusal(f"{_PROGRAM} cannot run it ({said.how})")
            found = inferences_in(said.output)
            if found is None:
                raise UserError(
                    f"{phone.where}: {_PROGRAM} gave no timings ({said.last}); use one that reports 'Inference timings "
                    "in us', as LiteRT's and TensorFlow Lite's do"
                )
            return found

        return self._persistently(call)

    def _forget(self) -> None:
        """Remove the models of a group, here and there."""
        names = list(self._sent)
        for sent in self._sent.values():
            sent.file.unlink()
        self._sent = {}
        self._persistently(lambda phone: phone.remove(names))

    # -- the connection

    def _persistently(self, act: Callable[[Phone], T]) -> T:
        """Do something with the phone, again if it is lost meanwhile."""
        while True:
            assert self._phone is not None, "the runner is closed"
            try:
                return act(self._phone)
            except Unreachable as loss:
                self._recover(loss)

    def _connect(self) -> Fingerprint:
        """Send the program, and what was sent before; return what the phone is."""
        before, phone = self._phone, Phone(self._host)
        self._phone = phone
        if before is not None:
            before.close()
        phone.push(self._program, _PROGRAM)
        program, file = phone.path(_PROGRAM), self._device.benchmark
        usage = phone.run(f"chmod 755 {program}; {program} --{USAGE}")
        if usage.status in _NOT_RUN:
            raise UserError(f"{phone.where}: {file} cannot be run there ({usage.last}); build it for {phone.abi()}")
        check_usage(self._device, usage.output)
        for name, sent in self._sent.items():
            phone.push(sent.file, name)
        version = sha256(self._program.read_bytes()).hexdigest()[:12]
        return phone.fingerprint(self._device, f"{self._device.runtime} {_PROGRAM} {version}")

    def _recover(self, loss: Unreachable) -> None:
        """Reach the same phone again; raises `UserError` if that fails after several attempts."""
        why: UserError = loss
        while self._failures < len(self._waits):
            wait = self._waits[self._failures]
            self._failures += 1
            self._say(f"{why}; trying again in {wait:g} s")
            time.sleep(wait)
            try:
                found = differences(self.fingerprint, self._connect())
            except Unreachable as error:
                why = error
            else:
                if found:
                    raise UserError(f"adb:{self._host.serial}: another phone than before ({'; '.join(found)})")
                return
        raise UserError(
            f"{why}; given up after {len(self._waits)} attempts, but what was measured is kept: run the same command "
            "again to go on"
        )

    def _close(self) -> None:
        if self._phone is not None:
            self._phone.close()
            self._phone = None
        self._folder.cleanup()

    def __enter__(self) -> "AdbRunner":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._close()


def _in_turn(names: Sequence[str], beside: bool) -> Iterator[str]:
    """Yield models in the order of a round, with the reference graph, if it is beside them, in between."""
    if beside:
        yield _REFERENCE
    for number, name in enumerate(names, start=1):
        if beside and number % REFERENCE_EVERY == 0:
            yield _REFERENCE
        yield name
