"""Pages on recipes, devices, latency tables and manifests, from the classes that read and write them. Torch-free."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cache
from inspect import getdoc
from posixpath import dirname, relpath

from reference_keys import Key, Section, cell, classes_in, in_words, keys_of, meaning_of, sections_of

from nasdeploy.exporting.manifest import ExportManifest, TaskManifest
from nasdeploy.exporting.record import Proof
from nasdeploy.latency.table import LatencyTable
from nasdeploy.recipe import Recipe
from nasdeploy.runtimes.device import Device
from nasdeploy.spaces import KINDS
from nasdeploy.spaces.grown import FEATURES, HEADS

_LONG = 8
"""The number of keys above which those of a base class that is shown already are not shown again."""

_RECIPE = """A recipe is a YAML file with everything of a run. `nasdeploy init --data DIR` writes one with comments, and
`--set KEY=VALUE` changes a key for one call: `--set train.epochs=5`, and `--set train.phases.0.epochs=5` for the first
element of a list. A key that does not exist is refused, with the nearest one that does.

Keys that are not required may be left out. `null` stands for no value.

[recipe.schema.json](recipe.schema.json) is the JSON Schema of recipes (draft 2020-12), with which editors complete and
check keys. For the YAML extension of Visual Studio Code, write the path of the file into a recipe's first line:

```yaml
# yaml-language-server: $schema=recipe.schema.json
```

