"""The program on a board as seen from here: what is sent, how it is started, what it says, and why it ended."""

import ast
import io
import json
import shlex
import signal
import zipfile
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

from pydantic import Field

import nasdeploy
from nasdeploy.core.settings import Settings
from nasdeploy.latency.machine import Fingerprint
from nasdeploy.latency.protocol import Timing
from nasdeploy.latency.runners.connection import Ended

PROGRAM = "nasdeploy.latency.runners.board"
"""The module that a board runs."""
HELLO = "nasdeploy is ready"
"""The line that the program begins with."""
# Short, for the command line: everything else is in the payload, which comes on stdin after its length.
_BOOT = (
    "import os,sys;v=sys.version_info[:2];"
    'v>=(3,10) or sys.exit("Python %d.%d"%v);'
    'd=sys.argv[1];z=os.path.join(d,"nasdeploy.zip");i=sys.stdin.buffer;'
    'f=open(z,"wb");f.write(i.read(int(i.readline())));f.close();'
    f"sys.path.insert(0,z);from {PROGRAM} import main;"
    f'print("{HELLO}",flush=True);main(d)'
)


class Answer(Settings):
    """What the program on a board says; it is not trusted to be right."""

    machine: Fingerprint | None = None
    lacks: str | None = None
    install: str = ""
    opened: bool = False
    refused: str | None = None
    visits: int = Field(default=0, ge=0)
    key: str | None = None
    timing: Timing | None = None
    done: bool = False
    error: str | None = None


def why_ended(end: Ended, python: str) -> str:
    """Say why the program ended, in one line with what to do."""
    last = shown((end.stderr.strip().splitlines() or [""])[-1])
    if end.status is None:
        return "the connection was lost"
    if "No module named 'numpy'" in end.stderr:
        return f"numpy is not installed there; run on the board: {python} -m pip install numpy"
    if last.startswith("Python "):
        return f"{last} there is too old; install 3.10 or later and name it as python in the device file"
    if end.status == _NOT_FOUND:
        return f"there is no {python}; install it there, or name another as python in the device file"
    if (full := explained(end.stderr)) is not None:
        return full
    if end.status < 0 or end.status > _KILLED:
        return f"the measuring process was killed ({_signal(end.status - _KILLED)})"
    return f"the measuring process ended with status {end.status} ({last})"


_NOT_FOUND = 127
_KILLED = 128


def explained(text: str) -> str | None:
    """Say what to do about an error that a full disk causes; None for any other."""
    if any(sign in text for sign in ("No space left on device", "Disk quota exceeded")):
        return "the disk for temporary files there is full; free some space, or set TMPDIR there to another one"
    return None


def _signal(number: int) -> str:
    try:
        name = signal.Signals(number).name
    except ValueError:
        return "by a signal"
    return f"{name}, perhaps for want of memory" if name == "SIGKILL" else name


def shown(text: str) -> str:
    """Return text from a board as it may be shown: one line, not too long, and nothing that a terminal obeys."""
    line = " ".join(text.split())
    return "".join(character if character.isprintable() else "?" for character in line)[:_LONGEST_SHOWN]


_LONGEST_SHOWN = 400


def frame_of(frame: dict[str, Any], content: bytes = b"") -> bytes:
    """Return what the program is told, as it goes over the connection."""
    return json.dumps({**frame, "bytes": len(content)}).encode() + b"\n" + content


def command_of(python: str) -> str:
    """Return a command for any login shell: make a directory, run the program there, and remove it however that ends.

    What a runtime writes on its way goes there too.
    """
    home = python.startswith("~/")
    quoted = f'"$HOME"/{shlex.quote(python[2:])}' if home else shlex.quote(python)
    script = (
        'umask 077; d=$(mktemp -d "${TMPDIR:-/tmp}/nasdeploy-board.XXXXXXXX") || exit 73; '
        "trap 'rm -rf \"$d\"' EXIT; trap 'exit 129' HUP INT TERM; "
        f'TMPDIR=$d {quoted} -c {shlex.quote(_BOOT)} "$d"'
    )
    return f"exec sh -c {shlex.quote(script)}"


# -- what a board is sent: the files of this package that the program on it imports, and nothing else

_ROOT = Path(nasdeploy.__file__).parent.parent
_TIMELESS = (1980, 1, 1, 0, 0, 0)


@cache
def payload() -> bytes:
    """Return a zip file that Python can import `PROGRAM` from; the same bytes each time."""
    content = io.BytesIO()
    with zipfile.ZipFile(content, "w", zipfile.ZIP_DEFLATED) as archive:
        for path in sorted(payload_files().values()):
            name = zipfile.ZipInfo(path.relative_to(_ROOT).as_posix(), _TIMELESS)
            archive.writestr(name, path.read_bytes(), zipfile.ZIP_DEFLATED)
    return content.getvalue()


def payload_files() -> dict[str, Path]:
    """Return files by module: the program, whatever it imports of this package, directly or not, and their packages."""
    found: dict[str, Path] = {}
    waiting = [PROGRAM]
    while waiting:
        name = waiting.pop()
        path = _file(name)
        if name not in found and path is not None:
            found[name] = path
            waiting += [name.rpartition(".")[0], *_imports(path)]
    return found


def _file(module: str) -> Path | None:
    path = _ROOT.joinpath(*module.split("."))
    candidates = (path.with_suffix(".py"), path / "__init__.py") if module else ()
    return next((candidate for candidate in candidates if candidate.is_file()), None)


def _imports(path: Path) -> Iterator[str]:
    """Yield names that may be modules of this package; what is imported for type checking only does not count."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    waiting: list[ast.AST] = [tree]
    while waiting:
        node = waiting.pop()
        if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test):
            waiting += node.orelse
            continue
        waiting += ast.iter_child_nodes(node)
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names if alias.name.startswith("nasdeploy"))
        elif isinstance(node, ast.ImportFrom) and (node.module or "").startswith("nasdeploy"):
            yield from (node.module or "", *(f"{node.module}.{alias.name}" for alias in node.names))
