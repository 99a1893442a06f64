"""Charts of the hyperparameters: importances, slices and parallel coordinates."""

import math
from collections.abc import Mapping, Sequence
from typing import Any

from okddip_search.report.charts.search import Trial, by_state, markers, params_hover, shown_value
from okddip_search.report.charts.style import (
    BLUE,
    SEQUENTIAL,
    STATES,
    Figure,
    axis,
    figure,
    percent,
    text,
)

MISSING = "–"
"""Marks a parameter that does not apply to a trial (``when``)."""


def importances(data: Mapping[str, Any]) -> Figure | None:
    """Draw the share of importance that falls to each parameter."""
    found = data["importances"]
    if found["absent"]:
        return None
    names = list(found["values"])[::-1]
    bars = {
        "type": "bar",
        "orientation": "h",
        "x": [round(found["values"][name], 4) for name in names],
        "y": [text(name) for name in names],
        "marker": {"color": BLUE},
        "texttemplate": "%{x:.2f}",
        "textposition": "outside",
        "cliponaxis": False,
        "hovertemplate": "%{y}: %{x:.2f}<extra></extra>",
    }
    x = axis("Concurrency of the importance (sums to 1)", rangemode="tozero")
    y = axis("", ticks="")
    del y["title"]
    return figure(
        [bars], x, y, height=90 + 30 * len(names), margin={"l": 8, "r": 40, "t": 8, "b": 48}
    )


def slices(data: Mapping[str, Any]) -> dict[str, Figure]:
    """Draw the value against each single parameter, most important first."""
    order = list(data["importances"]["values"])
    dimensions = sorted(
        data["search"]["dimensions"],
        key=lambda d: order.index(d["name"]) if d["name"] in order else len(order),
    )
    drawn = {}
    for dimension in dimensions:
        name = dimension["name"]
        having = [t for t in data["trials"] if name in t["params"]]
        traces = [
            {
                "type": "scatter",
                "mode": "markers",
                "name": state,
                "x": [_coordinate(t["params"][name], dimension) for t in group],
                "y": percent([shown_value(t) for t in group]),
                "text": [params_hover(t) for t in group],
                "hovertemplate": "%{y:.2f} %<br>%{text}<extra></extra>",
                "marker": markers(state, 8),
                "showlegend": False,
            }
            for state, group in by_state(having).items()
        ]
        if not traces:
            continue
        x = axis(text(name) + (" (log scale)" if dimension.get("log") else ""))
        y = axis(f"Accuracy (%)<br>{data['search']['objective']['words']}")
        drawn[name] = figure(traces, x | _slice_axis(dimension), y, height=250)
    return drawn


def _slice_axis(dimension: Mapping[str, Any]) -> dict[str, Any]:
    """Show the whole range: a best value at its edge says that the range was too narrow."""
    if dimension["type"] == "categorical":
        return {"type": "category", "range": [-0.5, len(dimension["choices"]) - 0.5]}
    low, high = dimension["low"], dimension["high"]
    kind: dict[str, Any] = {}
    if dimension["log"]:
        low, high, kind = math.log10(low), math.log10(high), {"type": "log"}
        ticks = _nice_ticks(low, high, log=True, whole=False)
        kind |= {"tickvals": [10**place for place, _ in ticks], "ticktext": [t for _, t in ticks]}
    elif dimension["type"] == "int" and high - low <= 10:
        kind = {"dtick": 1}
    return {**kind, "range": [low - 0.06 * (high - low), high + 0.06 * (high - low)]}


def _coordinate(value: Any, dimension: Mapping[str, Any]) -> Any:
    return text(value) if dimension["type"] == "categorical" else value


