"""A control group with a quota of processors' time, made for a test or a benchmark; needs root and writable groups."""

import os
import subprocess
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from tempfile import mkdtemp

from nasdeploy.core.cpus import control_groups

_PERIOD_US = 100_000


class NoQuota(Exception):
    """Why no group can be made here."""


@contextmanager
def quota_of(cpus: float) -> Iterator[Path]:
    """A group below this process's whose processes have `cpus` processors' worth of time; raises `NoQuota`."""
    errors = ["there is no hierarchy of control groups with quotas"]
    for parent in control_groups():
        try:
            group = Path(mkdtemp(prefix="nasdeploy-quota-", dir=parent))
        except OSError as error:
            errors.append(f"{parent}: {error.strerror}")
            continue
        try:
            _limit(group, cpus)
        except OSError as error:
            errors.append(f"{group}: {error.strerror}")
            group.rmdir()
            continue
        try:
            yield group
        finally:
            group.rmdir()
        return
    raise NoQuota(errors[-1])


def _limit(group: Path, cpus: float) -> None:
    quota = round(cpus * _PERIOD_US)
    if (group / "cpu.max").exists():
        (group / "cpu.max").write_text(f"{quota} {_PERIOD_US}")
    else:
        (group / "cpu.cfs_period_us").write_text(str(_PERIOD_US))
        (group / "cpu.cfs_quota_us").write_text(str(quota))


def run_in(group: Path, command: Sequence[str]) -> subprocess.CompletedProcess[str]:
    """A command that belongs to the group from its first instruction on, with all that it starts."""

    def join() -> None:
        (group / "cgroup.procs").write_text(str(os.getpid()))

    return subprocess.run(command, capture_output=True, text=True, check=False, preexec_fn=join)
