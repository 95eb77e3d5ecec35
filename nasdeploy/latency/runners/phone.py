"""A phone by `adb`: files for it, commands on it, and what it says of itself.

Nothing is installed there. Files lie in a directory below `/data/local/tmp`, the only place where whoever comes by
`adb` may write and run programs. Untested on hardware: the tests have an `adb` that runs everything on this machine.
"""

import shlex
import shutil
import subprocess
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from nasdeploy.core.errors import UserError
from nasdeploy.latency.machine import Fingerprint, cpu_name
from nasdeploy.latency.runners.connection import Unreachable
from nasdeploy.latency.runners.remote_program import shown
from nasdeploy.runtimes.device import AdbHost, Device

_PLACE = "/data/local/tmp"
_ANSWER_S = 30.0
_PUSH_S = 600.0
_STATUS = "nasdeploy ended with"
"""What the last line of a command's output begins with: without it the connection was lost, or never there."""
_KILLED = 128
_INSTALL = "install Android's platform tools, e.g. by: apt-get install adb"


@dataclass(frozen=True)
class Said:
    """What a command on a phone printed, to either stream, and its exit status."""

    status: int
    output: str

    @property
    def last(self) -> str:
        """The last line that says anything, as it may be shown."""
        lines = [line for line in self.output.splitlines() if line.strip()]
        return shown(lines[-1]) if lines else "it said nothing"

    @property
    def how(self) -> str:
        """How it ended, in words."""
        if self.status > _KILLED:
            return f"it was killed by signal {self.status - _KILLED}"
        return f"it ended with status {self.status}: {self.last}"


