"""Charts of the search itself: its history, learning curves, parameters and cost."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from okddip_search.formatting import expectation, value_text
from okddip_search.report.charts.style import (
    BLACK,
    BLUE,
    FAINT,
    GREY,
    MEMBERS,
    SERIES,
    STATES,
    SYMBOLS,
    Figure,
    axis,
    figure,
    floor_after_start,
    joined,
    percent,
    text,
    thinned,
)

MAX_CURVES = 60
TIME_UNITS = (("h", 3600), ("min", 60), ("s", 1))
Trial = Mapping[str, Any]


def shown_value(trial: Trial) -> float | None:
    """Return a trial's value: final where it is complete, else that of its last epoch."""
    value = trial["value"] if trial["value"] is not None else trial["last_value"]
    return None if value is None else float(value)


def value_title(data: Mapping[str, Any]) -> str:
    """Return an axis title that names the objective's reduction."""
    return f"Leader's validation accuracy (%)<br>{data['search']['objective']['words']}"


def params_hover(trial: Trial) -> str:
    """Return a trial's parameters, a line each."""
    lines = [f"trial {trial['number']} ({trial['state']}, {trial['epochs']} epochs)"]
    lines += [f"{name} = {value_text(value)}" for name, value in trial["params"].items()]
    lines += [f"went on: {expectation(**trial['went_on'])}"] if trial["went_on"] else []
    return "<br>".join(text(line) for line in lines)


def by_state(trials: Sequence[Trial]) -> dict[str, list[Trial]]:
    """Group the trials that have a value by state, in the order of the legend."""
    groups = {state: [t for t in trials if t["state"] == state] for state in STATES}
    return {
        state: shown
        for state, group in groups.items()
        if (shown := [t for t in group if shown_value(t) is not None])
    }


def markers(state: str, size: int = 9) -> dict[str, Any]:
    """Return the marker of a trial in this state, with its own colour and symbol."""
    width = 2.2 if "open" in SYMBOLS[state] else 0
    return {
        "color": STATES[state],
        "symbol": SYMBOLS[state],
        "size": size,
        "line": {"width": width, "color": STATES[state]},
    }


def history(data: Mapping[str, Any]) -> Figure | None:
    """Draw every trial's value in the order of the trials, and the best so far."""
    traces = [
        {
            "type": "scatter",
            "mode": "markers",
            "name": state,
            "x": [t["number"] for t in group],
            "y": percent([shown_value(t) for t in group]),
            "text": [params_hover(t) for t in group],
            "hovertemplate": "%{y:.2f} %<br>%{text}<extra></extra>",
            "marker": markers(state),
        }
        for state, group in by_state(data["trials"]).items()
    ]
    complete = [t for t in data["trials"] if t["value"] is not None]
    traces = _stretches(data["trials"]) + traces
    if complete:
        best = [max(t["value"] for t in complete[: i + 1]) for i in range(len(complete))]
        traces.insert(
            0,
            {
                "type": "scatter",
                "mode": "lines",
                "name": "best so far",
                "x": [t["number"] for t in complete],
                "y": percent(best),
                "line": {"shape": "hv", "color": BLUE, "width": 1.5},
                "hoverinfo": "skip",
            },
        )
    x = axis("Trial", dtick=1 if len(data["trials"]) <= 15 else None)
    return figure(traces, x, axis(value_title(data))) if traces else None


def _stretches(trials: Sequence[Trial]) -> list[dict[str, Any]]:
    """Join, of the trials that went on, their value when they were paused to the later one."""
    went = [t for t in trials if t["went_on"] and t["paused_at"] is not None]
    if not went:
        return []
    ends = [percent([t["paused_at"], shown_value(t)]) for t in went]
    return [
        {
            "type": "scatter",
            "mode": "lines",
            "name": "from pause to end",
            "x": joined([[t["number"]] * 2 for t in went]),
            "y": joined(ends),
            "line": {"color": STATES["paused"], "width": 1.5},
            "hoverinfo": "skip",
        }
    ]


