"""Names that may hold anything, as lines, cells and JSON."""

import csv
import io
import json

import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from pydantic import BaseModel

from nasdeploy.core.escaping import as_json, cell, escaped, in_utf8, not_utf8

ANYTHING = st.text(st.characters(codec=None, categories=None), max_size=12)
BYTES = st.binary(max_size=12).map(lambda name: name.decode("utf-8", "surrogateescape"))


class Named(BaseModel):
    name: dict[str, list[str]]


@given(ANYTHING | BYTES)
@example("a\r\nb\x1b[31m\u2028\x85")
def test_every_text_is_one_line_that_can_be_encoded(text: str) -> None:
    assert len(escaped(text).encode("utf-8").decode("utf-8").splitlines()) <= 1
    assert escaped(escaped(text)) == escaped(text)
    if text.isprintable():
        assert escaped(text) == text


def test_what_is_escaped_tells_what_it_was() -> None:
    name = b"M\xfcller \xe2\x82\xac\n\t\x1b\x00.png".decode("utf-8", "surrogateescape")
    assert escaped(name) == "M\\xfcller €\\n\\t\\x1b\\x00.png"
    assert in_utf8(name) == "M\\xfcller €\n\t\x1b\x00.png"
    assert escaped("\ud800 Müller 👍 C:\\new") == "\\ud800 Müller 👍 C:\\new"


@given(ANYTHING | BYTES)
@example("=cmd|' /C calc'!A0")
@example("\t=1+1")
@example("\r=1+1")
@example("\uff1d1")
@example("-1")
def test_no_cell_is_a_formula_and_every_row_is_a_line(text: str) -> None:
    table = io.StringIO()
    csv.writer(table, lineterminator="\n").writerows([[cell(text), "x"], ["y", cell(text)]])
    assert table.getvalue().count("\n") == 2
    for row in csv.reader(io.StringIO(table.getvalue())):
        assert not set("".join(row[0][:1] + row[1][:1])) & set("=+-@\t\r\n\uff1d\uff0b\uff0d\uff20")
    harmless = text[:1] not in tuple("=+-@\t\r\n\uff1d\uff0b\uff0d\uff20") or not text
    assert cell(text) == (escaped(text) if harmless else "'" + escaped(text))


@given(ANYTHING | BYTES)
def test_json_of_any_text_is_read_by_strict_parsers(text: str) -> None:
    value = json.dumps(as_json({"name": {text: [text, (text,)[0]]}}))
    (found,) = Named.model_validate_json(value).name.items()
    assert found == (in_utf8(text), [in_utf8(text)] * 2)
    if in_utf8(text) == text:
        assert found[0] == text


def test_numbers_and_nothing_stay_what_they_are() -> None:
    assert as_json({"a": (1, 2.5, None, True)}) == {"a": [1, 2.5, None, True]}


def test_what_cannot_be_encoded_is_found_in_a_longer_text() -> None:
    for text, name in (
        ('{"a": "b", "path": "x/M\udcfcller"}', "x/M\\xfcller"),
        ("a: 1\npath: M\udcfc\nb: 2", "path: M\\xfc"),
        ("\udcfc", "\\xfc"),
    ):
        with pytest.raises(UnicodeEncodeError) as caught:
            text.encode()
        assert not_utf8(caught.value) == f"'{name}'"
