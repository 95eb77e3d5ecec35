"""The program that measures on a board. It is sent there in a zip file, and works for the process that sent it.

Frames come in on stdin: a JSON object a line, followed by as many bytes as its `bytes` says. Answers go out on stdout,
a JSON object a line. It ends, and removes its directory, when stdin is closed or nothing comes for a while: so nothing
stays behind when the connection is lost. NumPy and the standard library only.

`python -m nasdeploy.latency.runners.board` is the same in a process of its own on this machine, without a directory to
remove. It imports no torch: it begins in a fraction of a second, and is what an application is like.
"""

import fcntl
import json
import os
import queue
import shutil
import sys
import threading
import time
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any, BinaryIO

from nasdeploy.core.errors import UserError, one_line
from nasdeploy.latency.machine import fingerprint_here
from nasdeploy.latency.measure import Group, Timed
from nasdeploy.latency.protocol import MeasurementProtocol, Rounds
from nasdeploy.latency.runners.runner import Refusal, measure_sessions, opened
from nasdeploy.runtimes import described_runtime, runtime_of
from nasdeploy.runtimes.runtime import LocalTarget

SILENCE_S = 20.0
"""Seconds after which a silent sender is given up, which says that it is there every 5 seconds.

Not much longer than the sender takes to give up the connection: a program that goes on would disturb the next one.
"""
_VISITS_EVERY_S = 1.0
_CHUNK = 1 << 16
_FORGOTTEN_AFTER_S = 3600.0
_LOCK, _PAYLOAD = "lock", "nasdeploy.zip"

Answer = Callable[[dict[str, Any]], None]
Frame = tuple[dict[str, Any], bytes]


def main(folder: str) -> None:
    """Work in `folder`, which is removed at the end, until there is nobody to work for."""
    own = Path(folder)
    lock = (own / _LOCK).open("w")
    fcntl.flock(lock, fcntl.LOCK_EX)
    remove_forgotten(own)
    os.chdir(own)
    answers = _answers()
    frames = Frames(sys.stdin.buffer, on_end=lambda: _leave(own))
    try:
        serve(frames.next, lambda answer: _write(answers, answer))
    except UserError as error:
        _write(answers, {"error": str(error)})
    except Exception as error:
        _write(answers, {"error": one_line(f"{type(error).__name__}: {error}")})
    finally:
        _leave(own)


def _answers() -> BinaryIO:
    """Return stdout for answers alone: what libraries print goes to stderr."""
    answers = os.fdopen(os.dup(1), "wb", buffering=0)
    os.dup2(2, 1)
    return answers


def _write(answers: BinaryIO, answer: dict[str, Any]) -> None:
    answers.write(json.dumps(answer).encode() + b"\n")


def _leave(folder: Path) -> None:
    """End at once, whatever the other threads do."""
    shutil.rmtree(folder, ignore_errors=True)
    os._exit(0)


class Frames:
    """Frames as they come, read in a thread of its own: a closed stdin is noticed while something is measured."""

    def __init__(self, stdin: BinaryIO, on_end: Callable[[], None]) -> None:
        self._stdin, self._on_end = stdin, on_end
        self._frames: queue.Queue[Frame] = queue.Queue()
        self._heard = time.monotonic()
        for target in (self._read_all, self._watch):
            threading.Thread(target=target, daemon=True).start()

    def next(self) -> Frame:
        """Return the next frame, whenever it comes."""
        return self._frames.get()

    def _read_all(self) -> None:
        try:
            while line := self._stdin.readline():
                frame = json.loads(line)
                content = self._read(frame.get("bytes", 0))
                if frame["do"] != "stay":
                    self._frames.put((frame, content))
        finally:
            self._on_end()

    def _read(self, count: int) -> bytes:
        content = bytearray()
        self._heard = time.monotonic()
        while len(content) < count:
            part = self._stdin.read1(min(_CHUNK, count - len(content)))  # type: ignore[attr-defined]
            if not part:
                raise EOFError
            content += part
            self._heard = time.monotonic()
        return bytes(content)

    def _watch(self) -> None:
        while time.monotonic() - self._heard < SILENCE_S:
            time.sleep(SILENCE_S / 10)
        self._on_end()


