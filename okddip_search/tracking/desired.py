"""A search as MLflow is to show it: its runs with their charts, its views, files and models.

Plain values; ``reader`` derives them from the search directory, ``mirror`` sends them.
"""

import logging
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, NamedTuple

from okddip_search.study.reading import SEARCH
from okddip_search.tracking.view import ACCURACY

log = logging.getLogger("okddip_search.tracking")
log.addHandler(logging.NullHandler())  # a terminal gets what `on_trouble` gets, not log lines

PARENT = ""  # the key of the search's own run, among the keys of trials


class Point(NamedTuple):
    """A point of a chart; the time is in ms since 1970."""

    key: str
    value: float
    time_ms: int
    step: int


@dataclass(frozen=True)
class Run:
    """A run as MLflow is to show it; times are in ms since 1970.

    Attributes:
        key: Names the trial among those of all stages; ``PARENT``: the search itself.
        name: For people.
        started_ms: When it began.
        ended_ms: When it ended; meaningless while it is running.
        status: MLflow's; the tag ``okddip.state`` distinguishes more states.
        params: As text.
        tags: As text.
        last_steps: Some of the charts, each with the step of its last point.
        points: Reads the charts, in the order of the steps; costs reading a file.
    """

    key: str
    name: str
    started_ms: int
    ended_ms: int
    status: str
    params: Mapping[str, str]
    tags: Mapping[str, str]
    last_steps: Mapping[str, int]
    points: Callable[[], list[Point]]


@dataclass(frozen=True)
class Upload:
    """A file or a leader to be kept with the search's run.

    Attributes:
        path: The file, or the leader's folder.
        mark: Changes with the content, and with the verdict.
        digest: Of a leader's weights; empty: it is a plain file.
        alias: Of a confirmed leader, which is to be registered; None: it is not confirmed.
        words: The verdict on a confirmed leader.
        decided_ms: When it was confirmed, ms since 1970.
    """

    path: Path
    mark: str
    digest: str = ""
    alias: Literal["champion", "candidate"] | None = None
    words: str = ""
    decided_ms: int = 0


@dataclass(frozen=True)
class Desired:
    """All that MLflow is to show of a search.

    Attributes:
        search_id: Random name of the search.
        name: Of the experiment.
        parent: The search's own run.
        children: The runs of its trials.
        views: Its saved views, as tags of the experiment.
        uploads: Its files and leaders, by name.
    """

    search_id: str
    name: str
    parent: Run
    children: Sequence[Run]
    views: Mapping[str, str]
    uploads: Mapping[str, Upload]


def run_key(stage: str, number: int) -> str:
    """Name a trial in MLflow, so that the stages' numbers do not collide."""
    return str(number) if stage == SEARCH else f"{stage}-{number}"


def run_name(stage: str, number: int, params: Mapping[str, Any]) -> str:
    """Return the name of a trial's run; in a confirmation it says who trains with which seed."""
    if stage == SEARCH:
        return f"trial {number}"
    if "contender" in params and "seed" in params:
        return f"{stage}: {params['contender']}, seed {params['seed']}"
    return f"{stage} {number}"


def param_texts(params: Mapping[str, Any]) -> dict[str, str]:
    """Write parameters so that a table column can be read: floats with four digits."""
    return {
        str(key): f"{value:.4g}" if isinstance(value, float) else str(value)[:500]
        for key, value in params.items()
    }


def epoch_metrics(report: Mapping[str, Any]) -> dict[str, float]:
    """Name an epoch's numbers for MLflow: slashes make chart sections, few enough to read.

    Fourteen, and the running best makes fifteen: MLflow's pages become slow and hard
    to read with more. All the others are in the trial's result.json.

    Args:
        report: ``EpochReport.to_dict()``; absent values, inf and NaN are left out.
    """
    named = {
        ACCURACY: report.get("leader_accuracy"),
        "val/ensemble_accuracy": report.get("ensemble_accuracy"),
        "val/mean_peer_accuracy": report.get("mean_peer_accuracy"),
        "val/leader_nll": report.get("leader_nll"),
        "val/leader_ece": report.get("leader_ece"),
        "train/loss": (report.get("train") or {}).get("total"),
        "train/lr": report.get("lr"),
        "peers/ensemble_gap": report.get("ensemble_gap"),
        "peers/diversity": report.get("diversity"),
        "peers/disagreement": report.get("disagreement"),
        "peers/q_statistic": report.get("q_statistic"),
        "peers/attention_entropy": report.get("attention_entropy"),
        "time/epoch_s": report.get("seconds"),
        "time/images_per_s": report.get("images_per_s"),
    }
    return {
        key: float(value)
        for key, value in named.items()
        if isinstance(value, (int, float)) and math.isfinite(value)
    }
