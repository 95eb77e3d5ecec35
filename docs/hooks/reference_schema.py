"""The JSON Schema of recipes, with what each key means: editors complete and check keys with it. Torch-free."""

import json
from collections.abc import Iterator
from typing import Any

from reference_keys import keys_of, meaning_of, sections_of

from nasdeploy.recipe import Recipe


def recipe_schema() -> str:
    """Return the schema as JSON."""
    schema = Recipe.model_json_schema()
    models = {section.model.__name__: section.model for section in sections_of(Recipe)}
    for name, found in _objects(schema):
        for key in keys_of(models[name]) if name in models else ():
            if key.name in found["properties"]:
                found["properties"][key.name].pop("title", None)
                found["properties"][key.name]["description"] = meaning_of(key)
    return json.dumps({"$schema": "https://json-schema.org/draft/2020-12/schema", **schema}, indent=1) + "\n"


def _objects(schema: Any) -> Iterator[tuple[str, Any]]:
    """Yield the schemas of classes inside a schema, by the names of the classes."""
    if isinstance(schema, list):
        for each in schema:
            yield from _objects(each)
    elif isinstance(schema, dict):
        if isinstance(schema.get("properties"), dict) and isinstance(schema.get("title"), str):
            yield schema["title"], schema
        for each in schema.values():
            yield from _objects(each)
