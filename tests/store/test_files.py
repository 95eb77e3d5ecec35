import errno
import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, NoReturn

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from nasdeploy.core.errors import UserError
from nasdeploy.core.settings import read_json
from nasdeploy.store import files
from nasdeploy.store.files import (
    append_json_line,
    locked,
    locked_while_written,
    read_json_lines,
    remove_partial,
    remove_partial_of,
    replacing,
    require_writable,
    writable,
    write_bytes,
    write_json,
    write_text,
)

SCALARS = st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text()
JSON = st.recursive(
    SCALARS, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3), max_leaves=8
)
same_folder = settings(suppress_health_check=[HealthCheck.function_scoped_fixture])


def names(folder: Path) -> list[str]:
    return sorted(entry.name for entry in folder.iterdir())


def test_the_file_appears_at_the_end_under_its_name(tmp_path: Path) -> None:
    target = tmp_path / "deep" / "er" / "model.onnx"
    with replacing(target) as partial:
        partial.write_bytes(b"new")
        assert not target.exists()
        assert partial.name == "model.onnx"
        assert list(target.parent.glob("*.onnx")) == []
    assert target.read_bytes() == b"new"
    assert names(target.parent) == ["model.onnx"]


def test_an_error_leaves_the_old_file_and_nothing_else(tmp_path: Path) -> None:
    target = tmp_path / "a.bin"
    write_bytes(target, b"old")

    def interrupted() -> None:
        with replacing(target) as partial:
            partial.write_bytes(b"ne")
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupted()
    assert target.read_bytes() == b"old"
    assert names(tmp_path) == ["a.bin"]


def test_the_mode_is_that_of_any_new_file(tmp_path: Path) -> None:
    write_bytes(tmp_path / "ours", b"")
    (tmp_path / "plain").touch()
    assert (tmp_path / "ours").stat().st_mode == (tmp_path / "plain").stat().st_mode


def test_content_is_synced_before_it_takes_the_name_and_the_directory_after(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    synced: list[tuple[str, bool]] = []
    real = os.fsync

    def fsync(descriptor: int) -> None:
        synced.append((os.readlink(f"/proc/self/fd/{descriptor}"), (tmp_path / "a").exists()))
        real(descriptor)

    monkeypatch.setattr(os, "fsync", fsync)
    write_bytes(tmp_path / "a", b"x")
    (file, named_before), (folder, named_after) = synced
    assert Path(file).name == "a"
    assert (named_before, folder, named_after) == (False, str(tmp_path), True)


@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EDQUOT])
def test_a_full_disk_is_named_and_the_old_file_stays(
    code: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    target = tmp_path / "a.json"
    write_json(target, 1)

    def full(descriptor: int) -> NoReturn:
        raise OSError(code, os.strerror(code))

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(UserError, match=r"a\.json: cannot be written, disk full"):
        write_json(target, 2)
    assert read_json(target) == 1
    assert names(tmp_path) == ["a.json"]


@pytest.mark.parametrize(("free", "expected"), [(0, UserError), (1 << 30, RuntimeError)])
def test_a_library_that_reports_a_full_disk_in_its_own_way(
    free: int, expected: type[Exception], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(files.shutil, "disk_usage", lambda path: files.shutil._ntuple_diskusage(1, 1, free))
    with pytest.raises(expected), replacing(tmp_path / "a.pt"):
        raise RuntimeError("unexpected pos 640 vs 534")


@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EDQUOT])
def test_a_quota_behind_a_librarys_error_is_found(code: int, tmp_path: Path) -> None:
    error = RuntimeError("unexpected pos 640 vs 534")
    error.__context__ = OSError(code, os.strerror(code))
    with pytest.raises(UserError, match=r"a\.pt: cannot be written, disk full"), replacing(tmp_path / "a.pt"):
        raise error


def test_other_system_errors_keep_their_name(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError), replacing(tmp_path / "a"):
        (tmp_path / "missing").read_bytes()


@pytest.mark.parametrize("write", [write_text, lambda path, text: append_json_line(path, {text: 1})])
def test_a_place_that_cannot_be_written_is_named(write: Callable[[Path, str], None], tmp_path: Path) -> None:
    write_text(tmp_path / "file", "x")
    with pytest.raises(UserError, match=r"file/a: cannot be written \(.*\); check the path"):
        write(tmp_path / "file" / "a", "x")


