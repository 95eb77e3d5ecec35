"""The pages that are made from code have every key of files, and every command and option, with what they mean."""

import json
import re
from collections.abc import Iterator
from pathlib import Path
from posixpath import dirname, normpath
from typing import Any

from reference_api import api_pages
from reference_command_line import command_line
from reference_keys import classes_in, in_words, keys_of, undocumented
from reference_pages import key_pages, pages
from reference_schema import recipe_schema
from typer.main import get_command

import nasdeploy as nd
from nasdeploy.cli.app import app
from nasdeploy.core.resources import resource, resource_names
from nasdeploy.core.settings import load_yaml, read_json
from nasdeploy.recipe import load_recipe
from nasdeploy.runtimes.device import Device, load_device
from nasdeploy.spaces import SPACES, SpaceSettings, load_settings
from nasdeploy.training.settings import TrainSettings
from nasdeploy.training.step_settings import SamplingSettings
from tests.latency.tables import table

LINES = 250


def test_every_key_has_a_meaning() -> None:
    keys = [(section.model, key) for page in pages() for section in page.sections for key in keys_of(section.model)]
    assert len(keys) > 400
    assert [(model.__name__, key.name) for model, key in keys if not key.meaning] == []


def test_a_class_is_on_one_page() -> None:
    models = [section.model for page in pages() for section in page.sections]
    assert len(models) == len(set(models))
    held = {inside for model in models for key in keys_of(model) for _, inside in classes_in(key.annotation)}
    # Settings that a kind of space or of data stands for are on a page by their kinds.
    assert {model for model in held if not any(issubclass(other, model) for other in models)} == set()


def test_pages_are_short_and_links_between_them_lead_somewhere() -> None:
    written = {**command_line(), **key_pages()}
    anchors = {file: re.findall(r"\{#(.+?)\}", text) for file, text in written.items()}
    for file, text in written.items():
        assert len(text.splitlines()) <= LINES, file
        assert len(anchors[file]) == len(set(anchors[file])), file
        for target in re.findall(r"\]\(([^)]*)\)", text):
            path, _, anchor = target.partition("#")
            other = normpath(f"{dirname(file)}/{path}") if path else file
            if anchor:
                assert anchor in anchors[other], (file, target)
            else:
                assert other in written or (Path("docs") / other).exists() or other.endswith(".schema.json"), target


def test_types_are_in_words() -> None:
    found = {
        key.name: in_words(key.annotation) for model in (TrainSettings, SamplingSettings) for key in keys_of(model)
    }
    assert found["epochs"] == "integer, 1 to 100,000"
    assert found["learning_rate"] == "number, above 0, at most 100"
    assert found["betas"] == "list of 2 numbers, at least 0, below 1"
    assert found["trains"] == "`all` or `classifier`"
    assert found["ema"] == "number, above 0, below 1 or null"
    assert found["phases"] == "list of keys"
    assert {key.name: in_words(key.annotation) for key in keys_of(nd.Recipe)}["space"] == (
        "text or keys of one kind of search space"
    )


def shipped() -> Iterator[tuple[dict, type]]:
    for kind, model, read in (("recipes", nd.Recipe, load_recipe), ("profiles", Device, load_device)):
        for name in resource_names(kind):
            path = resource(kind, name)
            assert path is not None
            yield load_yaml(path), model
            yield read(name).model_dump(mode="json"), model
    for name in SPACES:
        yield load_settings(name).model_dump(mode="json"), type(load_settings(name))


def test_keys_of_all_that_comes_with_nasdeploy_are_documented() -> None:
    assert [undocumented(content, model) for content, model in shipped()] == [[]] * len(list(shipped()))


def test_keys_of_a_latency_table_are_documented(tmp_path: Path) -> None:
    table().save(tmp_path / "table.json")
    content = read_json(tmp_path / "table.json")
    assert undocumented(content, nd.LatencyTable) == ["sha256"]
    assert "| `sha256` |" in key_pages()["reference/table.md"]