`python -c "import json, nasdeploy; print(json.dumps(nasdeploy.Recipe.model_json_schema()))"` prints the same schema
without descriptions."""

_DEVICE = """A device is a YAML file: where networks run, in which runtime, and how. Those that come with nasdeploy are
listed by `nasdeploy devices`; one of your own is given by its path, `--device my-board.yaml`. The same keys stand in
latency tables and in manifests."""

_TABLE = """`nasdeploy profile` writes a latency table to `profiles/tables/DEVICE-SPACE-DIGEST-OUTPUTS.json`: an entry
for every block of a search space, calibrated on whole networks. Times are in seconds. A table has one line for each
entry and each network, so that `diff` shows what changed. [The latency protocol](../latency-protocol.md) says how it is
measured."""

_MANIFEST = """`nasdeploy export` writes `manifest.json` beside the exported files. It says what a program needs that
runs them: inputs, outputs, preprocessing and labels; and how they were made and proved. A key that is not required may
be missing, and then has its default."""

_PROOF = """What `nasdeploy export` found out about each file before it called it done: `proof` of each of the
[artefacts](../manifest.md#artefacts) in a manifest."""

_SPACE = """A search space in a recipe: `space` is the name of one, such as `alphanet`, or these keys. Its `kind` is
[table](space-table.md), [ofa](space-ofa.md) or [grown](space-grown.md), or [python](space-python.md) for an object that
only Python has."""

_BLOCKS = """The blocks of an existing network, in the rows of a [grown space](space-grown.md). Each kind has keys of
its own; what a block takes, its channels and its side, follows from the block before it."""

_PARTS = {
    "data": ("Recipe: data", "The images that a recipe trains on, chooses by and tests on."),
    "train": (
        "Recipe: train",
        "The training of a recipe's supernet. Defaults are AlphaNet's (appendix B of its paper).",
    ),
    "search": ("Recipe: search", "The search of a recipe for the best network within a budget."),
}
"""The title and the beginning of the pages of parts of a recipe that have one of their own."""

_CHECKSUM = Key(
    "sha256",
    str,
    "required",
    "The SHA-256 of all other keys, so that a damaged or edited table is noticed.",
    LatencyTable,
)


@dataclass(frozen=True)
class Page:
    """A page: its file in docs/, title, what it begins with, and the classes whose keys it shows."""

    file: str
    title: str
    begins: str
    sections: tuple[Section, ...]
    also: tuple[Key, ...] = ()
    """Keys of the first class that no field stands for."""


def pages() -> list[Page]:
    """Return all pages, in the order in which they are read; each class is shown on the first that holds it."""
    manifest = [*sections_of(ExportManifest), *sections_of(TaskManifest, label="several parts")]
    asked = [
        *_of_recipe(),
        Page("reference/device.md", "Device file", _DEVICE, (Section("", Device),)),
        Page("reference/table.md", "Latency table", _TABLE, tuple(sections_of(LatencyTable)), (_CHECKSUM,)),
        Page("reference/manifest/proof.md", "Manifest: proof", _PROOF, tuple(_inside(manifest, Proof))),
        Page("reference/manifest.md", "Manifest of an export", _MANIFEST, tuple(manifest)),
    ]
    found, shown = [], set[type]()
    for page in asked:
        sections = tuple({s.model: s for s in reversed(page.sections) if s.model not in shown}.values())[::-1]
        shown |= {section.model for section in sections}
        found.append(replace(page, sections=sections))
    return sorted(found, key=lambda page: page.file.startswith("reference/manifest/"))


def _of_recipe() -> list[Page]:
    """Return the page of a recipe's keys, and those of its larger parts."""
    sections = sections_of(Recipe)
    spaces = {kind: sections_of(model, "space") for kind, model in KINDS.items()}
    blocks = {model for rows in (FEATURES, HEADS) for model in rows.values()}
    rows = tuple(Section("", model) for rows in (FEATURES, HEADS) for model in rows.values())
    parts = [
        Page(f"reference/recipe/{name}.md", title, begins, tuple(each for each in sections if _part(each) == name))
        for name, (title, begins) in _PARTS.items()
    ]
    of_spaces = [
        Page(
            f"reference/recipe/space-{kind}.md",
            f"Recipe: space of kind {kind}",
            _SPACE,
            tuple(section for section in spaces[kind] if section.model not in blocks),
        )
        for kind in KINDS
    ]
    own = [section for section in sections if _part(section) not in (*_PARTS, "space")]
    return [
        Page("reference/recipe.md", "Recipe", _RECIPE, tuple(own)),
        *parts,
        *of_spaces,
        Page("reference/recipe/blocks.md", "Recipe: blocks", _BLOCKS, rows),
    ]


def _part(section: Section) -> str:
    return section.path.split(".")[0]


def _inside(sections: Sequence[Section], model: type) -> list[Section]:
    """Return a class among sections, and what lies in it."""
    path = next(section.path for section in sections if section.model is model)
    return [section for section in sections if section.path == path or section.path.startswith(f"{path}.")]


# -- Markdown


@cache
def key_pages() -> Mapping[str, str]:
    """Return the Markdown of all pages by file."""
    found = pages()
    where = places(found)
    return {page.file: markdown(page, where) for page in found}


def places(pages: Iterable[Page]) -> dict[type, str]:
    """Return for each class that a page shows the file and the anchor."""
    return {section.model: f"{page.file}#{section.anchor}" for page in pages for section in page.sections}


def markdown(page: Page, where: Mapping[type, str]) -> str:
    """Return a page; `where` says which page shows a class."""
    lines = [f"# {page.title}", "", page.begins, ""]
    shown: dict[type, Section] = {}
    for section in page.sections:
        keys = keys_of(section.model)
        lines += _heading(section)
        base = _long_base(section.model, shown)
        if base is not None:
            names = ", ".join(f"`{key.name}`" for key in keys if key.owner in base.__mro__)
            keys = [key for key in keys if key.owner not in base.__mro__]
            lines += [f"It also has these keys of [{shown[base].name}](#{shown[base].anchor}): {names}.", ""]
        if section is page.sections[0]:
            keys += page.also
        lines += ["| Key | Value | Meaning |", "|---|---|---|"]
        lines += [_row(key, page, where) for key in keys]
        lines.append("")
        shown |= {each: section for each in section.model.__mro__ if each not in shown}
    return "\n".join(lines)


def _heading(section: Section) -> list[str]:
    told = getdoc(section.model)
    return [f"## {section.name} {{#{section.anchor}}}", "", *([told, ""] if told else [])]


def _long_base(model: type, shown: Mapping[type, Section]) -> type | None:
    """Return the base class with many keys of its own that is shown already, if there is one."""
    owned: dict[type, int] = {}
    for key in keys_of(model):
        owned[key.owner] = owned.get(key.owner, 0) + 1
    return next((each for each in model.__mro__[1:] if each in shown and owned.get(each, 0) > _LONG), None)


def _row(key: Key, page: Page, where: Mapping[type, str]) -> str:
    models = [model for _, model in classes_in(key.annotation) if model in where]
    value = in_words(key.annotation)
    # Of several, such as the kinds of a space, the first is linked to; the others follow it on its page.
    if models and "keys" in value:
        value = value.replace("keys", f"[keys]({_link(where[models[0]], page.file)})", 1)
    default = _DEFAULTS.get(key.default, f"default {key.default}")
    cells = (f"`{key.name}`", "<br>".join(filter(None, (value, default))), meaning_of(key))
    return f"| {' | '.join(map(cell, cells))} |"


_DEFAULTS = {"required": "**required**", "": "", "may be left out": "may be left out"}


def _link(target: str, page: str) -> str:
    file, _, anchor = target.partition("#")
    return f"#{anchor}" if file == page else f"{relpath(file, dirname(page))}#{anchor}"
