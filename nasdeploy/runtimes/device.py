"""Device files (`profiles/NAME.yaml`): where networks run, in which runtime, and how.

That is here, on a board over SSH, or on a phone by `adb`, Android's debug bridge.
"""

import re
from dataclasses import dataclass
from pathlib import Path
from shutil import which
from typing import Annotated
from urllib.parse import urlsplit

from pydantic import AfterValidator, Field, model_validator

from nasdeploy.core.errors import UserError, suggestion
from nasdeploy.core.resources import resource, resource_names
from nasdeploy.core.settings import Settings, load_yaml, parse
from nasdeploy.runtimes.runtime import Precision

LOCAL = "local"
"""The host that is this machine."""


@dataclass(frozen=True)
class SshHost:
    """A board; what is None is left to the user's SSH configuration."""

    host: str
    user: str | None
    port: int | None


@dataclass(frozen=True)
class AdbHost:
    """A phone with Android, by the serial number that `adb devices` lists; of one over Wi-Fi that is its address."""

    serial: str


_ADB = "adb:"
_SERIAL = re.compile(r"[A-Za-z0-9\[][A-Za-z0-9._:\[\]-]*")


def parse_host(text: str) -> SshHost | AdbHost | None:
    """Return the host that a text names: `ssh://[user@]host[:port]`, `adb:SERIAL`, or `local`, which is None.

    Raises ValueError for others.
    """
    if text == LOCAL:
        return None
    if text.startswith(_ADB):
        serial = text.removeprefix(_ADB)
        if not _SERIAL.fullmatch(serial):
            raise ValueError(f"'{text}' is no host; {_FORMS}")
        return AdbHost(serial)
    try:
        parts = urlsplit(text)
        port = parts.port
    except ValueError as error:
        raise ValueError(f"'{text}' is no host ({error}); {_FORMS}") from None
    if parts.scheme != "ssh":
        what = f"is reached by '{parts.scheme}'" if parts.scheme else "does not say how it is reached"
        raise ValueError(f"'{text}' {what}; {_FORMS}")
    if parts.password is not None:
        raise ValueError(f"the host '{parts.hostname}' has a password beside it; leave it out and use an SSH key")
    if not parts.hostname or parts.path.strip("/") or parts.query or parts.fragment or port == 0:
        raise ValueError(f"'{text}' is no host; {_FORMS}")
    if any(
        name.startswith("-") or not name.isprintable() or " " in name for name in (parts.hostname, parts.username or "")
    ):
        raise ValueError(f"'{text}' is no host; {_FORMS}")
    return SshHost(parts.hostname, parts.username, port)


_FORMS = "write local, or ssh://user@host, or ssh://user@host:port, or adb:SERIAL"


def _a_host(text: str) -> str:
    parse_host(text)
    return text


Host = Annotated[str, AfterValidator(_a_host)]


class Device(Settings):
    """One way of running networks; what a latency table is measured for. It is a `runtimes.runtime.Target`."""

    name: str = Field(pattern=r"^[a-z0-9][a-z0-9_.]*(-[a-z0-9_.]+)*$")
    """The name of the device, which budgets and latency tables have too."""
    runtime: str
    """The runtime that runs networks there: a key of `nasdeploy.runtimes.RUNTIMES`."""
    host: Host = LOCAL
    """The host: `local`, `ssh://user@host[:port]`, or `adb:SERIAL`."""
    hosts: tuple[Host, ...] = ()
    """The equal boards or phones that share the work, in place of `host`."""
    benchmark: str = ""
    """The file, on this machine, of the program that measures on a phone: the runtime's own, built for the phone."""
    python: str = Field(default="python3", min_length=1)
    """The Python of a board: its Python that has NumPy and the runtime, e.g. `~/venv/bin/python`."""
    precision: Precision = "fp32"
    """The precision that models are made for."""
    batch: int = Field(default=1, ge=1, le=65536)
    """The images of a call."""
    threads: int = Field(default=1, ge=1, le=1024)
    """The threads that the runtime may use."""
    idle_ms: float = Field(default=0.0, ge=0, le=10_000)
    """The milliseconds that the application does nothing for before each call, e.g. until a camera's next picture.
    Whole networks are measured after as much; 0: back to back."""
    options: dict[str, str] = Field(default_factory=dict)
    """The options that are passed on to the runtime; each runtime's file says what it takes."""

    @model_validator(mode="after")
    def _one_place(self) -> "Device":
        if self.hosts and self.host != LOCAL:
            raise ValueError("host and hosts both say where it is; write one of them")
        if LOCAL in self.hosts:
            raise ValueError("hosts are boards that share the work; this machine (local) cannot be one of them")
        if len(set(self.hosts)) < len(self.hosts):
            raise ValueError("hosts names a board twice; name each once")
        if self.python != "python3" and self.is_local:
            raise ValueError("python is that of a board, and this device is local; leave it out")
        return self

    @model_validator(mode="after")
    def _a_phones_program(self) -> "Device":
        on_phone = any(isinstance(board, AdbHost) for board in self.boards)
        if on_phone and not self.benchmark:
            raise ValueError("host is a phone, and benchmark is missing: the file of the program that measures there")
        if on_phone and self.python != "python3":
            raise ValueError("python is that of a board, and this device is a phone; leave it out")
        if self.benchmark and not on_phone:
            raise ValueError("benchmark is the program that measures on a phone, and this device is none; leave it out")
        return self

    @property
    def boards(self) -> tuple[SshHost | AdbHost, ...]:
        """The boards that it runs networks on, over SSH, or phones, by `adb`; none if that is this machine."""
        found = (parse_host(text) for text in self.hosts or (self.host,))
        return tuple(host for host in found if host is not None)

    @property
    def is_local(self) -> bool:
        """Whether it runs networks on this machine."""
        return not self.boards


def missing_to_reach(device: Device) -> str | None:
    """Return the command that installs what reaches a device which is not this machine; None if that is here."""
    from importlib.util import find_spec

    if any(isinstance(board, SshHost) for board in device.boards) and find_spec("asyncssh") is None:
        return "pip install asyncssh"
    if any(isinstance(board, AdbHost) for board in device.boards) and which("adb") is None:
        return "apt-get install adb"
    return None


def load_device(name_or_path: str | Path) -> Device:
    """Read the device of a file, or one of nasdeploy's own; raises `UserError` if there is none or it is wrong."""
    path = Path(name_or_path)
    if path.suffix not in (".yaml", ".yml"):
        path = _shipped(str(name_or_path))
    return parse(Device, load_yaml(path), str(path))


def _shipped(name: str) -> Path:
    path = resource("profiles", name)
    if path is None:
        raise UserError(f"unknown device '{name}'{suggestion(name, resource_names('profiles'))} (or give a .yaml file)")
    return path
