"""Every picture of a report is a PNG and an SVG, and draws what a stranger named letter by letter."""

from dataclasses import fields, replace
from pathlib import Path
from xml.etree import ElementTree

import pytest
from PIL import Image

from nasdeploy.core.errors import UserError
from nasdeploy.report.architecture import drawn_network
from nasdeploy.report.artefacts import ConfusedPair, PredictionReport
from nasdeploy.report.figures import Box
from nasdeploy.report.latency import table_report
from nasdeploy.report.networks import Regime, SubNetworks, front_report, sub_networks
from nasdeploy.report.plots import PLOTS, draw, drawable
from nasdeploy.report.run import Reproduction, RunReport, RunSummary
from nasdeploy.report.training import training_curves
from nasdeploy.tasks.metrics import TOP1
from tests.docs.pages import PAGES
from tests.exporting.models import latency_table
from tests.report.test_record import evaluation, line
from tests.searching import results
from tests.small_spaces import one_stage

HOSTILE = ("$\\frac{", "<script>alert(1)</script>", "\u6c34\udcff\n")
"""Names of classes: a formula that is none, markup, and letters that no font and no encoding has."""


def full() -> RunReport:
    """A run that has got to everything."""
    space = one_stage()
    table = latency_table(space, 1e-4)
    ends = {"smallest": space.smallest(), "largest": space.largest()}
    networks = sub_networks([evaluation(arch, 0.5) for arch in ends.values()], space, {"cpu": table}, ())
    lines = [line(1, phase="$a$"), line(2, phase="b")]
    box = Box(3, 0.1, 0.2, 0.3, 0.4, 0.5)
    cells = (ConfusedPair(0, 0, 5), ConfusedPair(1, 2, 3), ConfusedPair(2, 2, 1))
    winner = results.found("aaaaaaaaaaaa", predicted=0.3, measured=0.31)
    return RunReport(
        summary=RunSummary(
            name="_x",
            path="runs/x",
            created="",
            task="classification",
            space="one",
            space_kind="table",
            space_digest="",
            networks=4,
            classes=HOSTILE,
            outputs=3,
            images={},
            start=None,
            device="cpu",
            finished=(),
        ),
        metric=TOP1,
        training=(training_curves("supernet", lines, TOP1, [("$a$", 1), ("b", 1)]),),
        finetuned=(),
        sub_networks=SubNetworks(networks.networks, (Regime(1e5, 2e5, None), Regime(2e5, 4e5, box))),
        search=front_report(results.result(winner, results.at_most(latency_ms=0.4))),
        tables=(table_report(table, space, "x.json"),),
        networks=tuple(drawn_network(role, arch, space, {"cpu": table}) for role, arch in ends.items()),
        exports=(),
        predictions=PredictionReport("abc", "model.onnx", HOSTILE, 9, 6, cells, ()),
        reproduction=Reproduction((), "x", True, "", 0, {}, None),
        remarks=(),
    )


@pytest.mark.parametrize("kind", PLOTS)
def test_pictures_have_something_on_them(kind: str, tmp_path: Path) -> None:
    report = full()
    assert kind in drawable(report)
    png, svg = (tmp_path / name for name in ("x.png", "x.svg"))
    for path in (png, svg):
        draw(kind, report, path)
    with Image.open(png) as picture:
        assert picture.format == "PNG"
        assert len(picture.convert("RGB").getcolors(1 << 20)) > 20
    assert ElementTree.parse(svg).getroot().tag == "{http://www.w3.org/2000/svg}svg"


def test_equal_pictures_are_equal_files(tmp_path: Path) -> None:
    report = full()
    for name in ("x.svg", "y.svg"):
        draw("regimes", report, tmp_path / name)
    assert (tmp_path / "x.svg").read_bytes() == (tmp_path / "y.svg").read_bytes()


def test_what_a_run_has_not_got_to_is_said_in_one_line(tmp_path: Path) -> None:
    bare = replace(full(), training=(), sub_networks=None, search=None, tables=(), predictions=None)
    assert drawable(bare) == ["architecture"]
    for kind in set(PLOTS) - {"architecture"}:
        with pytest.raises(UserError, match=r"^runs/x: no .* `(nd|workflows)\.[a-z.]+\(\)`$"):
            draw(kind, bare, tmp_path / "x.png")
    assert list(tmp_path.iterdir()) == []


def test_other_kinds_and_suffixes_are_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="unknown picture 'frnt'; did you mean 'front'"):
        draw("frnt", full(), tmp_path / "x.png")
    with pytest.raises(UserError, match=r"ends in \.png or \.svg"):
        draw("front", full(), tmp_path / "x.pdf")


def test_the_page_about_reports_names_every_picture_and_every_part() -> None:
    text = PAGES["using/report.md"]
    names = [*PLOTS, *(field.name for field in fields(RunReport))]
    assert [name for name in names if f"`{name}`" not in text] == []
