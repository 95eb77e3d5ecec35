"""A hook of mkdocs: it makes the pages of the reference from code, and puts them into the navigation."""

from typing import Any

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files
from reference_pages import key_pages
from reference_schema import recipe_schema

PARTS = ("reference/recipe.md", "reference/manifest.md")
"""The pages that have others below them in the navigation."""


def on_config(config: MkDocsConfig) -> MkDocsConfig:
    """Put the pages that are made for a part of another one below that one."""
    if config.nav is not None:
        config.nav = _with_parts(config.nav, list(key_pages()))
    return config


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add the pages to those that lie in docs/."""
    for file, text in {**key_pages(), "reference/recipe.schema.json": recipe_schema()}.items():
        files.append(File.generated(config, file, content=text))
    return files


def _with_parts(entries: list[Any], made: list[str]) -> list[Any]:
    """Return entries of the navigation in which a page that has others below it is a section of all of them."""
    return [_section(entry, made) if isinstance(entry, dict) else entry for entry in entries]


def _section(entry: dict[str, Any], made: list[str]) -> dict[str, Any]:
    found = {}
    for title, value in entry.items():
        below = [file for file in made if value in PARTS and file.startswith(f"{value.removesuffix('.md')}/")]
        if isinstance(value, list):
            found[title] = _with_parts(value, made)
        else:
            found[title] = [{"Overview": value}, *below] if below else value
    return found
