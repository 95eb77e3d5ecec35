"""Pages as tests read them: their fences, and the commands in these."""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parents[2]
PAGES = {
    str(path.relative_to(ROOT if path.name == "README.md" else ROOT / "docs")): path.read_text(encoding="utf-8")
    for path in (ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md")))
}
"""README.md and all pages of docs/, by path."""
_FENCE = re.compile(r"^( *)```(\w*)([^\n`]*)\n(.*?)^ *```$", re.MULTILINE | re.DOTALL)
_PROGRAMS = r"(?:[A-Z_]+=\S+ )*(?:nasdeploy|torchrun|pip|python|make|git|docker|ssh|adb) "
NEEDS = frozenset(
    {
        "a GPU",
        "a Jetson",
        "a Raspberry Pi",
        "a board",
        "a cluster",
        "the internet",
        "a phone",
        "a quiet machine for hours",
        "a quiet machine for minutes",
        "several machines",
        "several processors or GPUs",
        "your own code",
    }
)
"""What commands may need that no test has."""


@dataclass(frozen=True)
class Fence:
    """A block of code: its language, its title, and what stands in it."""

    language: str
    title: str
    text: str

    @property
    def needs(self) -> str:
        """What its commands need that no test has, or nothing: then a test types them."""
        return self.title.removeprefix("Needs ") if self.title.startswith("Needs ") else ""

    @property
    def lines(self) -> list[str]:
        """Lines, those that were continued joined."""
        return re.sub(r"\\\n\s*", "", self.text).splitlines()


def fences(page: str, language: str) -> list[Fence]:
    """Return the blocks of a language in the text of a page."""
    found = (Fence(each[2], _title(each[3]), each[4]) for each in _FENCE.finditer(page))
    return [fence for fence in found if fence.language == language]


def _title(attributes: str) -> str:
    found = re.search(r'title="([^"]*)"', attributes)
    return found[1] if found else ""


def typed(page: str) -> list[str]:
    """Return the commands of a page that a test types, in order."""
    lines = (line for fence in fences(page, "console") if not fence.needs for line in fence.lines)
    return [line.strip().removeprefix("$ ") for line in lines]


def hardware(page: str) -> Iterator[tuple[str, str]]:
    """Yield what the commands of a page need that no test has, and each command."""
    for fence in fences(page, "console"):
        if fence.needs:
            yield from ((fence.needs, line.strip().removeprefix("$ ")) for line in fence.lines)


def mentioned(page: str) -> list[str]:
    """Return commands of nasdeploy that stand within a sentence or a table."""
    prose = _FENCE.sub("", page)
    return [" ".join(found.split()) for found in re.findall(r"(?<!`)`(nasdeploy [^`]+)`", prose)]


def stray(page: str) -> list[str]:
    """Return lines that look like commands and stand neither in a sentence nor behind a `$` in a console block."""
    unmarked = [line for fence in fences(page, "console") for line in fence.lines if not line.strip().startswith("$ ")]
    without = _FENCE.sub(lambda each: "" if each[2] == "console" else each[0], page)
    code = [each[4] for each in _FENCE.finditer(without) if each[2] != "python"]
    code += re.findall(r"^ {4}.*$", _FENCE.sub("", without), re.MULTILINE)
    lines = (line for text in code for line in text.splitlines())
    return unmarked + [line for line in lines if re.match(rf"\s*(?:\$ )?{_PROGRAMS}", line)]
