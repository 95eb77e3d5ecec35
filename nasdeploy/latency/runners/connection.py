"""A program on a board over SSH: its stdin and stdout, as blocking calls."""

import asyncio
import threading
from collections.abc import Coroutine
from typing import TYPE_CHECKING, Any, TypeVar

from nasdeploy.latency.runners.ssh_connect import Timeouts, Unreachable, address, broken, connect, reason
from nasdeploy.runtimes.host import SshHost

if TYPE_CHECKING:
    import asyncssh

T = TypeVar("T")

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
        """`stay` is sent now and then, so that the other side can tell a silent connection from a dead one."""
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
        """The next line of the program's stdout; raises `Ended` if there is none, ValueError if it has no end."""
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
        """How, as far as that can be found out."""
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
