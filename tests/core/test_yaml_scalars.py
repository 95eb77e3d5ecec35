import math
from typing import Any

import pytest
import yaml
from hypothesis import assume, example, given
from hypothesis import strategies as st

from nasdeploy.core.yaml import ambiguity, read


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("10", 10),
        ("-3", -3),
        ("+7", 7),
        ("007", 7),
        ("0x1F", 31),
        ("1.5", 1.5),
        ("1.", 1.0),
        (".5", 0.5),
        ("1e-3", 0.001),
        ("2E5", 200_000.0),
        ("1.0e+3", 1000.0),
        ("-.inf", -math.inf),
        ("true", True),
        ("FALSE", False),
        ("~", None),
        ("", None),
        ("Null", None),
        (".", "."),
        ("-", "-"),
        ("1.2.3", "1.2.3"),
        ("5ms", "5ms"),
        ("40%", "40%"),
        ("e5", "e5"),
        ("192.168.0.1:22", "192.168.0.1:22"),
        ("tRUE", "tRUE"),
        ("1 000", "1 000"),
    ],
)
def test_what_both_versions_read_alike_is_read_without_a_word(text: str, value: object) -> None:
    found = read(text)
    assert (type(found), found) == (type(value), value)
    assert ambiguity(text) is None


def test_nan_is_nan() -> None:
    value = read(".nan")
    assert isinstance(value, float) and math.isnan(value)
    assert ambiguity(".NaN") is None


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("010", "010 is 8 in YAML 1.1 and 10 in YAML 1.2; write 8, 10 or '010'"),
        ("-0100", "-0100 is -64 in YAML 1.1 and -100 in YAML 1.2; write -64, -100 or '-0100'"),
        ("08", "08 is the text '08' in YAML 1.1 and 8 in YAML 1.2; write '08' or 8"),
        ("0o10", "0o10 is the text '0o10' in YAML 1.1 and 8 in YAML 1.2; write '0o10' or 8"),
        ("12:30", "12:30 is 750 in YAML 1.1 and the text '12:30' in YAML 1.2; write 750 or '12:30'"),
        ("-1:02:03", "-1:02:03 is -3723 in YAML 1.1 and the text '-1:02:03' in YAML 1.2; write -3723 or '-1:02:03'"),
        ("1:30.5", "1:30.5 is 90.5 in YAML 1.1 and the text '1:30.5' in YAML 1.2; write 90.5 or '1:30.5'"),
        ("1_000", "1_000 is 1000 in YAML 1.1 and the text '1_000' in YAML 1.2; write 1000 or '1_000'"),
        ("1_0.5", "1_0.5 is 10.5 in YAML 1.1 and the text '1_0.5' in YAML 1.2; write 10.5 or '1_0.5'"),
        ("0b101", "0b101 is 5 in YAML 1.1 and the text '0b101' in YAML 1.2; write 5 or '0b101'"),
        ("-0x1F", "-0x1F is -31 in YAML 1.1 and the text '-0x1F' in YAML 1.2; write -31 or '-0x1F'"),
        ("no", "no is false in YAML 1.1 and the text 'no' in YAML 1.2; write false or 'no'"),
        ("On", "On is true in YAML 1.1 and the text 'On' in YAML 1.2; write true or 'On'"),
        ("y", "y is true in YAML 1.1 and the text 'y' in YAML 1.2; write true or 'y'"),
        ("2024-05-01", "2024-05-01 is a date in YAML 1.1 and the text '2024-05-01' in YAML 1.2; write '2024-05-01'"),
        (
            "2024-5-1 10:00:00",
            "2024-5-1 10:00:00 is a date in YAML 1.1 and the text '2024-5-1 10:00:00' in YAML 1.2; "
            "write '2024-5-1 10:00:00'",
        ),
        ("=", "= is a default value in YAML 1.1 and the text '=' in YAML 1.2; write '='"),
        (
            "<<",
            "<< is a merge of another mapping in YAML 1.1 and the text '<<' in YAML 1.2; "
            "write out what it merges or '<<'",
        ),
    ],
)
def test_what_they_read_otherwise_is_said_with_both_readings(text: str, said: str) -> None:
    assert ambiguity(text) == said


def by_pyyaml(text: str) -> Any:
    try:
        return yaml.safe_load(f"- {text}")[0]
    except (yaml.YAMLError, ValueError):
        return yaml  # Equal to nothing that is read.


@given(st.text("0123456789+-.:_eExob~=<ynYNTtruelsoOfF", min_size=1, max_size=7))
@example("0_1")
@example("1:2:3.4_5")
@example("0x_")
@example("01.5")
def test_whatever_pyyaml_reads_otherwise_is_said(text: str) -> None:
    # PyYAML departs from YAML 1.1 in exponents without a point or sign, points after a sign, and y and n.
    assume("e" not in text.lower() or text.isalpha())
    assume(not text.startswith(("+.", "-.", "- ", ": ")) and text not in ("-", "y", "n", "Y", "N"))
    before = by_pyyaml(text)
    assume(before is not yaml and not isinstance(before, dict | list))
    now = read(text)
    assert (ambiguity(text) is None) == (type(before) is type(now) and (before == now or now != now))
