import pytest

from nasdeploy.core.errors import UserError, lookup, suggestion

ENTRIES = {"onnx": 1, "openvino": 2, "tensorrt": 3}


def test_finds_what_is_there() -> None:
    assert lookup("format", ENTRIES, "openvino") == 2


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("onx", "unknown format 'onx'; did you mean 'onnx'?"),
        ("zzz", "unknown format 'zzz'; known: onnx, openvino, tensorrt"),
        ("", "unknown format ''; known: onnx, openvino, tensorrt"),
    ],
)
def test_offers_the_nearest_name_or_all(name: str, said: str) -> None:
    with pytest.raises(UserError) as caught:
        lookup("format", ENTRIES, name)
    assert str(caught.value) == said


def test_has_nothing_to_offer_where_nothing_is_known() -> None:
    assert suggestion("x", []) == ""


def test_a_list_of_very_many_is_short() -> None:
    said = suggestion("x", [f"class {number:03d}" for number in range(1000)])
    assert said.startswith("; known: class 000, class 001, ")
    assert said.endswith(", class 019 and 980 more")
