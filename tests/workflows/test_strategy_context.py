"""A run's predictor of accuracy: kept there, and taken up again."""

from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from nasdeploy.core.errors import UserError
from nasdeploy.recipe import load_recipe
from nasdeploy.searching.predictors.predictor import fit_predictor
from nasdeploy.spaces import load_space
from nasdeploy.workflows.search import strategy_context

SPACE = load_space("digits", 10)


def request(run: Path, *assignments: str) -> SimpleNamespace:
    return SimpleNamespace(run=SimpleNamespace(path=run), recipe=load_recipe("digits", assignments), space=SPACE)


def test_a_predictor_that_was_kept_is_found_by_the_next_search(tmp_path):
    codes = SPACE.sample_codes(30, np.random.default_rng(0))
    fitted = fit_predictor(SPACE, "linear", codes, codes.mean(axis=1), np.random.default_rng(0))
    first = strategy_context(request(tmp_path), "supernet")
    assert first.predictor is None
    first.keep(fitted)
    again = request(tmp_path, f"search.predictor_file={tmp_path / 'predictor.npz'}")
    found = strategy_context(again, "supernet").predictor
    assert (found.predictor(codes) == fitted.predictor(codes)).all()
    with pytest.raises(UserError, match="predicts accuracies of another supernet"):
        strategy_context(again, "another")
