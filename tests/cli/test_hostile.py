"""Whatever a command is given, it ends in its result or in one line: what a user can mend has an exit code of its own.

The commands are those of the program: a new one is walked by being there. Nothing that takes long is begun: what is
given beside a hostile argument leads nowhere, and an export stops where its work would start.
"""

import io
import os
import sys
from collections.abc import Callable, Iterator
from contextlib import redirect_stderr, redirect_stdout
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import typer

from nasdeploy.cli.app import app
from nasdeploy.cli.main import main
from nasdeploy.core.errors import UserError
from nasdeploy.exporting.export import Exporter
from nasdeploy.latency.table import table_path
from nasdeploy.store.files import write_json
from tests.exporting.models import DEVICE, latency_table
from tests.searching import results
from tests.small_spaces import one_stage
from tests.workflows.runs import trained_run

MENDED_BY_THE_USER = (2, 3, 4)

PLACES = [
    *("", "-", "directory", "empty", "binary", "zeros", "deep.json", "list.json", "loop", "link", "binary/inside"),
    *("two\nlines", "M\udcfcller", "x" * 300, "d/" * 3000),
]
NUMBERS = ["nan", "-1", "1e400", "9" * 40, "", "\u0663"]
TEXTS = ["", "binary", "directory", "nan", "-1", "no\nsuch", "nope=5", "data.path=M\udcfc"]
BESIDE = {
    "init": ["--data", "nowhere", "--out", "new.yaml"],
    "run": ["astray.yaml"],
    "train": ["astray.yaml"],
    "profile": ["--run", "nowhere"],
    "evaluate": ["nowhere"],
    "export": ["--run", "nowhere"],
    "predict": ["nowhere", "nowhere"],
    "verify": ["nowhere"],
    "bench": ["nowhere.onnx"],
    "search": ["--run", "nowhere"],
    "search list": [],
    "search show": ["1"],
    "search compare": ["1", "2"],
    "space show": ["digits"],
    "table show": ["table.json"],
    "table check": ["nowhere"],
    "table merge": ["table.json", "nowhere", "--out", "merged.json"],
    "table diff": ["table.json", "table.json"],
}
"""What else a command is given. Commands that are not here get "nowhere" for what they cannot do without."""


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run that was trained and searched, its table, and things that are not what they seem."""
    root, here = tmp_path_factory.mktemp("hostile"), Path.cwd()
    os.chdir(root)
    try:
        run, space = trained_run(root), one_stage()
        data = {"kind": "folder", "path": "nowhere"}
        write_json(root / "astray.yaml", {"name": "y", "space": run.manifest.recipe["space"], "data": data})
        latency_table(space, 1e-4).save(root / "table.json")
        arch = space.smallest()
        found = results.result(
            results.found(arch.digest, arch.to_json()), results.at_most(1e6, "cpu"), space=space.digest
        )
        write_json(run.search_result, found.model_dump(mode="json"))
        latency_table(space, 1e-4).save(table_path(space, DEVICE))
    finally:
        os.chdir(here)
    (root / "directory").mkdir()
    (root / "empty").write_bytes(b"")
    (root / "binary").write_bytes(bytes(range(256)) * 8)
    (root / "zeros").write_bytes(b"a: 1\0\n")
    (root / "deep.json").write_text("[" * 100_000)
    (root / "list.json").write_text("[1, NaN, 1e999]")
    (root / "loop").symlink_to("loop")
    (root / "link").symlink_to("gone")
    return root


_command_of = cache(typer.main.get_command)


@pytest.fixture(autouse=True)
def _no_work(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def begun(*_: object) -> None:
        raise UserError("everything was accepted; the work begins")

    monkeypatch.chdir(place)
    # As long as most commands take here.
    monkeypatch.setattr("typer.main.get_command", _command_of)
    monkeypatch.setattr(Exporter, "_network", begun)


def complaint(*arguments: str) -> str | None:
    """What is wrong with the way in which a command ended; None if nothing is."""
    out, err = io.StringIO(), io.StringIO()
    before, sys.argv = sys.argv, ["nasdeploy", *arguments]
    try:
        with redirect_stdout(out), redirect_stderr(err):
            main()
    except SystemExit as ended:
        code = ended.code
    except Exception as error:  # Whatever it is, a user would see a traceback.
        return f"{type(error).__name__}: {error}"
    finally:
        sys.argv = before
    *said, last = err.getvalue().splitlines() or [""]
    if code == 0:
        return None
    if code not in MENDED_BY_THE_USER:
        return f"exit code {code}: {last}"
    # What a command says of its progress comes before.
    wrong = not last.startswith("nasdeploy: ") or any("Error" in line or "Warning" in line for line in said)
    return f"not one line: {err.getvalue()!r}" if wrong or not err.getvalue().endswith("\n") else None


def commands(group: Any = None, path: tuple[str, ...] = ()) -> Iterator[tuple[str, Any]]:
    """Each command of the program by its name, e.g. `table show`."""
    command = typer.main.get_command(app) if group is None else group
    if path and command.params:
        yield " ".join(path), command
    for name, each in getattr(command, "commands", {}).items():
        yield from commands(each, (*path, name))


def hostile(parameter: Any) -> list[str]:
    kind = str(parameter.type_descriptor.annotation)
    if "Path" in kind:
        return PLACES
    if "int" in kind or "float" in kind:
        return NUMBERS
    return TEXTS


def calls(name: str, command: Any) -> Iterator[list[str]]:
    """Arguments with which a command is called: a hostile one in each place in turn."""
    positional = [each for each in command.params if each.param_type_name == "argument"]
    beside = BESIDE.get(name, ["nowhere" for each in positional if each.required])
    yield [*name.split(), *beside]
    for parameter in command.params:
        if getattr(parameter, "is_flag", False):
            continue
        for value in hostile(parameter):
            if parameter.param_type_name == "option":
                yield [*name.split(), *beside, f"{parameter.opts[0]}={value}"]
            else:
                index = positional.index(parameter)
                named, others = [*beside[:index], value], beside[index + 1 :]
                yield [*name.split(), *[each for each in others if each.startswith("-")], *named]


NAMES = [name for name, _ in commands()]


@pytest.mark.parametrize("name", NAMES)
def test_hostile_arguments_end_in_one_line(name: str) -> None:
    wrong = {}
    for arguments in calls(name, dict(commands())[name]):
        said = complaint(*arguments)
        if said is not None:
            wrong[" ".join(arguments)[:120]] = said[-300:]
    assert wrong == {}


DEEPER = [
    *(("export", "--arch", value) for value in ("", "binary", "deep.json", "list.json", "{", "1" * 12, "directory")),
    *(("export", "--arch=smallest", "--out", value) for value in ("binary", "loop", "/dev/null", "x" * 300, "runs/x")),
    *(("export", "--arch=smallest", "--device", value) for value in ("zeros", "directory", "list.json", "deep.yaml")),
    *(("export", "--arch=smallest", "--data", value) for value in ("nowhere", "binary", "M\udcfc", "loop")),
    ("export", "--arch=smallest", "--format", "onnx,,nope"),
    *(("search", "--macs-m", value) for value in ("nan", "-1", "", "5..1", "1e999", "..")),
    *(("search", "--latency-ms", value) for value in ("cpu=", "nope=5", "nan", "1,5")),
    *(("search", "--latency", value) for value in ("-5%", "nan%", "%")),
    *(
        ("search", "--macs-m=1", "--set", value)
        for value in ("search.rounds=-1", "search.parents=1e99", "search=[]", "=")
    ),
    *(("search", "--macs-m=1", "--precision", value) for value in ("fp8", "", "fp32,fp32,int8")),
]


@pytest.mark.parametrize("arguments", DEEPER, ids=lambda arguments: " ".join(arguments)[:60])
def test_hostile_arguments_for_a_run_that_is_there_end_in_one_line(arguments: tuple[str, ...]) -> None:
    assert complaint(*arguments, "--run", "runs/x", "--quiet") is None


DAMAGE: dict[str, Callable[[bytes], bytes]] = {
    "nothing": lambda content: b"",
    "binary": lambda content: bytes(range(256)) * 8,
    "half": lambda content: content[: len(content) // 2],
    "zeros": lambda content: bytes(len(content)),
    "deep": lambda content: b"[" * 100_000,
    "list": lambda content: b"[1, NaN, 1e999]\n",
    "object": lambda content: b"{}\n",
    "numbers": lambda content: b'{"schema_version": 1e999, "epoch": -1, "entries": 7, "\\ud800": NaN}\n',
}
READERS = {
    "runs/x/manifest.json": ["search list --run runs/x", "export --run runs/x"],
    "runs/x/search.json": ["export --run runs/x"],
    "runs/x/searches/1.json": ["search list --run runs/x", "search show 1 --run runs/x"],
    "runs/x/search.sqlite": ["search --run runs/x --macs-m 1 --dry-run"],
    "runs/x/metrics.jsonl": ["train --run runs/x astray.yaml"],
    "runs/x/checkpoints/epoch-000001.pt": ["export --run runs/x --arch smallest"],
    "table.json": ["table show table.json", "table diff table.json table.json"],
    "device.yaml": ["devices device.yaml", "search --run runs/x --macs-m 1 --device device.yaml"],
    "space.yaml": ["space show space.yaml"],
    "astray.yaml": ["train astray.yaml", "run astray.yaml"],
    "arch.json": ["space show digits --arch arch.json"],
    "out/manifest.json": ["verify out", "predict out images", "bench out"],
}


@pytest.mark.parametrize("name", READERS)
def test_damaged_files_end_in_one_line(name: str, place: Path) -> None:
    path, wrong = place / name, {}
    before = path.read_bytes() if path.exists() else None
    path.parent.mkdir(parents=True, exist_ok=True)
    try:
        for damage, change in DAMAGE.items():
            path.write_bytes(change(before or b'{"a": 1}'))
            for command in READERS[name]:
                said = complaint(*command.split())
                if said is not None:
                    wrong[f"{command}: {damage}"] = said[-300:]
        path.unlink()
        path.mkdir()
        wrong |= {f"{each}: directory": said for each in READERS[name] if (said := complaint(*each.split()))}
        path.rmdir()
        path.symlink_to(path.name)
        wrong |= {f"{each}: loop": said for each in READERS[name] if (said := complaint(*each.split()))}
    finally:
        path.unlink()
        if before is not None:
            path.write_bytes(before)
    assert wrong == {}


def test_the_commands_are_those_of_the_program() -> None:
    assert {"init", "train", "search", "search show", "table merge", "bench"} <= set(NAMES)
    assert set(BESIDE) <= set(NAMES)
