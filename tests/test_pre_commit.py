"""What is checked at each commit is what `make lint` checks."""

import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).parents[1]
CONFIG = ROOT / ".pre-commit-config.yaml"


def hooks() -> list[dict]:
    (local,) = yaml.safe_load(CONFIG.read_text(encoding="utf-8"))["repos"]
    # Of any other repository pre-commit would fetch the tools.
    assert local["repo"] == "local"
    return local["hooks"]


@pytest.mark.skipif(shutil.which("make") is None, reason="make is not installed")
def test_a_commit_is_checked_by_the_commands_of_make_lint() -> None:
    # Without what installs .venv, which is there.
    linted = subprocess.run(
        ["make", "--dry-run", "--assume-old=.venv/installed", "--no-print-directory", "lint"],
        cwd=ROOT,
        check=True,
        capture_output=True,
        text=True,
    )
    assert [hook["entry"] for hook in hooks()] == linted.stdout.splitlines()
    # Each sees the whole, as `make lint` does, with no environment of its own.
    assert all(hook["pass_filenames"] is False and hook["language"] == "system" for hook in hooks())


def test_pre_commit_reads_it() -> None:
    pytest.importorskip("pre_commit")
    command = [sys.executable, "-m", "pre_commit", "validate-config", str(CONFIG)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout
