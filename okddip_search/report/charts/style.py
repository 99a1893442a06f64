"""The look of the report's charts: colours, layout, and text that is not interpreted.

Colours are those of Okabe and Ito (Wong, Nature Methods 8, 441, 2011), which people with any
common colour blindness can tell apart; states also differ in their symbols.
"""

import html
from collections.abc import Mapping, Sequence
from typing import Any

Figure = dict[str, Any]
"""``data`` and ``layout`` as plotly.js takes them."""

BLUE, ORANGE, GREEN, VERMILION = "#0072B2", "#E69F00", "#009E73", "#D55E00"
SKY, PURPLE, YELLOW, BLACK, GREY = "#56B4E9", "#CC79A7", "#F0E442", "#1a1a1a", "#8c8c8c"
MEMBERS = {"leader": BLUE, "peers": ORANGE, "ensemble": GREEN}
SERIES = (BLUE, ORANGE, GREEN, PURPLE, VERMILION, SKY, BLACK, YELLOW)
STATES = {
    "complete": BLUE,
    "pruned": VERMILION,
    "failed": BLACK,
    "running": GREY,
    "paused": ORANGE,
}
SYMBOLS = {
    "complete": "circle",
    "pruned": "x-thin-open",
    "failed": "square",
    "running": "circle-open",
    "paused": "diamond-open",
}
VERDICTS = {"better": BLUE, "worse": VERMILION, "within noise": GREY}
FONT = "system-ui, -apple-system, 'Segoe UI', Roboto, 'Helvetica Neue', Arial, sans-serif"
GRID, INK, FAINT = "#e8e8e8", "#2b2b2b", "#8a8f98"
SEQUENTIAL = [[0, "#d5e3ec"], [0.5, "#3b8fc0"], [1, "#00263d"]]
"""One hue from light to dark: it also reads in grey."""
MAX_POINTS = 300
"""Maximum points of a drawn curve; longer ones are thinned, as a screen shows no more."""


def text(value: Any) -> str:
    """Return a text that plotly.js shows literally; its labels interpret tags and entities."""
    return html.escape(str(value), quote=False)


def percent(shares: Sequence[float | None]) -> list[float | None]:
    """Turn shares into percent, two decimals."""
    return [None if share is None else round(100 * share, 2) for share in shares]


def axis(title: str, **more: Any) -> dict[str, Any]:
    """Return an axis with its title (with the unit)."""
    return {
        "title": {"text": title, "standoff": 8, "font": {"size": 13}},
        "gridcolor": GRID,
        "linecolor": GREY,
        "ticks": "outside",
        "tickcolor": GREY,
        "zeroline": False,
        "automargin": True,
        **more,
    }


def figure(
    data: Sequence[Mapping[str, Any]],
    x: Mapping[str, Any],
    y: Mapping[str, Any],
    height: int = 360,
    **layout: Any,
) -> Figure:
    """Return a chart; the legend lies above it, where it covers no data."""
    return {
        "data": list(data),
        "layout": {
            "xaxis": dict(x),
            "yaxis": dict(y),
            "height": height,
            "margin": {"l": 56, "r": 14, "t": 14, "b": 48},
            "font": {"family": FONT, "size": 13, "color": INK},
            "paper_bgcolor": "white",
            "plot_bgcolor": "white",
            "hovermode": "closest",
            "hoverlabel": {"font": {"family": FONT, "size": 13}, "align": "left"},
            "legend": {
                "orientation": "h",
                "x": 0,
                "xanchor": "left",
                "y": 1.02,
                "yanchor": "bottom",
                "font": {"size": 12},
            },
            **layout,
        },
    }


def label(words: str, row: float) -> dict[str, Any]:
    """Return a label above a row of a chart; it also fits a narrow screen."""
    return {
        "text": words, "x": 0, "xref": "paper", "xanchor": "left", "y": row, "yanchor": "bottom",
        "showarrow": False, "align": "left", "bgcolor": "white", "borderpad": 1,
        "font": {"size": 13},
    }  # fmt: skip


def rows_axis(count: int) -> dict[str, Any]:
    """Return a y axis of ``count`` rows from the top, with room for a label above each."""
    hidden = {"showticklabels": False, "ticks": "", "showgrid": False, "showline": False}
    return {"range": [count - 0.6, -0.8], "zeroline": False, **hidden}


def joined(curves: Sequence[Sequence[Any]]) -> list[Any]:
    """Put curves one after the other with a gap between them: one trace draws them all."""
    return [value for curve in curves for value in (*curve, None)]


def floor_after_start(curves: Sequence[Sequence[float | None]]) -> float | None:
    """Return the least value after the first third of the epochs; earlier ones hide the rest."""
    late = [v for curve in curves for v in curve[len(curve) // 3 :] if v is not None]
    return min(late, default=None)


def thinned(values: Sequence[Any]) -> list[Any]:
    """Return at most ``MAX_POINTS`` evenly spaced values, the last one always among them."""
    step = -(-len(values) // MAX_POINTS) if values else 1
    return list(values[::-step][::-1])
