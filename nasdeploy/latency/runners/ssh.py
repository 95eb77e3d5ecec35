"""A board over SSH: models go there, outcomes come back, and a lost connection is made again."""

import json
import re
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from importlib.util import find_spec
from types import TracebackType
from typing import Any

from nasdeploy.core.errors import UserError
from nasdeploy.core.settings import parse
from nasdeploy.latency.machine import Fingerprint, differences
from nasdeploy.latency.measure import Group, in_groups
from nasdeploy.latency.protocol import MeasurementProtocol, Rounds
from nasdeploy.latency.runners.connection import Connection, Ended, Unreachable, address
from nasdeploy.latency.runners.remote_program import (
    HELLO,
    Answer,
    command_of,
    explained,
    frame_of,
    payload,
    shown,
    why_ended,
)
from nasdeploy.latency.runners.runner import ModelMaker, Outcome, Refusal, Say, made
from nasdeploy.runtimes import described_runtime
from nasdeploy.runtimes.device import Device, SshHost
from nasdeploy.runtimes.runtime import LocalTarget, numbers

WAITS_S = (1.0, 2.0, 4.0, 8.0, 16.0)
"""Seconds of waiting before each attempt to connect again; after the last one the board is given up. A group that was
measured since starts them anew."""

_INSTALL = "pip install 'nasdeploy[ssh]'"
_GREETING_LINES = 100
"""The number of lines that a board's shell may print before the program starts."""
_CRASHES = 2
"""The number of times that a model may end the runtime when it is opened; then it is refused."""


@dataclass
class _Shown:
    """The visits that the user was told of; those that are made again after a loss do not count twice."""

    tell: Callable[[int], None]
    total: int
    told: int = 0
    made: int = 0

    def count(self, visits: int) -> None:
        """Count that many more of this attempt."""
        self.made = min(self.made + visits, self.total)
        if self.made > self.told:
            self.tell(self.made - self.told)
            self.told = self.made

    def finish(self) -> None:
        """Tell of all that are left: they were made, or are not needed."""
        self.count(self.total)


