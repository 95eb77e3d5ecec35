"""A trained run and searches of copies of it, as benchmarks and tests of whole processes want them."""

import json
import os
import shutil
import sqlite3
import subprocess
import sys
from collections import Counter
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from tests.benchmarks import logged_search
from tests.forked import ForkedProcess, nasdeploy
from tests.training.recipes import CONTENT

ROOT = Path(__file__).parents[2]
NASDEPLOY = str(Path(sys.executable).with_name("nasdeploy"))
LOGGED = str(ROOT / "tests/benchmarks/logged_search.py")
ENVIRONMENT = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
SPACE: dict[str, Any] = {
    **CONTENT["space"],
    "stages": [
        {"width": [8, 16, 24], "depth": [1, 2], "kernel": [3, 5], "expand": [1, 2, 3], "stride": 2},
        {"width": [16, 24], "depth": [1, 2], "kernel": [3, 5], "expand": [2, 3], "stride": 1, "se": True},
    ],
}
SEARCH = {"rounds": 3, "parents": 10, "mutations": 3, "crossovers": 3, "buckets": 10, "finalists": 4}


def trained(directory: Path) -> Path:
    """A run of a small space that learned for one epoch; it holds no search."""
    directory.mkdir(parents=True, exist_ok=True)
    recipe = {**CONTENT, "space": SPACE, "train": {**CONTENT["train"], "epochs": 1}, "search": SEARCH}
    (directory / "tiny.yaml").write_text(yaml.safe_dump(recipe))
    assert nasdeploy("train", "tiny.yaml", "--run", "run", "--quiet", cwd=directory).wait() == 0
    return directory / "run"


@dataclass(frozen=True)
class SearchCommand:
    """The same search command in a copy of a run, with a log of its evaluations."""

    run: Path
    arguments: tuple[str, ...] = ("--macs-m", "0.4")

    @classmethod
    def in_copy(cls, origin: Path, copy: Path, *arguments: str) -> "SearchCommand":
        """A search of a copy of a run."""
        shutil.copytree(origin, copy)
        return cls(copy, arguments) if arguments else cls(copy)

    @property
    def words(self) -> list[str]:
        """What is typed, and where it logs."""
        return [LOGGED, str(self.log), "search", *self.arguments, "--run", str(self.run)]

    def start(self, environment: dict[str, str] | None = None) -> ForkedProcess:
        """A process of it, in a process group of its own."""
        return ForkedProcess(logged_search.search, self.words, environment=environment, said=self.said)

    def launched(self, *launcher: str) -> "subprocess.Popen[bytes]":
        """A process of a launcher of it."""
        with self.said.open("ab") as said:
            return subprocess.Popen([*launcher, *self.words], env=ENVIRONMENT, stdout=subprocess.DEVNULL, stderr=said)

    def finish(self, *launcher: str) -> None:
        """Search to the end; raises `RuntimeError` with what it said if that fails."""
        if (self.launched(*launcher) if launcher else self.start()).wait(600):
            raise RuntimeError(self.said.read_text())

    @property
    def log(self) -> Path:
        """Of all its evaluations."""
        return self.run.with_suffix(".log")

    @property
    def said(self) -> Path:
        """What it wrote to stderr."""
        return self.run.with_suffix(".said")

    def kept(self) -> list[tuple[Any, ...]]:
        """All evaluations in the database, with everything that is known of them, in their order."""
        if not (self.run / "search.sqlite").exists():
            return []
        with closing(sqlite3.connect(self.run / "search.sqlite", 30)) as connection:
            made = connection.execute("SELECT count(*) FROM sqlite_master WHERE name = 'evaluations'").fetchone()[0]
            query = "SELECT digest, top1, cross_entropy, images, seconds FROM evaluations ORDER BY rowid"
            return list(connection.execute(query)) if made else []

    def begun(self) -> Counter[str]:
        """How often each architecture's evaluation was begun."""
        return Counter(digest for word, digest, _ in self._lines() if word == "begin")

    def seconds(self) -> float:
        """From the beginning of the first evaluation to the end of the last."""
        moments = [float(moment) for _, _, moment in self._lines()]
        return max(moments) - min(moments)

    def winner(self) -> str:
        """Digest of what the search chose."""
        return str(json.loads((self.run / "search.json").read_text())["winner"]["digest"])

    def _lines(self) -> list[list[str]]:
        return [line.split() for line in self.log.read_text().splitlines()] if self.log.exists() else []
