"""The pages build without a warning, into HTML whose links lead somewhere and which fetches nothing from any host."""

import re
import subprocess
import sys
from collections.abc import Iterator
from html.parser import HTMLParser
from pathlib import Path
from resource import RUSAGE_CHILDREN, getrusage
from urllib.parse import unquote, urlsplit

import pytest

pytest.importorskip("mkdocs", reason="extra docs is not installed")

CHROMIUM = Path("/usr/bin/chromium")
ROOT = Path(__file__).parents[2]
README, PAGES = ROOT / "README.md", sorted((ROOT / "docs").rglob("*.md"))
SECONDS = 60
"""The processor time that building all pages may take; on a busy machine it takes longer."""
FETCHED = {
    "script": "src",
    "link": "href",
    "img": "src",
    "iframe": "src",
    "source": "src",
    "video": "src",
    "audio": "src",
}
"""Attributes that a browser follows by itself, by the element that has them."""


class _Page(HTMLParser):
    """What a page of HTML links to, what it fetches, and the places in it that links may lead to."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.links: set[str] = set()
        self.fetched: set[str] = set()
        self.places: set[str] = set()
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        """Note what an element refers to."""
        given = {name: value or "" for name, value in attrs}
        self.places |= {given[name] for name in ("id", "name") if name in given}
        if tag == "a" and "href" in given:
            self.links.add(given["href"])
        elif (attribute := FETCHED.get(tag, "")) in given:
            self.fetched.add(given[attribute])


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> dict[Path, _Page]:
    folder = tmp_path_factory.mktemp("site")
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--quiet", "--site-dir", str(folder)]
    before = getrusage(RUSAGE_CHILDREN)
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=10 * SECONDS, check=False)
    after = getrusage(RUSAGE_CHILDREN)
    assert done.returncode == 0, done.stderr
    assert after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime < SECONDS
    return {path: _Page(path.read_text(encoding="utf-8")) for path in folder.rglob("*.html")}


def targets(site: dict[Path, _Page], refers: str) -> Iterator[tuple[Path, Path, str]]:
    """Yield from where to where references within the site lead, and to which place there."""
    for path, page in site.items():
        for reference in getattr(page, refers):
            parts = urlsplit(reference)
            if not parts.scheme and not parts.netloc:
                yield path, (path.parent / unquote(parts.path)).resolve() if parts.path else path, parts.fragment


@pytest.mark.slow
def test_every_page_is_built_and_every_link_leads_somewhere(site: dict[Path, _Page]) -> None:
    assert len(site) > len(PAGES)
    broken = [
        f"{path.name}: {target.name}#{place}"
        for path, target, place in (*targets(site, "links"), *targets(site, "fetched"))
        if path.name != "404.html"
        and (not target.exists() or (place and target in site and place not in site[target].places))
    ]
    assert broken == []


@pytest.mark.slow
def test_nothing_is_fetched_from_another_host(site: dict[Path, _Page]) -> None:
    assert any(page.fetched for page in site.values())
    elsewhere = {reference for page in site.values() for reference in page.fetched if urlsplit(reference).netloc}
    assert elsewhere == set()


@pytest.mark.slow
@pytest.mark.skipif(not CHROMIUM.exists(), reason="Chromium is not installed")
def test_pages_are_read_and_searched_from_the_file_system(site: dict[Path, _Page]) -> None:
    sync_api = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
    (home,) = (path.parent for path in site if path.name == "404.html")
    said, asked = list[str](), list[str]()
    with sync_api.sync_playwright() as started:
        page = started.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"]).new_page()
        page.on("console", lambda message: said.append(message.text))
        page.on("pageerror", lambda error: said.append(str(error)))
        page.on("request", lambda request: asked.append(urlsplit(request.url).scheme))
        page.goto((home / "using/spaces.html").as_uri())
        page.click("input.md-search__input")
        page.keyboard.type("interleaved")
        hit = page.wait_for_selector(".md-search-result__item a", timeout=30_000)
        assert hit is not None
        assert Path(urlsplit(str(hit.get_attribute("href"))).path).suffix == ".html"
    assert said == []
    assert set(asked) == {"file"}


@pytest.mark.parametrize(("path", "lines"), [(README, 150), *((path, 250) for path in PAGES)])
def test_a_page_is_short(path: Path, lines: int) -> None:
    assert len(path.read_text(encoding="utf-8").splitlines()) <= lines


def test_links_of_the_readme_lead_somewhere() -> None:
    links = re.findall(r"\]\((?!https?://)([^)]+)\)", README.read_text(encoding="utf-8"))
    assert [link for link in links if not (ROOT / urlsplit(link).path).exists()] == []
