"""The page of a report in a real Chromium: silent, alone, drawn, hovered, dark, narrow, printed, typed through."""

from collections.abc import Iterator
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest

from nasdeploy.report.page import page_of
from tests.report.browser import CHROMIUM, SIZE, chromium
from tests.report.reports import begun, curves, export, predictions, report
from tests.report.test_page import HOSTILE

pytest.importorskip("playwright.sync_api")
pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="there is no Chromium (apt-get install chromium)")


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    with chromium() as started:
        yield started


TICK = "document.querySelector('.canvas .xtick text').style.fill"


class Shown:
    """A page with everything that it said and asked for."""

    def __init__(self, browser: Any, path: Path, page: str, **context: Any) -> None:
        path.write_text(page, encoding="utf-8")
        self.said: list[str] = []
        self.asked: list[str] = []
        self.tab = browser.new_context(**{"viewport": SIZE, **context}).new_page()
        self.tab.set_default_timeout(60_000)
        self.tab.on("console", lambda message: self.said.append(message.text))
        self.tab.on("pageerror", lambda error: self.said.append(str(error)))
        self.tab.on("request", lambda request: self.asked.append(request.url))
        self.tab.goto(path.as_uri())
        if 'class="canvas"' in page:
            self.tab.wait_for_selector("html[data-drawn=all]", state="attached")

    def ask(self, script: str) -> Any:
        return self.tab.evaluate(script)


@pytest.fixture(scope="module")
def shown(browser: Any, tmp_path_factory: pytest.TempPathFactory) -> Shown:
    return Shown(browser, tmp_path_factory.mktemp("page") / "report.html", page_of([report()]))


def test_says_nothing_and_asks_for_nothing(shown: Shown) -> None:
    assert shown.said == []
    assert [url for url in shown.asked if not url.startswith("file:")] == []
    assert len(shown.asked) == 1


def test_every_chart_has_data(shown: Shown) -> None:
    found = shown.ask(
        "[...document.querySelectorAll('.canvas')].map(one => [one.data.length, one.querySelectorAll("
        "'.point, .heatmaplayer image, .boxlayer path, .js-line, .barlayer path').length])"
    )
    assert len(found) == 11
    assert all(traces > 0 and marks > 0 for traces, marks in found)


def test_hovering_shows_the_architecture(shown: Shown) -> None:
    canvas = shown.tab.locator("#front .canvas").first
    canvas.scroll_into_view_if_needed()
    point = canvas.locator(".scatterlayer .trace").last.locator(".point").first
    box = point.bounding_box()
    shown.tab.mouse.move(box["x"] + box["width"] / 2, box["y"] + box["height"] / 2)
    told = canvas.locator(".hoverlayer").filter(has_text="kernel_size")
    told.wait_for(state="attached")
    assert "depth 1" in told.text_content()


def test_the_theme_is_the_systems_until_it_is_switched(shown: Shown) -> None:
    def ground() -> tuple[str, str]:
        return tuple(shown.ask(f"[getComputedStyle(document.body).backgroundColor, {TICK}]"))

    light = ground()
    shown.tab.emulate_media(color_scheme="dark")
    shown.tab.wait_for_selector(".canvas .xtick text[style*='rgb(230, 232, 235)']", state="attached")
    assert ground()[0] != light[0]
    shown.tab.get_by_role("button", name="Light theme").click()
    assert ground() == light
    shown.tab.emulate_media(color_scheme="light")
    assert ground() == light


def test_paper_has_the_charts_in_light_colours_and_no_controls(shown: Shown) -> None:
    width = "document.querySelector('.canvas .main-svg').clientWidth"
    wide = shown.ask(width)
    shown.ask("document.documentElement.dataset.theme = 'dark'")
    shown.ask(f"addEventListener('beforeprint', () => {{ window.printed = [{TICK}, {width}]; }})")
    assert shown.tab.pdf(format="A4", print_background=True).startswith(b"%PDF")
    assert shown.ask("window.printed") == ["rgb(27, 30, 35)", 620]
    assert shown.ask(width) == wide
    shown.tab.emulate_media(media="print")
    assert shown.ask("getComputedStyle(document.querySelector('nav')).display") == "none"
    assert shown.ask("getComputedStyle(document.body).colorScheme") == "light"
    shown.tab.emulate_media(media="screen")
    shown.ask("delete document.documentElement.dataset.theme")


