"""Processors that this process may use: those that it is bound to, and what limits leave it of them and of memory.

A container's quota is one of its control group: so much time of processors in each period, after which all of its
processes stand still until the next one. See "CFS Bandwidth Control" in the kernel's documentation, and `cpu.max` in
that of control groups, version 2. The standard library only: this also runs on a small board.
"""

import os
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

_ROOT = Path("/")


def bound_cpus() -> int:
    """Return processors that this process is bound to: a scheduler may allow fewer than there are."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def cpu_quota(root: Path = _ROOT) -> float | None:
    """Return processors' worth of time that the tightest quota of this process's control group and those above leaves.

    None where there is no quota, or none that can be seen from here.
    """
    return min((quota for group in control_groups(root) if (quota := _quota(group)) is not None), default=None)


def usable_cpus(root: Path = _ROOT) -> float:
    """Return processors' worth of time for this process, by what it is bound to and by its quota."""
    return min(float(bound_cpus()), cpu_quota(root) or float("inf"))


def parallelism(root: Path = _ROOT) -> int:
    """Return threads or processes that may work at the same time without waiting for each other; at least one."""
    return max(1, int(usable_cpus(root)))


def stopped_periods(root: Path = _ROOT) -> int:
    """Return periods in which a quota of this process's control groups was used up, since these were made."""
    stats = (_read(group / "cpu.stat") for group in control_groups(root))
    found = (re.search(r"^nr_throttled (\d+)$", text, re.MULTILINE) for text in stats)
    return sum(int(match[1]) for match in found if match)


_MEMORY = (
    ("memory.max", "memory.current", "inactive_file"),
    ("memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file"),
)
"""The files of a control group of version 2 and of version 1 with its limit and its use, and the key of `memory.stat`
with the bytes of files that are only kept in memory to be read again."""
_UNLIMITED = 1 << 60
"""The bytes that a limit of version 1 is more than where there is none."""


def _memory_limits(root: Path) -> Iterator[tuple[Path, int, str, str]]:
    """Yield control groups with limits in bytes, and what tells their use and what of it is reclaimable."""
    for group in control_groups(root, "memory"):
        for limit, used, reclaimable in _MEMORY:
            text = _read(group / limit).strip()
            if text.isdigit() and int(text) < _UNLIMITED:
                yield group, int(text), used, reclaimable


def memory_limit(root: Path = _ROOT) -> int | None:
    """Return the bytes of memory that the tightest limit of this process's control groups leaves; None for no limit."""
    return min((limit for _, limit, _, _ in _memory_limits(root)), default=None)


def available_memory(root: Path = _ROOT) -> int:
    """Return bytes of memory that may still be taken, by the machine's and by the limits of control groups.

    What of files is only kept in memory to be read again counts as free. Where the system says nothing, the whole
    memory of the machine does.
    """
    found = re.search(r"^MemAvailable: +(\d+) kB$", _read(root / "proc/meminfo"), re.MULTILINE)
    machine = int(found[1]) << 10 if found else os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    left = [machine]
    for group, limit, used, reclaimable in _memory_limits(root):
        text = _read(group / used).strip()
        spare = re.search(rf"^{reclaimable} (\d+)$", _read(group / "memory.stat"), re.MULTILINE)
        if text.isdigit():
            left.append(limit - int(text) + (int(spare[1]) if spare else 0))
    return max(0, min(left))


@dataclass(frozen=True)
class _Mount:
    """A hierarchy of control groups as it is seen here."""

    controller: str
    """`cpu` or `memory` of version 1, or the empty name of version 2."""
    top: PurePosixPath
    """The group that is mounted: in a container without a namespace of its own, the container's."""
    place: Path


def control_groups(root: Path = _ROOT, kind: str = "cpu") -> Iterator[Path]:
    """Yield directories of this process's control groups with limits of a kind, each before those above it."""
    names = _memberships(_read(root / "proc/self/cgroup"))
    mounts = [mount for mount in _mounts(_read(root / "proc/self/mountinfo"), root, kind) if mount.controller in names]
    for controller in {mount.controller for mount in mounts}:
        # A part of the hierarchy may be mounted elsewhere once more.
        mount = min((one for one in mounts if one.controller == controller), key=lambda one: len(one.top.parts))
        parts = _inside(names[controller], mount)
        yield from (mount.place.joinpath(*parts[:depth]) for depth in range(len(parts), -1, -1))


def _memberships(text: str) -> dict[str, PurePosixPath]:
    """Return groups by controller, from lines like `4:cpu,cpuacct:/docker/1f` and `0::/user.slice`."""
    lines = (line.split(":", 2) for line in text.splitlines())
    return {name: PurePosixPath(line[2]) for line in lines if len(line) == 3 for name in line[1].split(",")}


def _mounts(text: str, root: Path, kind: str) -> Iterator[_Mount]:
    """Yield mounts from lines like `32 31 0:29 /docker/1f /sys/fs/cgroup/cpu ro shared:9 - cgroup cgroup
    rw,cpu,cpuacct`."""
    for line in text.splitlines():
        mount, _, system = (part.split() for part in line.partition(" - "))
        if len(mount) < 5 or len(system) < 3:
            continue
        version_1 = system[0] == "cgroup" and kind in system[2].split(",")
        if version_1 or system[0] == "cgroup2":
            top, place = (_unescaped(path) for path in mount[3:5])
            yield _Mount(kind if version_1 else "", PurePosixPath(top), root / place.lstrip("/"))


def _inside(group: PurePosixPath, mount: _Mount) -> tuple[str, ...]:
    """Return steps from the mounted group down to `group`; none where that is the name of it in another namespace."""
    below = group.relative_to(mount.top).parts if group.is_relative_to(mount.top) else ()
    return () if ".." in below else below


def _quota(group: Path) -> float | None:
    """Return the quota of one group, by version 2 (`50000 100000`, `max 100000`) or version 1 (-1 is none)."""
    found = _read(group / "cpu.max").split() or [
        _read(group / name).strip() for name in ("cpu.cfs_quota_us", "cpu.cfs_period_us")
    ]
    if len(found) != 2 or not all(number.isdigit() and int(number) > 0 for number in found):
        return None
    return int(found[0]) / int(found[1])


def _unescaped(path: str) -> str:
    """Return the kernel writes blanks in names as `\\040`."""
    return re.sub(r"\\([0-7]{3})", lambda match: chr(int(match[1], 8)), path)


def _read(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8", errors="surrogateescape")
    except OSError:
        return ""
