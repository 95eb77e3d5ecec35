"""Finding samples in shards: against webdataset's own grouping, and with every kind of damage."""

import io
import tarfile
from pathlib import Path

import numpy as np
import pytest
import webdataset
from hypothesis import HealthCheck, given
from hypothesis import settings as examples
from hypothesis import strategies as st

from nasdeploy.core.errors import UserError
from nasdeploy.data import shard_index as shard_cache
from nasdeploy.data.shard_index import ShardIndex, index_of, remembered_index
from tests.data.shards import write_tar

GOOD = {"__key__": "a", "jpg": b"image a", "cls": b"3"}
LAYOUT = "write shards with KEY.jpg (or another image) and KEY.cls for each sample"


def index(tmp_path: Path, *samples: dict[str, object]) -> ShardIndex:
    return index_of((write_tar(tmp_path / "0.tar", samples),))


def message(tmp_path: Path, *samples: dict[str, object]) -> str:
    with pytest.raises(UserError) as caught:
        index(tmp_path, *samples)
    assert "\n" not in str(caught.value)
    return str(caught.value).removeprefix(f"{tmp_path / '0.tar'}: ")


def images(found: ShardIndex) -> list[tuple[str, bytes]]:
    """Labels and images, read at the offsets of the index."""
    contents = [path.read_bytes() for path in found.shards]
    return [
        (found.texts[text], contents[shard][offset : offset + size])
        for text, shard, offset, size in zip(found.text, found.shard, found.offset, found.size, strict=True)
    ]


def write_members(path: Path, names: list[str], form: int = tarfile.USTAR_FORMAT) -> Path:
    with tarfile.open(path, "w", format=form) as archive:
        for number, name in enumerate(names):
            info = tarfile.TarInfo(name)
            info.size = len(content := f"{number}".encode())
            archive.addfile(info, io.BytesIO(content))
    return path


# -- what is found


def test_offsets_lead_to_the_images_in_all_forms_of_tar(tmp_path: Path) -> None:
    long = "deep/" * 30 + "ö.x"
    names = ["b.PNG", "b.cls", f"{long[:-2]}.jpeg", f"{long[:-2]}.cls"]
    for form in (tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT, tarfile.PAX_FORMAT):
        found = index_of((write_members(tmp_path / "0.tar", names, form),))
        assert images(found) == [("1", b"0"), ("3", b"2")]
        assert [str(found.path(i)) for i in (0, 1)] == [f"{tmp_path}/0.tar/{names[0]}", f"{tmp_path}/0.tar/{names[2]}"]


pieces = st.text(st.sampled_from("ab_"), min_size=1, max_size=3)
keys = st.lists(pieces, min_size=1, max_size=3).map("/".join)
folders = st.sampled_from(["", "x/", "x.y/", "./", "__x__/", "__x_/"])


@examples(deadline=None, max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(st.tuples(folders, keys, st.sampled_from(["jpg", "JPG", "png"]), st.booleans()), max_size=6))
def test_samples_are_those_of_webdataset(tmp_path: Path, parts: list[tuple[str, str, str, bool]]) -> None:
    names = ["first.jpg", "first.cls"]
    for folder, key, extension, more in parts:
        names += [f"{folder}{key}.{extension}", *([f"{folder}{key}.mask.png"] if more else []), f"{folder}{key}.cls"]
    path = write_members(tmp_path / "0.tar", names)
    try:
        found = images(index_of((path,)))
    except UserError:
        # One key twice in a row.
        with pytest.raises(ValueError, match="duplicate file name"):
            list(webdataset.WebDataset(str(path), shardshuffle=False))
        return
    samples = list(webdataset.WebDataset(str(path), shardshuffle=False))
    assert found == [(s["cls"].decode(), s.get("jpg") or s["png"]) for s in samples]


def test_what_belongs_to_no_sample_is_passed_over(tmp_path: Path) -> None:
    path = write_members(
        tmp_path / "0.tar", ["__info__", "__meta__/x.json", "README", "d/._a.jpg", "d/a.jpg", "d/a.cls"]
    )
    with tarfile.open(path, "a") as archive:
        folder = tarfile.TarInfo("d.jpg")
        folder.type = tarfile.DIRTYPE
        archive.addfile(folder)
    assert images(index_of((path,))) == [("5", b"4")]


