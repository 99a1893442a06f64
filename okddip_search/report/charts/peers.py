"""Charts specific to distillation: diversity, attention, the ensemble's lead, the ramp-up."""

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

from okddip_search.report.charts.search import Trial, curves_to_draw, lines, markers, params_hover
from okddip_search.report.charts.style import (
    BLUE,
    FAINT,
    GREEN,
    GREY,
    INK,
    ORANGE,
    SEQUENTIAL,
    STATES,
    Figure,
    axis,
    figure,
    percent,
    text,
    thinned,
)
from trainer.schedules import rampup_weight

FRAMES_A_ROW = 4


def groups(data: Mapping[str, Any]) -> list[Trial]:
    """Return the drawn trials that trained a group, the best last (on top)."""
    best = data["best"]["trial"] if data["best"] else None
    drawn = [t for t in curves_to_draw(data) if t["num_peers"]]
    return sorted(drawn, key=lambda t: t["number"] == best)


def diversity(data: Mapping[str, Any]) -> Figure | None:
    """Draw the mean distance of the peers' outputs over the epochs."""
    y = axis("Peer diversity<br>(distance of outputs, 0 to √2)", rangemode="tozero")
    return _over_epochs(data, "diversity", y, list)


def gap(data: Mapping[str, Any]) -> Figure | None:
    """Draw ensemble minus leader over the epochs, in points."""
    y = axis("Ensemble − leader (points)", zeroline=True, zerolinecolor=GREY)
    curves = [data["curves"][str(t["number"])]["gap"] for t in groups(data)]
    late = [abs(v) for c in curves for v in c[len(c) // 3 :] if v is not None]
    if late and max(len(c) for c in curves) >= 8:
        y["range"] = [round(-110 * max(late), 2), round(110 * max(late), 2)]
    return _over_epochs(data, "gap", y, percent)


def _over_epochs(
    data: Mapping[str, Any], name: str, y: Mapping[str, Any], scale: Any
) -> Figure | None:
    trials = groups(data)
    best = data["best"]["trial"] if data["best"] else None
    others = [t for t in trials if t["number"] != best]
    traces = []
    if others:
        line = {"color": FAINT, "width": 1}
        words = "other trials" if len(others) < len(trials) else "trials"
        traces.append(lines(data, others, name, words, line, scale) | {"opacity": 0.6})
    if len(others) < len(trials):
        line = {"color": BLUE, "width": 2.6}
        traces.append(lines(data, trials[-1:], name, f"best: trial {best}", line, scale))
    return figure(traces, axis("Epoch"), y, height=320) if traces else None


def attention(data: Mapping[str, Any]) -> Figure | None:
    """Draw the attention matrix at several epochs, as small multiples that can be printed."""
    frames = data["attention"]["frames"]
    if not frames:
        return None
    columns = min(FRAMES_A_ROW, len(frames))
    rows = math.ceil(len(frames) / columns)
    margin = {"l": 30, "r": 8, "t": 26, "b": 84}
    drawn = figure([], {}, {}, height=110 + 215 * rows, margin=margin)
    layout, traces = drawn["layout"], drawn["data"]
    layout["annotations"] = []
    layout["meta"] = {"rows": rows, "columns": columns}  # report.js makes the cells square
    for index, frame in enumerate(frames):
        row, column = divmod(index, columns)
        suffix = "" if index == 0 else str(index + 1)
        across, down = _spot(column, columns, 0.03), _spot(rows - 1 - row, rows, 0.13)
        peers = [peer + 1 for peer in range(len(frame["matrix"]))]
        bare = {"ticks": "", "showgrid": False, "zeroline": False, "tickvals": peers}
        layout[f"xaxis{suffix}"] = {
            **bare, "domain": across, "anchor": f"y{suffix}", "constrain": "domain",
        }  # fmt: skip
        layout[f"yaxis{suffix}"] = {
            **bare, "domain": down, "anchor": f"x{suffix}", "constrain": "domain",
            "constraintoward": "top", "scaleanchor": f"x{suffix}", "autorange": "reversed",
            "showticklabels": column == 0,
        }  # fmt: skip
        layout["annotations"].append(_label(f"epoch {frame['epoch']}", sum(across) / 2, down[1]))
        traces.append(
            {
                "type": "heatmap",
                "z": frame["matrix"],
                "x": peers,
                "y": peers,
                "xaxis": f"x{suffix}",
                "yaxis": f"y{suffix}",
                "coloraxis": "coloraxis",
                "xgap": 1,
                "ygap": 1,
                "hovertemplate": f"epoch {frame['epoch']}: peer %{{y}} takes %{{z:.3f}} "
                "from peer %{x}<extra></extra>",
            }  # fmt: skip
        )
    layout["coloraxis"] = {"cmin": 0, "cmax": 1, "colorscale": SEQUENTIAL, "colorbar": _COLORBAR}
    return drawn


_COLORBAR = {
    "orientation": "h", "x": 0, "xanchor": "left", "len": 0.55, "y": 0, "yanchor": "top",
    "ypad": 28, "xpad": 0, "thickness": 10, "outlinewidth": 0,
    "title": {"text": "attention weight (a row sums to 1)", "side": "top", "font": {"size": 13}},
}  # fmt: skip


def _spot(index: int, count: int, space: float) -> list[float]:
    """Return where the ``index``-th of ``count`` equal parts begins and ends, in [0, 1]."""
    size = (1 - space * (count - 1)) / count
    start = index * (size + space)
    return [round(start, 4), round(start + size, 4)]


def _label(words: str, x: float, y: float) -> dict[str, Any]:
    return {
        "text": words, "x": x, "y": y, "xref": "paper", "yref": "paper", "showarrow": False,
        "xanchor": "center", "yanchor": "bottom", "font": {"size": 12, "color": INK},
    }  # fmt: skip


def ramp_up(data: Mapping[str, Any]) -> Figure | None:
    """Draw the epochs of each trial, over the distillation weight at each epoch."""
    trials = [t for t in data["trials"] if t["epochs"]]
    lengths = Counter(t["ramp_length"] for t in trials if t["num_peers"])
    if not lengths:
        return None
    last = max(t["epochs"] for t in trials)
    traces = [_weight_line(length, last, len(lengths) > 1) for length, _ in lengths.most_common(3)]
    places = {t["number"]: row for row, t in enumerate(trials)}
    xs, ys = [], []
    for trial in trials:
        xs += [0, trial["epochs"] - 1, None]
        ys += [places[trial["number"]]] * 2 + [None]
    traces.append(
        {
            "type": "scatter",
            "mode": "lines",
            "x": xs,
            "y": ys,
            "showlegend": False,
            "line": {"color": "#b5b5b5", "width": 1.5},
            "hoverinfo": "skip",
        }  # fmt: skip
    )
    traces += _ends(trials, places)
    traces.append(_first_prunable(trials, places))
    step = max(1, len(trials) // 20)
    shown = trials[::step]
    y = axis(
        "Trial", autorange="reversed", tickvals=[places[t["number"]] for t in shown],
        ticktext=[str(t["number"]) for t in shown], showgrid=False,
    )  # fmt: skip
    weight = axis(
        "Distillation weight w(e)", overlaying="y", side="right", range=[0, 1.02],
        showgrid=False, tickvals=[0, data["search"]["ramp_weight_needed"], 1],
    )  # fmt: skip
    height = min(900, 200 + max(10, 900 // max(len(trials), 30)) * len(trials))
    return figure(traces, axis("Epoch"), y, height=height, yaxis2=weight)


def _weight_line(length: int, last: int, several: bool) -> dict[str, Any]:
    epochs = list(range(last))
    weights = [rampup_weight(epoch, length) for epoch in epochs]
    return {
        "type": "scatter",
        "mode": "lines",
        "name": f"w(e), ramp-up of {length} epochs" if several else "w(e)",
        "x": thinned(epochs),
        "y": [round(w, 4) for w in thinned(weights)],
        "yaxis": "y2",
        "line": {"color": ORANGE, "width": 2},
        "fill": "tozeroy",
        "fillcolor": "rgba(230, 159, 0, 0.10)",
        "hovertemplate": "epoch %{x}: w = %{y:.2f}<extra></extra>",
    }


def _ends(trials: Sequence[Trial], places: Mapping[int, int]) -> list[dict[str, Any]]:
    names = {
        "pruned": "pruned here",
        "failed": "failed here",
        "running": "running",
        "paused": "paused here",
    }
    return [
        {
            "type": "scatter",
            "mode": "markers",
            "name": names.get(state, "complete"),
            "x": [t["epochs"] - 1 for t in group],
            "y": [places[t["number"]] for t in group],
            "text": [f"{_weight_words(t)}<br>{params_hover(t)}" for t in group],
            "hovertemplate": "epoch %{x}, %{text}<extra></extra>",
            "marker": markers(state, 8),
        }
        for state in STATES
        if (group := [t for t in trials if t["state"] == state])
    ]


def _weight_words(trial: Trial) -> str:
    weight = rampup_weight(trial["epochs"] - 1, trial["ramp_length"] or 0)
    return text(f"w = {weight:.2f}")


def _first_prunable(trials: Sequence[Trial], places: Mapping[int, int]) -> dict[str, Any]:
    known = [t for t in trials if t["prune_from"] is not None and t["prune_from"] < t["epochs"]]
    return {
        "type": "scatter",
        "mode": "markers",
        "name": "distillation strong enough to be judged",
        "x": [t["prune_from"] for t in known],
        "y": [places[t["number"]] for t in known],
        "marker": {"symbol": "line-ns-open", "size": 9, "color": GREEN, "line": {"width": 2}},
        "hovertemplate": "trial %{y} may be pruned from epoch %{x} on<extra></extra>",
    }
