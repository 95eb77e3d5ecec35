"""Draws docs/concepts/plan.svg: `python docs/draw_plan.py`."""

from collections.abc import Iterator
from html import escape
from pathlib import Path

PATH = Path(__file__).parent / "concepts" / "plan.svg"
WIDTH, HEIGHT = 760, 436
LEFT, STEP, BOX = 190, 140, 124
"""The place of the first slot, from one slot to the next, and how wide its box is."""
BLUE, GREEN, RED, GREY, INK = "#4477aa", "#228833", "#c2405a", "#888888", "#1f2933"
SLOTS = (
    ("stem", "Stem", "16 wide", 0.55),
    ("block1", "MBConv", "16 to 24, 3x3", 0.62),
    ("block2", "none", "depth is 1", 0.0),
    ("head", "PoolHead", "24 to 10 classes", 0.7),
)
"""Slots by name, what the architecture has there, and the part of the slot's weights that this takes."""
USES = (
    ("static network", "a module for each block:", "extracted, exported, proved", BLUE),
    ("exact costs", "MACs, parameters, size", "of the file: added up", GREEN),
    ("latency", "block.key is a row of the", "device's table: added up", RED),
)


def text(x: float, y: float, content: str, size: int = 12, anchor: str = "middle", more: str = "") -> str:
    """Return a line of text."""
    return f'<text x="{x:g}" y="{y:g}" font-size="{size}" text-anchor="{anchor}" {more}>{escape(content)}</text>'


def rectangle(x: float, y: float, width: float, height: float, fill: str, more: str = "") -> str:
    """Return a rectangle with round corners."""
    return f'<rect x="{x:g}" y="{y:g}" width="{width:g}" height="{height:g}" rx="4" fill="{fill}" {more}/>'


def arrow(x: float, y: float, dx: float, dy: float) -> str:
    """Return an arrow to the right or down."""
    head = "m -4 -4 l 4 4 l -4 4" if dx else "m -4 -4 l 4 4 l 4 -4"
    return f'<path d="M {x:g} {y:g} l {dx:g} {dy:g} {head}" stroke="{INK}" fill="none"/>'


def labels() -> Iterator[str]:
    """Yield what the rows are, on the left."""
    rows = (
        (34, "architecture", "a value for each choice"),
        (112, "plan", "steps, each a block"),
        (226, "supernet", "weights of each slot;"),
        (332, "what follows", "from the plan alone"),
    )
    for y, name, more in rows:
        yield text(16, y, name, 14, "start", 'font-weight="bold"')
        yield text(16, y + 18, more, 11, "start")
    yield text(16, 259, "the filled part is the", 11, "start")
    yield text(16, 274, "slice of the block above", 11, "start")


def architecture() -> Iterator[str]:
    """Yield the architecture, and the way from it to the plan."""
    yield rectangle(LEFT, 16, 4 * STEP - (STEP - BOX), 32, "#f4f1e8", f'stroke="{GREY}"')
    shown = '{"resolution": 12, "width": [16, 24], "kernel_size": 3, "depth": 1}'
    yield text(LEFT + (4 * STEP - (STEP - BOX)) / 2, 37, shown, 12, more='font-family="monospace"')
    yield arrow(LEFT + BOX / 2, 50, 0, 32)
    said = "space.plan(arch): each slot reads its choices and says which block it holds"
    yield text(LEFT + BOX / 2 + 10, 70, said, 11, "start")


def steps() -> Iterator[str]:
    """Yield the plan, and below it the weights that its blocks take."""
    for number, (slot, block, shape, part) in enumerate(SLOTS):
        x, there = LEFT + number * STEP, part > 0
        edge = f'stroke="{BLUE}"' if there else f'stroke="{GREY}" stroke-dasharray="4 3"'
        yield rectangle(x, 86, BOX, 62, "#e6eef6" if there else "none", edge)
        yield text(x + BOX / 2, 104, slot, 11)
        yield text(x + BOX / 2, 122, block, 13, more='font-weight="bold"' if there else 'font-style="italic"')
        yield text(x + BOX / 2, 139, shape, 11)
        yield rectangle(x + 12, 196, BOX - 24, 84, "white", f'stroke="{INK}"')
        if there:
            yield rectangle(x + 12, 196, (BOX - 24) * part, 84 * part, BLUE, 'fill-opacity="0.55"')
            yield arrow(x + BOX / 2, 192, 0, -40).replace("m -4 -4 l 4 4 l 4 -4", "m -4 4 l 4 -4 l 4 4")
            yield text(x + BOX / 2 + 8, 176, "slice", 11, "start")
        if number in (0, 1):
            # The second block is not there: what it would have taken goes on to the head.
            yield arrow(x + BOX, 117, STEP - BOX, 0)
    yield arrow(LEFT + 2 * STEP + BOX, 117, STEP - BOX, 0)


def uses() -> Iterator[str]:
    """Yield what is made of a plan."""
    width = 172
    for number, (name, first, second, colour) in enumerate(USES):
        x = LEFT + number * (width + 14)
        yield rectangle(x, 316, width, 72, "white", f'stroke="{colour}" stroke-width="2"')
        yield text(x + width / 2, 336, name, 13, more='font-weight="bold"')
        yield text(x + width / 2, 356, first, 11)
        yield text(x + width / 2, 373, second, 11)
    said = "The search needs the last two for millions of architectures: look-ups in arrays, no network is built."
    yield text(16, 418, said, 12, "start")


def drawing() -> str:
    """Return the picture; it has a ground of its own, so that it is read on a dark page, too."""
    view = f'viewBox="0 0 {WIDTH} {HEIGHT}" font-family="sans-serif" fill="{INK}"'
    head = f'<svg xmlns="http://www.w3.org/2000/svg" {view}>'
    ground = rectangle(0, 0, WIDTH, HEIGHT, "#fcfcfa")
    return "\n".join([head, ground, *labels(), *architecture(), *steps(), *uses(), "</svg>"]) + "\n"


if __name__ == "__main__":
    PATH.write_text(drawing(), encoding="utf-8")
