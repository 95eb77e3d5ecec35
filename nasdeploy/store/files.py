"""Files and directories that appear whole or not at all, and JSON read back with mistakes reported in one line."""

import ctypes
import errno
import fcntl
import json
import os
import shutil
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from glob import escape
from pathlib import Path
from tempfile import TemporaryDirectory, mkdtemp
from typing import Any, BinaryIO

from nasdeploy.core.errors import UserError
from nasdeploy.core.escaping import as_json, not_utf8

PARTIAL = ".partial"
"""How hidden directories end in which files are written before they take their place."""
_FULL_BELOW_BYTES = 1 << 20


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Yield a temporary path whose file takes the place of `path` when the block ends, and is removed if it raises.

    The temporary file has the same name, in a hidden directory beside `path`: writers that look at the suffix work,
    and whoever lists the folder never sees a half-written file. Missing parent directories are created. Raises
    `UserError` if the place cannot be written or the disk is full. A link stays one: the file that it leads to is
    replaced.
    """
    _require_replaceable(path)
    place = Path(os.path.realpath(path))
    with beside(place, path) as partial, disk_full_named(path):
        yield partial
        sync(partial)
        os.replace(partial, place)
        sync(place.parent)


def _require_replaceable(path: Path) -> None:
    if path.is_dir():
        raise UserError(f"{path}: cannot be written, there is a directory of that name; choose another name")
    if path.exists() and not path.is_file():
        # Root would put a file in the place of /dev/null, for everybody on the machine.
        raise UserError(f"{path}: cannot be written, it is no file but a device or a pipe; choose another name")


def require_writable(path: Path) -> None:
    """Raise `UserError` if a file could not be written at `path`: before the work of which it is the result."""
    _require_replaceable(path)
    parent = next(parent for parent in path.absolute().parents if parent.exists())
    with writable(path), TemporaryDirectory(prefix=f".{path.name}.", suffix=PARTIAL, dir=parent):
        pass


@contextmanager
def beside(place: Path, asked: Path) -> Iterator[Path]:
    """Yield a path of `place`'s name in a hidden directory beside it, which is removed at the end.

    Missing parent directories are created. Raises `UserError`, naming the path that was `asked` for, if the place
    cannot be written.
    """
    with writable(asked):
        place.parent.mkdir(parents=True, exist_ok=True)
        workspace = Path(mkdtemp(prefix=f".{place.name}.", suffix=PARTIAL, dir=place.parent))
    try:
        yield workspace / place.name
    finally:
        shutil.rmtree(workspace, ignore_errors=True)


@contextmanager
def disk_full_named(path: Path) -> Iterator[None]:
    """Turn the errors that a full disk causes while `path` is written into a `UserError`."""
    try:
        yield
    except OSError as error:
        if error.errno not in (errno.ENOSPC, errno.EDQUOT):
            raise
        raise _disk_full(path) from None
    except RuntimeError as error:
        # torch.save reports a failed write in words of its own, at best while it handles the error that has an errno.
        cause = error.__context__
        full = isinstance(cause, OSError) and cause.errno in (errno.ENOSPC, errno.EDQUOT)
        if not full and shutil.disk_usage(path.parent).free >= _FULL_BELOW_BYTES:
            raise
        raise _disk_full(path) from error


def _disk_full(path: Path) -> UserError:
    return UserError(f"{path}: cannot be written, disk full; free some space and run the same command again")


@contextmanager
def writable(path: Path) -> Iterator[None]:
    """Turn the errors of making, opening or removing `path` for writing into a `UserError`."""
    try:
        yield
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise _disk_full(path) from None
        raise UserError(f"{path}: cannot be written ({error.strerror}); check the path and its permissions") from None


@contextmanager
def locked(lock: Path, used: Path) -> Iterator[None]:
    """Hold the exclusive use of `used` by this process, by way of the file `lock`, which stays.

    The operating system gives it up when the process ends, however it ends. Raises `UserError` if another process has
    it, or if `lock` cannot be written.
    """
    with writable(used):
        lock.parent.mkdir(parents=True, exist_ok=True)
        file = lock.open("a")
    # A POSIX record lock: unlike flock it is not shared with data-loader workers that outlive a killed parent.
    with file:
        try:
            fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except (BlockingIOError, PermissionError):
            raise UserError(f"{used}: in use by another process; run the same command when that is done") from None
        except OSError as error:
            raise UserError(f"{lock}: cannot be locked ({error.strerror}); use another file system") from None
        if identity_of(lock) != _identity(os.fstat(file.fileno())):
            # Whoever had it before has removed it, and another may have made it anew.
            raise UserError(f"{used}: in use by another process; run the same command when that is done")
        yield


@contextmanager
def locked_while_written(path: Path) -> Iterator[None]:
    """Hold the exclusive use by this process of a place that is written, by a hidden file beside it, which is removed.

    So are folders that were made for it, where nothing was written in the end. Raises `UserError` if another process
    writes there, or if nobody can.
    """
    place = Path(os.path.realpath(path))
    lock = place.with_name(f".{place.name}.lock")
    new = [folder for folder in lock.parents if not folder.exists()]
    with locked(lock, path):
        try:
            yield
        finally:
            lock.unlink(missing_ok=True)
            with suppress(OSError):
                for folder in new:
                    folder.rmdir()


def identity_of(path: Path) -> tuple[int, int] | None:
    """Return what tells a file from another that takes its place; None if it is not there."""
    try:
        return _identity(path.stat())
    except OSError:
        return None


def _identity(found: os.stat_result) -> tuple[int, int]:
    return found.st_dev, found.st_ino


def sync(path: Path) -> None:
    """Wait until a file, or the entries of a directory, are on the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def remove_partial(directory: Path) -> None:
    """Delete what killed processes left half-written below `directory`; nobody may be writing there meanwhile."""
    _remove(directory.rglob(f".*{PARTIAL}"))


