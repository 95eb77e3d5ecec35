"""What the shell completes arguments with: names that nasdeploy knows, and runs, bundles and tables that lie here.

Nothing that takes long is imported, nothing is written, and a file that cannot be read completes nothing. Where a word
has a slash, or nothing is known, the shell's own completion of files takes over.
"""

import json
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

import typer

Completion = Callable[[typer.Context, str], list[str]]
"""A function that Typer calls with the command so far and the beginning of a word."""

_RUNS, _TABLES = Path("runs"), Path("profiles/tables")
_MANIFEST, _NETWORKS = "manifest.json", ("winner", "finalists", "front")
_MOST_BYTES = 4_000_000
"""Larger results of searches are not read."""
_SPACES = Path(__file__).parents[1] / "spaces"
_ENDS = ("smallest", "largest")
# What these lists are of takes half a second to import, with all that checks recipes and manifests; a test compares.
_FORMATS = (
    *("onnx", "openvino", "ncnn", "mnn", "litert", "executorch", "torch", "torch-tensorrt", "tensorrt", "tensorrt-rtx"),
)
_STRATEGIES = (
    *("evolution", "random", "nsga2", "coarse-to-fine", "predictor-guided", "reinforce", "differentiable", "additive"),
)
_PICTURES = ("training", "networks", "regimes", "front", "predicted", "stages", "architecture", "confusion")
_PUBLISHED = ("alphanet", "attentivenas", "ofa")


def _is_path(word: str) -> bool:
    return "/" in word or word.startswith((".", "~"))


def _here(*suffixes: str) -> list[str]:
    """Return files of the current directory that end so."""
    return sorted(path.name for path in Path().glob("*") if path.suffix in suffixes)


def _listed(names: Callable[[], Iterable[str]]) -> Completion:
    """Return what completes the last name of a list with commas."""

    def complete(context: typer.Context, word: str) -> list[str]:
        before, comma, _ = word.rpartition(",")
        return [f"{before}{comma}{name}" for name in names()]

    return complete


def recipes(context: typer.Context, word: str) -> list[str]:
    """Return recipes: nasdeploy's own, and files of the current directory."""
    from nasdeploy.core.resources import resource_names

    return [] if _is_path(word) else [*resource_names("recipes"), *_here(".yaml", ".yml")]


def devices(context: typer.Context, word: str) -> list[str]:
    """Return devices, and files of the current directory, also as the last of a list with commas."""
    from nasdeploy.core.resources import resource_names

    if _is_path(word):
        return []
    return _listed(lambda: [*resource_names("profiles"), *_here(".yaml", ".yml")])(context, word)


def spaces(context: typer.Context, word: str) -> list[str]:
    """Return spaces with a name, and recipes, which have one of their own."""
    return [] if _is_path(word) else list(dict.fromkeys([*space_names(), *recipes(context, word)]))


def space_names() -> list[str]:
    """Return spaces with a name."""
    return sorted(path.stem for path in _SPACES.glob("*.yaml"))


def runs(context: typer.Context, word: str) -> list[str]:
    """Return run directories below `runs/`, the latest first."""
    return [str(run) for run in _runs()]


def bundles(context: typer.Context, word: str) -> list[str]:
    """Return directories that exports wrote into runs, of the latest run first."""
    return [str(path.parent) for run in _runs() for path in sorted(run.glob(f"export/*/{_MANIFEST}"))]


def tables(context: typer.Context, word: str) -> list[str]:
    """Return latency tables."""
    return sorted(map(str, _TABLES.glob("*.json")))


def packs(context: typer.Context, word: str) -> list[str]:
    """Return packed runs of the current directory."""
    return _here(".nasdeploy")


def formats(context: typer.Context, word: str) -> list[str]:
    """Return formats, also as the last of a list with commas."""
    return _listed(lambda: _FORMATS)(context, word)


def precisions(context: typer.Context, word: str) -> list[str]:
    """Return precisions, also as the last of a list with commas."""
    return _listed(lambda: ("fp32", "fp16", "int8"))(context, word)


def strategies(context: typer.Context, word: str) -> list[str]:
    """Return search strategies."""
    return list(_STRATEGIES)


