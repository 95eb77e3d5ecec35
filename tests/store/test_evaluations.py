import math
import signal
import sqlite3
import subprocess
import sys
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from nasdeploy.core.errors import UserError
from nasdeploy.core.score import Metric, Score
from nasdeploy.store import evaluations as module
from nasdeploy.store.evaluations import Evaluation, Evaluations, known_architectures
from nasdeploy.tasks.metrics import TOP1
from tests.small_spaces import ToySpace

EVALUATION = Evaluation(
    digest="0123456789ab", arch='{"width":[1]}', score=Score(TOP1, 0.75, 0.01, 1000, 1.5), seconds=2.0
)


def scored(digest: str = EVALUATION.digest, whole: bool = True, **score: Any) -> Evaluation:
    """The evaluation with another score."""
    return replace(EVALUATION, digest=digest, whole=whole, score=replace(EVALUATION.score, **score))


def test_what_was_put_is_there_after_closing(tmp_path: Path) -> None:
    other = scored(value=0.5, digest="b")
    with Evaluations(tmp_path / "s.sqlite", "net", TOP1) as evaluations:
        assert evaluations.get(EVALUATION.digest) is None
        evaluations.put(EVALUATION)
        evaluations.put(other)
    with Evaluations(tmp_path / "s.sqlite", "net", TOP1) as evaluations:
        assert evaluations.get(EVALUATION.digest) == EVALUATION
        assert evaluations.all() == [EVALUATION, other]


def test_nothing_is_kept_twice_and_the_first_stays(tmp_path: Path) -> None:
    with Evaluations(tmp_path / "s.sqlite", "net", TOP1) as evaluations:
        evaluations.put(EVALUATION)
        evaluations.put(scored(value=0.1))
        assert evaluations.all() == [EVALUATION]


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    st.builds(
        Evaluation,
        digest=st.text("0123456789abcdef", min_size=12, max_size=12),
        arch=st.text(st.characters(exclude_categories=["Cs"])),
        score=st.builds(
            Score,
            metric=st.just(TOP1),
            value=st.floats(0, 1),
            error=st.floats(0, 1),
            samples=st.integers(1, 10**9),
            loss=st.floats(0) | st.just(math.inf),
        ),
        seconds=st.floats(0, 1e9),
    )
)
def test_round_trip(tmp_path: Path, evaluation: Evaluation) -> None:
    (tmp_path / "s.sqlite").unlink(missing_ok=True)
    with Evaluations(tmp_path / "s.sqlite", "net", TOP1) as evaluations:
        evaluations.put(evaluation)
        assert evaluations.get(evaluation.digest) == evaluation


def test_a_network_without_finite_logits_is_kept_too(tmp_path: Path) -> None:
    with Evaluations(tmp_path / "s.sqlite", "net", TOP1) as evaluations:
        evaluations.put(scored(loss=math.nan))
        found = evaluations.get(EVALUATION.digest)
    assert found is not None
    assert math.isnan(found.score.loss)


def test_the_database_of_another_supernet_is_refused(tmp_path: Path) -> None:
    Evaluations(tmp_path / "s.sqlite", "net", TOP1).close()
    with pytest.raises(UserError, match=r"s\.sqlite: holds evaluations of another supernet \(net, not new\)"):
        Evaluations(tmp_path / "s.sqlite", "new", TOP1)
    Evaluations(tmp_path / "s.sqlite", "net", TOP1).close()


def test_another_schema_is_refused(tmp_path: Path) -> None:
    Evaluations(tmp_path / "s.sqlite", "net", TOP1).close()
    connection = sqlite3.connect(tmp_path / "s.sqlite")
    connection.execute("PRAGMA user_version = 99")
    connection.close()
    with pytest.raises(UserError, match="of another version of nasdeploy"):
        Evaluations(tmp_path / "s.sqlite", "net", TOP1)


def test_a_damaged_file_is_refused_and_left_as_it_is(tmp_path: Path) -> None:
    file = tmp_path / "s.sqlite"
    file.write_bytes(b"not a database, but long enough to be one" * 100)
    before = file.read_bytes()
    with pytest.raises(UserError, match=r"s\.sqlite: damaged \(file is not a database\)"):
        Evaluations(file, "net", TOP1)
    assert file.read_bytes() == before