def test_keys_reach_the_summary_the_sections_and_the_numbers(shown: Shown) -> None:
    # The browser goes on from where it was clicked last.
    shown.ask("document.querySelector('a[href], button, summary, [tabindex]').focus()")
    reached = []
    for _ in range(12):
        reached.append(shown.ask("document.activeElement.textContent.trim()"))
        shown.tab.keyboard.press("Tab")
    assert reached[0] == "Skip to the summary"
    assert reached[1] in ("Dark theme", "Light theme")
    assert reached[2:5] == ["Summary", "Pareto front", "Architecture"]
    shown.tab.keyboard.press("Shift+Tab")
    assert reached[-1] == "Numbers of this chart"
    assert shown.ask("getComputedStyle(document.activeElement).outlineStyle") == "solid"
    shown.tab.keyboard.press("Enter")
    assert shown.ask("document.activeElement.parentElement.open")


def test_screen_readers_find_landmarks_headings_in_order_and_texts(shown: Shown) -> None:
    assert shown.ask("['header', 'nav', 'main', 'footer'].map(one => document.querySelectorAll(one).length)") == [1] * 4
    levels = shown.ask("[...document.querySelectorAll('h1, h2, h3')].map(one => +one.tagName[1])")
    assert levels[0] == 1 and levels.count(1) == 1
    assert all(after <= before + 1 for before, after in pairwise(levels))
    named = shown.ask("[...document.querySelectorAll('[role=img], [role=region], nav')].map(one => one.ariaLabel)")
    assert all(named)
    assert all(shown.ask("[...document.images].filter(one => one.closest('main')).map(one => one.alt)"))
    assert shown.ask("[...document.querySelectorAll('th')].every(one => one.scope)")
    assert shown.ask("document.documentElement.lang") == "en"
    assert shown.ask("new Set([...document.querySelectorAll('[id]')].map(one => one.id)).size") == shown.ask(
        "document.querySelectorAll('[id]').length"
    )


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_texts_stand_out_from_their_ground(shown: Shown, scheme: str) -> None:
    """WCAG 2.2, 1.4.3: 4.5 to 1."""
    shown.tab.emulate_media(color_scheme=scheme)
    script = """names => names.map(name => {
        const probe = document.body.appendChild(document.createElement('i'));
        probe.style.color = `var(--${name})`;
        const parts = getComputedStyle(probe).color.match(/[0-9.]+/g).map(part => part / 255);
        probe.remove();
        const linear = parts.map(part => part <= 0.04045 ? part / 12.92 : ((part + 0.055) / 1.055) ** 2.4);
        return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2];
    })"""
    grounds, texts = ["ground", "surface"], ["text", "muted", "accent", "bad"]
    for ground in shown.tab.evaluate(script, grounds):
        for text in shown.tab.evaluate(script, texts):
            assert (max(ground, text) + 0.05) / (min(ground, text) + 0.05) >= 4.5


def test_runs_beside_each_other_fit_a_phone(browser: Any, tmp_path: Path) -> None:
    runs = [report(training=(), tables=()), report("other", training=(), tables=()), begun("third")]
    narrow = Shown(browser, tmp_path / "report.html", page_of(runs), viewport={"width": 360, "height": 780})
    assert narrow.ask("document.documentElement.scrollWidth") == 360
    assert narrow.said == []
    narrow.tab.context.close()


def test_texts_of_a_stranger_do_nothing(browser: Any, tmp_path: Path) -> None:
    hostile = predictions((HOSTILE, *"123456789"))
    made = report(
        name=HOSTILE,
        training=(curves(HOSTILE),),
        sub_networks=None,
        tables=(),
        predictions=replace(hostile, wrong=tuple(replace(image, name=HOSTILE) for image in hostile.wrong)),
        exports=(replace(export(), directory=HOSTILE),),
    )
    page = page_of([made]).replace("<main>", "<main><script>document.title = 'ran'</script>")
    odd = Shown(browser, tmp_path / "report.html", page)
    # The one that was put in by hand shows what the page's policy is worth.
    assert odd.ask("document.title") != "ran"
    assert len(odd.said) == 1 and "Content Security Policy" in odd.said[0]
    assert [url for url in odd.asked if not url.startswith("file:")] == []
    odd.tab.context.close()


def test_a_run_that_has_only_begun_is_shown(browser: Any, tmp_path: Path) -> None:
    new = Shown(browser, tmp_path / "report.html", page_of([begun()]))
    assert new.said == []
    assert new.ask("document.querySelectorAll('#yet .missing').length") == 6
    new.tab.context.close()