def parallel(data: Mapping[str, Any]) -> Figure | None:
    """Draw every trial as a line through its parameters to its value."""
    trials = [t for group in by_state(data["trials"]).values() for t in group]
    if len(trials) < 2:
        return None
    values = percent([shown_value(t) for t in trials])
    axes = [_parallel_axis(d, trials) for d in data["search"]["dimensions"]]
    states = [state for state in STATES if any(t["state"] == state for t in trials)]
    axes.append(_ticks("state", [states.index(t["state"]) for t in trials], states))
    axes.append(_value_axis(values))
    lines = {
        "type": "parcoords",
        "dimensions": axes,
        "line": {"color": values, "colorscale": SEQUENTIAL},
        "labelangle": -20,
        "labelside": "top",
        "unselected": {"line": {"color": "#dddddd", "opacity": 0.3}},
    }
    drawn = figure([lines], {}, {}, height=400, margin={"l": 50, "r": 50, "t": 80, "b": 30})
    del drawn["layout"]["xaxis"], drawn["layout"]["yaxis"]
    return drawn


def _value_axis(values: Sequence[float | None]) -> dict[str, Any]:
    known = [v for v in values if v is not None]
    low, high = min(known), max(known)
    if low == high:
        low, high = low - 1, high + 1
    ticks = [place for place in _round_places(low, high) if low <= place <= high]
    return {
        "label": "accuracy (%)",
        "values": list(values),
        "range": [low, high],
        "tickvals": ticks,
        "ticktext": [f"{place:g}" for place in ticks],
    }


def _parallel_axis(dimension: Mapping[str, Any], trials: Sequence[Trial]) -> dict[str, Any]:
    """Return an axis; where the parameter does not apply, the line runs below it, at a dash."""
    name = dimension["name"]
    raw = [t["params"].get(name) for t in trials]
    if dimension["type"] == "categorical":
        choices = [
            *dimension["choices"],
            *([MISSING] if any(name not in t["params"] for t in trials) else []),
        ]
        places = [choices.index(t["params"].get(name, MISSING)) for t in trials]
        return _ticks(text(name), places, [text(choice) for choice in choices])
    log = dimension["log"]
    low, high = (math.log10(v) if log else v for v in (dimension["low"], dimension["high"]))
    below = low - 0.12 * (high - low)
    values = [below if v is None else (math.log10(v) if log else v) for v in raw]
    ticks = _nice_ticks(low, high, log, dimension["type"] == "int")
    if None in raw:
        ticks = [(below, MISSING), *ticks]
    return {
        "label": text(name),
        "values": [round(v, 5) for v in values],
        "range": [below if None in raw else low, high],
        "tickvals": [place for place, _ in ticks],
        "ticktext": [label for _, label in ticks],
    }


def _ticks(label: str, places: Sequence[int], words: Sequence[str]) -> dict[str, Any]:
    spots = list(range(len(words)))
    room = [-0.5, 0.5] if len(words) == 1 else [0, len(words) - 1]
    return {
        "label": label,
        "values": list(places),
        "range": room,
        "tickvals": spots,
        "ticktext": list(words),
    }


def _nice_ticks(low: float, high: float, log: bool, whole: bool) -> list[tuple[float, str]]:
    """Return places and labels: powers of ten on a log axis, both ends always."""
    if log:
        between = [float(p) for p in range(math.ceil(low), math.floor(high) + 1)]
    elif whole and high - low <= 10:
        between = [float(p) for p in range(int(low), int(high) + 1)]
    else:
        between = _round_places(low, high)
    room = 0.1 * (high - low)
    places = [low, *(p for p in between if p - low > room and high - p > room), high]
    return [(round(p, 5), f"{10**p if log else p:.3g}") for p in places]


def _round_places(low: float, high: float) -> list[float]:
    """Return multiples of 1, 2 or 5 times a power of ten, four to nine of them."""
    rough = (high - low) / 5
    power = 10.0 ** math.floor(math.log10(rough))
    step = next(power * m for m in (1, 2, 5, 10) if power * m >= rough)
    first = math.ceil(low / step)
    return [round(step * i, 10) for i in range(first, math.floor(high / step) + 1)]
