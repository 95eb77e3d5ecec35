"""Directories that appear whole or not at all, in place of an earlier one."""

import ctypes
import errno
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from nasdeploy.core.errors import UserError
from nasdeploy.store.files import beside, disk_full_named, sync, writable

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
