import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from nasdeploy.cli.wording import typed
from nasdeploy.core.errors import UserError
from nasdeploy.store.records import DataFacts
from nasdeploy.store.run import Run
from tests.wording import assert_stops

RECIPE = {"name": "cats", "train": {"epochs": 3, "rate": 0.1}, "widths": [1, 2]}


def create(root: Path, name: str, **changes: Any) -> Run:
    fields = {"recipe": RECIPE, "space": "0123456789ab", "classes": ["cat", "dog"], "seed": 7}
    return Run.create(root, name, **(fields | changes))


def edit(run: Run, **changes: Any) -> None:
    manifest = run.path / "manifest.json"
    manifest.write_text(json.dumps(json.loads(manifest.read_text()) | changes))


def test_a_run_reads_back_as_it_was_made(tmp_path: Path) -> None:
    made = create(tmp_path / "runs", "cats")
    read = Run.open(tmp_path / "runs" / "cats").manifest
    assert read == made.manifest
    assert (read.recipe, read.space, read.classes, read.seed) == (RECIPE, "0123456789ab", ("cat", "dog"), 7)
    assert read.versions["python"] == sys.version.split()[0]
    assert read.versions["torch"].startswith("2.")


def test_places_of_files(tmp_path: Path) -> None:
    run = create(tmp_path, "cats")
    places = [run.metrics, run.checkpoints, run.search_database, run.search_result, run.exports]
    names = ["metrics.jsonl", "checkpoints", "search.sqlite", "search.json", "export"]
    assert places == [tmp_path / "cats" / name for name in names]


def test_a_name_is_given_once(tmp_path: Path) -> None:
    create(tmp_path, "cats", seed=1)
    with assert_stops(UserError, match="there is a run already; give another directory with --run"):
        create(tmp_path, "cats", seed=2)
    assert Run.open(tmp_path / "cats").manifest.seed == 1


def test_a_run_that_was_killed_while_it_began_is_begun_again(tmp_path: Path) -> None:
    (tmp_path / "cats").mkdir()
    (tmp_path / "cats" / "data.npz").write_bytes(b"of the first attempt")
    facts = DataFacts(images={"train": 2}, compared_by="contents", digest="0" * 32, test_digest="1" * 32)
    run = create(tmp_path, "cats", data=(facts, b"of the second"))
    assert run.split.read_bytes() == b"of the second"
    assert Run.open(run.path).manifest.data == facts


def test_files_that_are_no_run_are_not_mixed_with_one(tmp_path: Path) -> None:
    (tmp_path / "cats").mkdir()
    (tmp_path / "cats" / "holiday.jpg").touch()
    with pytest.raises(UserError, match="holds files but no run"):
        create(tmp_path, "cats")


@pytest.mark.parametrize("name", ["", ".", "..", "../up", "a/b", ".hidden", "a b", "a\n"])
def test_a_name_that_is_no_directory_name_is_refused(name: str, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="run name"):
        create(tmp_path / "runs", name)
    assert list(tmp_path.iterdir()) == []


def test_finished_steps_and_their_facts_are_kept(tmp_path: Path) -> None:
    run = create(tmp_path, "cats")
    other = Run.open(run.path)
    run.finish("train", {"top1": 0.5})
    other.finish("search", {"digest": "abc"})
    read = Run.open(run.path)
    assert (read.facts("train"), read.facts("search")) == ({"top1": 0.5}, {"digest": "abc"})
    assert read.is_finished("train")
    assert not read.is_finished("export")
    with assert_stops(UserError, match="'nasdeploy export' has not finished"):
        read.facts("export")
    read.finish("train", {"top1": 0.6})
    assert Run.open(run.path).facts("train") == {"top1": 0.6}


def test_the_latest_run_is_the_last_used(tmp_path: Path) -> None:
    for name in "bac":
        create(tmp_path, name)
    assert Run.latest(tmp_path).path == tmp_path / "c"
    Run.open(tmp_path / "a")
    assert Run.latest(tmp_path).path == tmp_path / "a"
    Run.open(tmp_path / "b").finish("train", {})
    assert Run.latest(tmp_path).path == tmp_path / "b"
    for name in "abc":
        os.utime(tmp_path / name / "manifest.json", (5, 5))
    assert Run.latest(tmp_path).path == tmp_path / "c"


def test_what_is_no_run_is_never_the_latest(tmp_path: Path) -> None:
    run = create(tmp_path, "cats")
    (tmp_path / "empty").mkdir()
    (tmp_path / "file").touch()
    (tmp_path / ".dogs.discarded").mkdir()
    (tmp_path / ".dogs.discarded" / "manifest.json").touch()
    assert Run.latest(tmp_path).path == run.path


