"""Draws docs/overview.svg: `python docs/draw_overview.py`."""

from collections.abc import Iterator
from html import escape
from pathlib import Path

PATH = Path(__file__).with_name("overview.svg")
WIDTH, HEIGHT = 800, 286
CARD, GAP, TOP, BASE = 140, 18, 46, 180
STEPS = (
    ("init --from", "Pretrained network", "your images,", "its weights"),
    ("train", "Supernet", "every smaller network,", "cut out of its weights"),
    ("profile", "Latency table", "every block, measured", "on the device"),
    ("search", "Search", "measured finalists", "within the budget"),
    ("export", "Proven file", "agrees with PyTorch", "on every test image"),
)
"""The command of each step, its name, and what it is about in two lines."""
BLOCKS = (100, 86, 86, 70, 70, 54, 40)
"""Widths of the network's blocks, from its input down."""
CUT = (64, 56, 0, 44, 44, 32, 24)
"""Widths of the same blocks in a smaller network, of which one is left out."""
TIMES = (92, 70, 58, 40, 34, 22, 14)
POINTS = ((14, 74), (26, 52), (33, 66), (45, 37), (50, 58), (58, 27), (70, 42), (80, 18), (88, 31), (98, 12))
FRONT, CHOSEN, BUDGET = (0, 1, 3, 5, 7, 9), 5, 66
"""Places in the points of those on the Pareto front and of the one that is chosen; where the budget is."""

STYLE = """
.ground { fill: #f4f7f7 } .card { fill: #ffffff; stroke: #b9c9c7 } .ink { fill: #15302e } .soft { fill: #4a6361 }
.block { fill: #8db7b2 } .part { fill: #00796b } .warm { fill: #c2571a }
.line { stroke: #00796b } .hot { stroke: #c2571a } .arrow { stroke: #4a6361 } .paper { fill: #e3eeec; stroke: #00796b }
@media (prefers-color-scheme: dark) {
.ground { fill: #16211f } .card { fill: #1f2d2b; stroke: #3f5855 } .ink { fill: #eef6f5 } .soft { fill: #b4c9c6 }
.block { fill: #40625e } .part { fill: #4db6ac } .warm { fill: #ff9d5c }
.line { stroke: #4db6ac } .hot { stroke: #ff9d5c } .arrow { stroke: #b4c9c6 } .paper { fill: #2a3d3a; stroke: #4db6ac }
}
"""
"""Colours by the reader's preference; the ground is part of the picture, so that it can be read on any page."""


def text(x: float, y: float, content: str, kind: str, size: float, more: str = "") -> str:
    """Return a line of text around a place."""
    return f'<text x="{x:g}" y="{y:g}" class="{kind}" font-size="{size:g}" {more}>{escape(content)}</text>'


def rectangle(x: float, y: float, width: float, height: float, kind: str, rx: float = 2) -> str:
    """Return a rectangle with round corners."""
    return f'<rect x="{x:g}" y="{y:g}" width="{width:g}" height="{height:g}" rx="{rx:g}" class="{kind}"/>'


def network(x: float) -> Iterator[str]:
    """Yield the blocks of a network, one below the other."""
    for number, width in enumerate(BLOCKS):
        yield rectangle(x - width / 2, TOP + 22 + 15 * number, width, 11, "part")


def supernet(x: float) -> Iterator[str]:
    """Yield the same blocks with those of a smaller network inside."""
    for number, (width, cut) in enumerate(zip(BLOCKS, CUT, strict=True)):
        yield rectangle(x - width / 2, TOP + 22 + 15 * number, width, 11, "block")
        if cut:
            yield rectangle(x - width / 2, TOP + 22 + 15 * number, cut, 11, "part")


def table(x: float) -> Iterator[str]:
    """Yield a bar for the time of each block."""
    for number, width in enumerate(TIMES):
        yield rectangle(x - 50, TOP + 22 + 15 * number, width, 11, "warm")
    yield f'<path d="M {x - 52:g} {TOP + 18} V {TOP + 126} H {x + 52:g}" class="arrow" fill="none"/>'


def search(x: float) -> Iterator[str]:
    """Yield networks by latency and accuracy, the Pareto front, the budget and the network that is chosen."""
    left, up = x - 54, TOP + 26
    yield f'<path d="M {left:g} {up - 8} V {up + 100} H {x + 54:g}" class="arrow" fill="none"/>'
    front = " L ".join(f"{left + POINTS[place][0]:g} {up + POINTS[place][1]:g}" for place in FRONT)
    yield f'<path d="M {front}" class="line" fill="none" stroke-width="2"/>'
    yield f'<path d="M {left + BUDGET:g} {up - 8} V {up + 100}" class="hot" stroke-dasharray="4 3"/>'
    for number, (across, down) in enumerate(POINTS):
        kind, radius = ("warm", 6) if number == CHOSEN else ("part" if number in FRONT else "block", 3.2)
        yield f'<circle cx="{left + across:g}" cy="{up + down:g}" r="{radius:g}" class="{kind}"/>'


def file(x: float) -> Iterator[str]:
    """Yield a sheet with a tick."""
    left, up = x - 36, TOP + 20
    sheet = f"M {left:g} {up} h 48 l 24 24 v 82 h -72 z M {left + 48:g} {up} v 24 h 24"
    yield f'<path d="{sheet}" class="paper" stroke-width="2"/>'
    yield text(x, up + 46, ".onnx", "ink", 15, 'font-weight="bold"')
    yield f'<path d="M {x - 18:g} {up + 74} l 13 13 l 24 -26" class="line" fill="none" stroke-width="6"/>'


def drawing() -> str:
    """Return the picture."""
    head = (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {HEIGHT}" font-family="sans-serif" '
        f'text-anchor="middle" role="img"><title>From a pretrained network to a proven file</title>'
        f"<style>{STYLE}</style>"
    )
    parts = [head, rectangle(0, 0, WIDTH, HEIGHT, "ground", 10)]
    for number, (command, name, *about) in enumerate(STEPS):
        left = GAP + number * (CARD + GAP) - 4
        middle = left + CARD / 2
        parts.append(text(middle, TOP - 14, command, "soft", 15, 'font-family="monospace"'))
        parts.append(rectangle(left, TOP, CARD, 150, "card", 6))
        parts.extend((network, supernet, table, search, file)[number](middle))
        parts.append(text(middle, BASE + 43, name, "ink", 14, 'font-weight="bold"'))
        parts.extend(text(middle, BASE + 64 + 16 * line, words, "soft", 12.5) for line, words in enumerate(about))
        if number:
            parts.append(
                f'<path d="M {left - GAP + 3:g} {TOP + 75} h 11 m -5 -5 l 5 5 l -5 5" class="arrow" fill="none" '
                'stroke-width="2"/>'
            )
    return "\n".join([*parts, "</svg>"]) + "\n"


if __name__ == "__main__":
    PATH.write_text(drawing(), encoding="utf-8")
