"""What a recipe may say of a search."""

import pytest

from nasdeploy.core.errors import UserError
from nasdeploy.core.settings import parse
from nasdeploy.searching.settings import STRATEGY_NAMES, SearchSettings, require_used
from nasdeploy.searching.strategies import STRATEGIES


def test_every_strategy_may_be_asked_for_and_no_other():
    assert set(STRATEGY_NAMES) == set(STRATEGIES)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"strategy": "evolutoin"}, "unknown search strategy; did you mean 'evolution'?"),
        ({"buckets": 0}, "buckets and elite are both 0, so that no network would be a parent; raise one of them"),
    ],
)
def test_mistakes_are_told_in_one_line(given, message):
    with pytest.raises(UserError) as error:
        parse(SearchSettings, given, "recipe")
    assert str(error.value).endswith(message)


def test_alphanet_and_ofa_evaluate_as_many_as_published():
    assert SearchSettings().evaluations == 512 + 19 * 256
    ofa = SearchSettings(
        rounds=500, parents=100, mutations=50, crossovers=50, mutation_probability=0.1, buckets=0, elite=25
    )
    assert ofa.evaluations == 500 * 100


def test_settings_of_other_strategies_are_refused_when_a_search_is_asked_for():
    require_used(SearchSettings(strategy="reinforce", reward="hard"))
    require_used(SearchSettings(strategy="nsga2", buckets=20, reward="soft"))
    with pytest.raises(UserError) as refused:
        require_used(SearchSettings(strategy="nsga2", reward="hard"))
    assert str(refused.value) == (
        "search.reward has an effect only with strategy: reinforce, and strategy is nsga2; set one of them anew"
    )


def test_evolution_may_have_a_table_of_loss_and_additive_always_has_one():
    assert not SearchSettings().goes_by_losses
    assert SearchSettings(losses=True).goes_by_losses
    assert SearchSettings(strategy="additive").goes_by_losses
    require_used(SearchSettings(losses=True))
    with pytest.raises(UserError, match="losses has an effect only with strategy: evolution or additive"):
        require_used(SearchSettings(strategy="nsga2", losses=True))