def test_a_damaged_page_is_reported(tmp_path: Path) -> None:
    file = tmp_path / "s.sqlite"
    with Evaluations(file, "net", TOP1) as evaluations:
        for number in range(500):
            evaluations.put(replace(EVALUATION, digest=str(number)))
    content = bytearray(file.read_bytes())
    content[-20000:] = b"\xff" * 20000
    file.write_bytes(content)
    with pytest.raises(UserError, match=r"s\.sqlite: damaged"), Evaluations(file, "net", TOP1) as evaluations:
        evaluations.all()


def test_a_place_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="unable to open database file"):
        Evaluations(tmp_path, "net", TOP1)


def test_parts_are_kept_apart_until_all_images_were_scored(tmp_path: Path) -> None:
    quarter, half = (scored(samples=samples, whole=False) for samples in (250, 500))
    other = replace(quarter, digest="b")
    with Evaluations(tmp_path / "s.sqlite", "net", TOP1) as evaluations:
        for part in (half, quarter, other):
            evaluations.put(part)
        assert evaluations.parts(EVALUATION.digest) == [quarter, half]
        assert evaluations.stopped() == [half, other]
        assert evaluations.get(EVALUATION.digest) is None
        assert evaluations.all() == []
        evaluations.put(EVALUATION)
        assert evaluations.stopped() == [other]
        assert evaluations.all() == [EVALUATION]


def test_a_database_of_the_version_before_parts_goes_on(tmp_path: Path) -> None:
    with Evaluations(tmp_path / "s.sqlite", "net", TOP1) as evaluations:
        evaluations.put(EVALUATION)
    with closing(sqlite3.connect(tmp_path / "s.sqlite")) as connection:
        connection.executescript("DROP TABLE parts; PRAGMA user_version = 1;")
    with Evaluations(tmp_path / "s.sqlite", "net", TOP1) as evaluations:
        assert evaluations.all() == [EVALUATION]
        assert evaluations.stopped() == []
    with closing(sqlite3.connect(tmp_path / "s.sqlite")) as connection:
        assert connection.execute("PRAGMA user_version").fetchone() == (2,)


def test_a_database_that_another_process_holds_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_PATIENCE_S", 0.05)
    Evaluations(tmp_path / "s.sqlite", "net", TOP1).close()
    with closing(sqlite3.connect(tmp_path / "s.sqlite")) as other:
        other.execute("BEGIN EXCLUSIVE")
        message = r"s\.sqlite: database is locked; check the path, the disk and that no other search runs"
        with pytest.raises(UserError, match=message):
            Evaluations(tmp_path / "s.sqlite", "net", TOP1)


WRITER = """
import sys
from dataclasses import replace
from pathlib import Path
from nasdeploy.core.score import Score
from nasdeploy.store.evaluations import Evaluation, Evaluations
from nasdeploy.tasks.metrics import TOP1
with Evaluations(Path(sys.argv[1]), "net", TOP1) as evaluations:
    number = len(evaluations.all())
    while True:
        evaluations.put(Evaluation(str(number), "{}", Score(TOP1, 0.5, 0.1, 10, 1.0), 1.0))
        number += 1
        print(number, flush=True)
"""


def test_what_put_returned_from_outlives_a_kill(tmp_path: Path) -> None:
    for rounds in range(1, 4):
        process = subprocess.Popen([sys.executable, "-c", WRITER, str(tmp_path / "s.sqlite")], stdout=subprocess.PIPE)
        assert process.stdout is not None
        lines = [process.stdout.readline() for _ in range(20 * rounds)]
        process.send_signal(signal.SIGKILL)
        reported = int([*lines, *process.communicate()[0].splitlines()][-1])
        with Evaluations(tmp_path / "s.sqlite", "net", TOP1) as evaluations:
            kept = [evaluation.digest for evaluation in evaluations.all()]
        assert kept == [str(number) for number in range(len(kept))]
        assert reported <= len(kept) <= reported + 1


SPACE = ToySpace()


def stored(path: Path, *texts: str) -> None:
    with Evaluations(path, "net", TOP1) as evaluations:
        for number, text in enumerate(texts):
            evaluations.put(replace(EVALUATION, digest=str(number), arch=text))


