"""Connections to boards over SSH: how one is made, what can go wrong, and a program's stdin and stdout on one.

Host keys are verified as OpenSSH does it, with the user's configuration and known hosts; login is by key or agent. What
goes wrong is said in one line each.
"""

import asyncio
import socket
import threading
from collections.abc import Coroutine
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from nasdeploy.core.errors import UserError, one_line
from nasdeploy.runtimes.device import AdbHost, SshHost

if TYPE_CHECKING:
    import asyncssh

T = TypeVar("T")

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


def address(board: SshHost | AdbHost) -> str:
    """Return a board as it is written in a device file."""
    if isinstance(board, AdbHost):
        return f"adb:{board.serial}"
    user = f"{board.user}@" if board.user else ""
    host = f"[{board.host}]" if ":" in board.host else board.host
    return f"ssh://{user}{host}" + (f":{board.port}" if board.port else "")


def broken() -> tuple[type[Exception], ...]:
    """Return the exceptions that a connection that breaks ends in."""
    import asyncssh

    return (OSError, TimeoutError, asyncssh.Error)


async def connect(board: SshHost, timeouts: Timeouts) -> "asyncssh.SSHClientConnection":
    """Connect to a board; raises `Unreachable` if there is none, `UserError` if it must not or cannot be used."""
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
    """Return the options of the connection; what the device file leaves open is in the user's SSH configuration."""
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
    """Return the content of the configured files of known hosts, else of the usual one.

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
        """Say what is wrong with the host's key, and the command that puts it right."""
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
        """Say why the login failed, as far as one is told, and what to do."""
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
    """Return what an exception says, or its name if that is nothing."""
    return one_line(error) or type(error).__name__


# -- a program on a board

LONGEST_LINE = 1 << 16
_STDERR_KEPT = 4000


class Ended(Exception):
    """The program ended, or the connection to it; `status` is its exit status if it is known to have ended."""

    def __init__(self, status: int | None, stderr: str) -> None:
        super().__init__(stderr)
        self.status, self.stderr = status, stderr


class Connection:
    """A command that runs on a board. Raises `Unreachable` or `UserError` if there is no way to start it."""

    def __init__(self, board: SshHost, command: str, stay: bytes, timeouts: Timeouts = Timeouts()) -> None:
        """Start `command` on a board; `stay` is sent now and then, as a sign of life."""
        self._board, self._timeouts = board, timeouts
        self._received = bytearray()
        self._stderr = bytearray()
        self._loop = asyncio.new_event_loop()
        # A thread, because signs of life have to be sent while this process makes the next model.
        self._thread = threading.Thread(target=self._loop.run_forever, daemon=True)
        self._thread.start()
        try:
            self._call(self._start(command, stay))
        except BaseException:
            self._stop()
            raise

    def send(self, data: bytes) -> None:
        """Write to the program's stdin; raises `Ended` if it has ended."""
        self._call(self._send(data))

    def receive(self) -> bytes:
        """Return the next line of the program's stdout; raises `Ended` or, if it has no end, ValueError."""
        return self._call(self._receive())

    def close(self) -> None:
        """Close the connection: the program's stdin ends, and so does it."""
        try:
            self._call(self._close())
        finally:
            self._stop()

    def _call(self, work: Coroutine[Any, Any, T]) -> T:
        return asyncio.run_coroutine_threadsafe(work, self._loop).result()

    def _stop(self) -> None:
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()

    async def _start(self, command: str, stay: bytes) -> None:
        self._ssh = await connect(self._board, self._timeouts)
        try:
            self._process: asyncssh.SSHClientProcess[bytes] = await self._ssh.create_process(command, encoding=None)
        except broken() as error:
            self._ssh.abort()
            where = address(self._board)
            raise Unreachable(f"{where}: it runs no commands ({reason(error)}); ask whoever looks after it") from None
        self._tasks = [
            asyncio.create_task(self._keep_stderr()),
            asyncio.create_task(self._stay(stay)),
        ]

    async def _keep_stderr(self) -> None:
        while part := await self._process.stderr.read(_STDERR_KEPT):
            self._stderr += part
            del self._stderr[:-_STDERR_KEPT]

    async def _stay(self, stay: bytes) -> None:
        while True:
            await asyncio.sleep(self._timeouts.alive_every)
            self._process.stdin.write(stay)

    async def _send(self, data: bytes) -> None:
        try:
            self._process.stdin.write(data)
            await self._process.stdin.drain()
        except broken():
            raise await self._ended() from None

    async def _receive(self) -> bytes:
        while b"\n" not in self._received:
            if len(self._received) > LONGEST_LINE:
                raise ValueError(f"a line of more than {LONGEST_LINE} bytes")
            try:
                part = await self._process.stdout.read(LONGEST_LINE)
            except broken():
                part = b""
            if not part:
                raise await self._ended()
            self._received += part
        line, _, rest = self._received.partition(b"\n")
        self._received = rest
        return bytes(line)

    async def _ended(self) -> Ended:
        """Return how it ended, as far as that can be found out."""
        try:
            await asyncio.wait_for(self._process.wait_closed(), self._timeouts.alive_every)
            await asyncio.wait_for(self._tasks[0], self._timeouts.alive_every)
        except broken():
            pass
        status = self._process.exit_status
        return Ended(status, self._stderr.decode(errors="replace"))

    async def _close(self) -> None:
        for task in self._tasks:
            task.cancel()
        try:
            self._process.stdin.write_eof()
            await asyncio.wait_for(self._process.wait_closed(), self._timeouts.alive_every)
        except broken():
            pass
        self._ssh.abort()
        await asyncio.gather(self._ssh.wait_closed(), *self._tasks, return_exceptions=True)