class Phone:
    """A phone with a directory on it of its own. Raises `UserError` if it cannot be used, `Unreachable` if it is not
    there."""

    def __init__(self, host: AdbHost) -> None:
        self.where = f"adb:{host.serial}"
        self._serial = host.serial
        if shutil.which("adb") is None:
            raise UserError(f"{self.where}: adb, which reaches phones, is not on PATH; {_INSTALL}")
        # What an earlier measurement left that was killed: nobody measures for a day.
        made = self.run(
            f"find {_PLACE} -maxdepth 1 -name 'nasdeploy.*' -mtime +0 -exec rm -rf '{{}}' ';'; "
            f"mktemp -d {_PLACE}/nasdeploy.XXXXXXXX"
        )
        self._folder = made.output.strip().splitlines()[-1] if made.output.strip() else ""
        if made.status or not self._folder.startswith(f"{_PLACE}/nasdeploy."):
            raise UserError(f"{self.where}: no directory can be made in {_PLACE} ({made.last}); free some space there")

    def path(self, name: str) -> str:
        """Return where a file of that name lies on the phone."""
        return f"{self._folder}/{name}"

    def push(self, file: Path, name: str) -> None:
        """Copy a file to the phone; raises `UserError` if it has no room for it, `Unreachable` if it is lost."""
        done = self._adb("push", str(file), self.path(name), timeout=_PUSH_S)
        if done.returncode == 0:
            return
        said = _both(done)
        if any(sign in said for sign in ("No space left", "Disk quota", "ENOSPC")):
            raise UserError(f"{self.where}: no space is left in {_PLACE} for {shown(name)}; free some there")
        if (lost := self._loss(said)) is not None:
            raise lost
        raise UserError(f"{self.where}: {shown(name)} cannot be copied to {_PLACE} ({_last(said)})")

    def remove(self, names: list[str]) -> None:
        """Remove files from the phone."""
        self.run(" ".join(["rm", "-f", *(shlex.quote(self.path(name)) for name in names)]))

    def run(self, script: str, timeout: float = _ANSWER_S) -> Said:
        """Run commands of its shell; raises `Unreachable` if the phone is lost meanwhile, or does not answer in time.

        Exit codes of `adb` itself say too little: those of old phones are always 0, and a lost one's is 1 or 255.
        """
        done = self._adb("shell", f"( {script} ) 2>&1; s=$?; echo; echo {_STATUS} $s", timeout=timeout)
        output, found, status = done.stdout.replace("\r\n", "\n").rpartition(f"{_STATUS} ")
        if found and status.strip().isdecimal():
            return Said(int(status), output)
        raise self._loss(_both(done)) or Unreachable(f"{self.where}: the connection was lost ({_last(_both(done))})")

    def close(self) -> None:
        """Remove its directory, if it is still there."""
        # Else it will be removed next time.
        with suppress(UserError):
            self.run(f"rm -rf {shlex.quote(self._folder)}")

    def _adb(self, *words: str, timeout: float) -> "subprocess.CompletedProcess[str]":
        command = ["adb", "-s", self._serial, *words]
        try:
            return subprocess.run(
                command,
                stdin=subprocess.DEVNULL,
                capture_output=True,
                text=True,
                errors="replace",
                check=False,
                timeout=timeout,
            )
        except subprocess.TimeoutExpired:
            raise Unreachable(f"{self.where}: no answer within {timeout:g} s; check its cable") from None
        except OSError as error:
            raise UserError(f"{self.where}: adb cannot be run ({error.strerror}); {_INSTALL}") from None

    def _loss(self, said: str) -> UserError | None:
        """Return what `adb` says of a phone that it cannot use, with what to do; None if it is another thing."""
        if "unauthorized" in said:
            return UserError(
                f"{self.where}: it has not authorised this machine; unlock its screen, allow USB debugging there, and "
                "try again"
            )
        if "offline" in said:
            command = f"adb -s {self._serial} reconnect"
            return Unreachable(f"{self.where}: it is offline; plug it in again, or run: {command}")
        if "not found" in said or "no devices" in said:
            return Unreachable(f"{self.where}: no phone of that serial number is attached; see: adb devices -l")
        return None

    def fingerprint(self, device: Device, runtime: str) -> Fingerprint:
        """Return what moves latencies there and can be read; `runtime` is its name and version."""
        said, _, cpuinfo = self.run(f"{_FACTS}; echo {_CPUINFO}; cat /proc/cpuinfo").output.partition(_CPUINFO)
        facts = dict(line.split("=", 1) for line in said.splitlines() if "=" in line)
        told = {name: shown(text) for name, text in facts.items()}
        name = " ".join(text for key in ("model", "soc") if (text := told.get(key, "")))
        cores, hertz = told.get("cores", ""), told.get("frequency", "")
        memory = "".join(filter(str.isdecimal, told.get("memory", "")))
        return Fingerprint(
            cpu=shown(cpu_name(cpuinfo, name)),
            cores=int(cores) if cores.isdecimal() else 1,
            governor=told.get("governor", ""),
            max_frequency=f"{int(hertz) // 1000} MHz" if hertz.isdecimal() else "",
            memory=f"{int(memory) / 2**20:.0f} GiB" if memory else "",
            system=f"Android {told.get('release', '')}".strip(),
            runtime=runtime,
            precision=device.precision,
            batch=device.batch,
            threads=device.threads,
            options=", ".join(f"{key}={value}" for key, value in sorted(device.options.items())),
            idle_ms=device.idle_ms,
            computed_in="fp32" if device.precision == "fp16" and _HALF not in cpuinfo else "",
        )

    def abi(self) -> str:
        """Return what programs for its processor are built for, e.g. `arm64-v8a`; "" if it does not say."""
        return shown(self.run("getprop ro.product.cpu.abi").output)


_HALF = "asimdhp"
"""The feature, as Linux names it, of processors that compute in fp16: Arm's from version 8.2 on."""
_CPUINFO = "nasdeploy: cpuinfo"
_FREQUENCY = "/sys/devices/system/cpu/cpu0/cpufreq"
_FACTS = "; ".join(
    f"echo {name}=$( {{ {command}; }} 2>/dev/null)"
    for name, command in {
        "model": "getprop ro.product.model",
        "soc": "getprop ro.soc.model",
        "release": "getprop ro.build.version.release",
        "cores": "nproc || grep -c ^processor /proc/cpuinfo",
        "governor": f"cat {_FREQUENCY}/scaling_governor",
        "frequency": f"cat {_FREQUENCY}/cpuinfo_max_freq",
        "memory": "grep MemTotal /proc/meminfo",
    }.items()
)


def _both(done: "subprocess.CompletedProcess[str]") -> str:
    return f"{done.stdout}\n{done.stderr}"


def _last(said: str) -> str:
    lines = [line for line in said.splitlines() if line.strip()]
    return shown(lines[-1]) if lines else "adb said nothing"
