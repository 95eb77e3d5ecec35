"""What libraries say, in one line."""

from hypothesis import given
from hypothesis import strategies as st

from nasdeploy.core.errors import one_line

REASON = "Unsupported model IR version: 10, max supported IR version: 9"


def test_of_a_long_message_the_end_is_kept_where_the_reason_stands():
    text = one_line(f"[ONNXRuntimeError] : 1 : FAIL : Load model from {'/very/long' * 40} failed: \n {REASON}")
    assert text.startswith("[ONNXRuntimeError] : 1 : FAIL : Load model from /very/long")
    assert " ... " in text
    assert text.endswith(REASON)


@given(st.text())
def test_it_is_one_line_of_bounded_length(text):
    line = one_line(text)
    assert line.splitlines() in ([], [line])
    assert len(line) <= 300
    if len(" ".join(text.split())) <= 300:
        assert line == " ".join(text.split())
