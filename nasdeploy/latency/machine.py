"""What a machine is: everything about it that moves latencies and can be read.

NumPy and the standard library only: this also runs on a small board.
"""

import os
import platform
from dataclasses import dataclass, fields
from pathlib import Path

from nasdeploy.core.cpus import bound_cpus, cpu_quota
from nasdeploy.runtimes.runtime import Target

_CPUINFO = Path("/proc/cpuinfo")
_CPUFREQ = Path("/sys/devices/system/cpu/cpu0/cpufreq")
_BOARD = Path("/proc/device-tree/model")


@dataclass(frozen=True)
class Fingerprint:
    """Everything that moves latencies and can be read; "" where it cannot be read."""

    cpu: str
    cores: int
    governor: str
    max_frequency: str
    memory: str
    system: str
    runtime: str
    precision: str
    batch: int
    threads: int
    options: str
    cpu_quota: float | None = None
    """Processors' worth of time that the control groups leave, as containers have it; None for no limit."""
    idle_ms: float = 0.0
    """Milliseconds of doing nothing before each call of a whole network."""


def fingerprint_here(device: Target, runtime_version: str) -> Fingerprint:
    """Of this machine, running networks as `device` says in that version of its runtime."""
    return Fingerprint(
        cpu=_cpu(_read(_CPUINFO), _read(_BOARD).strip("\0\n ")),
        cores=bound_cpus(),
        governor=_read(_CPUFREQ / "scaling_governor").strip(),
        max_frequency=_megahertz(_read(_CPUFREQ / "cpuinfo_max_freq")),
        memory=_memory(),
        system=f"{platform.system()} {platform.release()}",
        runtime=f"{device.runtime} {runtime_version}",
        precision=device.precision,
        batch=device.batch,
        threads=device.threads,
        options=", ".join(f"{key}={value}" for key, value in sorted(device.options.items())),
        cpu_quota=cpu_quota(),
        idle_ms=device.idle_ms,
    )


def differences(measured: Fingerprint, here: Fingerprint) -> list[str]:
    """One readable line for each thing that differs, e.g. `threads: measured with 1, here 2`."""
    pairs = [(field.name, getattr(measured, field.name), getattr(here, field.name)) for field in fields(Fingerprint)]
    return [
        f"{name.replace('_', ' ')}: measured with {_shown(before)}, here {_shown(now)}"
        for name, before, now in pairs
        if before != now
    ]


def _shown(value: object) -> str:
    return "none known" if value in ("", None) else f"{value:g}" if isinstance(value, float) else str(value)


def _cpu(cpuinfo: str, board: str) -> str:
    """Name of the processor; with family and model, because virtual machines shorten the name.

    ARM's cores have no name of their own: there it is the board's, with the number of the core's design.
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
