"""What a board is sent: the files of this package that the program on it imports, and nothing else."""

import ast
import io
import zipfile
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import nasdeploy

PROGRAM = "nasdeploy.latency.runners.board"
_ROOT = Path(nasdeploy.__file__).parent.parent
_TIMELESS = (1980, 1, 1, 0, 0, 0)


@cache
def bundle() -> bytes:
    """A zip file that Python can import `PROGRAM` from; the same bytes each time."""
    content = io.BytesIO()
    with zipfile.ZipFile(content, "w", zipfile.ZIP_DEFLATED) as archive:
        for path in sorted(bundled().values()):
            name = zipfile.ZipInfo(path.relative_to(_ROOT).as_posix(), _TIMELESS)
            archive.writestr(name, path.read_bytes(), zipfile.ZIP_DEFLATED)
    return content.getvalue()


def bundled() -> dict[str, Path]:
    """Files by module: the program, whatever it imports of this package, directly or not, and their packages."""
    found: dict[str, Path] = {}
    waiting = [PROGRAM]
    while waiting:
        name = waiting.pop()
        path = _file(name)
        if name not in found and path is not None:
            found[name] = path
            waiting += [name.rpartition(".")[0], *_imports(path)]
    return found


def _file(module: str) -> Path | None:
    path = _ROOT.joinpath(*module.split("."))
    candidates = (path.with_suffix(".py"), path / "__init__.py") if module else ()
    return next((candidate for candidate in candidates if candidate.is_file()), None)


def _imports(path: Path) -> Iterator[str]:
    """Names that may be modules of this package; what is imported for type checking only does not count."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    waiting: list[ast.AST] = [tree]
    while waiting:
        node = waiting.pop()
        if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test):
            waiting += node.orelse
            continue
        waiting += ast.iter_child_nodes(node)
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names if alias.name.startswith("nasdeploy"))
        elif isinstance(node, ast.ImportFrom) and (node.module or "").startswith("nasdeploy"):
            yield from (node.module or "", *(f"{node.module}.{alias.name}" for alias in node.names))