def all_curves(data: Mapping[str, Any]) -> Figure | None:
    """Draw the leader's accuracy over the epochs for the best trials, the winner on top."""
    drawn = curves_to_draw(data)
    if not drawn:
        return None
    best = data["best"]["trial"] if data["best"] else None
    traces = []
    for state in ("pruned", "failed", "paused", "running", "complete"):
        group = [t for t in drawn if t["state"] == state and t["number"] != best]
        if group:
            colour = FAINT if state == "complete" else STATES[state]
            dash = "dot" if state == "pruned" else "solid"
            line = {"color": colour, "width": 1.2, "dash": dash}
            traces.append(lines(data, group, "leader", state, line, percent) | {"opacity": 0.7})
    for trial in (t for t in drawn if t["number"] == best):
        line = {"color": BLUE, "width": 3}
        traces.append(lines(data, [trial], "leader", f"best: trial {best}", line, percent))
    traces += _where_they_went_on(data, drawn)
    return figure(traces, axis("Epoch"), axis("Leader's validation accuracy (%)"))


def _where_they_went_on(data: Mapping[str, Any], trials: Sequence[Trial]) -> list[dict[str, Any]]:
    """Mark the epoch at which trials were paused that went on later."""
    places = []
    for trial in trials:
        curve = data["curves"][str(trial["number"])]
        if trial["went_on"] and trial["pauses_after"] - 1 in curve["epochs"]:
            place = curve["epochs"].index(trial["pauses_after"] - 1)
            places.append((trial, curve["epochs"][place], curve["leader"][place]))
    if not places:
        return []
    return [
        {
            "type": "scatter",
            "mode": "markers",
            "name": "paused, went on later",
            "x": [epoch for _, epoch, _ in places],
            "y": percent([value for *_, value in places]),
            "text": [params_hover(trial) for trial, *_ in places],
            "hovertemplate": "%{text}<extra></extra>",
            "marker": markers("paused", 7),
        }
    ]


def promotions(data: Mapping[str, Any]) -> Figure | None:
    """Draw what was expected of the trials that went on against what came."""
    went = [t for t in data["trials"] if t["went_on"] and t["value"] is not None]
    if not went:
        return None
    expected = [t["went_on"]["mean"] for t in went]
    came = [t["value"] for t in went]
    ends = percent([min(expected + came), max(expected + came)])
    points = {
        "type": "scatter",
        "mode": "markers",
        "name": "trials that went on",
        "x": percent(expected),
        "y": percent(came),
        "error_x": {"array": percent([t["went_on"]["sd"] for t in went]), "color": GREY},
        "text": [params_hover(t) for t in went],
        "hovertemplate": "expected %{x:.2f} %, came %{y:.2f} %<br>%{text}<extra></extra>",
        "marker": markers("complete"),
    }
    same = {
        "type": "scatter",
        "mode": "lines",
        "name": "as expected",
        "x": ends,
        "y": ends,
        "line": {"color": GREY, "dash": "dot", "width": 1.5},
        "hoverinfo": "skip",
    }
    return figure([same, points], axis("Expected when it went on (%)"), axis(value_title(data)))


def lines(
    data: Mapping[str, Any],
    trials: Sequence[Trial],
    curve: str,
    name: str,
    line: Mapping[str, Any],
    scale: Callable[[Sequence[float | None]], list[float | None]] = list,
) -> dict[str, Any]:
    """Return one trace with a curve of each trial."""
    curves = [data["curves"][str(t["number"])] for t in trials]
    epochs = [thinned(c["epochs"]) for c in curves]
    labels = [[f"trial {t['number']}"] * len(e) for t, e in zip(trials, epochs, strict=True)]
    return {
        "type": "scatter",
        "mode": "lines",
        "name": name,
        "x": joined(epochs),
        "y": joined([scale(thinned(c[curve])) for c in curves]),
        "text": joined(labels),
        "line": dict(line),
        "hovertemplate": "%{text}, epoch %{x}: %{y}<extra></extra>",
    }