@pytest.mark.parametrize(
    ("members", "label"),
    [
        ({"cls": b"7"}, "7"),
        ({"cls": b" 007\n"}, "7"),
        ({"cls": "große Katze".encode()}, "große Katze"),
        ({"cls": b"\xef\xbb\xbfcat\r\n"}, "cat"),
        ({"cls": b"\xef\xbb\xbf03"}, "3"),
        ({"json": b'\xef\xbb\xbf{"label": "cat"}'}, "cat"),
        ({"json": '{"label": "cat"}'.encode("utf-16")}, "cat"),
        ({"json": b'{"label": 12, "width": 3}'}, "12"),
        ({"json": b'{"label": "cat"}'}, "cat"),
        ({"cls": b"3", "json": b'{"label": 4}'}, "3"),
        ({"cls": b"3", "json": b"damaged", "txt": b"a caption", "seg.png": b"mask"}, "3"),
    ],
)
def test_labels(tmp_path: Path, members: dict[str, bytes], label: str) -> None:
    assert images(index(tmp_path, {"__key__": "a", "jpg": b"image", **members})) == [(label, b"image")]


# -- mistakes


@pytest.mark.parametrize(
    ("sample", "said"),
    [
        ({"cls": b"1", "txt": b"x"}, f"sample 'k' has no image (it holds .cls, .txt); {LAYOUT}"),
        (
            {"jpg": b"x", "png": b"x", "cls": b"1"},
            f"sample 'k' has several images (it holds .cls, .jpg, .png); {LAYOUT}",
        ),
        ({"jpg": b"x"}, f"sample 'k' has no label (it holds .jpg); {LAYOUT}, or KEY.json with a label"),
        (
            {"jpg": b"x", "json": b'{"text": "cat"}'},
            f"sample 'k' has no label (it holds .jpg, .json); {LAYOUT}, or KEY.json with a label",
        ),
    ],
)
def test_incomplete_samples_are_named(tmp_path: Path, sample: dict[str, object], said: str) -> None:
    assert message(tmp_path, GOOD, {"__key__": "k", **sample}) == said


@pytest.mark.parametrize(
    ("label", "reason"),
    [
        ({"cls": b""}, "it is empty"),
        ({"cls": b"\xef\xbb\xbf\n"}, "it is empty"),
        ({"cls": b"M\xfcller"}, "it is not in UTF-8, by byte 0xfc"),
        ({"cls": "cat".encode("utf-16")}, "it is in UTF-16, not in UTF-8"),
        ({"cls": "cat".encode("utf-16-le")}, "it is in UTF-16, not in UTF-8"),
        ({"cls": b"a\nb"}, "it has U+000A in its name, which lists of classes cannot hold"),
        ({"cls": "a\u202eb".encode()}, "it has U+202E (right-to-left override) in its name, which lists of classes"),
        ({"cls": b"-1"}, "it is -1, and numbers of classes begin at 0"),
        ({"json": b'{"label": -7}'}, "it is -7, and numbers of classes begin at 0"),
        ({"cls": b"x" * 201}, "it is longer than 200 characters"),
        ({"cls": b"1" * (1 << 21)}, "it is longer than 200 characters"),
        ({"json": b"{"}, "it is no JSON"),
        ({"json": b"[" * 100_000}, "it is no JSON"),
        ({"json": b'{"label": 1.5}'}, "it is neither a whole number nor a text"),
        ({"json": b'{"label": true}'}, "it is neither a whole number nor a text"),
        ({"json": b'{"label": ""}'}, "it is empty"),
        ({"json": b'{"label": "a\\u0085b"}'}, "it has U+0085 in its name"),
    ],
)
def test_labels_that_are_none_are_named(tmp_path: Path, label: dict[str, bytes], reason: str) -> None:
    (extension,) = label
    said = message(tmp_path, GOOD, {"__key__": "k", "jpg": b"x", **label})
    assert said.startswith(f"sample 'k' has no valid label in .{extension} ({reason}")
    assert said.endswith("); write a number or the name of a class there, in UTF-8")


