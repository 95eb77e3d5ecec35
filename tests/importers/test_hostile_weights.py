"""A hundred files of weights that mean harm, or are none: each is refused in a line, and nothing in it runs."""

import json
import os
import pickle
import subprocess
import sys

import pytest

from tests.importers import hostile

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
    folder = tmp_path / "files"
    folder.mkdir()
    files = dict(hostile.files())
    for name, content in files.items():
        (folder / name).write_bytes(content)
    assert len(files) >= 100
    child = [sys.executable, "-m", "tests.importers.hostile_child", str(folder), str(MORE_MEMORY)]
    place = {**os.environ, "PYTHONPATH": os.getcwd()}
    run = subprocess.run(child, cwd=tmp_path, env=place, capture_output=True, text=True, timeout=600)
    assert run.returncode == 0, run.stderr
    found = json.loads(run.stdout)
    assert [name for name, line in found["told"].items() if line == "accepted"] == []
    assert set(found["told"]) == set(files)
    for name, line in found["told"].items():
        assert "\n" not in line, name
        assert len(line) < 1500, name
        assert name in line, line
        assert "too large for the memory" not in line, line
    assert found["unchanged"]
    assert not (tmp_path / hostile.CANARY).exists()
