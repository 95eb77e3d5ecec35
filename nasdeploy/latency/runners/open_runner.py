"""From a device to its runner: this process, a board over SSH, a phone by `adb`, or several that share the work.

Of several boards each measures whole groups, so that interleaving is as on one board. One table holds timings of all of
them, without any correction. So they have to be equal: the same fingerprint, and the same speed on a few models that
all of them measure first. Boards that are not are refused.
"""

import threading
from collections import deque
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack
from dataclasses import dataclass, replace
from math import exp, log
from queue import SimpleQueue
from statistics import mean
from types import TracebackType

from nasdeploy.core.errors import UserError
from nasdeploy.latency.calibration import evenly
from nasdeploy.latency.machine import Fingerprint, differences
from nasdeploy.latency.measure import Group, in_groups
from nasdeploy.latency.protocol import MeasurementProtocol, Rounds, Timing
from nasdeploy.latency.runners.adb import AdbRunner
from nasdeploy.latency.runners.connection import address
from nasdeploy.latency.runners.runner import LocalRunner, ModelMaker, Outcome, Runner, Say
from nasdeploy.latency.runners.ssh import SshRunner
from nasdeploy.latency.table import LatencyTable
from nasdeploy.runtimes.device import AdbHost, Device, SshHost


def open_runner(device: Device, say: Say = lambda text: None) -> Runner:
    """Return the runner that `device` names; `say` hears of losses and retries.

    Raises `UserError` if it cannot be used.
    """
    runner = connected(device, say)
    if (line := crowding(device, runner.fingerprint)) is not None:
        say(line)
    return runner


def connected(device: Device, say: Say) -> Runner:
    """Return the runner that `device` names, without a word on threads: for one that is opened again and again."""
    if device.is_local:
        return LocalRunner(device)
    if len(device.boards) == 1:
        return _on_board(device, device.boards[0], say)
    return RunnerPool.of(device, say)


def _on_board(device: Device, board: SshHost | AdbHost, say: Say) -> Runner:
    """Return the runner on one board or phone."""
    return AdbRunner(device, board, say) if isinstance(board, AdbHost) else SshRunner(device, board, say)


def crowding(device: Device, machine: Fingerprint) -> str | None:
    """Say what is wrong with more threads than there are processors for them; None if there are enough."""
    quota = machine.cpu_quota
    usable = machine.cores if quota is None else min(machine.cores, quota)
    if device.threads <= usable:
        return None
    limit = "" if quota is None else f", of which a quota leaves {quota:g}"
    what = (
        f"they wait for each other, which threads: {int(usable)} would not"
        if usable >= 1
        else "calls stand still whenever it is used up"
    )
    plural = "" if device.threads == 1 else "s"
    return f"device {device.name}: {device.threads} thread{plural} for {machine.cores} cores{limit}: {what}"


def fingerprint(device: Device) -> Fingerprint:
    """Return the fingerprint of the machine that `device` names; raises `UserError` if it cannot be asked."""
    with open_runner(device) as runner:
        return runner.fingerprint


def check_device(table: LatencyTable, device: Device, *, strict: bool, here: Fingerprint | None = None) -> list[str]:
    """Return what differs between the table's device and `device` now; if strict, raise `UserError` if anything.

    `here` is the device's fingerprint if it is known already.
    """
    found = differences(table.conditions.fingerprint, fingerprint(device) if here is None else here)
    if found and strict:
        raise UserError(
            f"the latency table was measured on another device ({'; '.join(found)}); "
            f"measure this one with `nd.profile(device={device.name})`"
        )
    return found


# -- several boards

EQUAL_WITHIN = 1.03
"""The ratio of the times of boards that count as equal: two processes on one machine differ by as much."""
_COMPARED = 5
"""The number of models that all boards measure first."""
_VISITS = 10

_COMPARISON = MeasurementProtocol()


@dataclass(frozen=True)
class _Event:
    """What a board's thread reports; without any of these it has finished its group."""

    board: str
    outcomes: dict[str, Outcome] | None = None
    visits: int = 0
    error: BaseException | None = None


def _without(group: Group[ModelMaker], measured: Mapping[str, Outcome]) -> Group[ModelMaker]:
    return replace(group, models={key: model for key, model in group.models.items() if key not in measured})


