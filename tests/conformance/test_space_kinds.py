"""What every kind of search space has to keep; a new one starts with an example here."""

import json
from typing import Any, Literal

import pytest
import yaml

from nasdeploy.cli.wording import typed
from nasdeploy.core.errors import UserError
from nasdeploy.core.space import SearchSpace
from nasdeploy.recipe import parse_recipe
from nasdeploy.spaces import KINDS, SPACES, load_settings, load_space
from nasdeploy.spaces.kind import GivenSpace, SpaceSettings
from tests.small_spaces import GROWN_CONTENT, OFA_CONTENT, ToySpace
from tests.training.recipes import CONTENT, tiny_recipe

EXAMPLES: dict[str, dict[str, Any]] = {
    "table": {"kind": "table", **CONTENT["space"]},
    "ofa": OFA_CONTENT,
    "grown": GROWN_CONTENT,
}
FROM_FILES = [kind for kind in KINDS if kind != "python"]


def recipe_with(space: Any) -> dict[str, Any]:
    return {**CONTENT, "space": space}


def refusal(space: Any) -> str:
    with pytest.raises(UserError) as caught:
        parse_recipe(recipe_with(space), "mine.yaml")
    assert "\n" not in typed(caught.value)
    return typed(caught.value)


@pytest.fixture(params=FROM_FILES)
def example(request: pytest.FixtureRequest) -> dict[str, Any]:
    return EXAMPLES[request.param]


def test_each_kind_says_its_name() -> None:
    for kind, settings in KINDS.items():
        assert settings.model_fields["kind"].default == kind
        assert settings.model_fields["kind"].annotation == Literal[kind]


def test_a_recipe_keeps_its_space(example: dict[str, Any]) -> None:
    recipe = parse_recipe(recipe_with(example), "mine.yaml")
    assert type(recipe.space) is KINDS[example["kind"]]
    again = parse_recipe(json.loads(json.dumps(recipe.to_json())), "again")
    assert again == recipe
    assert again.to_json() == recipe.to_json()
    assert again.load_space(5).digest == recipe.load_space(5).digest


def test_the_data_decide_the_size_of_the_output(example: dict[str, Any]) -> None:
    settings = KINDS[example["kind"]].model_validate_json(json.dumps(example))
    spaces = [settings.build(size) for size in (3, 8)]
    assert [space.output_size for space in spaces] == [3, 8]
    assert len({space.digest for space in spaces}) == 2
    # Elsewhere, e.g. for `train --alone`, architectures are taken to be the same for any size of output.
    assert spaces[0].choices == spaces[1].choices
    assert spaces[0].smallest() == spaces[1].smallest()


def test_an_unknown_key_is_refused_with_the_nearest_of_its_kind(example: dict[str, Any]) -> None:
    key = max(KINDS[example["kind"]].model_fields, key=len)
    said = refusal({**example, f"{key}x": 1})
    assert said == f"mine.yaml: unknown key 'space.{key}x'; did you mean '{key}'?"


def test_a_missing_key_is_named(example: dict[str, Any]) -> None:
    assert (
        refusal({key: value for key, value in example.items() if key != "name"}) == "mine.yaml: space.name is missing"
    )


@pytest.mark.parametrize(
    ("space", "said"),
    [
        ({"kind": "tabel"}, "mine.yaml: space.kind is \"tabel\": unknown kind of search space; did you mean 'table'?"),
        ({"kind": 3}, "mine.yaml: space.kind is 3: unknown kind of search space; known: grown, ofa, python, table"),
        (["table"], 'mine.yaml: space is ["table"]: input should be a valid string'),
    ],
)
def test_what_is_no_kind_is_refused(space: Any, said: str) -> None:
    assert refusal(space) == said


@pytest.mark.parametrize("name", SPACES)
def test_registered_spaces_are_of_some_kind(name: str) -> None:
    settings = load_settings(name)
    assert KINDS[settings.kind] is type(settings)
    assert load_space(settings, 7).digest == load_space(name, 7).digest


def test_a_table_without_a_kind_is_what_it_was() -> None:
    before, now = tiny_recipe(), parse_recipe(recipe_with(EXAMPLES["table"]), "mine.yaml")
    assert before == now
    assert before.to_json() == now.to_json()


# -- kinds and spaces of one's own


class ToySettings(SpaceSettings):
    """A kind that nasdeploy does not bring."""

    kind: Literal["toy"] = "toy"
    wide: bool = False

    def build(self, output_size: int) -> SearchSpace:
        space = ToySpace()
        space.name = f"{self.name}-{output_size}-{self.wide}"
        return space


def test_a_registered_kind_of_ones_own_is_named_by_recipes(monkeypatch: pytest.MonkeyPatch) -> None:
    content = yaml.safe_load("{kind: toy, name: mine, wide: true}")
    assert "unknown kind of search space" in refusal(content)
    monkeypatch.setitem(KINDS, "toy", ToySettings)
    assert parse_recipe(recipe_with(content), "mine.yaml").load_space(4).name == "mine-4-True"
    assert refusal({**content, "widr": 1}) == "mine.yaml: unknown key 'space.widr'; did you mean 'wide'?"
    assert refusal({**content, "wide": 2}) == "mine.yaml: space.wide is 2: input should be a valid boolean"


def test_a_recipe_takes_a_space_that_is_an_object() -> None:
    space = load_space("digits", 10)
    recipe = tiny_recipe().with_space(space)
    assert recipe.load_space(10) is space
    with pytest.raises(UserError, match="space digits has outputs of size 10, the data ask for 9"):
        recipe.load_space(9)


def test_a_recipe_that_was_saved_says_which_object_it_was() -> None:
    recipe = tiny_recipe().with_space(load_space("digits", 10))
    read = parse_recipe(json.loads(json.dumps(recipe.to_json())), "again")
    assert isinstance(read.space, GivenSpace)
    assert (read.space.name, read.space.digest) == ("digits", load_space("digits", 10).digest)
    assert read.to_json() == recipe.to_json()
    with pytest.raises(UserError, match=r"space digits \([0-9a-f]{12}\) is a Python object .* pass it from Python"):
        read.load_space(10)
