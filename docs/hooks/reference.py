"""A hook of mkdocs: it makes the pages of the reference from code, and puts them into the navigation."""

from collections.abc import Mapping
from functools import cache
from typing import Any

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files
from reference_api import api_pages
from reference_command_line import command_line
from reference_pages import key_pages
from reference_schema import recipe_schema

PARTS = ("reference/cli.md", "reference/recipe.md", "reference/manifest.md", "reference/api.md")
"""The pages that have others below them in the navigation."""


@cache
def made() -> Mapping[str, str]:
    """Return the content of all files that are made, by path."""
    return {**command_line(), **key_pages(), **api_pages(), "reference/recipe.schema.json": recipe_schema()}


def on_config(config: MkDocsConfig) -> MkDocsConfig:
    """Put the pages that are made for a part of another one below that one."""
    if config.nav is not None:
        config.nav = _with_parts(config.nav)
    return config


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add the pages to those that lie in docs/."""
    for file, text in made().items():
        files.append(File.generated(config, file, content=text))
    return files


def _with_parts(entries: list[Any]) -> list[Any]:
    """Return entries of the navigation in which a page that has others below it is a section of all of them."""
    return [_section(entry) if isinstance(entry, dict) else entry for entry in entries]


def _section(entry: dict[str, Any]) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for title, value in entry.items():
        if isinstance(value, list):
            found[title] = _with_parts(value)
        elif value in PARTS:
            inside = [file for file in made() if file.startswith(f"{value.removesuffix('.md')}/")]
            found[title] = [{"Overview": value}, *({_title(made()[file]): file} for file in inside)]
        else:
            found[title] = value
    return found


def _title(text: str) -> str:
    """Return the title of a page below the one that its own title begins with."""
    first = text.partition("\n")[0].removeprefix("# ")
    return first.removeprefix("nasdeploy ").rpartition(": ")[2]
