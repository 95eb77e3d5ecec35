"""Charts of the page: traces and layout as plotly's JSON, the same numbers as a table, and what they show in words.

Colours are names with an `@` in front (`@accent`), for which the page's script puts those of the theme that is shown:
the custom properties of page.css. Texts of a run are escaped by `plain`, because plotly reads tags in what it draws.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from html import escape
from json import dumps
from typing import Any

from markupsafe import Markup

Json = dict[str, Any]


@dataclass(frozen=True)
class Chart:
    """One chart of the page."""

    title: str
    note: str
    """The line below the title: what the axes and marks are."""
    text: str
    """The text alternative: what the chart shows, in whole sentences."""
    traces: tuple[Json, ...]
    """The traces as plotly's JSON."""
    layout: Json
    """The layout as plotly's JSON."""
    columns: tuple[str, ...]
    """The heads of the table of the chart's numbers."""
    rows: tuple[tuple[str, ...], ...]
    """The rows of that table; numbers are written as people read them."""

    @property
    def json(self) -> Markup:
        """The chart as plotly's JSON, which no text in it can turn into markup."""
        text = dumps({"data": self.traces, "layout": self.layout}, separators=(",", ":"), allow_nan=False)
        return Markup(text.replace("&", r"\u0026").replace("<", r"\u003c").replace(">", r"\u003e"))


SERIES = ("@accent", "@second", "@third", "@fourth", "@grey", "@text")
"""The colours of what is compared, most important first."""


def plain(text: object) -> str:
    """Return text of a run as plotly draws it: letter by letter, tags and entities included."""
    return escape(str(text), quote=False)


def number(value: float | None, digits: int = 4) -> str:
    """Return a number with that many significant digits, without an exponent where it is short; a dash for None."""
    return "-" if value is None else f"{value:.{digits}g}"


def arch_lines(arch: Mapping[str, Any]) -> str:
    """Return an architecture for hovering: a line for each choice, `depth 1 2 1`."""
    return "<br>".join(plain(f"{name} {_values(value)}") for name, value in arch.items())


def arch_line(arch: Mapping[str, Any]) -> str:
    """Return an architecture in one line: `resolution 8; depth 1 2 1`."""
    return "; ".join(f"{name} {_values(value)}" for name, value in arch.items())


def _values(value: Any) -> str:
    return " ".join(map(_values, value)) if isinstance(value, Sequence) and not isinstance(value, str) else str(value)


def axis(title: str, **more: Any) -> Json:
    """Return an axis with quiet lines."""
    return {
        "title": {"text": plain(title), "font": {"color": "@muted"}, "standoff": 8},
        "gridcolor": "@rule",
        "linecolor": "@faint",
        "zeroline": False,
        "automargin": True,
        "tickcolor": "@faint",
        **more,
    }


def layout(x: Json, y: Json, **more: Any) -> Json:
    """Return a layout on the page's ground with the legend above."""
    return {
        "xaxis": x,
        "yaxis": y,
        "autosize": True,
        "margin": {"l": 56, "r": 16, "t": 36, "b": 48},
        "paper_bgcolor": "rgba(0,0,0,0)",
        "plot_bgcolor": "rgba(0,0,0,0)",
        "font": {"family": "system-ui, sans-serif", "size": 12, "color": "@text"},
        "hovermode": "closest",
        "hoverlabel": {
            "bgcolor": "@surface",
            "bordercolor": "@faint",
            "font": {"color": "@text", "size": 12},
            "align": "left",
            "namelength": -1,
        },
        "legend": {
            "orientation": "h",
            "x": 0,
            "y": 1.01,
            "yanchor": "bottom",
            "font": {"size": 11},
            "traceorder": "normal",
        },
        **more,
    }


def marker(colour: str, symbol: str = "circle", size: float = 6, **more: Any) -> Json:
    """Return a marker with a thin edge in the page's ground, so that those that overlap are told apart."""
    return {"color": colour, "symbol": symbol, "size": size, "line": {"width": 0.5, "color": "@surface"}, **more}
