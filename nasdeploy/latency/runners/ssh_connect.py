"""Connections to boards: whose host keys are verified, and what can go wrong, in one line each.

Host keys are verified as OpenSSH does it, with the user's configuration and known hosts; login is by key or agent.
"""

import socket
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from nasdeploy.core.errors import UserError, one_line
from nasdeploy.runtimes.host import SshHost

if TYPE_CHECKING:
    import asyncssh

_CONNECT_S = 15.0
_ALIVE_EVERY_S = 5.0
_DEAD_AFTER = 3


class Unreachable(UserError):
    """There is no connection to a board. Before the first one it is a mistake; later it is worth trying again."""


@dataclass(frozen=True)
class Timeouts:
    """Seconds: for a connection; between signs of life; and how many of these may be missing."""

    connect: float = _CONNECT_S
    alive_every: float = _ALIVE_EVERY_S
    dead_after: int = _DEAD_AFTER


def address(board: SshHost) -> str:
    """A board as it is written in a device file."""
    user = f"{board.user}@" if board.user else ""
    host = f"[{board.host}]" if ":" in board.host else board.host
    return f"ssh://{user}{host}" + (f":{board.port}" if board.port else "")


def broken() -> tuple[type[Exception], ...]:
    """What a connection that breaks ends in."""
    import asyncssh

    return (OSError, TimeoutError, asyncssh.Error)


async def connect(board: SshHost, timeouts: Timeouts) -> "asyncssh.SSHClientConnection":
    """A connection to a board; raises `Unreachable` if there is none, `UserError` if it must not or cannot be used."""
    import asyncssh

    where = address(board)
    try:
        options = asyncssh.SSHClientConnectionOptions(config=(), **_options(board, timeouts))
        login = _Login(options.host, options.port, options.username, _known_hosts(options.known_hosts))
        return await asyncssh.connect(
            known_hosts=login.known_hosts, client_factory=_client_factory(login), **_options(board, timeouts)
        )
    except asyncssh.HostKeyNotVerifiable as error:
        raise UserError(f"{where}: {login.host_key_trouble(str(error))}") from None
    except asyncssh.PermissionDenied:
        raise UserError(f"{where}: {login.refused()}") from None
    except (asyncssh.ConfigParseError, asyncssh.KeyImportError, asyncssh.KeyEncryptionError, ValueError) as error:
        raise UserError(
            f"{where}: your SSH configuration or key cannot be used ({reason(error)}); correct it"
        ) from None
    except socket.gaierror:
        raise Unreachable(f"{where}: no machine of that name is known; check host in the device file") from None
    except TimeoutError:
        raise Unreachable(
            f"{where}: no answer within {timeouts.connect:g} s; check that it is on, its address and your network"
        ) from None
    except (OSError, asyncssh.Error) as error:
        raise Unreachable(
            f"{where}: cannot be reached ({reason(error)}); check its address and port, and that its SSH server runs"
        ) from None


def _options(board: SshHost, timeouts: Timeouts) -> dict[str, Any]:
    """Of the connection; what the device file leaves open is in the user's SSH configuration."""
    chosen: dict[str, Any] = {
        "host": board.host,
        "password_auth": False,
        "kbdint_auth": False,
        "connect_timeout": timeouts.connect,
        "login_timeout": timeouts.connect,
        "keepalive_interval": timeouts.alive_every,
        "keepalive_count_max": timeouts.dead_after,
    }
    if board.user:
        chosen["username"] = board.user
    if board.port:
        chosen["port"] = board.port
    return chosen


def _known_hosts(files: Any) -> bytes:
    """The content of the configured files of known hosts, else of the usual one.

    For `UserKnownHostsFile none` asyncssh would believe any host; here the usual file counts.
    """
    paths = [Path(file).expanduser() for file in files or ("~/.ssh/known_hosts",)]
    return b"\n".join(path.read_bytes() for path in paths if path.is_file())


@dataclass
class _Login:
    """Who logs in where, and the key that an unknown host offered."""

    host: str
    port: int
    user: str
    known_hosts: bytes
    offered: "asyncssh.SSHKey | None" = None
    at: str = ""

    def host_key_trouble(self, reason: str) -> str:
        """What is wrong with the host's key, and the command that puts it right."""
        import asyncssh

        if self.offered is None:
            return f"{reason}; ask whoever looks after it"
        trusted, *_ = asyncssh.import_known_hosts(self.known_hosts.decode(errors="replace")).match(
            self.host, self.at, None if self.port == 22 else self.port
        )
        shown = self.offered.get_fingerprint()
        name = self.host if self.port == 22 else f"[{self.host}]:{self.port}"
        if trusted:
            return (
                f"its host key has changed, to {shown}, so it may be another machine; if that is right, "
                f"forget the old key with: ssh-keygen -R '{name}'"
            )
        return (
            f"its host key ({shown}) is not known; compare it on the board, and add it with: "
            f"ssh-keyscan -p {self.port} {self.host} >> ~/.ssh/known_hosts"
        )

    def refused(self) -> str:
        """Why the login failed, as far as one is told, and what to do."""
        command = f"ssh-copy-id -p {self.port} {self.user}@{self.host}"
        return (
            f"it refuses to log in {self.user}; send it your key with: {command} (a key with a passphrase has to be in "
            "ssh-agent)"
        )


def _client_factory(login: _Login) -> Any:
    import asyncssh

    class Client(asyncssh.SSHClient):
        """Asked about host keys that are not among the known ones: never accepts them, but remembers them."""

        def validate_host_public_key(self, host: str, addr: str, port: int, key: "asyncssh.SSHKey") -> bool:
            login.offered, login.at = key, addr
            return False

    return Client


def reason(error: Exception) -> str:
    """What an exception says, or its name if that is nothing."""
    return one_line(error) or type(error).__name__