def serve(receive: Callable[[], Frame], answer: Answer) -> None:
    """Do what the frames say: `start` once, then groups of `open` and one `measure`, until there is no more.

    A model that is opened without a key is the reference graph of its group.
    """
    frame, _ = receive()
    device = LocalTarget(**frame["device"])
    missing = described_runtime(device).missing()
    if missing is not None:
        answer({"lacks": device.runtime, "install": missing})
        return
    runtime = runtime_of(device)
    answer({"machine": asdict(fingerprint_here(device, runtime.version(), runtime.computes(device.precision)))})
    sessions: dict[str, Timed] = {}
    reference: Timed | None = None
    while True:
        frame, content = receive()
        if frame["do"] == "open":
            session = opened(content, lambda model: runtime.open(model, device))
            if isinstance(session, Refusal):
                answer({"refused": session.reason})
                continue
            if frame["key"] is None:
                reference = session
            else:
                sessions[frame["key"]] = session
            answer({"opened": True})
        else:
            visits = Visits(answer)
            rounds, protocol = Rounds(**frame["rounds"]), _protocol(frame["protocol"])
            timings = measure_sessions(Group(sessions, reference), rounds, protocol, visits.count)
            sessions, reference = {}, None
            visits.tell()
            for key, timing in timings.items():
                answer({"key": key, "timing": asdict(timing)})
            answer({"done": True})


class Visits:
    """Tells how many visits were made, seldom enough not to disturb them."""

    def __init__(self, answer: Answer) -> None:
        self._answer, self._made, self._told = answer, 0, time.monotonic()

    def count(self) -> None:
        """Count one more."""
        self._made += 1
        if time.monotonic() - self._told >= _VISITS_EVERY_S:
            self.tell()

    def tell(self) -> None:
        """Tell the calls that were made since the last time."""
        if self._made:
            self._answer({"visits": self._made})
        self._made, self._told = 0, time.monotonic()


def _protocol(fields: dict[str, Any]) -> MeasurementProtocol:
    return MeasurementProtocol(
        **{**fields, "blocks": Rounds(**fields["blocks"]), "networks": Rounds(**fields["networks"])}
    )


def remove_forgotten(own: Path) -> None:
    """Remove directories like `own` of programs that were killed together with the shell that would have done it."""
    for folder in own.parent.glob(f"{own.name.partition('.')[0]}.*"):
        ours = folder.is_dir() and not folder.is_symlink() and folder.stat().st_uid == os.getuid()
        if folder != own and ours and _is_forgotten(folder):
            shutil.rmtree(folder, ignore_errors=True)


def _is_forgotten(folder: Path) -> bool:
    try:
        with (folder / _LOCK).open("r") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return True
    except FileNotFoundError:
        # Made a moment ago, perhaps; or not by this program.
        old = time.time() - folder.stat().st_mtime > _FORGOTTEN_AFTER_S
        return old and {path.name for path in folder.iterdir()} <= {_PAYLOAD}
    except OSError:
        return False


def _measure_here() -> None:
    """Answer frames in a process of this machine, until there are no more."""
    answers = _answers()
    try:
        serve(_receive, lambda answer: _write(answers, answer))
    except (UserError, MemoryError) as error:
        _write(answers, {"error": one_line(str(error) or type(error).__name__)})


def _receive() -> Frame:
    line = sys.stdin.buffer.readline()
    if not line:
        # Nobody is there any more.
        raise SystemExit
    frame = json.loads(line)
    return frame, sys.stdin.buffer.read(frame["bytes"])


if __name__ == "__main__":
    _measure_here()