def test_architectures_are_known_whatever_the_supernet(tmp_path: Path) -> None:
    path = tmp_path / "s.sqlite"
    assert list(known_architectures(path, SPACE)) == []
    assert not path.exists()
    archs = [SPACE.smallest(), SPACE.largest()]
    stored(path, *(arch.text for arch in archs))
    assert list(known_architectures(path, SPACE)) == archs
    path.write_bytes(b"no database at all, but long enough to be taken for one" * 100)
    with pytest.raises(UserError, match=r"s\.sqlite: cannot be read"):
        list(known_architectures(path, SPACE))


def test_no_architecture_is_known_where_a_search_was_killed_at_its_start(tmp_path: Path) -> None:
    path = tmp_path / "s.sqlite"
    path.touch()
    assert list(known_architectures(path, SPACE)) == []


@pytest.mark.parametrize("text", ["", "{", "[1]", "{}", '{"width": [1, 4]}', "[" * 100_000])
def test_an_architecture_that_was_damaged_is_named(text: str, tmp_path: Path) -> None:
    path = tmp_path / "s.sqlite"
    stored(path, text)
    with pytest.raises(UserError, match=r"s\.sqlite: damaged \(.*\); restore it, or move it away"):
        list(known_architectures(path, SPACE))
    with Evaluations(path, "net", TOP1) as evaluations:
        (evaluation,) = evaluations.all()
        with pytest.raises(UserError, match=r"s\.sqlite: damaged \(.*\); restore it, or move it away"):
            evaluations.arch(evaluation, SPACE)


def test_the_columns_have_the_keys_of_the_metric(tmp_path: Path) -> None:
    """A database of classification has the columns that it always had."""
    Evaluations(tmp_path / "s.sqlite", "net", TOP1).close()
    other = Metric("mae", "error", maximise=False, best=0.0, aggregate="whole", loss_key="l1", samples="sentences")
    evaluation = scored(metric=other, value=-3.5, error=0.5)
    with Evaluations(tmp_path / "t.sqlite", "net", other) as evaluations:
        evaluations.put(evaluation)
        assert evaluations.all() == [evaluation]
    columns = []
    for name in ("s", "t"):
        with closing(sqlite3.connect(tmp_path / f"{name}.sqlite")) as connection:
            columns.append([row[1] for row in connection.execute("PRAGMA table_info(evaluations)")])
    assert columns[0] == ["digest", "arch", "top1", "top1_error", "cross_entropy", "images", "seconds"]
    assert columns[1] == ["digest", "arch", "mae", "mae_error", "l1", "sentences", "seconds"]


def test_an_evaluation_counts_for_a_score_if_it_has_what_that_needs(tmp_path: Path) -> None:
    path = tmp_path / "s.sqlite"
    plain, half = scored("a"), replace(scored("a", False, samples=500))
    with Evaluations(path, "net", TOP1) as evaluations:
        evaluations.put(plain)
        evaluations.put(half)
    with Evaluations(path, "net", TOP1, "loss") as evaluations:
        assert evaluations.all() == [scored("a", criterion="loss")]
    compared = scored("b", divergence=0.25, criterion="both")
    part = scored("c", False, samples=500, divergence=math.inf, criterion="both")
    with Evaluations(path, "net", TOP1, "both") as evaluations:
        assert (evaluations.all(), evaluations.stopped(), evaluations.parts("a")) == ([], [], [])
        assert evaluations.get("a") is None
        for evaluation in (part, compared, scored("a", divergence=0.5, criterion="both", value=0.1)):
            evaluations.put(evaluation)
        # The first evaluation stays, in its place, and what was missing is known from now on.
        assert evaluations.all() == [scored("a", divergence=0.5, criterion="both"), compared]
        assert evaluations.stopped() == evaluations.parts("c") == [part]
        evaluations.put(scored("d", divergence=math.nan, criterion="both"))
        unsound = evaluations.get("d")
    assert unsound is not None and unsound.score.penalty == math.inf
    with Evaluations(path, "net", TOP1) as evaluations:
        assert evaluations.all() == [plain, scored("b"), scored("d")]
        assert evaluations.parts("a") == [half]
