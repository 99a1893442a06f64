"""All charts of the report by name, each with title and caption, or the reason for its absence."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from okddip_search.report.charts import confirm as of_confirm
from okddip_search.report.charts import parameters as of_parameters
from okddip_search.report.charts import peers as of_peers
from okddip_search.report.charts import search as of_search
from okddip_search.report.charts.style import Figure

NO_CURVES = "No trial has reported an epoch yet."
NO_GROUP = "No trial trains a group of networks, so there are no peers to compare."


@dataclass(frozen=True)
class Chart:
    """A chart of the page.

    Attributes:
        title: Title above the chart.
        caption: One or two sentences: its content, and how to read it.
        figure: Figure for plotly.js; None if there is nothing to draw.
        absent: Why there is no figure, in one sentence.
        min_width: In pixels; on a narrower screen the chart scrolls inside its box.
    """

    title: str
    caption: str
    figure: Figure | None
    absent: str
    min_width: int = 0


def make_charts(data: Mapping[str, Any]) -> dict[str, Chart]:
    """Draw everything that the data allows, from the values of ``data.collect`` alone."""
    charts = {**_of_search(data), **_of_parameters(data), **_of_peers(data), **_of_confirm(data)}
    for name, drawn in of_parameters.slices(data).items():
        charts[f"slice-{name}"] = Chart(name, "", drawn, "")
    return charts


def _of_search(data: Mapping[str, Any]) -> dict[str, Chart]:
    words = data["search"]["objective"]["words"]
    total, drawn = len(data["curves"]), len(of_search.curves_to_draw(data))
    screened = data["search"]["searcher"] is not None
    of = f"the {drawn} best of {total} trials" if drawn < total else "every trial"
    return {
        "history": Chart(
            "Optimisation history",
            f"The value of every trial ({words}); of a pruned trial, its value when it was "
            "pruned. One run each: a step up may be luck."
            + (" An upright line joins a trial's pause to its end." if screened else ""),
            of_search.history(data),
            "No trial has a value yet.",
        ),
        "curves": Chart(
            "Learning curves of the leaders",
            f"Accuracy after each epoch for {of}. Dotted curves end where the trial was pruned.",
            of_search.all_curves(data),
            NO_CURVES,
        ),
        **_of_screening(data),
        **_of_members(data),
        "pareto": Chart(
            "Accuracy against training cost",
            f"Complete trials ({words}), by number of peers (the leader comes on top). The dotted "
            "line joins those that no other beats in both. Times are wall-clock times of runs that "
            "may have shared a machine: they are approximate.",
            of_search.pareto(data),
            "Fewer than 2 complete trials have a known training time.",
        ),
    }


def _of_screening(data: Mapping[str, Any]) -> dict[str, Chart]:
    if data["search"]["searcher"] is None:
        return {}
    return {
        "promotions": Chart(
            "What was expected, and what came",
            "Every trial waits once it may be judged, and the most promising go on. Horizontally: "
            "what the model expected of a trial's end when it was let go on, with one standard "
            "deviation; vertically: what it reached.",
            of_search.promotions(data),
            "No trial that waited has gone on to its end yet.",
        ),
    }


def _of_members(data: Mapping[str, Any]) -> dict[str, Chart]:
    best = data["best"] or {"trial": None, "paper_trial": None}
    number, paper = best["trial"], best["paper_trial"]
    if paper is None:
        no_paper = "There is no configuration that was enqueued first to set beside the best trial."
    elif paper == number:
        no_paper = "The configuration enqueued first is the best trial itself."
    else:
        no_paper = "The trial of the configuration enqueued first has not reported an epoch yet."
    title = "Leader, peers and ensemble"
    return {
        "best_members": Chart(
            title if number is None else f"{title}: trial {number} (the best)",
            "Accuracy after each epoch on the validation images; the first third of the epochs "
            "may lie below the axis.",
            of_search.member_curves(data, number),
            "No trial is complete yet, so there is no best one.",
        ),
        "paper_members": Chart(
            "The same: trial enqueued first"
            if paper is None
            else f"The same: trial {paper} (enqueued first)",
            "In the bundled spaces, the paper's own setting.",
            None if paper == number else of_search.member_curves(data, paper),
            no_paper,
        ),
    }


def _of_parameters(data: Mapping[str, Any]) -> dict[str, Chart]:
    found, count = data["importances"], len(data["search"]["dimensions"])
    share = f"{found['top_share']:.0%}" if found["top_share"] else ""
    few = " With so few trials, this is a hint, not a result." if found["trials"] < 30 else ""
    return {
        "importances": Chart(
            "Hyperparameter importances (PED-ANOVA)",
            f"How much each parameter decides whether a trial is among the best {share} of "
            f"{found['trials']} complete trials.{few}",
            of_parameters.importances(data),
            found["absent"],
        ),
        "parallel": Chart(
            "Parallel coordinates",
            "A line is a trial: complete ones with their value, pruned ones with the value when "
            "they were pruned; dark lines are the best. Drag along an axis to select.",
            of_parameters.parallel(data),
            "Fewer than 2 trials have a value.",
            min_width=110 * (count + 2),
        ),
    }


def _of_peers(data: Mapping[str, Any]) -> dict[str, Chart]:
    seen = data["attention"]
    search = data["search"]
    waits = (
        f"No trial is pruned before its w(e) has reached {search['ramp_weight_needed']}."
        if search["wait_for_ramp_up"]
        else "This search may prune at any epoch (wait_for_ramp_up: false)."
    )
    absent = NO_CURVES if not data["curves"] else NO_GROUP
    return {
        "diversity": Chart(
            "Peer diversity",
            "Mean Euclidean distance of two peers' outputs. Peers that agree everywhere (0) have "
            "nothing left to teach each other.",
            of_peers.diversity(data),
            absent,
        ),
        "gap": Chart(
            "Ensemble's lead over the leader",
            "Above 0, the peers' ensemble is ahead, which leaves something to distil into the "
            "leader. The first third of the epochs may lie outside.",
            of_peers.gap(data),
            absent,
        ),
        "attention": Chart(
            f"Attention over training: trial {seen['trial']}"
            if seen["frames"]
            else "Attention over training",
            "How much each peer (row) takes from each peer (column) for its target, mean over the "
            "validation images. Equal cells are a plain mean; a dark diagonal means that "
            "each peer attends to itself alone.",
            of_peers.attention(data),
            seen["absent"],
        ),
        "ramp_up": Chart(
            "Ramp-up and pruning",
            "A line is a trial and ends where it was completed, pruned or failed; the orange curve "
            f"is the weight of the distillation terms at that epoch. {waits}",
            of_peers.ramp_up(data),
            absent,
        ),
    }


def _of_confirm(data: Mapping[str, Any]) -> dict[str, Chart]:
    absent = "The search is not confirmed yet."
    if data["confirm"]:
        absent = "No comparison yet: the test set is opened once, when all runs have ended."
    return {
        "forest": Chart(
            "The winner against each baseline",
            "Difference of the means over the same seeds, with its 95 % confidence interval. An "
            "interval that crosses 0 shows no difference.",
            of_confirm.forest(data),
            absent,
        ),
        "runs": Chart(
            "Every run of every configuration",
            "A dot is one run; configurations share their seeds. The spread of one configuration's "
            "dots is the noise of this field.",
            of_confirm.runs(data),
            "No confirmation run has ended yet.",
        ),
    }
