"""Docstrings are whole sentences: each is understood without the name in front of it and without its neighbours."""

import ast
import re
from collections.abc import Iterator

import pytest

from tests.layers import modules

FRAGMENT = re.compile(
    r"(Of|That|By|Into|From|With|Without|Which|Whose|When|For|As|In|At|On|After|Before|Below|Above|Between|Among|Beside"
    r"|Equal|Less|Far|Its|Those|The same)\b"
)
"""The beginnings of half a sentence, whose other half is the name that is described, or the docstring above."""
SENTENCES = ("From your images and your device to the most accurate network",)
"""What begins as a fragment does, and is none: what the command line says of itself."""


def docstrings(source: str) -> Iterator[str]:
    """Docstrings of classes, functions and values; modules have titles."""
    for node in ast.walk(ast.parse(source)):
        body = getattr(node, "body", None)
        for place, each in enumerate(body if isinstance(body, list) else []):
            is_text = isinstance(each, ast.Expr) and isinstance(each.value, ast.Constant)
            if is_text and isinstance(each.value.value, str) and not (isinstance(node, ast.Module) and place == 0):
                yield each.value.value.strip()


def fragments(source: str) -> list[str]:
    """Docstrings that begin in the middle of a sentence."""
    return [text for text in docstrings(source) if FRAGMENT.match(text) and not text.startswith(SENTENCES)]


@pytest.mark.parametrize("module", modules())
def test_docstrings_begin_with_the_beginning_of_a_sentence(module: str) -> None:
    assert fragments(modules()[module].read_text(encoding="utf-8")) == []


def test_the_check_would_notice() -> None:
    found = (
        'class A:\n    """A thing."""\n    x: int\n    """Of the thing, in pixels."""\n    y = 1\n    """The width."""'
    )
    assert fragments(found) == ["Of the thing, in pixels."]
    assert fragments('"""In short."""\ndef f():\n    """That of the first."""') == ["That of the first."]
