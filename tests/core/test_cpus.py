"""Quotas of processors' time, in trees of files as the kernel lays them out."""

import os
from collections.abc import Callable
from pathlib import Path

import pytest

from nasdeploy.core import cpus
from nasdeploy.core.cpus import (
    available_memory,
    bound_cpus,
    cpu_quota,
    memory_limit,
    parallelism,
    stopped_periods,
    usable_cpus,
)

V1 = "32 31 0:29 {top} /sys/fs/cgroup/cpu,cpuacct ro,nosuid shared:9 - cgroup cgroup rw,cpu,cpuacct"
V2 = "26 23 0:22 {top} /sys/fs/cgroup rw,nosuid shared:4 master:1 - cgroup2 cgroup2 rw,nsdelegate"
OTHERS = (
    "23 1 8:1 / / rw - ext4 /dev/sda1 rw",
    "33 31 0:30 / /sys/fs/cgroup/memory rw - cgroup cgroup rw,memory",
    "34 31 0:31 / /sys/fs/cgroup/cpuset rw - cgroup cgroup rw,cpuset",
)

Write = Callable[..., Path]


@pytest.fixture
def system(tmp_path: Path) -> Write:
    """Writes /proc/self/cgroup, the mounts, and files of control groups; returns their root."""

    def write(cgroup: str, *mounts: str, **files: str) -> Path:
        texts = {"proc/self/cgroup": cgroup, "proc/self/mountinfo": "\n".join([*OTHERS, *mounts]), **files}
        for name, text in texts.items():
            (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
            (tmp_path / name).write_text(f"{text}\n")
        return tmp_path

    return write


def v1(group: str, quota: int, period: int = 100_000, throttled: int = 0) -> dict[str, str]:
    place = f"sys/fs/cgroup/cpu,cpuacct/{group}"
    stat = f"nr_periods 99\nnr_throttled {throttled}\nthrottled_time 123456789"
    files = {"cpu.cfs_quota_us": str(quota), "cpu.cfs_period_us": str(period), "cpu.stat": stat}
    return {f"{place}/{name}": text for name, text in files.items()}


def v2(group: str, limit: str, throttled: int = 0) -> dict[str, str]:
    place = f"sys/fs/cgroup/{group}"
    return {f"{place}/cpu.max": limit, f"{place}/cpu.stat": f"usage_usec 9\nnr_throttled {throttled}\nthrottled_usec 7"}


def test_version_1_with_the_whole_hierarchy_in_sight(system: Write) -> None:
    files = {**v1("", -1), **v1("docker", 300_000, throttled=1), **v1("docker/1f", 50_000, throttled=20)}
    root = system("9:memory:/elsewhere\n4:cpu,cpuacct:/docker/1f\n0::/", V1.format(top="/"), **files)
    assert cpu_quota(root) == 0.5
    assert stopped_periods(root) == 21


def test_version_1_in_a_container_that_sees_its_own_group_as_the_top(system: Write) -> None:
    root = system("4:cpu,cpuacct:/docker/1f", V1.format(top="/docker/1f"), **v1("", 150_000))
    assert cpu_quota(root) == 1.5


@pytest.mark.parametrize(
    ("limits", "quota"),
    [
        ({"": None, "a": "max 100000", "a/b": "max 100000"}, None),
        ({"": None, "a": "200000 100000", "a/b": "25000 50000"}, 0.5),
        # The tightest may be above.
        ({"": None, "a": "30000 100000", "a/b": "400000 100000"}, 0.3),
        ({"": None, "a": "max 100000", "a/b": None}, None),
        ({"": None, "a": "max", "a/b": "junk 100000"}, None),
        ({"": None, "a": "", "a/b": "0 0"}, None),
    ],
)
def test_version_2_nested(system: Write, limits: dict[str, str | None], quota: float | None) -> None:
    files: dict[str, str] = {}
    for group, limit in limits.items():
        files |= {} if limit is None else v2(group, limit, throttled=3)
    root = system("0::/a/b", V2.format(top="/"), **files)
    assert cpu_quota(root) == quota
    assert stopped_periods(root) == 3 * sum(limit is not None for limit in limits.values())


def test_version_2_in_a_namespace_of_its_own(system: Write) -> None:
    root = system("0::/", V2.format(top="/"), **v2("", "50000 100000", throttled=8))
    assert (cpu_quota(root), stopped_periods(root)) == (0.5, 8)


def test_a_group_that_is_named_from_outside_its_namespace(system: Write) -> None:
    root = system("0::/../../other", V2.format(top="/"), **v2("", "80000 100000"), **v2("../other", "10000 100000"))
    assert cpu_quota(root) == 0.8


def test_both_versions_at_once(system: Write) -> None:
    unified = V2.format(top="/").replace("/sys/fs/cgroup", "/sys/fs/cgroup/unified")
    root = system("4:cpu,cpuacct:/job\n0::/user", V1.format(top="/"), unified, **v1("job", 120_000, throttled=5))
    assert (cpu_quota(root), stopped_periods(root)) == (1.2, 5)


def test_a_part_that_is_mounted_twice_counts_once_and_blanks_are_names_too(system: Write) -> None:
    twice = V2.format(top="/my\\040job").replace(" /sys/fs/cgroup", " /mnt")
    files = {**v2("my job", "70000 100000", throttled=4), "mnt/cpu.stat": "nr_throttled 4"}
    root = system("0::/my job", twice, V2.format(top="/"), **files)
    assert (cpu_quota(root), stopped_periods(root)) == (0.7, 4)


@pytest.mark.parametrize("cgroup", ["", "junk", "4:cpu,cpuacct:/gone\n0::/gone"])
def test_nothing_to_read_is_no_quota(system: Write, cgroup: str, tmp_path: Path) -> None:
    root = system(cgroup, V1.format(top="/"), V2.format(top="/"), "junk", "1 2 3 - x")
    assert (cpu_quota(root), stopped_periods(root)) == (None, 0)
    assert (cpu_quota(tmp_path / "none"), stopped_periods(tmp_path / "none")) == (None, 0)


@pytest.mark.parametrize(
    ("bound", "limit", "usable", "together"),
    [
        (8, "50000 100000", 0.5, 1),
        (8, "250000 100000", 2.5, 2),
        (2, "400000 100000", 2.0, 2),
        (3, "max 100000", 3.0, 3),
    ],
)
def test_what_can_be_used_is_the_least_of_both(
    system: Write, monkeypatch: pytest.MonkeyPatch, bound: int, limit: str, usable: float, together: int
) -> None:
    monkeypatch.setattr(cpus, "bound_cpus", lambda: bound)
    root = system("0::/", V2.format(top="/"), **v2("", limit))
    assert (usable_cpus(root), parallelism(root)) == (usable, together)


# -- memory

GIB = 1 << 30
MEMORY = "9:memory:/job\n0::/job"


def memory(place: str, limit: str, used: int, reclaimable: int, names: tuple[str, str, str]) -> dict[str, str]:
    texts = (limit, str(used), f"cache 5\n{names[2]} {reclaimable}\nanon 7")
    return {
        f"sys/fs/cgroup/{place}/{name}": text for name, text in zip((*names[:2], "memory.stat"), texts, strict=True)
    }


V1_MEMORY = ("memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file")
V2_MEMORY = ("memory.max", "memory.current", "inactive_file")


@pytest.mark.parametrize(
    ("place", "limit", "free"),
    [
        ("memory/job", str(3 * GIB), 2 * GIB),
        # No limit of version 1 is a number that is larger than any memory.
        ("memory/job", str((1 << 63) - 4096), 8 * GIB),
        ("memory/job", str(GIB), 0),
        ("job", str(3 * GIB), 2 * GIB),
        ("job", "max", 8 * GIB),
    ],
)
def test_memory_is_the_least_that_the_machine_and_the_groups_leave(
    system: Write, place: str, limit: str, free: int
) -> None:
    names = V1_MEMORY if place == "memory/job" else V2_MEMORY
    used, reclaimable = 2 * GIB, GIB
    files = memory(place, limit, used, reclaimable, names) | {
        "proc/meminfo": f"MemTotal: 9 kB\nMemAvailable:   {8 * GIB >> 10} kB"
    }
    assert available_memory(system(MEMORY, V2.format(top="/"), **files)) == free


def test_where_the_system_says_nothing_all_memory_counts(tmp_path: Path) -> None:
    assert available_memory(tmp_path) == os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    assert 0 < available_memory() < available_memory(tmp_path)


def test_this_process() -> None:
    assert bound_cpus() == len(os.sched_getaffinity(0))
    assert 0 < usable_cpus() <= bound_cpus()


def test_the_tightest_limit_of_memory_counts(system: Write) -> None:
    files = {"sys/fs/cgroup/memory.max": "max", "sys/fs/cgroup/a/memory.max": "3000"}
    root = system("0::/a/b", V2.format(top="/"), **files, **{"sys/fs/cgroup/a/b/memory.max": "max"})
    assert memory_limit(root) == 3000


def test_a_limit_of_memory_in_version_1_and_none(system: Write) -> None:
    place = "sys/fs/cgroup/memory/docker/memory.limit_in_bytes"
    assert memory_limit(system("9:memory:/docker\n4:cpu,cpuacct:/", V1.format(top="/"), **{place: "5000"})) == 5000
    assert memory_limit(system("9:memory:/docker", **{place: "9223372036854771712"})) is None
    assert memory_limit(system("")) is None
