"""LiteRT's `benchmark_model`, the program that measures a `.tflite` file on a phone: how it is asked, what it says.

It is the one of TensorFlow Lite and LiteRT that reports `Inference timings in us`, built for the phone. A device's
options are its flags, without their dashes, but for those that are set here; and `taskset`, the mask of processors that
it is to run on, in hexadecimal digits.
"""

import re
import shlex
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from nasdeploy.core.errors import UserError, suggestion
from nasdeploy.latency.protocol import MeasurementProtocol, Rounds
from nasdeploy.runtimes.device import Device

_OWN = (
    *("graph", "num_threads", "num_runs", "warmup_runs", "min_secs", "warmup_min_secs", "max_secs"),
    *("run_delay", "run_frequency", "dry_run", "help"),
)
"""The flags that are set here."""
_TASKSET = "taskset"
USAGE = "help=true"
"""The flag, without its dashes, for which it lists all flags."""
LONGEST_S = 150.0
"""Seconds after which it begins no more runs."""
_FLAG = re.compile(r"--([a-z][a-z0-9_]*)=")
_STATISTICS = re.compile(r"\bcount=(\d+) (.+)")
_VALUE = re.compile(r"\b(curr|avg|median)=([0-9.]+(?:e[+-]?\d+)?)")


def program_of(device: Device) -> Path:
    """Return the file of a device's program; raises `UserError` if it is not there."""
    path = Path(device.benchmark).expanduser()
    if not path.is_file():
        raise UserError(
            f"device {device.name}: benchmark {path}: no such file; it is LiteRT's benchmark_model, built for the phone"
        )
    return path


def check_usage(device: Device, usage: str) -> None:
    """Raise `UserError` for a program that is another one by its `usage`, and for options of a device that it lacks."""
    flags = set(_FLAG.findall(usage))
    if not {"graph", "num_runs"} <= flags:
        raise UserError(
            f"device {device.name}: benchmark {device.benchmark}: no benchmark_model of LiteRT, it knows no flag "
            "graph; name another file"
        )
    known = [*sorted(flags - set(_OWN)), _TASKSET]
    for name, value in device.options.items():
        if name not in known:
            raise UserError(
                f"device {device.name}: option '{name}' is unknown to {device.benchmark}{suggestion(name, known)}"
            )
        if name == _TASKSET and not re.fullmatch("[0-9a-fA-F]+", value):
            raise UserError(
                f"device {device.name}: option '{name}' is \"{value}\"; write a mask of processors in hexadecimal "
                'digits, e.g. "f0"'
            )


@dataclass(frozen=True)
class VisitLength:
    """How long the program runs a model for in one call of it."""

    warmup: int
    runs: int
    seconds: float
    """The seconds of runs at least."""
    delay_s: float = 0.0
    """The seconds of doing nothing after each run."""

    @classmethod
    def of(cls, rounds: Rounds, protocol: MeasurementProtocol, sessions: int) -> "VisitLength":
        """Return that of a visit to one of so many sessions.

        Where the protocol wants more visits to a group of fast models, these are longer instead.
        """
        if rounds.idle_s:
            return cls(1, protocol.kept, 0.0, rounds.idle_s)
        least = protocol.shortest_group_s / (rounds.visits * sessions)
        return cls(
            max(protocol.warmup, protocol.discarded), protocol.kept, max(protocol.kept * protocol.shortest_run_s, least)
        )

    @classmethod
    def trial(cls) -> "VisitLength":
        """Return that of a visit which only tells whether a model runs."""
        return cls(1, 1, 0.0)

    @classmethod
    def sustained(cls, protocol: MeasurementProtocol) -> "VisitLength":
        """Return that of the visit by which throughput is measured."""
        return cls(protocol.warmup, 1, protocol.sustained_s)


def command_of(device: Device, program: str, model: str, length: VisitLength) -> str:
    """Return the command that measures a model, for the shell of a phone; both are files there."""
    flags = {
        "graph": model,
        "num_threads": str(device.threads),
        "warmup_runs": str(length.warmup),
        "warmup_min_secs": "0",
        "num_runs": str(length.runs),
        "min_secs": f"{length.seconds:g}",
        "max_secs": f"{LONGEST_S:g}",
        **({"run_delay": f"{length.delay_s:g}"} if length.delay_s else {}),
        **{name: value for name, value in device.options.items() if name != _TASKSET},
    }
    words: Sequence[str] = [program, *(f"--{name}={value}" for name, value in flags.items())]
    if _TASKSET in device.options:
        words = ["taskset", device.options[_TASKSET], *words]
    return shlex.join(words)


@dataclass(frozen=True)
class Inferences:
    """What the program says of the calls of a visit that count."""

    calls: int
    seconds: float
    """The seconds of a call: their median where it says that, else their mean."""
    mean: float
    """The mean seconds of a call."""


def inferences_in(output: str) -> Inferences | None:
    """Return what its output says of the runs, which come after those to warm up; None if it says nothing of them."""
    found = _STATISTICS.findall(output)
    if len(found) < 2 or "Inference timings in us" not in output:
        return None
    count, rest = found[-1]
    values = {name: float(text) * 1e-6 for name, text in _VALUE.findall(rest)}
    # Where all calls took the same it gives that one number.
    mean = values.get("avg", values.get("curr", 0.0))
    seconds = values.get("median", mean)
    return Inferences(int(count), seconds, mean) if int(count) and min(mean, seconds) > 0 else None