@pytest.mark.parametrize(
    ("names", "said"),
    [
        (
            ["22.000.jpg", "22.000.cls"],
            "no image (a key ends at the first point of a name, so that '22.000.jpg' is",
        ),
        (
            ["v1.5_a.PNG", "v1.5_a.cls"],
            "no image (a key ends at the first point of a name, so that 'v1.5_a.png' is",
        ),
        (["d.x/a.b.c.jpg", "d.x/a.b.c.cls"], "no image (a key ends at the first point of a name, so that 'a.b.c.jpg'"),
        (["a.jpg", "a.0.cls"], "no label (a key ends at the first point of a name, so that 'a.0.cls' is its member"),
        (["a.jpg", "a.meta.json"], "no label (a key ends at the first point of a name, so that 'a.meta.json' is its"),
        (["a.jpg", "a.seg.png"], "no label (it holds .jpg, .seg.png)"),
    ],
)
def test_keys_with_points_get_the_rule(names: list[str], said: str, tmp_path: Path) -> None:
    path = write_members(tmp_path / "0.tar", names)
    with pytest.raises(UserError) as caught:
        index_of((path,))
    assert f" has {said}" in str(caught.value)


def test_keys_with_points_are_told_how_to_be_written(tmp_path: Path) -> None:
    path = write_members(tmp_path / "0.tar", [f"22.{i:03d}.{suffix}" for i in range(900) for suffix in ("jpg", "cls")])
    with pytest.raises(UserError) as caught:
        index_of((path,))
    assert str(caught.value) == (
        f"{path}: sample '22' has no image (a key ends at the first point of a name, so that '22.000.jpg' is its "
        f"member '.000.jpg': write names with no point but that before the suffix, such as '22_000.jpg'); {LAYOUT}"
    )


def test_messages_about_samples_are_short(tmp_path: Path) -> None:
    for names in (
        [f"a.{i}" for i in range(900)],
        ["x" * 5000 + ".cls"],
        ["a." + "x" * 5000, "a.cls"],
        ["a." + "x" * 5000 + ".jpg", "a.cls"],
        ["a." + "x" * 5000] * 2,
    ):
        path = write_members(tmp_path / "0.tar", names, tarfile.PAX_FORMAT)
        with pytest.raises(UserError) as caught:
            index_of((path,))
        assert len(str(caught.value)) < 700 + len(str(path))


def test_two_samples_of_one_key_are_named(tmp_path: Path) -> None:
    assert message(tmp_path, GOOD, GOOD) == "sample 'a' has two members .cls; give each sample a key of its own"


def test_a_shard_without_samples_is_named(tmp_path: Path) -> None:
    assert message(tmp_path) == f"holds no samples; {LAYOUT}, or remove this shard"


def test_a_name_in_a_message_stays_in_its_line(tmp_path: Path) -> None:
    assert message(tmp_path, {"__key__": "a\nb", "jpg": b"x"}).startswith(r"sample 'a\nb' has no label")


def test_every_cut_is_noticed(tmp_path: Path) -> None:
    path = write_tar(tmp_path / "0.tar", [GOOD, {**GOOD, "__key__": "b"}])
    whole = path.read_bytes()
    end = 8 * 512
    for length in [*range(0, end, 100), 512, 1024, 2048, 4096 - 1, end]:
        path.write_bytes(whole[:length])
        with pytest.raises(UserError) as caught:
            index_of((path,))
        text = str(caught.value)
        assert text.startswith(f"{path}: truncated or damaged (") and text.endswith("); copy or write this shard anew")
        assert "\n" not in text


def test_other_damage_is_named(tmp_path: Path) -> None:
    path = tmp_path / "0.tar"
    with pytest.raises(UserError) as caught:
        index_of((path,))
    assert str(caught.value) == f"{path}: cannot be read (No such file or directory); check the file"
    whole = write_tar(path, [GOOD, {**GOOD, "__key__": "b"}]).read_bytes()
    # The third header: tarfile itself would take this for the end of the archive.
    path.write_bytes(whole[:2048] + b"\x01" + whole[2049:])
    with pytest.raises(UserError) as caught:
        index_of((path,))
    assert str(caught.value) == f"{path}: truncated or damaged (the end is missing); copy or write this shard anew"


@examples(deadline=None, max_examples=150, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(st.tuples(st.integers(0, 4607), st.integers(0, 255)), min_size=1, max_size=6), st.booleans())
def test_damage_of_any_kind_ends_in_an_index_or_one_line(
    tmp_path: Path, changes: list[tuple[int, int]], summed: bool
) -> None:
    path = write_tar(tmp_path / "0.tar", [GOOD, {**GOOD, "__key__": "b"}])
    content = bytearray(path.read_bytes())
    for place, value in changes:
        content[place] = value
        header = place // 512 * 512
        if summed:
            # With a right checksum a header is believed.
            content[header + 148 : header + 156] = b" " * 8
            content[header + 148 : header + 156] = b"%06o\0 " % sum(content[header : header + 512])
    path.write_bytes(content)
    text, found = index_or_message(path)
    assert "\n" not in text
    assert all(
        offset + size <= len(content) for index in found for offset, size in zip(index.offset, index.size, strict=True)
    )


