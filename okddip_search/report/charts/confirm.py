"""Charts of the confirmation: the forest plot, and every run of every configuration."""

from collections.abc import Mapping, Sequence
from typing import Any

from okddip_search.formatting import points, typeset
from okddip_search.report.charts.style import (
    BLACK,
    BLUE,
    FAINT,
    VERDICTS,
    Figure,
    axis,
    figure,
    label,
    percent,
    rows_axis,
    text,
)

SYMBOLS = {"better": "square", "worse": "diamond", "within noise": "circle-open"}
MARGIN = {"l": 10, "r": 14, "t": 14, "b": 48}
OF = {"validation": (FAINT, "circle-open", -0.12), "test": (BLUE, "circle", 0.16)}
"""Colour and symbol of a run's dot, and how far below its row it lies."""


def forest(data: Mapping[str, Any]) -> Figure | None:
    """Draw the winner's difference to each baseline with its 95 % interval."""
    comparisons = (data["confirm"] or {}).get("comparisons", [])
    comparisons = [comparison for comparison in comparisons if comparison["low"] is not None]
    if not comparisons:
        return None
    rows = list(enumerate(comparisons))
    traces = [
        _intervals([(row, c) for row, c in rows if c["verdict"] == verdict], verdict)
        for verdict in VERDICTS
        if any(c["verdict"] == verdict for c in comparisons)
    ]
    x = axis(
        f"Winner − baseline, {comparisons[0]['of']} accuracy (points)",
        zeroline=True, zerolinecolor=BLACK,
    )  # fmt: skip
    x |= {"range": _range_with_zero(comparisons)}
    labels = [
        label(f"<b>{text(c['rival'])}</b>{_after(c)}<br>{text(_of_winner(c))}", row - 0.16)
        for row, c in rows
    ]
    height = 110 + 78 * len(rows)
    y = rows_axis(len(rows))
    return figure(traces, x, y, height=height, annotations=labels, margin=MARGIN)


def _after(comparison: Mapping[str, Any]) -> str:
    """Say after how many seeds a baseline left; versions before 0.2 had one number for all."""
    return f", {comparison['n']} seeds" if "look" in comparison else ""


def _of_winner(comparison: Mapping[str, Any]) -> str:
    """Say which is better: under a baseline's name, "better" alone would mean the baseline."""
    words: str = comparison["words"]
    return f"the winner is {words}" if comparison["verdict"] in ("better", "worse") else words


def _range_with_zero(comparisons: Sequence[Mapping[str, Any]]) -> list[float]:
    """Return a range in points with 0 in it, as that is what every interval is held against."""
    ends = [0.0, *(100 * c[end] for c in comparisons for end in ("low", "high", "difference"))]
    room = 0.06 * (max(ends) - min(ends)) + 0.05
    return [round(min(ends) - room, 3), round(max(ends) + room, 3)]


def _intervals(rows: Sequence[tuple[int, Mapping[str, Any]]], verdict: str) -> dict[str, Any]:
    middle = [100 * c["difference"] for _, c in rows]
    pairs = list(zip(rows, middle, strict=True))
    return {
        "type": "scatter",
        "mode": "markers",
        "name": _of_winner({"verdict": verdict, "words": verdict}),
        "x": [round(m, 3) for m in middle],
        "y": [row for row, _ in rows],
        "error_x": {
            "type": "data",
            "symmetric": False,
            "array": [round(100 * c["high"] - m, 3) for (_, c), m in pairs],
            "arrayminus": [round(m - 100 * c["low"], 3) for (_, c), m in pairs],
            "thickness": 2,
            "width": 6,
        },
        "marker": {
            "color": VERDICTS[verdict], "symbol": SYMBOLS[verdict], "size": 11,
            "line": {"width": 2, "color": VERDICTS[verdict]},
        },
        "text": [typeset(f"{points(c['low'])} to {points(c['high'])}") for _, c in rows],
        "customdata": [text(f"{c['rival']} ({c['method']}, {c['n']} seeds)") for _, c in rows],
        "hovertemplate": "%{customdata}: %{x:+.2f} points<br>95 %: %{text}<extra></extra>",
    }  # fmt: skip


def runs(data: Mapping[str, Any]) -> Figure | None:
    """Draw every run's accuracy with its configuration's mean and standard deviation."""
    configurations = (data["confirm"] or {}).get("contenders", [])
    traces = []
    for of in OF:
        dots = [
            (row, run[of], f"{c['label']}, seed {run['seed']}")
            for row, c in enumerate(configurations)
            for run in c["runs"]
            if run[of] is not None
        ]
        if dots:
            traces += [_dots(of, dots), _means(of, configurations)]
    if not traces:
        return None
    labels = [
        label(f"<b>{text(c['label'])}</b>", row - 0.24) for row, c in enumerate(configurations)
    ]
    height = 120 + 60 * len(configurations)
    x, y = axis("Leader's accuracy (%)"), rows_axis(len(configurations))
    return figure(traces, x, y, height=height, annotations=labels, margin=MARGIN)


def _dots(of: str, dots: Sequence[tuple[int, float, str]]) -> dict[str, Any]:
    colour, symbol, below = OF[of]
    return {
        "type": "scatter",
        "mode": "markers",
        "name": f"{of}: a run",
        "x": percent([value for _, value, _ in dots]),
        "y": [row + below for row, _, _ in dots],
        "text": [text(words) for _, _, words in dots],
        "hovertemplate": "%{text}: %{x:.2f} %<extra></extra>",
        "marker": {"color": colour, "symbol": symbol, "size": 8, "opacity": 0.6},
    }


def _means(of: str, configurations: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    colour, _, below = OF[of]
    known = [(row, c[of]) for row, c in enumerate(configurations) if c[of]]
    return {
        "type": "scatter",
        "mode": "markers",
        "name": f"{of}: mean ± sd",
        "x": percent([summary["mean"] for _, summary in known]),
        "y": [row + below for row, _ in known],
        "error_x": {
            "type": "data",
            "array": [round(100 * (summary["sd"] or 0), 3) for _, summary in known],
            "thickness": 1.5,
            "width": 0,
        },
        "marker": {"color": colour, "symbol": "line-ns", "size": 9,
                   "line": {"width": 3, "color": colour}},
        "hovertemplate": "mean %{x:.2f} %<extra></extra>",
    }  # fmt: skip