def test_a_key_without_a_meaning_would_be_found() -> None:
    content = {"conditions": {"device": {"name": "cpu", "colour": "red"}}, "networks": [{"arch": {}}, {"weight": 3}]}
    assert undocumented(content, nd.LatencyTable) == ["conditions.device.colour", "networks[].weight"]


def test_the_schema_of_recipes_allows_what_the_recipe_does() -> None:
    schema = nd.Recipe.model_json_schema()
    text, *kinds = schema["properties"]["space"]["anyOf"]
    assert text["type"] == "string"
    models = [each.get("allOf", [each])[0] for each in kinds]
    # A class that is needed once stands in place.
    named = [model.get("title") or model["$ref"].split("/")[-1] for model in models]
    assert named == ["MobileNetTable", "OfaTable", "GrownSettings", "GivenSpace"]
    # A mapping without `kind` is a table of stages.
    assert ["kind" in each["required"] for each in kinds] == [False, True, True, True]
    assert [each["title"] for each in schema["properties"]["data"]["anyOf"]] == ["DataSettings"]
    assert SpaceSettings.__name__ not in schema["$defs"]
    for name, found in schema["$defs"].items():
        assert not found["additionalProperties"], name


def test_the_schema_says_what_each_key_means() -> None:
    schema = json.loads(recipe_schema())
    assert schema["properties"]["seed"] == {
        "default": 0,
        "minimum": 0,
        "type": "integer",
        "description": "The seed of all that is drawn at random.",
    }
    (data,) = schema["properties"]["data"]["anyOf"]
    found = [
        name
        for name, each in [*schema["properties"].items(), *data["properties"].items()]
        if not each.get("description")
    ]
    assert found == []


def commands(inside: Any = None, path: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], Any]]:
    """All commands by the words that they are typed as."""
    for name, command in (inside or get_command(app)).commands.items():
        yield (*path, name), command
        if hasattr(command, "commands"):
            yield from commands(command, (*path, name))


def test_every_command_and_option_is_on_a_page() -> None:
    written = command_line()
    for words, command in commands():
        if command.hidden:
            continue
        page = written[f"reference/cli/{words[0]}.md"]
        _, heading, text = page.partition(f"# nasdeploy {' '.join(words)}{f' {{#{words[1]}}}' if words[1:] else ''}\n")
        assert heading
        assert " ".join(command.help.split()) in text
        rows = text.partition("\n## ")[0].splitlines()
        for parameter in command.params:
            if not parameter.hidden:
                # What is optional stands in brackets.
                name = (
                    (parameter.metavar or "").strip("[].")
                    if parameter.param_type_name == "argument"
                    else parameter.opts[0]
                )
                (row, *_) = [row for row in rows if re.match(rf"\| `\[?{re.escape(name)}[` \]|.]", row)]
                assert parameter.help.split(" [")[0] in row.replace(chr(92), ""), (words, name)


def test_defaults_and_bounds_of_options_are_in_words() -> None:
    written = command_line()
    (hours,) = [line for line in written["reference/cli/init.md"].splitlines() if "--hours" in line]
    assert hours == "| `--hours NUMBER` | Time that training may take here. Default: 1.0. From 0.01 to 10000. |"
    assert (
        "| `KIND` | What published it: alphanet, attentivenas or ofa. Required. |" in written["reference/cli/import.md"]
    )


def test_exit_codes_are_those_of_the_errors() -> None:
    rows = re.findall(r"^\| (\d+) \|", command_line()["reference/cli.md"], re.M)
    assert [int(code) for code in rows] == [0, 1, 2, 3, 4, 75, 130]


def test_every_public_name_is_on_a_page_of_the_api() -> None:
    named = re.findall(r"^::: (\S+)$", "\n".join(api_pages().values()), re.M)
    assert "nasdeploy.api" in named and len(named) == len(set(named))
    homes = [(home, name) for home, names in nd._HOMES.items() for name in names]
    assert [name for home, name in homes if home != "nasdeploy.api" and f"{home}.{name}" not in named] == []