def index_or_message(path: Path) -> tuple[str, list[ShardIndex]]:
    try:
        return "", [index_of((path,))]
    except UserError as error:
        return str(error), []


# -- the cache


@pytest.fixture
def shard(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.setattr(shard_cache, "_WORTH_KEEPING", 2)
    return write_tar(tmp_path / "train/0.tar", [GOOD, {**GOOD, "__key__": "b"}])


def cached(tmp_path: Path) -> list[Path]:
    return list((tmp_path / "home").rglob("*.npz"))


def same(a: ShardIndex, b: ShardIndex) -> bool:
    arrays = ("shard", "offset", "size", "name", "text")
    return (a.shards, a.texts) == (b.shards, b.texts) and all(
        np.array_equal(getattr(a, name), getattr(b, name)) for name in arrays
    )


def refuse(*given: object) -> ShardIndex:
    raise AssertionError("the index was made anew")


def test_an_index_is_remembered_until_a_shard_changes(
    shard: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = remembered_index(shard.parent, (shard,))
    assert len(cached(tmp_path)) == 1
    with monkeypatch.context() as patch:
        patch.setattr(shard_cache, "index_of", refuse)
        assert same(remembered_index(shard.parent, (shard,)), made)
        shard.touch()
        with pytest.raises(AssertionError, match="made anew"):
            remembered_index(shard.parent, (shard,))
    write_tar(shard, [GOOD, {**GOOD, "__key__": "c"}])
    found = remembered_index(shard.parent, (shard,))
    assert found.name.tolist() == [b"a.jpg", b"c.jpg"]
    assert len(cached(tmp_path)) == 1


@pytest.mark.parametrize("damage", [lambda old: b"", lambda old: old[:300], lambda old: b"x" * len(old)])
def test_a_damaged_cache_is_written_anew(shard: Path, tmp_path: Path, damage: object) -> None:
    made = remembered_index(shard.parent, (shard,))
    (place,) = cached(tmp_path)
    whole = place.read_bytes()
    place.write_bytes(damage(whole))
    assert same(remembered_index(shard.parent, (shard,)), made)
    assert len(place.read_bytes()) == len(whole)


def test_a_cache_with_pickles_is_not_opened(shard: Path, tmp_path: Path) -> None:
    made = remembered_index(shard.parent, (shard,))
    (place,) = cached(tmp_path)
    np.savez(place, state=np.array([object()], dtype=object))
    assert same(remembered_index(shard.parent, (shard,)), made)


def test_few_samples_are_not_kept_and_a_home_that_cannot_be_written_does_not_matter(
    shard: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "home").write_text("a file")
    assert len(remembered_index(shard.parent, (shard,))) == 2
    monkeypatch.setenv("HOME", str(tmp_path / "other"))
    monkeypatch.setattr(shard_cache, "_WORTH_KEEPING", 3)
    assert len(remembered_index(shard.parent, (shard,))) == 2
    assert not (tmp_path / "other").exists()


def test_a_shard_that_is_gone_is_named(shard: Path) -> None:
    shard.unlink()
    with pytest.raises(UserError) as caught:
        remembered_index(shard.parent, (shard,))
    assert str(caught.value) == f"{shard}: cannot be read (No such file or directory); check the file"


# -- what is no data


def test_members_that_are_hidden_or_of_tools_are_no_samples(tmp_path: Path) -> None:
    hidden = ["d/@eaDir/a.jpg", "d/.ipynb_checkpoints/a.cls", "#recycle/x/a.png", "d/._a.cls", "Thumbs.db", ".x.jpg"]
    path = write_members(tmp_path / "0.tar", ["d/a.jpg", *hidden, "d/a.cls", "README", "./b.jpg", "./b.cls"])
    found = index_of((path,))
    assert images(found) == [("7", b"0"), ("10", b"9")]
    assert found.passed == dict.fromkeys(
        ("@eaDir/", ".ipynb_checkpoints/", "#recycle/", "._*", "Thumbs.db", ".x.jpg", "README"), 1
    )