class RunnerPool:
    """Boards by address. Raises `UserError` if their fingerprints differ."""

    def __init__(
        self,
        boards: Mapping[str, Runner],
        say: Say,
        equal_within: float = EQUAL_WITHIN,
        comparison: MeasurementProtocol = _COMPARISON,
    ) -> None:
        self._boards, self._say = dict(boards), say
        self._equal_within, self._comparison = equal_within, comparison
        self._first = next(iter(boards))
        self.fingerprint: Fingerprint = boards[self._first].fingerprint
        self._compared = False
        self._making = threading.Lock()
        for name, board in boards.items():
            found = differences(self.fingerprint, board.fingerprint)
            if found:
                raise UserError(
                    f"{name}: another board than {self._first} ({'; '.join(found)}); boards that share a table have to "
                    "be equal, leave it out of hosts"
                )

    @classmethod
    def of(cls, device: Device, say: Say) -> "RunnerPool":
        """Return all boards of `device`, connected; raises `UserError` if one cannot be used."""
        with ExitStack() as opened:
            boards = {address(board): opened.enter_context(_on_board(device, board, say)) for board in device.boards}
            pool = cls(boards, say)
            opened.pop_all()
            return pool

    def measure(
        self,
        models: Mapping[str, ModelMaker],
        rounds: Rounds,
        protocol: MeasurementProtocol,
        *,
        on_visits: Callable[[int], None],
        reference: ModelMaker | None = None,
    ) -> Iterator[dict[str, Outcome]]:
        """Measure as `Runner.measure` says. A board that is lost for good leaves its group to the others."""
        if models and not self._compared:
            self._compare(models)
            self._compared = True
        waiting = deque(in_groups(models, rounds.group, reference))
        running: dict[str, Group[ModelMaker]] = {}
        events: SimpleQueue[_Event] = SimpleQueue()
        while waiting or running:
            for name in [name for name in self._boards if name not in running][: len(waiting)]:
                running[name] = waiting.popleft()
                self._start(name, running[name], rounds, protocol, events)
            event = events.get()
            if event.outcomes is not None:
                running[event.board] = _without(running[event.board], event.outcomes)
                yield event.outcomes
            elif event.visits:
                on_visits(event.visits)
            else:
                left = running.pop(event.board)
                if event.error is not None:
                    self._lose(event.board, event.error)
                if left.models:
                    waiting.appendleft(left)

    def _start(
        self,
        name: str,
        group: Group[ModelMaker],
        rounds: Rounds,
        protocol: MeasurementProtocol,
        events: "SimpleQueue[_Event]",
    ) -> None:
        """Measure a group on a board, in a thread."""
        board = self._boards[name]
        reference = None if group.reference is None else self._alone(group.reference)
        together = replace(rounds, group=len(group.models) + (reference is not None))
        models = {key: self._alone(model) for key, model in group.models.items()}

        def on_visits(made: int) -> None:
            events.put(_Event(name, visits=made))

        def work() -> None:
            try:
                for outcomes in board.measure(models, together, protocol, on_visits=on_visits, reference=reference):
                    events.put(_Event(name, outcomes=outcomes))
                events.put(_Event(name))
            # Whatever it is: raised where `measure` waits for it.
            except BaseException as error:
                events.put(_Event(name, error=error))

        threading.Thread(target=work, daemon=True).start()

    def _alone(self, model: ModelMaker) -> ModelMaker:
        """Return a maker that waits until no other model is made: the exporter is not for several threads."""

        def made() -> bytes:
            with self._making:
                content = model()
                assert isinstance(content, bytes)
                return content

        return made

    def _lose(self, name: str, error: BaseException) -> None:
        """Go on without a board; raises the error if that is no reason to, or if it was the last one."""
        if not isinstance(error, UserError) or len(self._boards) == 1:
            raise error
        self._say(f"{error} (the other boards go on)")
        self._boards.pop(name).__exit__(None, None, None)

    def _compare(self, models: Mapping[str, ModelMaker]) -> None:
        """Raise `UserError` if a board is faster or slower than the first."""
        keys = list(models)
        chosen = {keys[place]: models[keys[place]] for place in evenly(len(keys), _COMPARED)}
        medians = {name: self._medians(board, chosen) for name, board in self._boards.items()}
        for name, found in medians.items():
            shared = found.keys() & medians[self._first].keys()
            ratio = exp(mean(log(found[key] / medians[self._first][key]) for key in shared)) if shared else 1.0
            if max(ratio, 1 / ratio) > self._equal_within:
                raise UserError(
                    f"{name}: takes {ratio:.3g} times as long as {self._first}; boards that share a table have to be "
                    "equal, so check cooling, power mode and what else runs, or leave it out of hosts"
                )

    def _medians(self, board: Runner, models: Mapping[str, ModelMaker]) -> dict[str, float]:
        rounds = Rounds(len(models), _VISITS)
        found = board.measure(models, rounds, self._comparison, on_visits=lambda visits: None)
        outcomes = {key: outcome for some in found for key, outcome in some.items()}
        return {key: outcome.median for key, outcome in outcomes.items() if isinstance(outcome, Timing)}

    def __enter__(self) -> "RunnerPool":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for board in self._boards.values():
            board.__exit__(kind, error, trace)
