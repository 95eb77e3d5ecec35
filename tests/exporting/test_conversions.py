"""Layers stay in fp32 until the accuracy holds, and no longer."""

from collections.abc import Collection
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from nasdeploy.cli.wording import typed
from nasdeploy.core.errors import CheckFailed
from nasdeploy.core.progress import Progress
from nasdeploy.exporting.conversions import Judge, fewest_that, fit

LAYERS = tuple("abcdefgh")
QUIET = Progress(quiet=True)


@given(st.integers(1, 40), st.integers(1, 60))
def test_the_fewest_are_found_in_few_trials(fewest: int, most: int) -> None:
    tried = []

    def holds(count: int) -> bool:
        tried.append(count)
        return count >= fewest

    assert fewest_that(holds, most) == (fewest if fewest <= most else None)
    assert max(tried) <= most
    assert len(tried) <= 2 * np.log2(most) + 2


class Suffering:
    """A model is the layers in int8; each adds its own error to the logits."""

    layers = LAYERS

    def __init__(self, **errors: float) -> None:
        self.errors = errors

    def quantised(self, kept: Collection[str] = ()) -> bytes:
        return "".join(layer for layer in self.layers if layer not in kept).encode()

    def open(self, model: bytes) -> Any:
        return Session(sum(self.errors.get(letter, 0.0) for letter in model.decode()))


class Session:
    """Two classes; an image is its margin, of which the error is taken."""

    inputs = {"input": (1, 1)}  # noqa: RUF012

    def __init__(self, error: float) -> None:
        self.error = error

    def run(self, feeds: dict[str, np.ndarray]) -> list[np.ndarray]:
        margin = feeds["input"] - self.error
        return [np.concatenate([margin, np.zeros_like(margin)], axis=1)]

    def close(self) -> None:
        pass


MARGINS = np.linspace(0.005, 1.0, 200)[:, None]


def judge(model: Suffering) -> Judge:
    return Judge(model.open, lambda: [(MARGINS, np.zeros(len(MARGINS), int))])


def test_nothing_is_kept_where_nothing_is_lost() -> None:
    model = Suffering(a=0.001)
    found = fit(model, b"", judge(model), 0.5, QUIET)  # type: ignore[arg-type]
    assert (found.model, found.kept, found.drop) == (b"abcdefgh", (), 0.0)


def test_the_worst_layers_are_kept_and_no_others() -> None:
    model = Suffering(c=0.3, f=0.2, a=0.001, g=0.001)
    found = fit(model, b"", judge(model), 0.5, QUIET)  # type: ignore[arg-type]
    assert (found.model, found.kept) == (b"abdegh", ("c", "f"))
    assert found.drop <= 0.5
    assert fit(model, b"", judge(model), 25.0, QUIET).kept == ("c",)  # type: ignore[arg-type]


def test_more_than_half_of_the_layers_is_refused() -> None:
    model = Suffering(**dict.fromkeys(LAYERS, 0.2))
    with pytest.raises(CheckFailed) as caught:
        fit(model, b"", judge(model), 0.5, QUIET)  # type: ignore[arg-type]
    assert typed(caught.value) == (
        "int8 loses 79.50 points of top-1 on held-out images even with 4 of 8 layers in fp32, allowed 0.5; "
        "raise --max-drop, or use --precision fp16"
    )
