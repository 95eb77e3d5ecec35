"""The page of a report as HTML: what it holds, what it says of what is missing, and that texts of a run are texts."""

import json
import re
from dataclasses import replace
from html.parser import HTMLParser

import pytest

from nasdeploy.report.networks import SubNetworks
from nasdeploy.report.page import SECTIONS, page_of
from nasdeploy.report.run import RunReport
from nasdeploy.report.search_charts import DRAWN, front_chart, macs_chart
from nasdeploy.tasks.metrics import TOP1
from tests.report.reports import begun, curves, export, predictions, report, scored, search

HOSTILE = "</script><script>hostile()</script><img src=x onerror=hostile()>\u2028\udcfc&amp;<b>"


class Outline(HTMLParser):
    """Tags with their attributes, and the texts of scripts, styles and the rest."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.texts: list[str] = []
        self.open: list[str] = []
        self.feed(page)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        if self.open and self.open[-1] == tag:
            self.open.pop()

    def handle_data(self, data: str) -> None:
        if self.open and self.open[-1] not in ("script", "style"):
            self.texts.append(data)

    def named(self, tag: str) -> list[dict[str, str | None]]:
        return [attributes for name, attributes in self.tags if name == tag]


def charts(page: str) -> list[dict[str, list[dict[str, object]]]]:
    return [json.loads(text) for text in re.findall(r'<script type="application/json">(.*?)</script>', page)]


def test_one_page_holds_every_section_of_a_run_and_is_small() -> None:
    page = page_of([report()])
    ids = {attributes.get("id") for attributes in Outline(page).named("section")}
    assert ids == {anchor for anchor, _ in SECTIONS}
    assert len(page.encode()) < 3e6
    assert len(charts(page)) == 11
    assert all(chart["data"] for chart in charts(page))


def test_two_pages_of_a_run_are_equal() -> None:
    assert page_of([report()]) == page_of([report()])


def test_the_page_loads_nothing() -> None:
    outline = Outline(page_of([report()]))
    assert outline.named("link") == []
    loaded = [attributes.get("src") for tag in ("script", "img", "iframe") for attributes in outline.named(tag)]
    assert all(source is None or source.startswith("data:image/png;base64,") for source in loaded)
    assert all((attributes["href"] or "").startswith("#") for attributes in outline.named("a"))


def test_what_a_run_does_not_have_is_one_line_with_the_command_that_brings_it() -> None:
    page = page_of([begun()])
    assert charts(page) == []
    shown = " ".join(" ".join(Outline(page).texts).split())
    for command in ("train", "profile", "search", "evaluate", "export"):
        assert f"nasdeploy {command}" in shown
    ids = [attributes.get("id") for attributes in Outline(page).named("section")]
    assert ids == ["summary", "architecture", "again", "yet"]


@pytest.mark.parametrize("several", [1, 2])
def test_texts_of_a_run_are_shown_as_they_are_and_never_run(several: int) -> None:
    hostile = predictions((HOSTILE, *"123456789"))
    wrong = tuple(replace(image, name=HOSTILE) for image in hostile.wrong)
    made = report(
        name=HOSTILE,
        training=(curves(HOSTILE),),
        predictions=replace(hostile, wrong=wrong),
        exports=(replace(export(), directory=HOSTILE, weights=HOSTILE),),
        remarks=(HOSTILE,),
    )
    page = page_of([made] * several)
    page.encode("utf-8")
    outline = Outline(page)
    kinds = [attributes.get("type") for attributes in outline.named("script")]
    assert [kind for kind in kinds if kind not in ("application/json", "text/plain")] == [None]
    assert all("onerror" not in attributes for _, attributes in outline.tags)
    assert any("</script><script>hostile()</script>" in text for text in outline.texts)
    # In what plotly draws, tags of a run are letters, too.
    assert "&lt;b&gt;" in json.dumps(charts(page)) and "<b>&" not in json.dumps(charts(page))


def test_of_many_networks_some_are_drawn_and_the_best_are_listed() -> None:
    one = scored()[0]
    networks = tuple(replace(one, digest=f"{place:012x}", macs=1000 + place) for place in range(3 * DRAWN))
    best = replace(networks[1], value=1.0)
    chart = macs_chart(SubNetworks((networks[0], best, *networks[2:]), ()), TOP1, None)
    assert len(chart.traces[0]["x"]) == DRAWN
    assert chart.rows[0][0] == best.digest
    assert f"{DRAWN} of them drawn" in chart.note


def test_the_table_of_a_front_begins_with_the_choice_and_has_each_network_once() -> None:
    found = search()
    chart = front_chart(replace(found, front=(*found.front, found.winner)), TOP1, None)
    assert [row[1] for row in chart.rows] == ["chosen"] + 4 * ["finalist"] + 5 * ["front"]
    assert chart.rows[0][0] == found.winner.digest


def fact_of(made: RunReport) -> str:
    return " ".join(" ".join(Outline(page_of([made])).texts).split())


def test_the_summary_says_what_was_chosen_how_good_how_fast_and_whether_it_is_proved() -> None:
    shown = fact_of(report())
    assert "98.61 % 95 %: 96.80 to 99.40; the file on 360 test images" in shown
    assert "0.128 ms budget 0.15 ms met; measured median; as quiet as when profiled 0.126 ms" in shown
    assert "proof passed onnx fp32: outputs within 1.4e-06 of PyTorch's, allowed 1e-04" in shown


def test_the_summary_says_what_failed() -> None:
    made = export()
    file = made.artefacts[0]
    assert file.proof.latency is not None
    slow = replace(file.proof, latency=replace(file.proof.latency, usual_ms=0.2))
    assert "budget 0.15 ms not met" in fact_of(report(exports=(replace(made, artefacts=(replace(file, proof=slow),)),)))
    wrong = replace(file.proof, problems=("logits differ from PyTorch's by up to 0.3",))
    shown = fact_of(report(exports=(replace(made, rejected=True, artefacts=(replace(file, proof=wrong),)),)))
    assert "not passed onnx fp32: logits differ from PyTorch's by up to 0.3" in shown
    away = replace(file, not_run="an engine for another GPU")
    assert "not run here" in fact_of(report(exports=(replace(made, artefacts=(away,)),)))


def test_a_search_without_an_export_tells_its_own_figures() -> None:
    shown = fact_of(report(exports=(), predictions=None))
    assert "on 216 held-out training images" in shown
    assert "budget 0.15 ms; measured median" in shown


def test_runs_beside_each_other_have_their_fronts_in_one_chart() -> None:
    page = page_of([report(), report("other"), begun("third")])
    together = charts(page)[0]
    assert [trace["name"] for trace in together["data"]] == ["digits", "digits", "other", "other"]
    assert len(Outline(page).named("h3")) == 3 * len(SECTIONS)


def test_runs_of_one_name_are_told_by_their_paths() -> None:
    first, second = report(), report()
    page = page_of([first, replace(second, summary=replace(second.summary, path="elsewhere/digits"))])
    assert "elsewhere/digits" in Outline(page).texts
