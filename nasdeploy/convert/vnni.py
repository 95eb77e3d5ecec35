"""What of the processor matters for numbers."""

from pathlib import Path

_CPUINFO = Path("/proc/cpuinfo")


def saturates(cpuinfo: Path = _CPUINFO) -> bool:
    """Return whether products of 8-bit integers overflow here: on x86 without VNNI pairs of them are added in 16 bits.

    False where it cannot be read: processors of other kinds do not have this.
    """
    try:
        lines = cpuinfo.read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        return False
    flags = next((line.partition(":")[2].split() for line in lines if line.startswith("flags")), [])
    return "sse2" in flags and not any("vnni" in flag for flag in flags)
