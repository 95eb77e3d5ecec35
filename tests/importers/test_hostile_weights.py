"""A hundred files of weights that mean harm, or are none: each is refused in a line, and nothing in it runs."""

import json
import pickle

import pytest

from tests.forked import ForkedProcess
from tests.importers import hostile, hostile_child, hostile_import

MORE_MEMORY = 512 << 20
"""The largest file has 0.6 MB: a pickle of half a million empty lists takes 60 MB."""


def test_the_pickles_are_alive(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for how in ("reduce", "stacked", "inst", "obj"):
        pickle.loads(b"\x80\x02" + hostile.pickled_call("system", how) + b".")
        canary = tmp_path / hostile.CANARY
        assert canary.exists()
        canary.unlink()


@pytest.mark.slow
def test_each_is_refused_in_a_line_and_nothing_in_it_runs(tmp_path):
    found = told_of(dict(hostile.files()), hostile_child, tmp_path)
    assert found["unchanged"]
    assert not (tmp_path / hostile.CANARY).exists()


@pytest.mark.slow
def test_an_import_refuses_each_and_leaves_nothing(tmp_path):
    state = hostile_import.small_state()
    names = hostile_import.CONV, hostile_import.HEAD, hostile_import.NORM
    files = dict([*hostile.pickles(state), *hostile.misfits_of(state, *names), *hostile.claims(), *hostile.others()])
    well = {"well.pt": hostile.saved({"state_dict": state})}
    found = told_of({**files, **well}, hostile_import, tmp_path, [*well])
    assert found["runs"] == ["well"]
    assert not (tmp_path / hostile.CANARY).exists()


def told_of(files, child, tmp_path, accepted=()):
    """What a process was told of each file, in a line, with those that it accepted."""
    folder = tmp_path / "files"
    folder.mkdir()
    for name, content in files.items():
        (folder / name).write_bytes(content)
    assert len(files) - len(accepted) >= 100
    said, told = tmp_path / "said", tmp_path / "told"
    words = [child.__name__, str(folder), str(told), str(MORE_MEMORY)]
    process = ForkedProcess(child.main, words, cwd=tmp_path, said=said)
    assert process.wait(600) == 0, said.read_text()
    found = json.loads(told.read_text())
    assert [name for name, line in found["told"].items() if line == "accepted"] == list(accepted)
    assert set(found["told"]) == set(files)
    for name, line in found["told"].items():
        if name in accepted:
            continue
        assert "\n" not in line, name
        assert len(line) < 1500, name
        assert name in line, line
        assert "too large for the memory" not in line, line
    return found
