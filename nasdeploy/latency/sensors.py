"""What the kernel tells about a processor that is slowed down: too hot, at another frequency, or kept from working.

The standard library only: this also runs on a small board.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from nasdeploy.core.cpus import stopped_periods

_ROOT = Path("/")
_MOST_CPUS = 8
"""Processors that are looked at: reading a frequency wakes the processor up, and servers have hundreds."""


@dataclass(frozen=True)
class SensorReading:
    """Sensors at one moment; zeros where the system does not tell, as in most virtual machines."""

    throttles: int = 0
    """How often a processor was throttled since the system's start."""
    capped: bool = False
    """Whether one is kept below its frequency now because it is hot."""
    kilohertz: int = 0
    """The highest frequency of all processors, and so that of one at work."""
    stops: int = 0
    """How often a quota of processors' time was used up, so that everything stood still until the next period."""


def read_sensors(root: Path = _ROOT) -> SensorReading:
    """The sensors in the file systems `sys` and `proc` below `root`."""
    sys = root / "sys"
    cpus = [sys / "devices/system/cpu" / f"cpu{number}" for number in range(_MOST_CPUS)]
    counters = [cpu / "thermal_throttle" / f"{kind}_throttle_count" for cpu in cpus for kind in ("core", "package")]
    coolers = [kind.parent for kind in sys.glob("class/thermal/cooling_device*/type") if _cools_cpu(kind)]
    return SensorReading(
        throttles=sum(_numbers(counters)),
        capped=any(_numbers(cooler / "cur_state" for cooler in coolers)),
        kilohertz=max(_numbers(cpu / "cpufreq/scaling_cur_freq" for cpu in cpus), default=0),
        stops=stopped_periods(root),
    )


def _cools_cpu(kind: Path) -> bool:
    """Whether a cooling device slows a processor down, unlike a fan: `Processor`, or `cpufreq-cpu0` and the like."""
    name = _text(kind)
    return name == "Processor" or "cpufreq" in name


def _numbers(files: Iterable[Path]) -> list[int]:
    return [int(text) for text in map(_text, files) if text.isdigit()]


def _text(file: Path) -> str:
    try:
        return file.read_text(encoding="ascii", errors="replace").strip()
    except OSError:
        return ""