def test_a_directory_is_not_replaced(tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    with pytest.raises(UserError, match=r"/a: cannot be written, there is a directory of that name"):
        write_text(tmp_path / "a", "x")
    assert names(tmp_path) == ["a"]


def test_a_read_only_file_system_is_named(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"a: cannot be written \(Read-only file system\)"), writable(tmp_path / "a"):
        raise OSError(errno.EROFS, os.strerror(errno.EROFS), "a")


HOLDER = """
import sys, time
from pathlib import Path
from nasdeploy.store.files import locked
with locked(Path(sys.argv[1]), Path("table")):
    print("held", flush=True)
    time.sleep(60)
"""


def test_one_process_at_a_time_has_a_lock(tmp_path: Path) -> None:
    lock = tmp_path / "new" / ".lock"
    holder = subprocess.Popen([sys.executable, "-c", HOLDER, str(lock)], stdout=subprocess.PIPE)
    assert holder.stdout is not None
    assert holder.stdout.readline() == b"held\n"
    with pytest.raises(UserError, match="table: in use by another process"), locked(lock, Path("table")):
        pass
    holder.send_signal(signal.SIGKILL)
    holder.communicate()
    with locked(lock, Path("table")):
        assert lock.exists()


@pytest.mark.parametrize("refused", [True, False])
def test_new_folders_go_with_the_lock_if_nothing_was_written(refused: bool, tmp_path: Path) -> None:
    path = tmp_path / "runs" / "here" / "a"
    try:
        with locked_while_written(path):
            assert (path.parent / ".a.lock").exists()
            if refused:
                raise UserError("no")
            path.write_text("x")
    except UserError:
        pass
    assert sorted(tmp_path.rglob("*")) == ([] if refused else [tmp_path / "runs", path.parent, path])


def test_folders_that_were_there_stay(tmp_path: Path) -> None:
    (tmp_path / "runs").mkdir()
    with locked_while_written(tmp_path / "runs" / "a"):
        pass
    assert names(tmp_path) == ["runs"]


def test_a_file_system_without_locks_is_not_taken_for_another_process(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*arguments: Any) -> NoReturn:
        raise OSError(errno.ENOLCK, os.strerror(errno.ENOLCK))

    monkeypatch.setattr(files.fcntl, "lockf", refuse)
    with (
        pytest.raises(UserError, match=r"lock: cannot be locked \(No locks available\)"),
        locked(tmp_path / "lock", tmp_path),
    ):
        pass


def test_what_is_left_of_one_file_is_removed_and_nothing_else(tmp_path: Path) -> None:
    left = [".a[1].json.x.partial", ".a[1].json.y.partial", ".a1.json.x.partial", ".a[1].json.lock", "a[1].json"]
    for name in left:
        (tmp_path / name).mkdir()
    remove_partial_of(tmp_path / "a[1].json")
    assert names(tmp_path) == sorted(left[2:])


WRITER = """
import sys
from pathlib import Path
from nasdeploy.store.files import append_json_line, write_bytes
folder, count = Path(sys.argv[1]), 0
while True:
    write_bytes(folder / "whole", bytes([count % 256]) * 3_000_000)
    append_json_line(folder / "lines", {"count": count, "long": "x" * 20_000})
    count += 1
    print(count, flush=True)
"""


def test_a_kill_leaves_whole_files_and_every_finished_line(tmp_path: Path) -> None:
    written = 0
    for rounds in range(1, 5):
        process = subprocess.Popen([sys.executable, "-c", WRITER, str(tmp_path)], stdout=subprocess.PIPE)
        assert process.stdout is not None
        done = [process.stdout.readline() for _ in range(3 * rounds)]
        process.send_signal(signal.SIGKILL)
        done += process.communicate()[0].splitlines()
        content = (tmp_path / "whole").read_bytes()
        assert content == content[:1] * 3_000_000
        written += len(done)
        # A line may have been finished and not yet reported.
        assert written <= len(read_json_lines(tmp_path / "lines")) <= written + 1
        written = len(read_json_lines(tmp_path / "lines"))
    remove_partial(tmp_path)
    assert names(tmp_path) == ["lines", "whole"]


@same_folder
@given(JSON)
def test_json_round_trip(tmp_path: Path, data: Any) -> None:
    write_json(tmp_path / "a.json", data)
    assert read_json(tmp_path / "a.json") == data


def test_json_is_never_written_with_numbers_that_are_none(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="not JSON compliant"):
        write_json(tmp_path / "a.json", float("nan"))
    assert names(tmp_path) == []


@pytest.mark.parametrize("content", [b"", b"{", b'{"a": 1', b"\xff\xfe", b"[" * 100_000, b"1" * 10_000])
def test_damaged_json_is_named(content: bytes, tmp_path: Path) -> None:
    file = tmp_path / "a.json"
    file.write_bytes(content)
    with pytest.raises(UserError) as caught:
        read_json(file)
    assert str(caught.value).startswith(f"{file}: damaged, not valid JSON (")


def test_missing_json_is_named(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"a\.json: cannot be read \(No such file or directory\)"):
        read_json(tmp_path / "a.json")


@same_folder
@given(st.lists(st.dictionaries(st.text(), SCALARS, max_size=3), max_size=5))
def test_json_lines_round_trip(tmp_path: Path, lines: list[dict[str, Any]]) -> None:
    file = tmp_path / "m.jsonl"
    file.unlink(missing_ok=True)
    for line in lines:
        append_json_line(file, line)
    assert read_json_lines(file) == lines


@same_folder
@given(st.integers(1, 60))
def test_a_torn_last_line_is_left_out_and_overwritten(tmp_path: Path, cut: int) -> None:
    file = tmp_path / "m.jsonl"
    whole = b"".join(json.dumps({"step": step, "loss": 0.5}).encode() + b"\n" for step in range(2))
    file.write_bytes(whole[:-cut] if cut < len(whole) else b"")
    kept = read_json_lines(file)
    assert kept == [{"step": step, "loss": 0.5} for step in range(len(kept))]
    assert len(kept) < 2
    append_json_line(file, {"step": 9})
    assert read_json_lines(file) == [*kept, {"step": 9}]


@pytest.mark.parametrize(("line", "said"), [(b"{torn", "line 2 is damaged"), (b"[1]", "line 2 holds no JSON object")])
def test_a_damaged_line_in_the_middle_is_named(line: bytes, said: str, tmp_path: Path) -> None:
    (tmp_path / "m.jsonl").write_bytes(b'{"a": 1}\n' + line + b'\n{"a": 2}\n')
    with pytest.raises(UserError, match=said):
        read_json_lines(tmp_path / "m.jsonl")


def test_no_lines_where_nothing_was_appended(tmp_path: Path) -> None:
    assert read_json_lines(tmp_path / "m.jsonl") == []


def test_a_place_is_tried_before_the_work_and_left_as_it_was(tmp_path: Path) -> None:
    require_writable(tmp_path / "deep/er/out.csv")
    assert list(tmp_path.iterdir()) == []
    (tmp_path / "file").write_text("x")
    for place, said in (
        (tmp_path, "there is a directory of that name"),
        (tmp_path / "file/out.csv", "Not a directory"),
    ):
        with pytest.raises(UserError, match=f"{place}: cannot be written.*{said}"):
            require_writable(place)


@pytest.mark.parametrize("make", [os.mkfifo, lambda path: path.symlink_to("/dev/null"), Path.mkdir])
def test_only_files_are_replaced(make: Callable[[Path], object], tmp_path: Path) -> None:
    """Root would put a file in the place of /dev/null."""
    place = tmp_path / "place"
    make(place)
    mode = place.stat().st_mode
    for write in (lambda: write_text(place, "x"), lambda: require_writable(place)):
        with pytest.raises(UserError, match=r"place: cannot be written, (it is no file|there is a directory)"):
            write()
    assert place.stat().st_mode == mode


def test_a_link_stays_one(tmp_path: Path) -> None:
    (tmp_path / "real").mkdir()
    for name in ("old.txt", "new.txt"):
        (tmp_path / f"link-{name}").symlink_to(tmp_path / "real" / name)
    (tmp_path / "real/old.txt").write_text("before")
    for name in ("old.txt", "new.txt"):
        write_text(tmp_path / f"link-{name}", "now")
        assert (tmp_path / f"link-{name}").is_symlink()
        assert (tmp_path / "real" / name).read_text() == "now"


def test_devices_without_end_and_pipes_are_not_read(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    for place in (tmp_path / "pipe", Path("/dev/zero")):
        with pytest.raises(UserError, match="cannot be read, it is no file but a device or a pipe"):
            read_json(place)