def remove_partial_of(path: Path) -> None:
    """Delete what killed processes left of `path` half-written; nobody may be writing it meanwhile."""
    _remove(path.parent.glob(f".{escape(path.name)}.*{PARTIAL}"))


def _remove(leftovers: Iterable[Path]) -> None:
    for leftover in list(leftovers):
        shutil.rmtree(leftover, ignore_errors=True)


def write_bytes(path: Path, data: bytes) -> None:
    """Write a binary file, whole or not at all."""
    with replacing(path) as partial:
        partial.write_bytes(data)


def write_text(path: Path, text: str) -> None:
    """Write a UTF-8 text file, whole or not at all; raises `UserError` for text that UTF-8 cannot hold."""
    try:
        content = text.encode("utf-8")
    except UnicodeEncodeError as error:
        raise UserError(f"{path}: cannot hold {not_utf8(error)}, which is not UTF-8; rename it") from None
    write_bytes(path, content)


def write_json(path: Path, data: Any) -> None:
    """Write indented JSON, whole or not at all; raises `ValueError` for numbers that are not finite.

    Names that are not UTF-8 are escaped, as `in_utf8` does.
    """
    write_text(path, json.dumps(as_json(data), indent=2, allow_nan=False) + "\n")


def append_json_line(path: Path, line: Mapping[str, Any]) -> None:
    """Append one JSON object as a line, after removing a line that a killed process left unfinished.

    The line survives a kill of this process, not a power cut. One process at a time may append.
    """
    text = json.dumps(as_json(line), allow_nan=False) + "\n"
    with writable(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        file = path.open("a+b")
    with disk_full_named(path), file:
        _drop_torn_line(file)
        file.write(text.encode("utf-8"))


def _drop_torn_line(file: BinaryIO) -> None:
    size = file.seek(0, os.SEEK_END)
    if size == 0:
        return
    file.seek(-1, os.SEEK_END)
    if file.read(1) != b"\n":
        file.seek(0)
        file.truncate(file.read().rfind(b"\n") + 1)


def read_json_lines(path: Path) -> list[dict[str, Any]]:
    """Return the objects of a file of JSON lines, none if there is no file yet; raises `UserError` if one is damaged.

    A last line without its line break is one that a killed process left unfinished, and is left out.
    """
    try:
        content = path.read_bytes() if path.exists() else b""
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror}); check the path") from None
    lines = content.split(b"\n")[:-1]
    return [_json_line(path, number, line) for number, line in enumerate(lines, start=1)]


def _json_line(path: Path, number: int, line: bytes) -> dict[str, Any]:
    try:
        data = json.loads(line)
    except (ValueError, RecursionError) as error:
        raise UserError(f"{path}: line {number} is damaged ({error}); remove that line") from None
    if not isinstance(data, dict):
        raise UserError(f"{path}: line {number} holds no JSON object; remove that line")
    return data


_AT_FDCWD = -100
_RENAME_EXCHANGE = 2
_UNKNOWN = (errno.ENOSYS, errno.EINVAL, errno.EOPNOTSUPP)


@contextmanager
def replacing_directory(path: Path) -> Iterator[Path]:
    """Yield a temporary directory that takes the place of `path` when the block ends, and is removed if it raises.

    It is a hidden one beside `path`. Whatever `path` held is gone afterwards, so the caller looks at that before. On
    Linux the two change places in one step, so that there is always a whole one, the earlier or the new. Missing parent
    directories are created. Raises `UserError` if the place cannot be written or the disk is full.
    """
    place = Path(os.path.realpath(path))  # `.` has no name, and a link stays one.
    if place.exists() and not place.is_dir():
        raise UserError(f"{path}: cannot be written, there is a file of that name; choose another directory")
    with beside(place, path) as partial:
        with disk_full_named(path):
            partial.mkdir()
            yield partial
            _sync_all(partial)
        with writable(path):
            _take_place(partial, place)
            sync(place.parent)


def _sync_all(directory: Path) -> None:
    for each in (*directory.rglob("*"), directory):
        if not each.is_symlink():
            sync(each)


def _take_place(partial: Path, path: Path) -> None:
    if not path.exists():
        os.rename(partial, path)
    elif not _exchanged(partial, path):
        # Two steps, between which a kill leaves the earlier directory beside its place, in the hidden one.
        earlier = partial.with_name("earlier")
        os.rename(path, earlier)
        try:
            os.rename(partial, path)
        except OSError:
            os.rename(earlier, path)
            raise


def _exchanged(one: Path, other: Path) -> bool:
    """Swap two paths in one step (Linux's renameat2), if system and file system can."""
    library = ctypes.CDLL(None, use_errno=True)
    if not hasattr(library, "renameat2"):
        return False
    if library.renameat2(_AT_FDCWD, os.fsencode(one), _AT_FDCWD, os.fsencode(other), _RENAME_EXCHANGE) == 0:
        return True
    number = ctypes.get_errno()
    if number in _UNKNOWN:
        return False
    raise OSError(number, os.strerror(number), str(other))
