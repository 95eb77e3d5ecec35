"""What a machine is, and what the kernel tells about a processor that is slowed down: all that moves latencies.

NumPy and the standard library only: this also runs on a small board.
"""

import os
import platform
from collections.abc import Iterable
from dataclasses import dataclass, fields
from pathlib import Path

from nasdeploy.core.cpus import bound_cpus, cpu_quota, stopped_periods
from nasdeploy.runtimes.runtime import Precision, Target

_CPUINFO, _BOARD = Path("proc/cpuinfo"), Path("proc/device-tree/model")
_CPUFREQ = Path("sys/devices/system/cpu/cpu0/cpufreq")
_ROOT = Path("/")
_MOST_CPUS = 8
"""The number of processors whose sensors are looked at: servers have hundreds."""


@dataclass(frozen=True)
class Fingerprint:
    """Everything that moves latencies and can be read; "" where it cannot be read."""

    cpu: str
    """The name of the processor or board."""
    cores: int
    """The number of processors that the process may use."""
    governor: str
    """What sets the processor's frequency."""
    max_frequency: str
    """The processor's highest frequency."""
    memory: str
    """The size of the memory."""
    system: str
    """The operating system and its release."""
    runtime: str
    """The runtime and its version."""
    precision: str
    """The precision that models were made for."""
    batch: int
    """The images of a call."""
    threads: int
    """The threads that the runtime might use."""
    options: str
    """The options that were passed on to the runtime."""
    cpu_quota: float | None = None
    """The processors' worth of time that the control groups leave, as containers have it; None for no limit."""
    idle_ms: float = 0.0
    """The milliseconds of doing nothing before each call of a whole network."""
    computed_in: str = ""
    """The precision that the processor computes in, where it cannot compute in the device's; "" where it can, and in
    tables of earlier versions."""


def fingerprint_here(device: Target, runtime_version: str, computed_in: Precision | None = None) -> Fingerprint:
    """Return the fingerprint of this machine, running networks as `device` says in that version of its runtime.

    `computed_in` is the precision that the runtime computes in here, by default the device's.
    """
    return Fingerprint(
        cpu=processor_name(),
        cores=bound_cpus(),
        governor=governor(),
        max_frequency=_megahertz(_read(_ROOT / _CPUFREQ / "cpuinfo_max_freq")),
        memory=_memory(),
        system=f"{platform.system()} {platform.release()}",
        runtime=f"{device.runtime} {runtime_version}",
        precision=device.precision,
        batch=device.batch,
        threads=device.threads,
        options=", ".join(f"{key}={value}" for key, value in sorted(device.options.items())),
        cpu_quota=cpu_quota(),
        idle_ms=device.idle_ms,
        computed_in="" if computed_in in (None, device.precision) else str(computed_in),
    )


def processor_name(root: Path = _ROOT) -> str:
    """Return the name of this machine's processor; see `cpu_name`."""
    return cpu_name(_read(root / _CPUINFO), _read(root / _BOARD).strip("\0\n "))


def governor(root: Path = _ROOT) -> str:
    """Return what decides about the processor's frequency, such as `performance`; "" where it is not told."""
    return _read(root / _CPUFREQ / "scaling_governor").strip()


def differences(measured: Fingerprint, here: Fingerprint) -> list[str]:
    """Return one readable line for each thing that differs, e.g. `threads: measured with 1, here 2`."""
    pairs = [(field.name, getattr(measured, field.name), getattr(here, field.name)) for field in fields(Fingerprint)]
    return [
        f"{name.replace('_', ' ')}: measured with {_shown(before)}, here {_shown(now)}"
        for name, before, now in pairs
        if before != now and (name, before, now) != _UNSAID_BEFORE
    ]


_UNSAID_BEFORE = ("computed_in", "", "fp32")
"""What tables of earlier versions did not say; a processor that has no fp16 is another one by its name, too."""


def _shown(value: object) -> str:
    return "none known" if value in ("", None) else f"{value:g}" if isinstance(value, float) else str(value)


def cpu_name(cpuinfo: str, board: str) -> str:
    """Return the name of the processor, by `/proc/cpuinfo` and the name of its board.

    With family and model, because virtual machines shorten the name. ARM's cores have no name of their own: there it is
    the board's, with the number of the core's design.
    """
    lines = (line.partition(":") for line in cpuinfo.splitlines())
    known: dict[str, str] = {}
    for name, _, value in lines:
        known.setdefault(name.strip(), value.strip())
    if "model name" in known and "cpu family" in known:
        return f"{known['model name']} (family {known['cpu family']}, model {known.get('model', '?')})"
    name = board or known.get("model name") or known.get("Hardware") or platform.processor() or platform.machine()
    return f"{name} (part {known['CPU part']})" if "CPU part" in known else name


def _megahertz(kilohertz: str) -> str:
    return f"{int(kilohertz) // 1000} MHz" if kilohertz.strip().isdigit() else ""


def _memory() -> str:
    if "SC_PHYS_PAGES" not in getattr(os, "sysconf_names", {}):
        return ""
    return f"{os.sysconf('SC_PHYS_PAGES') * os.sysconf('SC_PAGE_SIZE') / 2**30:.0f} GiB"


def _read(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8", errors="replace")
    except OSError:
        return ""


@dataclass(frozen=True)
class SensorReading:
    """Sensors at one moment; zeros where the system does not tell, as in most virtual machines."""

    throttles: int = 0
    """The number of times that a processor was throttled since the system's start."""
    capped: bool = False
    """Whether one is kept below its frequency now because it is hot."""
    stops: int = 0
    """The number of times that a quota of processors' time was used up, so that everything stood still for a while."""


def read_sensors(root: Path = _ROOT) -> SensorReading:
    """Read the sensors in the file systems `sys` and `proc` below `root`."""
    sys = root / "sys"
    cpus = [sys / "devices/system/cpu" / f"cpu{number}" for number in range(_MOST_CPUS)]
    counters = [cpu / "thermal_throttle" / f"{kind}_throttle_count" for cpu in cpus for kind in ("core", "package")]
    coolers = [kind.parent for kind in sys.glob("class/thermal/cooling_device*/type") if _cools_cpu(kind)]
    return SensorReading(
        throttles=sum(_numbers(counters)),
        capped=any(_numbers(cooler / "cur_state" for cooler in coolers)),
        stops=stopped_periods(root),
    )


def _cools_cpu(kind: Path) -> bool:
    """Return whether a cooling device slows a processor down, unlike a fan: `Processor`, or `cpufreq-cpu0` and the
    like."""
    name = _read(kind).strip()
    return name == "Processor" or "cpufreq" in name


def _numbers(files: Iterable[Path]) -> list[int]:
    texts = (_read(file).strip() for file in files)
    return [int(text) for text in texts if text.isdigit()]
