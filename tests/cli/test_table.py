"""`nasdeploy table`: what it prints, and mistakes."""

import json
from dataclasses import replace
from pathlib import Path

import pytest
from typer.testing import CliRunner

from nasdeploy.cli import table as module
from nasdeploy.cli.wording import typed
from nasdeploy.core.errors import CheckFailed, UserError
from nasdeploy.latency.runners import open_runner as opening
from tests.latency.tables import FINGERPRINT
from tests.latency.tables import table as toy_table
from tests.workflows.test_table import SPACE, TABLE, Replay


@pytest.fixture(autouse=True)
def _workplace(monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    TABLE.save(Path("table.json"))


def run(*arguments):
    """The command's standard output; its errors are raised."""
    return CliRunner().invoke(module.app, arguments, catch_exceptions=False, standalone_mode=False)


def printed(*arguments):
    return json.loads(run(*arguments, "--json").stdout)


def test_show():
    found = printed("show", "table.json")
    assert found["range_ms"] == pytest.approx([1e3 * seconds for seconds in TABLE.range(SPACE)])
    slowest = max(TABLE.entries, key=lambda key: TABLE.entries[key].median)
    assert next(iter(found["slowest"])) == slowest
    assert (found["blocks"], found["noise"], found["held_out"]) == (len(TABLE.entries), {}, None)
    assert found["protocol"]["blocks"]["visits"] == 5
    text = run("show", "table.json").stdout
    for part in (
        "a processor",
        "onnxruntime 1",
        "digits",
        f"{found['range_ms'][1]:.4g} ms",
        "too few networks to tell",
    ):
        assert part in text
    assert max(map(len, text.splitlines())) <= 80


def test_show_without_its_space_leaves_out_the_range():
    toy_table(noise=0.01).save(Path("toy.json"))
    assert printed("show", "toy.json")["range_ms"] is None
    text = run("show", "toy.json").stdout
    assert "give the space's recipe with --space" in text
    assert "Spearman" in text


@pytest.fixture
def runner(monkeypatch):
    def placed(found):
        found.__class__.__enter__ = lambda self: self
        found.__class__.__exit__ = lambda self, *error: None
        monkeypatch.setattr(opening, "open_runner", lambda device, say: found)

    return placed


def test_check_that_holds(runner):
    runner(Replay())
    found = printed("check", "table.json", "--entries", "5", "--quiet")
    assert (found["holds"], found["entries"]["n"], found["networks"]["n"]) == (True, 5, 2)
    text = run("check", "table.json", "--quiet").stdout
    assert "holds" in text and max(map(len, text.splitlines())) <= 80


def test_check_that_does_not_hold_prints_why_and_ends_in_4(runner, capsys):
    runner(Replay(1.2))
    with pytest.raises(CheckFailed, match="no longer holds; measure again") as caught:
        module.check(Path("table.json"), as_json=True, quiet=True)
    assert caught.value.exit_code == 4
    assert json.loads(capsys.readouterr().out)["entries"]["median"] == pytest.approx(1.2)


def test_check_strict(runner):
    other = Replay()
    other.fingerprint = replace(FINGERPRINT, cpu="another")
    runner(other)
    assert printed("check", "table.json", "--quiet")["differences"] == ["cpu: measured with a processor, here another"]
    with pytest.raises(UserError, match="measured on another device"):
        run("check", "table.json", "--strict", "--quiet")


def test_merge_and_diff():
    assert "merged both.json" in run("merge", "table.json", "table.json", "--out", "both.json").stdout
    found = printed("diff", "table.json", "both.json")
    assert (found["entries"]["median"], found["kendall"], found["conditions"]) == (1.0, pytest.approx(1.0), [])
    text = run("diff", "table.json", "both.json").stdout
    assert "Kendall 1.0000" in text and max(map(len, text.splitlines())) <= 80


def test_diff_of_two_spaces_compares_no_order():
    toy_table().save(Path("toy.json"))
    found = printed("diff", "table.json", "toy.json")
    assert (found["kendall"], found["entries"]) == (None, None)
    assert any(line.startswith("space: digits") for line in found["conditions"])
    assert "no common space" in run("diff", "table.json", "toy.json").stdout


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("show", "absent.json"), "absent.json"),
        (("show", "table.json", "--space", "cifar10"), "not of cifar10"),
        (("show", "table.json", "--space", "digts"), "did you mean 'digits'"),
        (("check", "toy.json"), "is of a space toy .* give its recipe with --space"),
        (("merge", "table.json", "toy.json", "--out", "x.json"), "not measured under the same conditions"),
        (("merge", "table.json", "table.json", "--out", "toy.json"), "toy.json: is there already"),
    ],
)
def test_mistakes(arguments, message):
    toy_table().save(Path("toy.json"))
    with pytest.raises(UserError, match=message) as caught:
        run(*arguments)
    assert "\n" not in typed(caught.value)
