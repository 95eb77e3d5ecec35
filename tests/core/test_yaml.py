import json
from typing import Any

import pytest
import yaml
from hypothesis import example, given
from hypothesis import strategies as st

from nasdeploy.core.errors import UserError
from nasdeploy.core.yaml import quoted, read_document, read_value


def refusal(text: str | bytes) -> str:
    with pytest.raises(UserError) as caught:
        read_document(text.encode() if isinstance(text, str) else text, "r.yaml")
    said = str(caught.value)
    assert said.isprintable() and len(said) < 300
    return said.removeprefix("r.yaml: ")


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("a: 1\nb: {c: [1e-3, x]} # and so on\n", {"a": 1, "b": {"c": [0.001, "x"]}}),
        ("a: &it [1, 2]\nb: *it", {"a": [1, 2], "b": [1, 2]}),
        ("a: '010'\nb: \"no\"\nc: !!str 12:30\nd: |\n  yes\n", {"a": "010", "b": "no", "c": "12:30", "d": "yes\n"}),
        ('{"face": "\\ud83d\\ude00", "n": null}', {"face": "😀", "n": None}),
        ("%YAML 1.2\n---\na: x\n...\n", {"a": "x"}),
        ("- a\n- b", ["a", "b"]),
        ("a: >\n  x\n  y", {"a": "x y"}),
        ("", None),
        ("# nothing\n", None),
    ],
)
def test_documents_are_plain_values(text: str, value: Any) -> None:
    assert read_document(text.encode(), "r.yaml") == value


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("a: x\nb:\n  c: [1, 010]", "line 3: b.c.1: 010 is 8 in YAML 1.1 and 10 in YAML 1.2; write 8, 10 or '010'"),
        ("%YAML 1.1\n---\na: 010", "line 3: a: 010 is 8 in YAML 1.1 and 10 in YAML 1.2"),
        ("train: {a: 1}\nx: 2\ntrain: {b: 2}", "line 3: train: already written in line 1; write it once"),
        ("a:\n  b: 1\n  'b': 1", "line 3: a.b: already written in line 2"),
        ("a: 1\non: 2", "line 2: on is true in YAML 1.1 and the text 'on' in YAML 1.2"),
        ("a: &x {b: 1}\nc:\n  <<: *x", "line 3: c: << is a merge of another mapping in YAML 1.1"),
        ("a: !!int 3", "line 1: a: has the tag !!int; leave it out, or write !!str for text"),
        ("a: !!python/name:os.system", "line 1: a: has the tag !!python/name:os.system"),
        ("a: !!str [1]", "line 1: a: has the tag !!str"),
        ("a: !here x", "line 1: a: has the tag !here"),
        ("a: 1\n3: b", "line 2: the key 3 is no text"),
        ("true: b", "line 1: the key True is no text"),
        ("? [x]\n: b", "line 1: the key ['x'] is no text"),
        ('a: "\\ud800"', "line 1: a: half a character"),
        ('"\\udc00": 1', "line 1: half a character"),
        ('a: "x\\0y"', "line 1: a: the character U+0000 is not allowed there"),
        ("a: 1\nb: x\x07", "line 2: not valid YAML (the character U+0007 is not allowed there); correct it"),
        ("a: 1\nb: x\u2028y", "line 2: not valid YAML (the character U+2028 is not allowed there); correct it"),
        ("a: 1\n\tb: 2", "line 2: not valid YAML (found character '\\t' that cannot start any token); correct it"),
        ("a: 1\n---\nb: 2", "line 2: not valid YAML (expected a single document in the stream, but found another"),
        ("a: [1", "line 1: not valid YAML ("),
        ('a: "\\UFFFFFFFF"', "not valid YAML ("),
        ("a: " + "9" * 5000, "line 1: a: a number of 5000 digits"),
        ("[" * 5000, "not valid YAML (nested more than 40 deep); correct it"),
        ("a: &x [*x]", "line 1: a.0.0."),
        ("a: *x", "line 1: not valid YAML (found undefined alias 'x'); correct it"),
        ('"a\\nb": 010', "line 1: 'a\\nb': 010 is 8"),
    ],
)
def test_what_is_wrong_is_said_with_its_line(text: str, said: str) -> None:
    assert refusal(text).startswith(said)


def test_aliases_cannot_fill_the_memory() -> None:
    levels = [
        f"{chr(98 + level)}: &{chr(98 + level)} [{', '.join(['*' + chr(97 + level)] * 10)}]" for level in range(20)
    ]
    assert "aliases (*) make too much of too little" in refusal("\n".join(["a: &a [x, x, x]", *levels]))


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "utf-32"])
def test_byte_order_marks_are_read(encoding: str) -> None:
    assert read_document("name: Müller\n".encode(encoding), "r.yaml") == {"name": "Müller"}


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ("a: 1\nb: Müller".encode("latin-1"), "line 2: not UTF-8; save it as UTF-8"),
        (b"\xff\xfe\x00", "line 1: not UTF-16; save it as UTF-8"),
        ("a: 1".encode("utf-16-le"), "line 1: not valid YAML (the character U+0000 is not allowed there); correct it"),
    ],
)
def test_other_encodings_are_named(content: bytes, said: str) -> None:
    assert refusal(content) == said


@pytest.mark.parametrize(
    ("text", "value"), [("5", 5), (" x ", "x"), ("[1, x]", [1, "x"]), ("'a #b'", "a #b"), ("", None), ("a b", "a b")]
)
def test_values_stand_alone(text: str, value: Any) -> None:
    assert read_value(text, "--set a") == value


@pytest.mark.parametrize("text", ["photos #2", "#fff", "---", "--- x", "%YAML 1.2\n--- 1"])
def test_no_part_of_a_value_is_lost(text: str) -> None:
    with pytest.raises(UserError, match=r"^--set a: .* is no part of the value; put all of it into quotes$"):
        read_value(text, "--set a")


@given(st.text())
@example("2024-05-01")
@example("no")
@example("C:\\photos #1: 'mine'")
@example("a\nb\t\x00\x7f\x85\u2028\ufeff😀")
def test_quoted_text_is_read_as_it_was(text: str) -> None:
    line = f"a: {quoted(text)}"
    assert line.isprintable()
    assert yaml.safe_load(line) == {"a": text}
    if "\0" not in text:
        assert read_document(line.encode(), "r.yaml") == {"a": text}


PLAIN = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(10**90), 10**90)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text("ab: #'1é\n😀"),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text("ab1", min_size=1), inner, max_size=3),
)


@given(PLAIN)
def test_json_is_read_as_json(value: Any) -> None:
    assert read_document(json.dumps(value).encode(), "r.yaml") == value


@given(st.text())
def test_whatever_a_file_holds_it_is_read_or_refused_in_one_line(text: str) -> None:
    said = ""
    try:
        json.dumps(read_document(text.encode(errors="surrogatepass"), "r.yaml"))
    except UserError as error:
        said = str(error)
    assert "\n" not in said
