"""Packs: what was packed comes out again, any tar reads them, and nothing that was not packed comes out."""

import io
import tarfile
from collections.abc import Callable
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from nasdeploy.core.errors import UserError
from nasdeploy.store import packs
from nasdeploy.store.packs import PackedFile, open_pack, write_pack
from tests.store.hostile_packs import changed, packed

_PARTS = st.from_regex(r"[A-Za-z0-9_][A-Za-z0-9_.+-]{0,11}[A-Za-z0-9]", fullmatch=True)
_PATHS = st.lists(_PARTS, min_size=1, max_size=3).map("/".join)
_FILES = st.dictionaries(_PATHS, st.binary(max_size=1500), max_size=6).filter(
    lambda files: (
        not {f"{path}/"[: len(other) + 1].casefold() for path in files for other in files if path != other}
        & {f"{path}/".casefold() for path in files}
        and len({path.casefold() for path in files}) == len(files)
    )
)


def on_disk(folder: Path, files: dict[str, bytes]) -> dict[str, Path]:
    for number, content in enumerate(files.values()):
        (folder / str(number)).write_bytes(content)
    return {path: folder / str(number) for number, path in enumerate(files)}


def refusal(path: Path, out: Path) -> str | None:
    """What a pack is told, None if it is unpacked."""
    try:
        open_pack(path).extract(out)
    except UserError as error:
        return str(error)
    return None


def contents(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@settings(max_examples=40, deadline=None)
@given(_FILES, st.text(st.characters(codec="utf-8"), max_size=20))
def test_what_is_packed_comes_out(files: dict[str, bytes], name: str) -> None:
    with TemporaryDirectory() as folder:
        here = Path(folder)
        written = write_pack(here / "a.pack", name, on_disk(here, files))
        first = (here / "a.pack").read_bytes()
        write_pack(here / "a.pack", name, on_disk(here, files))
        assert (here / "a.pack").read_bytes() == first
        pack = open_pack(here / "a.pack")
        assert pack.listing == written
        assert pack.listing.name == name
        (here / "out").mkdir()
        pack.extract(here / "out")
        assert contents(here / "out") == files
        with tarfile.open(here / "a.pack") as archive:
            assert archive.getnames() == ["pack.json", *files]
            for path, content in files.items():
                entry = archive.extractfile(path)
                assert entry is not None
                assert entry.read() == content


@settings(max_examples=150, deadline=None)
@given(
    st.text(max_size=30) | st.sampled_from(["..", "a/../b", "/etc/passwd", "a//b", "a/", ".hidden", "a\n", "C:x", "a."])
)
def test_no_path_leads_out(path: str) -> None:
    try:
        found = PackedFile(path=path, bytes=0, sha256="0" * 64)
    except ValidationError:
        return
    assert Path("/folder", found.path).resolve().is_relative_to("/folder")
    assert not any(part.startswith(".") or part.endswith(".") for part in found.path.split("/"))
    assert path.isascii() and path.isprintable() and "//" not in path and not path.endswith("/")


@settings(max_examples=200, deadline=None)
@given(st.data())
def test_no_changed_byte_comes_out(data: st.DataObject) -> None:
    """Whatever is changed or cut off, it is refused, or nothing of what comes out has changed."""
    whole = packed({"run/a": b"first" * 99, "run/b": b"second"})
    place = data.draw(st.integers(0, len(whole) - 1))
    if data.draw(st.booleans()):
        harmed = whole[:place]
    else:
        harmed = whole[:place] + bytes([whole[place] ^ (1 << data.draw(st.integers(0, 7)))]) + whole[place + 1 :]
    with TemporaryDirectory() as folder:
        path, out = Path(folder, "a.pack"), Path(folder, "out")
        path.write_bytes(harmed)
        out.mkdir()
        said = refusal(path, out)
        if said is None:
            assert contents(out) == {"run/a": b"first" * 99, "run/b": b"second"}
        else:
            assert said.startswith(f"{path}: ")
            assert "\n" not in said


def test_a_file_that_changes_meanwhile_is_told_and_leaves_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "a").write_bytes(b"one")
    monkeypatch.setattr(packs, "sum_of", lambda path: "0" * 64)
    with pytest.raises(UserError, match="a: changed while it was packed; run the same command again"):
        write_pack(tmp_path / "p", "x", {"a": tmp_path / "a"})
    assert [path.name for path in tmp_path.iterdir()] == ["a"]


def test_another_version_is_told_from_a_damaged_one(tmp_path: Path) -> None:
    path = tmp_path / "new.pack"
    path.write_bytes(changed({"a": b"1"}, lambda listing: listing.update(schema_version=2, nasdeploy="9.0", more=[])))
    with pytest.raises(
        UserError, match=r"version 2 of its form, written by nasdeploy 9\.0, and this .* version 1; unpack"
    ):
        open_pack(path)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda entry: setattr(entry, "type", tarfile.SYMTYPE), "there is something else"),
        (lambda entry: setattr(entry, "linkname", "/etc/passwd"), "there is something else"),
        (lambda entry: setattr(entry, "name", "run/b"), "there is something else"),
        (lambda entry: setattr(entry, "name", "../run/a"), "there is something else"),
        (lambda entry: setattr(entry, "size", 3), "of another size than is listed"),
    ],
)
def test_headers_that_say_something_else_are_refused(
    change: Callable[[tarfile.TarInfo], None], said: str, tmp_path: Path
) -> None:
    entry = tarfile.TarInfo("run/a")
    entry.size = 4
    honest = entry.tobuf(tarfile.USTAR_FORMAT)
    change(entry)
    content = packed({"run/a": b"1234"})
    assert content.count(honest) == 1
    path = tmp_path / "p"
    path.write_bytes(content.replace(honest, entry.tobuf(tarfile.USTAR_FORMAT)))
    with pytest.raises(UserError, match=said):
        open_pack(path).extract(tmp_path)


def test_a_tar_of_others_is_none(tmp_path: Path) -> None:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as archive:
        archive.addfile(tarfile.TarInfo("readme"))
    (tmp_path / "p").write_bytes(buffer.getvalue())
    with pytest.raises(UserError, match=r"p: no pack of nasdeploy, or damaged: where pack\.json should be"):
        open_pack(tmp_path / "p")
