"""What was measured so far, kept beside the table that it will become, so that a killed measurement goes on."""

from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Literal

from pydantic import Field

from nasdeploy.core.errors import UserError
from nasdeploy.core.settings import Settings, parse
from nasdeploy.latency.conditions import Conditions
from nasdeploy.latency.runners.run_models import Outcome
from nasdeploy.store.files import append_json_line, read_json_lines

Kind = Literal["blocks", "networks"]


class _Line(Settings):
    conditions: Conditions | None = None
    blocks: dict[str, Outcome] = Field(default_factory=dict)
    networks: dict[str, Outcome] = Field(default_factory=dict)


class Journal:
    """A file of JSON lines: the conditions, then one line for each group of outcomes.

    `outcomes` has what was measured, or refused by the runtime, so far: blocks by key, networks by `Arch.text`.
    `discarded` says why an earlier journal at this path could not be continued; it is empty if there was none or it
    could.
    """

    def __init__(self, path: Path, conditions: Conditions) -> None:
        """Continue the journal at `path`, or start one; raises `UserError` if there is a damaged one."""
        self._path = path
        lines = _read(path)
        self.discarded = _changes(lines[0].conditions, conditions) if lines else []
        if self.discarded:
            lines = []
            path.unlink()
        if not lines:
            append_json_line(path, {"conditions": conditions.model_dump(mode="json")})
        self.outcomes: dict[Kind, dict[str, Outcome]] = {
            "blocks": {key: outcome for line in lines for key, outcome in line.blocks.items()},
            "networks": {key: outcome for line in lines for key, outcome in line.networks.items()},
        }

    def add(self, kind: Kind, outcomes: Mapping[str, Outcome]) -> None:
        """Keep the outcomes of a group."""
        append_json_line(self._path, {kind: {key: asdict(outcome) for key, outcome in outcomes.items()}})
        self.outcomes[kind].update(outcomes)

    def remove(self) -> None:
        """Delete the file: the table has everything."""
        self._path.unlink()


def _changes(before: Conditions | None, now: Conditions) -> list[str]:
    return ["it does not say what it is of"] if before is None else before.changes(now)


def _read(path: Path) -> list[_Line]:
    try:
        return [parse(_Line, line, f"{path}: line {n}") for n, line in enumerate(read_json_lines(path), start=1)]
    except UserError as error:
        raise UserError(f"{error}; or measure from the start with --restart") from None