def preferences(context: typer.Context, word: str) -> list[str]:
    """Return what `--prefer` takes."""
    return ["accurate", "fast"]


def layouts(context: typer.Context, word: str) -> list[str]:
    """Return layouts of directories that exports can have beside their own."""
    return ["triton"]


def networks(context: typer.Context, word: str) -> list[str]:
    """Return bundles, and architectures."""
    return [*bundles(context, word), *architectures(context, word)]


def pictures(context: typer.Context, word: str) -> list[str]:
    """Return pictures of a run's report."""
    return [*_PICTURES, "all"]


def published(context: typer.Context, word: str) -> list[str]:
    """Return kinds of published supernets."""
    return list(_PUBLISHED)


def searches(context: typer.Context, word: str) -> list[str]:
    """Return the numbers of a run's finished searches."""
    run = _run_of(context)
    return [] if run is None else sorted((path.stem for path in run.glob("searches/*.json")), key=lambda n: (len(n), n))


def architectures(context: typer.Context, word: str) -> list[str]:
    """Return names of networks of the command's space, and digests of what was found and exported in its run."""
    if word.startswith("{") or _is_path(word):
        return []
    # Typer does not tell arguments by name while the value of an option is completed, but leaves them over.
    arguments = [context.params.get("space"), context.params.get("recipe"), *context.args]
    run, space = _run_of(context), next((each for each in arguments if each and not each.startswith("-")), None)
    if space is None and run is not None:
        return list(dict.fromkeys([*_named(_space_in(run)), *_digests(run)]))
    return _named(space)


def _runs() -> list[Path]:
    def used(run: Path) -> int:
        return (run / _MANIFEST).stat().st_mtime_ns

    return sorted((path.parent for path in _RUNS.glob(f"[!.]*/{_MANIFEST}")), key=used, reverse=True)


def _run_of(context: typer.Context) -> Path | None:
    """Return the run that is given to the command, by default the latest; None if there is none."""
    given = context.params.get("run") or context.params.get("run_directory")
    return Path(given) if given else next(iter(_runs()), None)


def _space_in(run: Path) -> object:
    """Return what a run's recipe says of its space: a name or settings; None if that cannot be read."""
    recipe = _read(run / _MANIFEST).get("recipe")
    return recipe.get("space") if isinstance(recipe, dict) else None


def _named(space: object) -> list[str]:
    """Return the names of networks of a space: one with a name, a recipe's, or one by its settings."""
    if isinstance(space, str) and (_SPACES / f"{space}.yaml").is_file():
        space = _yaml(_SPACES / f"{space}.yaml")
    elif isinstance(space, str):
        from nasdeploy.core.resources import resource

        recipe = resource("recipes", space) or Path(space)
        return _named(_yaml(recipe).get("space")) if recipe.is_file() else [*_ENDS]
    settings = space if isinstance(space, dict) else {}
    named = settings.get("named")
    original = ["original"] if settings.get("kind") == "grown" else []
    return [*_ENDS, *original, *(map(str, named) if isinstance(named, dict) else ())]


def _yaml(path: Path) -> dict[str, object]:
    """Return the mapping in a YAML file; an empty one where that cannot be read."""
    from nasdeploy.core.errors import UserError
    from nasdeploy.core.yaml import read_document

    try:
        content = read_document(path.read_bytes(), str(path))
    except (OSError, UserError):
        return {}
    return content if isinstance(content, dict) else {}


def _digests(run: Path) -> Iterator[str]:
    for path in (run / "search.json", *sorted(run.glob("searches/*.json"))):
        found = _read(path)
        groups = (found.get(name) for name in _NETWORKS)
        networks = (one for group in groups for one in (group if isinstance(group, list) else [group]))
        yield from (str(one["digest"]) for one in networks if isinstance(one, dict) and "digest" in one)
    yield from (path.parent.name for path in sorted(run.glob(f"export/*/{_MANIFEST}")))


def _read(path: Path) -> dict[str, object]:
    """Return the object in a JSON file; an empty one where that cannot be read."""
    try:
        if path.stat().st_size > _MOST_BYTES:
            return {}
        content = json.loads(path.read_bytes())
    except (OSError, ValueError, RecursionError):
        return {}
    return content if isinstance(content, dict) else {}