@pytest.mark.parametrize("root", ["", "missing"])
def test_says_how_to_start_a_run_where_there_is_none(root: str, tmp_path: Path) -> None:
    with assert_stops(UserError, match="start one with 'nasdeploy train RECIPE'"):
        Run.latest(tmp_path / root)


def test_opening_what_is_no_run_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no run there"):
        Run.open(tmp_path)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"seed": "7"}, 'manifest.json: seed is "7"'),
        ({"schema_version": 2}, "manifest.json: schema_version is 2"),
        ({"colour": 1}, "manifest.json: unknown key 'colour'"),
        ({"finished": {"eat": {}}}, "manifest.json: finished.eat"),
        ({"classes": "cat"}, 'manifest.json: classes is "cat"'),
    ],
)
def test_an_edited_manifest_is_refused(changes: dict[str, Any], said: str, tmp_path: Path) -> None:
    run = create(tmp_path, "cats")
    edit(run, **changes)
    with pytest.raises(UserError) as caught:
        Run.open(run.path)
    assert said in typed(caught.value)


@pytest.mark.parametrize("content", ["", "[]", '{"name": "cats"'])
def test_a_damaged_manifest_is_refused(content: str, tmp_path: Path) -> None:
    run = create(tmp_path, "cats")
    (run.path / "manifest.json").write_text(content)
    with pytest.raises(UserError, match=r"manifest\.json: damaged"):
        Run.latest(tmp_path)


HOLDER = """
import sys, time
from pathlib import Path
from nasdeploy.store.records import DataFacts
from nasdeploy.store.run import Run
with Run.open(Path(sys.argv[1])).lock():
    print("held", flush=True)
    time.sleep(60)
"""


def test_two_processes_never_write_one_run(tmp_path: Path) -> None:
    run = create(tmp_path, "cats")
    holder = subprocess.Popen([sys.executable, "-c", HOLDER, str(run.path)], stdout=subprocess.PIPE)
    assert holder.stdout is not None
    assert holder.stdout.readline() == b"held\n"
    refused = [lambda: run.finish("train", {}), lambda: Run.discard(run.path), lambda: create(tmp_path, "cats")]
    for write in refused:
        with pytest.raises(UserError, match="in use by another process"):
            write()
    assert not Run.open(run.path).is_finished("train")
    holder.send_signal(signal.SIGKILL)
    holder.communicate()
    run.finish("train", {})
    assert Run.open(run.path).is_finished("train")


def test_a_process_may_nest_the_lock(tmp_path: Path) -> None:
    run = create(tmp_path, "cats")
    with run.lock():
        with pytest.raises(ZeroDivisionError), run.lock():
            raise ZeroDivisionError
        run.finish("train", {})
        run.finish("search", {})
    script = HOLDER.replace("time.sleep(60)", "")
    subprocess.run([sys.executable, "-c", script, str(run.path)], check=True, stdout=subprocess.DEVNULL)


def test_the_lock_clears_what_a_killed_process_left(tmp_path: Path) -> None:
    run = create(tmp_path, "cats")
    leftover = run.checkpoints / ".last.pt.x1y2.partial"
    leftover.mkdir(parents=True)
    (leftover / "last.pt").touch()
    (run.checkpoints / "last.pt").touch()
    with run.lock():
        assert [entry.name for entry in run.checkpoints.iterdir()] == ["last.pt"]


def test_a_discarded_run_leaves_room_for_a_new_one(tmp_path: Path) -> None:
    run = create(tmp_path, "cats")
    run.checkpoints.mkdir()
    Run.discard(run.path)
    assert list(tmp_path.iterdir()) == []
    assert not create(tmp_path, "cats").checkpoints.exists()


def test_a_damaged_run_can_be_discarded_and_what_is_no_run_cannot(tmp_path: Path) -> None:
    damaged = create(tmp_path, "cats").path
    (damaged / "manifest.json").write_text("{")
    Run.discard(damaged)
    assert not damaged.exists()
    (tmp_path / "photos").mkdir()
    Run.discard(tmp_path / "photos")
    Run.discard(tmp_path / "nowhere")
    assert [entry.name for entry in tmp_path.iterdir()] == ["photos"]


def test_a_read_only_run_can_be_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run = create(tmp_path, "cats")

    def refuse(*arguments: Any, **keywords: Any) -> None:
        raise PermissionError

    monkeypatch.setattr(os, "utime", refuse)
    assert Run.open(run.path).manifest.name == "cats"


def test_a_run_where_nothing_can_be_written_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(UserError, match=r"file/cats: cannot be written \(.*\); check the path"):
        create(tmp_path / "file", "cats")
    with pytest.raises(UserError, match=r"/file: cannot be written \(File exists\)"):
        create(tmp_path, "file")
