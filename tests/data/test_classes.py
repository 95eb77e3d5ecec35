"""Names of classes: one form, no faults, and no two that look alike."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nasdeploy.core.errors import UserError
from nasdeploy.data.classes import class_names, composed, fault_of, likest

NFC, NFD = "M\u00fcller", "Mu\u0308ller"


def message(*names: str) -> str:
    with pytest.raises(UserError) as caught:
        class_names(names, "photos/train")
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_names_are_kept_in_composed_form() -> None:
    assert class_names(["cat", NFD], "photos/train") == {"cat": "cat", NFD: NFC}
    assert composed("\u1112\u1161\u11ab") == "\ud55c"
    assert composed("\u212bngstr\u00f6m") == "\u00c5ngstr\u00f6m"


@pytest.mark.parametrize(
    ("names", "said"),
    [
        ((NFC, NFD), r"the classes 'Mu\u0308ller' and 'M\xfcller' are equal but for case, blanks or their form"),
        (("cat", "cat "), "the classes 'cat' and 'cat ' are equal"),
        (("cat", "Cat", "dog", " CAT"), "the classes ' CAT', 'Cat' and 'cat' are equal"),
        (("polar bear", "polar\u00a0bear"), r"the classes 'polar bear' and 'polar\xa0bear' are equal"),
        (("polar bear", "polar  bear"), "the classes 'polar  bear' and 'polar bear' are equal"),
        (("fish", "\ufb01sh"), r"the classes 'fish' and '\ufb01sh' are equal"),
        (("A1", "\uff21\uff11"), r"the classes 'A1' and '\uff21\uff11' are equal"),
        (("Stra\u00dfe", "STRASSE"), r"the classes 'STRASSE' and 'Stra\xdfe' are equal"),
        (("\u2764", "\u2764\ufe0f"), r"the classes '\u2764' and '\u2764\ufe0f' are equal"),
        (("ab", "a\u200db"), r"the classes 'ab' and 'a\u200db' are equal"),
    ],
)
def test_names_that_look_alike_are_refused_with_what_differs(names: tuple[str, ...], said: str) -> None:
    assert message(*names).startswith(f"photos/train: {said}")


def test_many_that_look_alike_are_a_short_line() -> None:
    names = [f"{word}{' ' * blanks}" for word in ("cat", "dog", "emu") for blanks in range(100)]
    said = message(*names)
    assert said.startswith("photos/train: the classes 'cat', 'cat ', 'cat  ', 'cat   ' and 96 more are equal")
    assert "(and 2 more such groups)" in said
    assert len(said) < 250


@pytest.mark.parametrize("pair", [("cat", "cats"), ("0", "00"), ("a b", "ab"), ("u", "\u00fc"), ("\u4e00", "\u4e8c")])
def test_other_names_are_different_classes(pair: tuple[str, str]) -> None:
    assert class_names(pair, "photos/train") == dict(zip(pair, pair, strict=True))


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("a\nb", r"the class 'a\nb' has U+000A in its name, which lists of classes cannot hold; rename it"),
        ("tab\there", r"the class 'tab\there' has U+0009 in its name"),
        ("a\x7f", r"the class 'a\x7f' has U+007F in its name"),
        ("a\u0085b", r"the class 'a\x85b' has U+0085 in its name"),
        ("a\u2028b", r"the class 'a\u2028b' has U+2028 (line separator) in its name"),
        ("a\u2029b", "U+2029 (paragraph separator)"),
        ("gpj.\u202eexe", "U+202E (right-to-left override)"),
        ("a\u200bb", "U+200B (zero width space)"),
        ("\ufeffcat", "U+FEFF (zero width no-break space)"),
        ("a\u00adb", "U+00AD (soft hyphen)"),
        (b"M\xfcller".decode(errors="surrogateescape"), r"the class 'M\xfcller' is not named in UTF-8; rename it"),
        ("", "the class '' has a blank name"),
        ("  ", "the class '  ' has a blank name"),
        ("\u3000", "has a blank name"),
        ("\u3164", "has a blank name"),
        ("\u200d", "has a blank name"),
    ],
)
def test_names_with_a_fault_are_refused(name: str, said: str) -> None:
    assert said in message("cat", name)


@pytest.mark.parametrize(
    "name", ["=cmd|x", "comma,name", "#1", "-x", "große Katze", "图", "\u0645\u06cc\u200c\u062e", "👩\u200d🚀", "'\""]
)
def test_unusual_names_are_allowed(name: str) -> None:
    assert fault_of(name) == ""


def test_the_likest_name() -> None:
    assert likest("cat ", ["dog", "Cat"]) == "Cat"
    assert likest("cats", ["cat"]) is None


@given(st.text())
def test_names_without_fault_stay_as_they_are_and_in_one_line(name: str) -> None:
    if fault_of(name):
        assert len(message(name).splitlines()) == 1
        return
    (kept,) = class_names([name], "photos/train").values()
    assert class_names([kept], "photos/train") == {kept: kept}
    assert kept.splitlines() == [kept]