def curves_to_draw(data: Mapping[str, Any]) -> list[Trial]:
    """Return the trials with a curve, at most ``MAX_CURVES``, those of the best values."""
    known = [t for t in data["trials"] if str(t["number"]) in data["curves"]]
    return sorted(known, key=lambda t: -(shown_value(t) or 0.0))[:MAX_CURVES]


def member_curves(data: Mapping[str, Any], number: int | None) -> Figure | None:
    """Draw leader, mean peer and ensemble of one trial over the epochs."""
    curve = data["curves"].get(str(number))
    trial = next((t for t in data["trials"] if t["number"] == number), None)
    if curve is None or trial is None:
        return None
    names = {"leader": "leader", "peers": "peers (mean)", "ensemble": "ensemble of the peers"}
    drawn = names if trial["num_peers"] else {"leader": "the network"}
    traces = []
    for name, words in drawn.items():
        dash = {"peers": "dot", "ensemble": "dash"}.get(name, "solid")
        line = {"color": MEMBERS[name], "width": 2.4 if name == "leader" else 1.8, "dash": dash}
        traces.append(lines(data, [trial], name, words, line, percent))
    y = axis("Validation accuracy (%)")
    floor = floor_after_start([curve[name] for name in drawn])
    top = max((v for name in drawn for v in curve[name] if v is not None), default=None)
    if floor is not None and top is not None and len(curve["epochs"]) >= 8:
        room = 0.06 * (top - floor) + 0.002
        y["range"] = [round(100 * (floor - room), 2), round(100 * (top + room), 2)]
    return figure(traces, axis("Epoch"), y, height=330)


def pareto(data: Mapping[str, Any]) -> Figure | None:
    """Draw value against training time of the complete trials, coloured by number of peers."""
    trials = [t for t in data["trials"] if t["value"] is not None and t["seconds"] is not None]
    if len(trials) < 2:
        return None
    front = pareto_front(trials)
    longest = max(t["seconds"] for t in trials)
    unit, length_s = next((unit, s) for unit, s in TIME_UNITS if longest >= 2 * s or s == 1)
    traces: list[dict[str, Any]] = [
        {
            "type": "scatter",
            "mode": "lines",
            "name": "Pareto front",
            "x": [round(t["seconds"] / length_s, 3) for t in front],
            "y": percent([t["value"] for t in front]),
            "line": {"color": GREY, "dash": "dot", "shape": "hv", "width": 1.5},
            "hoverinfo": "skip",
        }
    ]
    symbols = ("circle", "square", "diamond", "triangle-up", "cross", "star", "hexagon", "pentagon")
    for index, peers in enumerate(sorted({t["num_peers"] or 0 for t in trials})):
        group = [t for t in trials if (t["num_peers"] or 0) == peers]
        traces.append(
            {
                "type": "scatter",
                "mode": "markers",
                "name": f"{peers} peers" if peers else "one network",
                "x": [round(t["seconds"] / length_s, 3) for t in group],
                "y": percent([t["value"] for t in group]),
                "text": [params_hover(t) for t in group],
                "hovertemplate": f"%{{y:.2f}} %, %{{x:.3g}} {unit}<br>%{{text}}<extra></extra>",
                "marker": {
                    "color": SERIES[index % len(SERIES)],
                    "symbol": symbols[index % len(symbols)],
                    "size": 10,
                    "line": {"width": 0.5, "color": BLACK},
                },
            }
        )
    x = axis(f"Training time of the trial ({unit})", rangemode="tozero")
    return figure(traces, x, axis(value_title(data)))


def pareto_front(trials: Sequence[Trial]) -> list[Trial]:
    """Return the trials that no other beats in both value and time, cheapest first."""
    front: list[Trial] = []
    for trial in sorted(trials, key=lambda t: (t["seconds"], -t["value"])):
        if not front or trial["value"] > front[-1]["value"]:
            front.append(trial)
    return front
