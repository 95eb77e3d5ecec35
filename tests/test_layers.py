"""Imports go downwards only, also those inside functions; those for type checkers alone do not count."""

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.layers import layer, modules

MODULES = modules()


class _Imports(ast.NodeVisitor):
    """Collects the modules of nasdeploy that a module imports."""

    def __init__(self) -> None:
        self.found: set[str] = set()

    def visit_If(self, node: ast.If) -> None:
        if "TYPE_CHECKING" not in ast.unparse(node.test):
            self.generic_visit(node)

    def visit_Import(self, node: ast.Import) -> None:
        self.found |= {alias.name for alias in node.names}

    def visit_ImportFrom(self, node: ast.ImportFrom) -> None:
        assert node.level == 0, "imports are absolute"
        assert node.module is not None
        for alias in node.names:
            name = f"{node.module}.{alias.name}"
            self.found.add(name if name in MODULES else node.module)


def imports(source: str) -> set[str]:
    visitor = _Imports()
    visitor.visit(ast.parse(source))
    return {name for name in visitor.found if name.split(".")[0] == "nasdeploy"}


def upward(module: str, path: Path) -> Iterator[str]:
    own = layer(module)
    for name in sorted(imports(path.read_text(encoding="utf-8"))):
        same_room = name.split(".")[1:2] == module.split(".")[1:2]
        if layer(name) > own or (layer(name) == own != 0 and not same_room):
            yield f"{module} imports {name}"


@pytest.mark.parametrize("module", MODULES)
def test_imports_go_downwards(module: str) -> None:
    assert list(upward(module, MODULES[module])) == []


def test_an_import_that_goes_up_is_found(tmp_path: Path) -> None:
    file = tmp_path / "x.py"
    file.write_text(
        "from nasdeploy.core import errors\n"
        "def f():\n    from nasdeploy.nn import StaticBlock\n    import nasdeploy.training\n"
        "if TYPE_CHECKING:\n    from nasdeploy.cli.main import app\n"
    )
    assert list(upward("nasdeploy.store.x", file)) == [
        "nasdeploy.store.x imports nasdeploy.nn",
        "nasdeploy.store.x imports nasdeploy.training",
    ]
    assert list(upward("nasdeploy.training.x", file)) == []
    assert list(upward("nasdeploy.searching.x", file)) == ["nasdeploy.searching.x imports nasdeploy.training"]
