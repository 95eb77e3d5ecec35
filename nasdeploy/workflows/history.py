"""The finished searches of a run: each is kept in RUN/searches/ID.json, the latest in search.json too. Torch-free."""

from pathlib import Path

from nasdeploy.core.errors import UserError
from nasdeploy.searching.result import SearchResult, load_result
from nasdeploy.store.files import write_json
from nasdeploy.store.run import Run


def keep(run: Run, result: SearchResult) -> None:
    """Write a result into a run; the run has to be locked."""
    run.require_there()
    content = result.model_dump(mode="json")
    write_json(_folder(run) / f"{result.id}.json", content)
    write_json(run.search_result, content)


def next_id(run: Run) -> str:
    """Return the number of the next search of a run: they are numbered from 1."""
    return str(1 + max((int(path.stem) for path in _files(run)), default=0))


def results(run: Run) -> list[SearchResult]:
    """All finished searches, in their order; raises `UserError` if one is damaged."""
    return [load_result(path) for path in sorted(_files(run), key=lambda path: int(path.stem))]


def result(run: Run, id: str | None) -> SearchResult:
    """One of them, by default the latest; raises `UserError` if there is none."""
    if id is None:
        return load_result(run.search_result)
    path = _folder(run) / f"{id}.json"
    if path not in _files(run):
        known = ", ".join(sorted((path.stem for path in _files(run)), key=int)) or "none"
        raise UserError(
            f"{run.path}: no search '{id}' in this run; there are: {known} (see `workflows.history.results()`)"
        )
    return load_result(path)


def _folder(run: Run) -> Path:
    return run.path / "searches"


def _files(run: Run) -> list[Path]:
    return [path for path in _folder(run).glob("*.json") if path.stem.isdecimal()]
