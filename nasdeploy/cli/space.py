"""`nasdeploy space`: what a search space holds, and what one of its architectures costs."""

import json
from itertools import groupby
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from nasdeploy.cli import completion
from nasdeploy.cli.output import JsonFlag, QuietFlag, emit, facts, listing, wrapped

if TYPE_CHECKING:
    from nasdeploy.core.arch import Arch
    from nasdeploy.core.space import SearchSpace
    from nasdeploy.data.settings import DataSettings
    from nasdeploy.spaces.kind import SpaceSettings

CLASSES = 1000
"""The classes of a registered space, unless others are asked for: ImageNet's."""

app = typer.Typer(no_args_is_help=True)


@app.callback()
def _space() -> None:
    """Look at search spaces."""


@app.command()
def show(
    space: Annotated[
        str,
        typer.Argument(
            metavar="SPACE", help="A registered space, or a recipe, for its own.", autocompletion=completion.spaces
        ),
    ],
    arch: Annotated[
        str | None,
        typer.Option(
            "--arch",
            metavar="A",
            help="Show one network: a name, smallest, largest, a JSON file, or JSON itself.",
            autocompletion=completion.architectures,
        ),
    ] = None,
    classes: Annotated[
        int | None,
        typer.Option("--classes", min=1, help=f"Number of classes [default: {CLASSES}, or those of a recipe's data]."),
    ] = None,
    as_json: JsonFlag = False,
    quiet: QuietFlag = False,
) -> None:
    """Show the choices of a space, its size and costs.

    With --arch, those of one of its architectures.
    """
    found = find_space(space, classes)
    if arch is None:
        result = _space_result(found)
        emit(result, as_json, lambda: _space_text(result))
        return

    from nasdeploy.spaces.resolve import resolve_arch

    result = _arch_result(found, resolve_arch(arch, found, ()))
    emit(result, as_json, lambda: _arch_text(result))


@app.command("list")
def list_spaces(as_json: JsonFlag = False, quiet: QuietFlag = False) -> None:
    """List the registered spaces, with their kinds, sizes and MACs."""
    from nasdeploy.spaces import SPACES, load_settings

    spaces = [_summary(load_settings(name)) for name in SPACES]

    def text() -> str:
        from nasdeploy.core.progress import quantity

        rows = (
            [s["space"], s["kind"], quantity(s["networks"]), f"{s['macs'][0] / 1e6:.3g} .. {s['macs'][1] / 1e6:.4g}"]
            for s in spaces
        )
        return listing(["space", "kind", "architectures", "M MACs"], rows)

    emit({"spaces": spaces}, as_json, text)


def _summary(settings: "SpaceSettings") -> dict[str, Any]:
    space = settings.build(CLASSES)
    macs = [space.plan(arch).macs for arch in (space.smallest(), space.largest())]
    return {"space": space.name, "kind": settings.kind, "size": space.size, "networks": space.networks, "macs": macs}


def find_space(name: str, classes: int | None = None) -> "SearchSpace":
    """The registered space called `name`, or that of a recipe with its data's classes; `classes` overrides both.

    Raises `UserError` with the nearest name, or for a recipe or folder of images that cannot be read.
    """
    from nasdeploy.core.errors import UserError, suggestion
    from nasdeploy.core.resources import resource_names
    from nasdeploy.spaces import SPACES, load_space

    if name in SPACES:
        return load_space(name, classes or CLASSES)
    path, shipped = Path(name), resource_names("recipes")
    if name not in shipped and not path.is_file() and path.suffix not in (".yaml", ".yml"):
        raise UserError(f"unknown search space '{name}'{suggestion(name, {*SPACES, *shipped})} (or give a recipe file)")

    from nasdeploy.recipe import load_recipe

    recipe = load_recipe(name)
    return recipe.load_space(classes or _classes_in(recipe.images))


def _classes_in(data: "DataSettings") -> int:
    from nasdeploy.data.settings import KNOWN_CLASSES

    if data.kind in KNOWN_CLASSES:
        return KNOWN_CLASSES[data.kind]

    from nasdeploy.data.folder import list_folder
    from nasdeploy.data.shards import list_shards

    path = Path(data.path or "")
    return len((list_shards(path) if data.kind == "shards" else list_folder(path)).classes)


def _space_result(space: "SearchSpace") -> dict[str, Any]:
    return {
        "space": space.name,
        "classes": space.output_size,
        "digest": space.digest,
        "size": space.size,
        "networks": space.networks,
        "blocks": len(space.distinct_blocks()),
        "choices": {choice.name: list(choice.values) for choice in space.choices},
        "smallest": _costs(space, space.smallest()),
        "largest": _costs(space, space.largest()),
        "named": {name: _costs(space, arch) for name, arch in space.named.items()},
    }


def _arch_result(space: "SearchSpace", arch: "Arch") -> dict[str, Any]:
    return {
        "space": space.name,
        "classes": space.output_size,
        "arch": arch.to_json(),
        **_costs(space, arch),
        "blocks": len(space.plan(arch).steps),
    }


def _costs(space: "SearchSpace", arch: "Arch") -> dict[str, Any]:
    plan = space.plan(arch)
    return {"digest": arch.digest, "macs": plan.macs, "params": plan.params}


def _space_text(result: dict[str, Any]) -> str:
    from nasdeploy.core.progress import quantity

    named = {"smallest": result["smallest"], **result["named"], "largest": result["largest"]}
    about = (
        f"space {result['space']} ({result['digest']}) for {result['classes']} classes: {quantity(result['networks'])} "
        f"architectures of {result['blocks']} distinct blocks"
    )
    rows = [
        [name, costs["digest"], f"{costs['macs'] / 1e6:.2f}", f"{costs['params'] / 1e6:.3f}"]
        for name, costs in named.items()
    ]
    table = listing(["network", "digest", "M MACs", "M parameters"], rows, texts=2)
    return "\n".join([*wrapped(about), *facts(_choice_rows(result["choices"])), table])


def _choice_rows(choices: dict[str, list[int]]) -> list[tuple[str, str]]:
    """Return a row for all choices of a kind: `width` for `width.0`, `width.1`, ...; many equal ones are counted."""
    kinds: dict[str, list[str]] = {}
    for name, values in choices.items():
        kinds.setdefault(name.partition(".")[0], []).append(",".join(str(value) for value in values))
    return [(kind, "  ".join(_counted(values))) for kind, values in kinds.items()]


def _counted(values: list[str]) -> list[str]:
    """Return equal neighbours as one, with their number, where they are more than the stages of a usual table."""
    runs = ((value, len(list(equal))) for value, equal in groupby(values))
    return [text for value, n in runs for text in ([f"{value} (x{n})"] if n > _MOST_WRITTEN_OUT else [value] * n)]


_MOST_WRITTEN_OUT = 8


def _arch_text(result: dict[str, Any]) -> str:
    about = f"{result['digest']} of space {result['space']} for {result['classes']} classes"
    rows = [
        ("costs", f"{result['macs'] / 1e6:.2f} M MACs, {result['params'] / 1e6:.3f} M parameters"),
        ("blocks", str(result["blocks"])),
        ("choices", json.dumps(result["arch"])),
    ]
    return "\n".join([about, *facts(rows)])
