"""Draws docs/latency-protocol.svg: `python docs/draw_latency_protocol.py`."""

from collections.abc import Iterator
from html import escape
from pathlib import Path

PATH = Path(__file__).with_name("latency-protocol.svg")
WIDTH, HEIGHT = 760, 300
RUNS, DISCARDED = 4, 2
"""The number of runs drawn in a visit, and how many of them, the first ones, do not count."""
ORDER = ("ref", "a", "b", "c", "ref", "a", "b", "c", "ref", "a", "b", "c")
SLOW = range(4, 7)
"""The visits that fall into a slow phase of the machine."""
COLOURS = {"ref": "#888888", "a": "#4477aa", "b": "#228833", "c": "#ee6677"}
STAGES = (
    ("runs of a visit", "first two discarded"),
    ("10th percentile", "nothing disturbed it"),
    ("drift correction", "by the reference graph"),
    ("sum of entries", "a network's blocks"),
    ("calibration", "on whole networks"),
    ("held-out error", "on other networks"),
)


def text(x: float, y: float, content: str, size: int = 12, anchor: str = "start") -> str:
    """Return a line of text."""
    return f'<text x="{x:g}" y="{y:g}" font-size="{size}" text-anchor="{anchor}">{escape(content)}</text>'


def rectangle(x: float, y: float, width: float, height: float, fill: str, more: str = "") -> str:
    """Return a rectangle."""
    return f'<rect x="{x:g}" y="{y:g}" width="{width:g}" height="{height:g}" fill="{fill}" {more}/>'


def visits() -> Iterator[str]:
    """Yield the visits of a group in time, a bar for each run, as high as it is long."""
    left, bottom, step = 20, 150, 60
    start, end = left + SLOW[0] * step - 6, left + (SLOW[-1] + 1) * step - 10
    yield rectangle(start, 40, end - start, bottom - 40, "#fff0c2")
    yield text((start + end) / 2, 54, "the machine is slow", anchor="middle")
    for number, key in enumerate(ORDER):
        slow = 1.4 if number in SLOW else 1.0
        for run in range(RUNS):
            height = slow * (62, 58, 46, 46)[run]
            more = 'fill-opacity="0.3"' if run < DISCARDED else ""
            yield rectangle(left + number * step + 12 * run, bottom - height, 10, height, COLOURS[key], more)
        yield text(
            left + number * step + 23, bottom + 16, "reference" if key == "ref" else f"block {key}", 11, "middle"
        )
    yield text(left, 24, "A group: open sessions, visited in turn; the height of a bar is the time of a run", 13)


def stages() -> Iterator[str]:
    """Yield what becomes of the runs."""
    width, top = 112, 205
    for number, (name, why) in enumerate(STAGES):
        x = 20 + number * 122
        yield rectangle(x, top, width, 50, "#eef3f8", 'stroke="#4477aa" rx="4"')
        yield text(x + width / 2, top + 21, name, 12, "middle")
        yield text(x + width / 2, top + 38, why, 9, "middle")
        if number:
            yield f'<path d="M {x - 9} {top + 25} h 7 m -3 -3 l 3 3 l -3 3" stroke="#333333" fill="none"/>'
    yield text(20, top - 12, "From runs to a table", 13)


def drawing() -> str:
    """Return the picture."""
    head = f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {HEIGHT}" font-family="sans-serif">'
    return "\n".join([head, rectangle(0, 0, WIDTH, HEIGHT, "white"), *visits(), *stages(), "</svg>"]) + "\n"


if __name__ == "__main__":
    PATH.write_text(drawing(), encoding="utf-8")
