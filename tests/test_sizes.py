"""What every file of the package keeps to: how large it is, and that a class's name is its own."""

import ast
import re
from collections import defaultdict
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from statistics import median

import pytest

from tests.layers import PACKAGE, modules

LINES = 400
FUNCTION_LINES = 60
PARAMETERS = 7
"""Without `self`; functions of the command line have one for each option, and kernels of a GPU one for each number."""
FILES, MEDIAN = 306, 110

MANY_PARAMETERS: frozenset[str] = frozenset(
    {
        "api:export",
        "api:train",
        "blocks.inverted_residual:__init__",
        "convert.fast_export:_batch_norm",
        "convert.fast_export:_conv",
    }
)
"""Functions that take more, still; nothing may be added."""


@cache
def trees() -> dict[str, ast.Module]:
    """What each module is made of."""
    return {name: ast.parse(path.read_text(encoding="utf-8")) for name, path in modules().items()}


def functions() -> Iterator[tuple[str, ast.FunctionDef | ast.AsyncFunctionDef]]:
    """All functions by module and name."""
    for module, tree in trees().items():
        for node in ast.walk(tree):
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
                yield f"{module.removeprefix('nasdeploy.')}:{node.name}", node


def arguments(node: ast.FunctionDef | ast.AsyncFunctionDef) -> list[ast.arg]:
    return [*node.args.posonlyargs, *node.args.args, *node.args.kwonlyargs]


def test_a_class_name_is_that_of_one_class() -> None:
    found = defaultdict(list)
    for module, tree in trees().items():
        for node in ast.walk(tree):
            if isinstance(node, ast.ClassDef):
                found[node.name].append(module)
    shared = {name: places for name, places in found.items() if len(places) > 1}
    assert shared == {}


@pytest.mark.parametrize("module", modules())
def test_a_file_is_short(module: str) -> None:
    assert len(modules()[module].read_text(encoding="utf-8").splitlines()) <= LINES


def test_functions_are_short() -> None:
    long = {name for name, node in functions() if (node.end_lineno or 0) - node.lineno >= FUNCTION_LINES}
    assert sorted(long) == []


def is_kernel(node: ast.FunctionDef | ast.AsyncFunctionDef) -> bool:
    return any("triton.jit" in ast.unparse(each) for each in node.decorator_list)


def test_functions_take_few_parameters() -> None:
    many = {
        name
        for name, node in functions()
        if not (name.startswith("cli.") or is_kernel(node))
        and len([one for one in arguments(node) if one.arg not in ("self", "cls")]) > PARAMETERS
    }
    assert sorted(many - MANY_PARAMETERS) == []


def test_only_tasks_and_the_command_line_know_what_top_1_is() -> None:
    found = {
        module.removeprefix("nasdeploy.")
        for module, path in modules().items()
        if not module.startswith(("nasdeploy.tasks", "nasdeploy.cli"))
        and re.search("top-?1", path.read_text(encoding="utf-8"))
    }
    assert sorted(found) == []


def lines(path: Path) -> int:
    return len(path.read_text(encoding="utf-8").splitlines())


def test_the_package_is_few_files_of_an_idea_each() -> None:
    assert len(list(PACKAGE.rglob("*.py"))) <= FILES
    assert median(map(lines, modules().values())) >= MEDIAN