class SshRunner:
    """One board. The connection is made at once, so that what is wrong with it is known before anything is measured."""

    def __init__(self, device: Device, board: SshHost, say: Say, waits: Sequence[float] = WAITS_S) -> None:
        """Raise `UserError` if the board cannot be used: what is missing there, and how to get it."""
        described_runtime(device)
        if find_spec("asyncssh") is None:
            raise UserError(f"device {device.name}: asyncssh, which reaches boards, is not installed; run: {_INSTALL}")
        self._device, self._board, self._say, self._waits = device, board, say, waits
        self._where = address(board)
        self._failures = 0
        self._closed = False
        self._crashes: Counter[str | None] = Counter()
        self._opening: list[str | None] = []
        """The key of the model that is being opened, which is None for the reference graph; else empty."""
        self._connection: Connection | None = None
        try:
            self.fingerprint = self._connect()
        except Ended as end:
            self._disconnect()
            raise UserError(f"{self._where}: {self._why(end)}") from None
        except BaseException:
            self._disconnect()
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
        """Measure as `Runner.measure` says; outcomes come one by one."""
        for group in in_groups(models, rounds.group, reference):
            yield from self._group(group, rounds, protocol, on_visits)

    def _group(
        self,
        group: Group[ModelMaker],
        rounds: Rounds,
        protocol: MeasurementProtocol,
        on_visits: Callable[[int], None],
    ) -> Iterator[dict[str, Outcome]]:
        """Yield outcomes of all models of a group, however often the connection is lost meanwhile."""
        shown = _Shown(on_visits, len(group.models) * rounds.visits)
        missing, reference = dict(group.models), group.reference
        while missing:
            shown.made = 0
            try:
                for key, outcome in self._attempt(Group(dict(missing), reference), rounds, protocol, shown.count):
                    del missing[key]
                    yield {key: outcome}
            except Ended as end:
                for crashed in self._crashed(end):
                    if crashed is None:
                        reference = None
                    else:
                        del missing[crashed]
                        yield {crashed: Refusal(f"the runtime crashes when it opens it ({self._why(end)})")}
                self._recover(end)
        self._failures = 0
        shown.finish()

    def _attempt(
        self,
        group: Group[ModelMaker],
        rounds: Rounds,
        protocol: MeasurementProtocol,
        on_visits: Callable[[int], None],
    ) -> Iterator[tuple[str, Outcome]]:
        """Yield outcomes of these models as long as the connection lasts."""
        # A reference that is refused tells nothing, and the models go without.
        if group.reference is not None:
            self._open(None, group.reference)
        accepted = set()
        for key, model in group.models.items():
            refusal = self._open(key, model)
            if refusal is None:
                accepted.add(key)
            else:
                yield key, refusal
        self._send({"do": "measure", "rounds": asdict(rounds), "protocol": asdict(protocol)})
        while not (answer := self._answer()).done:
            on_visits(answer.visits)
            if answer.timing is not None:
                if answer.key not in accepted:
                    raise self._rubbish("a timing that was not asked for")
                accepted.remove(answer.key)
                yield answer.key, answer.timing
        if accepted:
            raise self._rubbish(f"no timing of {len(accepted)} models")

    def _open(self, key: str | None, model: ModelMaker) -> Refusal | None:
        """Open a model on the board, the reference graph if it has no key; return why it cannot run, if it cannot."""
        content = made(model)
        if isinstance(content, Refusal):
            return content
        # PyTorch, which runs modules, is refused for a device that is a board.
        assert isinstance(content, bytes)
        self._opening = [key]
        self._send({"do": "open", "key": key}, content)
        answer = self._answer()
        self._opening = []
        if answer.refused is not None:
            return Refusal(shown(answer.refused))
        if not answer.opened:
            raise self._rubbish("an answer to another question")
        return None

    def _crashed(self, end: Ended) -> list[str | None]:
        """Return the key of the model that was being opened when the program ended, if that happened before."""
        keys, self._opening = self._opening, []
        if end.status is None:
            return []
        self._crashes.update(keys)
        return [key for key in keys if self._crashes[key] >= _CRASHES]

    # -- the connection

    def _connect(self) -> Fingerprint:
        """Start the program; return what it says of its machine. Raises `UserError`, or `Ended` if it ended at once."""
        stay = frame_of({"do": "stay"})
        self._connection = Connection(self._board, command_of(self._device.python), stay)
        self._connection.send(b"%d\n%s" % (len(payload()), payload()))
        self._skip_greeting()
        self._send({"do": "start", "device": asdict(LocalTarget.of(self._device))})
        answer = self._answer()
        if answer.lacks is not None:
            command = re.sub(
                r"(^|; )pip ", lambda found: f"{found[1]}{self._device.python} -m pip ", shown(answer.install)
            )
            raise UserError(f"{self._where}: {shown(answer.lacks)} is not installed there; run on the board: {command}")
        if answer.machine is None or any(str(text) != shown(str(text)) for text in asdict(answer.machine).values()):
            raise self._rubbish("nothing readable about its machine")
        self._require_version(answer.machine.runtime)
        return answer.machine

    def _require_version(self, there: str) -> None:
        """Raise `UserError` if the board's runtime, by its name and version, is too old for what would be sent."""
        oldest = described_runtime(self._device).oldest
        version = there.removeprefix(self._device.runtime).strip().partition(" ")[0]
        if oldest is not None and numbers(version) < numbers(oldest):
            raise UserError(
                f"{self._where}: {there} is installed there, and models need {oldest} or later; run on the board: "
                f"{self._device.python} -m pip install --upgrade {self._device.runtime.removesuffix('-cuda')}"
            )

    def _skip_greeting(self) -> None:
        said = b""
        try:
            for _ in range(_GREETING_LINES):
                said = self._line()
                if said == HELLO.encode():
                    return
        except Ended as end:
            # Shells and forced commands give their reasons on stdout.
            raise Ended(end.status, end.stderr or said.decode(errors="replace")) from None
        raise self._rubbish(f"{_GREETING_LINES} lines before the program started")

    def _recover(self, end: Ended) -> None:
        """Make a new connection to the same machine; raises `UserError` if there is none after several attempts."""
        why = self._why(end)
        while self._failures < len(self._waits) and not self._closed:
            wait = self._waits[self._failures]
            self._failures += 1
            self._say(f"{self._where}: {why}; trying again in {wait:g} s")
            self._disconnect()
            time.sleep(wait)
            try:
                found = differences(self.fingerprint, self._connect())
            except Unreachable as error:
                why = str(error).removeprefix(f"{self._where}: ")
            except Ended as again:
                why = self._why(again)
            else:
                if found:
                    raise UserError(f"{self._where}: another machine than before ({'; '.join(found)}); measure again")
                return
        raise UserError(
            f"{self._where}: {why}; given up after {len(self._waits)} attempts, but what was measured is kept: "
            "run the same command again to go on"
        )

    def _disconnect(self) -> None:
        if self._connection is not None:
            self._connection.close()
            self._connection = None

    def _send(self, frame: dict[str, Any], content: bytes = b"") -> None:
        self._open_connection.send(frame_of(frame, content))

    def _answer(self) -> Answer:
        line = self._line()
        try:
            answer = parse(Answer, json.loads(line), "its answer")
        except (ValueError, RecursionError, UserError) as error:
            raise self._rubbish(shown(str(error))) from None
        if answer.error is not None:
            raise UserError(f"{self._where}: {explained(answer.error) or shown(answer.error)}")
        return answer

    def _line(self) -> bytes:
        try:
            return self._open_connection.receive()
        except ValueError as error:
            raise self._rubbish(str(error)) from None

    @property
    def _open_connection(self) -> Connection:
        assert self._connection is not None, "the runner is closed"
        return self._connection

    def _rubbish(self, what: str) -> UserError:
        return UserError(f"{self._where}: the board sent what is no result ({what}); nothing may print into its stdout")

    def _why(self, end: Ended) -> str:
        return why_ended(end, self._device.python)

    def __enter__(self) -> "SshRunner":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._closed = True
        self._disconnect()
