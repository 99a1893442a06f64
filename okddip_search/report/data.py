"""``report.json``: every number of the report as plain values; the page is made from it alone.

Accuracies are shares in [0, 1], times are seconds, epochs count from 0. Missing values are null,
and so are values that are not finite, which JSON cannot express.
"""

import datetime as dt
import math
import os
import platform
import shlex
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import optuna
import yaml
from optuna.importance import PedAnovaImportanceEvaluator, get_param_importances
from optuna.trial import FixedTrial, FrozenTrial, TrialState

from okddip_search.algorithms.pruners import PRUNE_FROM, RAMP_WEIGHT
from okddip_search.masking import masked
from okddip_search.report.confirm_data import (
    cost,
    failed_runs,
    looks,
    noise_floor,
    times_opened,
    winners_curse,
)
from okddip_search.report.sources import Sources
from okddip_search.study.trials import (
    FINGERPRINT,
    PAPER_KEY,
    PAUSES_AFTER,
    REASON,
    WENT_ON,
    best_trial,
    paper_trial,
    state_of,
)
from trainer.config.train import TrainConfig
from trainer.io.text import visible

FORMAT = 1
ATTENTION_FRAMES = 8
TOP_TRIALS = 5
"""Least number of best trials that PED-ANOVA contrasts with all, as its authors advise."""

_STATES = ("complete", "pruned", "failed", "running", "paused")
_CURVES = {
    "leader": "leader_accuracy",
    "peers": "mean_peer_accuracy",
    "ensemble": "ensemble_accuracy",
    "gap": "ensemble_gap",
    "diversity": "diversity",
    "disagreement": "disagreement",
    "ramp_weight": "ramp_weight",
}


def collect(sources: Sources) -> dict[str, Any]:
    """Return the report's data, ready for JSON."""
    trials = [
        _trial(sources, trial) for trial in sources.trials if trial.state != TrialState.WAITING
    ]
    search = _search(sources, trials)
    best = _best(sources, trials)
    data = {
        "format": FORMAT,
        "written": dt.datetime.now(dt.UTC).isoformat(timespec="seconds"),
        "search": search,
        "verdict": _verdict(sources),
        "best": best,
        "commands": _commands(sources, trials),
        "trials": trials,
        "curves": {str(n): _curves(run["history"]) for n, run in sources.runs.items()},
        "importances": _importances(sources),
        "attention": _attention(sources, trials, best["trial"] if best else None),
        "confirm": sources.confirm,
        "winners_curse": winners_curse(sources.confirm),
        "noise_floor": noise_floor(sources.confirm),
        "looks": looks(sources.confirm),
        "times_opened": times_opened((sources.confirm or {}).get("openings", [])),
        "cost": cost(sources.confirm, search["training_s"]),
        "failed_runs": failed_runs(sources.confirm),
        "confirm_problem": sources.confirm_problem,
        "provenance": _provenance(sources),
    }
    plain: dict[str, Any] = _plain(data)
    return plain


def _plain(value: Any) -> Any:
    """Make a value safe to publish as JSON: finite, no passwords, control characters visible."""
    if isinstance(value, Mapping):
        return {_plain(str(key)): _plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(item) for item in value]
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    return visible(masked(value)) if isinstance(value, str) else value


def _trial(sources: Sources, trial: FrozenTrial) -> dict[str, Any]:
    history = sources.runs.get(trial.number, {}).get("history", [])
    config = _config(sources, trial)
    values = trial.intermediate_values
    return {
        "number": trial.number,
        "state": state_of(trial),
        "value": trial.value if trial.state is TrialState.COMPLETE else None,
        "last_value": values[max(values)] if values else None,
        "epochs": len(values),
        "params": dict(trial.params),
        "enqueued": bool(trial.user_attrs.get(PAPER_KEY)),
        "reason": trial.user_attrs.get(REASON, ""),
        "prune_from": trial.user_attrs.get(PRUNE_FROM),
        "pauses_after": trial.user_attrs.get(PAUSES_AFTER),
        "went_on": trial.user_attrs.get(WENT_ON),
        "paused_at": values.get(trial.user_attrs.get(PAUSES_AFTER, 0) - 1),
        "seconds": sum(report["seconds"] for report in history) if history else None,
        "started": _iso(trial.datetime_start),
        "ended": _iso(trial.datetime_complete),
        "method": config.method if config else None,
        "num_peers": config.num_peers if config else None,
        "ramp_length": config.ramp_length if config else None,
    }


def _config(sources: Sources, trial: FrozenTrial) -> TrainConfig | None:
    try:
        return sources.spec.suggest(FixedTrial(trial.params, number=trial.number))
    except ValueError:  # it has just started: not all of its parameters are in the journal yet
        return None


def _iso(moment: dt.datetime | None) -> str | None:
    return None if moment is None else moment.isoformat(timespec="seconds")


def _search(sources: Sources, trials: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    spec = sources.spec
    seconds = [trial["seconds"] for trial in trials if trial["seconds"] is not None]
    counts = {state: sum(t["state"] == state for t in trials) for state in _STATES}
    return {
        "name": spec.name,
        "state": _state(sources, counts["complete"] + counts["pruned"]),
        "objective": {**spec.objective.model_dump(), "words": spec.objective.words},
        "budget": None if spec.study.budget else spec.study.trials,
        "time_budget": spec.study.budget.to_plain() if spec.study.budget else None,
        "counts": counts,
        "training_s": sum(seconds) if seconds else None,
        "data": spec.data.model_dump(mode="json"),
        "fixed": {name: _fixed(sources, name) for name in ("model", "width", "method")},
        "max_epochs": spec.max_epochs,
        "sampler": spec.study.proposer.type,
        "searcher": spec.study.searcher.type if spec.study.searcher else None,
        "pruner": spec.study.pruner.type,
        "wait_for_ramp_up": spec.study.wait_for_ramp_up,
        "ramp_weight_needed": RAMP_WEIGHT,
        "dimensions": [
            {"name": name, **dimension.model_dump(mode="json")}
            for name, dimension in spec.search.items()
        ],
    }


def _fixed(sources: Sources, name: str) -> Any:
    """Return a field that is the same in every trial; None if it is searched."""
    if name in sources.spec.search:
        return None
    return sources.spec.fixed.get(name, TrainConfig.model_fields[name].default)


def _state(sources: Sources, finished: int) -> str:
    """Return the state of the search: finished, running, stopped, failed or killed."""
    study = sources.spec.study
    is_spent = study.budget is None and finished >= study.trials
    if is_spent or sources.confirm is not None:
        return "finished"
    words = {"FINISHED": "finished", "KILLED": "stopped", "FAILED": "failed"}
    last = sources.sessions[-1] if sources.sessions else None
    if last is not None and last.status is not None:
        return words.get(last.status, "stopped")
    if sources.driver == os.getpid():  # this process wrote the last trial and is about to exit
        return "stopped"
    return "running" if sources.driver is not None else "killed"


def _entry(
    trials: Sequence[Mapping[str, Any]], chosen: FrozenTrial | None
) -> Mapping[str, Any] | None:
    """Return the report's entry for a trial of the study; None if it has none."""
    return next((t for t in trials if chosen is not None and t["number"] == chosen.number), None)


def _verdict(sources: Sources) -> dict[str, Any]:
    """Return the verdict in one sentence, its status, and the command that leads to one."""
    confirm = sources.confirm
    command = f"okddip-search confirm {_shown(sources.directory)}"
    if confirm is not None and confirm["verdict"]:
        return {**confirm["verdict"], "command": None}
    if confirm is None and best_trial(sources.trials) is None:
        sentence = "No trial is complete yet, so there is no winner and nothing to confirm."
        return {"status": "none", "sentence": sentence, "command": None}
    if confirm is None:
        sentence = (
            "Nothing is confirmed yet: every number here comes from one run, which ranks "
            "candidates but does not prove a gain."
        )
        return {"status": "none", "sentence": sentence, "command": command}
    runs = [run for configuration in confirm["contenders"] for run in configuration["runs"]]
    ended = sum(run["state"] in ("complete", "failed") for run in runs)
    sentence = f"Nothing is confirmed yet: {ended} of {len(runs)} confirmation runs have ended"
    if confirm["state"] == "complete":
        return {"status": "none", "sentence": f"{sentence}, without a verdict.", "command": None}
    sealed = "" if confirm["openings"] else ", and the test set is still sealed"
    resuming = None if sources.driver is not None else command
    return {"status": "running", "sentence": f"{sentence}{sealed}.", "command": resuming}


def _best(sources: Sources, trials: Sequence[Mapping[str, Any]]) -> dict[str, Any] | None:
    """Return the setting to use: the confirmed winner, or else the search's best trial."""
    confirm: Mapping[str, Any] = sources.confirm or {"contenders": [], "winner": None}
    winner = next((c for c in confirm["contenders"] if c["label"] == confirm["winner"]), None)
    trial = _entry(trials, best_trial(sources.trials))
    if winner is not None:
        number, value = winner["search_trial"], winner["search_value"]
        config = winner["config"]
    elif trial is not None:
        number, value = trial["number"], trial["value"]
        run = sources.runs.get(number)
        config = (
            run["config"]
            if run
            else sources.spec.suggest(FixedTrial(trial["params"], number)).to_dict()
        )
    else:
        return None
    paper = _entry(trials, paper_trial(sources.trials))
    paper = paper or {"number": None, "value": None, "params": {}}
    searched = [name for name in sources.spec.search if sources.spec.search[name].is_active(config)]
    return {
        "standing": _standing(sources, winner),
        "label": winner["label"] if winner else f"trial {number}",
        "trial": number,
        "value": value,
        "validation": winner["validation"] if winner else None,
        "test": winner["test"] if winner else None,
        "settings": [
            {"name": name, "value": config.get(name), "paper": paper["params"].get(name)}
            for name in searched
        ],
        "paper_trial": paper["number"],
        "paper_value": paper["value"],
        "yaml": yaml.safe_dump(config, sort_keys=False, allow_unicode=True),
    }


def _standing(sources: Sources, winner: Mapping[str, Any] | None) -> str:
    """Return the basis of the choice: one run each, means over seeds, or the test set as well."""
    if winner is None or sources.confirm is None:
        return "searched"
    return "compared" if sources.confirm["verdict"] else "chosen"


def _shown(directory: Path) -> str:
    """Return the directory, quoted for a shell in the working directory."""
    whole = directory.resolve()
    working = Path.cwd()
    return shlex.quote(
        str(whole.relative_to(working) if whole.is_relative_to(working) else directory)
    )


def _commands(sources: Sources, trials: Sequence[Mapping[str, Any]]) -> list[dict[str, str]]:
    shown = _shown(sources.directory)
    commands = []
    if best_trial(sources.trials) is not None:
        if sources.confirm is None:
            commands.append(("Find out whether the winner is real", f"confirm {shown}"))
        elif sources.confirm["state"] != "complete":
            commands.append(("Resume the confirmation", f"confirm {shown}"))
        commands += [
            ("Get the configuration", f"export {shown} --output best.yaml"),
            ("Get the leader's weights, to run without this tool", f"export {shown} --format pt2"),
            ("Train it again", f"train {shown}/best.yaml --out retrained"),
        ]
    commands.append(("Compare the trials in MLflow", f"ui {shown}"))
    if _state(sources, _finished(trials)) in ("stopped", "failed", "killed"):
        commands.append(("Resume the search", f"--resume --out {shown}"))
    return [{"words": words, "command": f"okddip-search {rest}"} for words, rest in commands]


def _finished(trials: Sequence[Mapping[str, Any]]) -> int:
    return sum(trial["state"] in ("complete", "pruned") for trial in trials)


def _curves(history: Sequence[Mapping[str, Any]]) -> dict[str, list[Any]]:
    """Turn a list of epochs into curves by name."""
    curves = {name: [_rounded(r.get(key)) for r in history] for name, key in _CURVES.items()}
    return {"epochs": [r["epoch"] for r in history], **curves}


def _rounded(value: Any) -> Any:
    return float(f"{value:.5g}") if isinstance(value, float) and math.isfinite(value) else None


def _importances(sources: Sources) -> dict[str, Any]:
    """Compute with PED-ANOVA how much each parameter matters for being among the best trials."""
    complete = [trial for trial in sources.trials if trial.state is TrialState.COMPLETE]
    values = {trial.value for trial in complete}
    absent = ""
    if len(complete) < 2:
        absent = f"Importances need at least 2 complete trials; there are {len(complete)}."
    elif len(values) < 2:
        absent = (
            "All complete trials have the same value, so the importance of parameters is unknown."
        )
    if absent:
        return {"absent": absent, "trials": len(complete), "top_share": None, "values": {}}
    share = min(0.5, max(0.1, TOP_TRIALS / len(complete)))
    evaluator = PedAnovaImportanceEvaluator(target_quantile=share)
    with _quiet_optuna():
        study = optuna.create_study(direction="maximize")
        study.add_trials(complete)
        found = get_param_importances(study, evaluator=evaluator)
    total = sum(found.values())
    if not math.isfinite(total) or total <= 0:
        absent = "PED-ANOVA finds no parameter that separates the best trials from the others."
    return {"absent": absent, "trials": len(complete), "top_share": share, "values": found}


@contextmanager
def _quiet_optuna() -> Iterator[None]:
    """Keep Optuna's warnings off the terminal; the page itself warns of few trials."""
    verbosity = optuna.logging.get_verbosity()
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        optuna.logging.set_verbosity(verbosity)


def _attention(
    sources: Sources, trials: Sequence[Mapping[str, Any]], best: int | None
) -> dict[str, Any]:
    """Return attention matrices of the best trial that has any, at evenly spaced epochs."""
    ranked = sorted(trials, key=lambda t: (t["number"] == best, t["value"] or -1.0), reverse=True)
    for trial in ranked:
        history = sources.runs.get(trial["number"], {}).get("history", [])
        seen = [report for report in history if report.get("attention")]
        if not seen:
            continue
        count = min(ATTENTION_FRAMES, len(seen))
        steps = [round(i * (len(seen) - 1) / max(1, count - 1)) for i in range(count)]
        frames = [
            {
                "epoch": seen[step]["epoch"],
                "matrix": [[_rounded(cell) for cell in row] for row in seen[step]["attention"]],
            }
            for step in steps
        ]
        return {"absent": "", "trial": trial["number"], "frames": frames}
    absent = "No trial's method has an attention matrix (OKDDip with learned attention has)."
    return {"absent": absent, "trial": None, "frames": []}


def _provenance(sources: Sources) -> dict[str, Any]:
    sessions = sources.sessions
    known = sessions[-1].tags if sessions else {}
    tags = {key.removeprefix("okddip."): value for key, value in known.items()}
    packages = ("okddip-search", "torch", "ray", "optuna", "mlflow")
    run: Mapping[str, Any] = next(iter(sources.runs.values()), {})
    environment = run.get("environment", {})
    begun = [t.datetime_start for t in sources.trials if t.datetime_start]
    ended = [t.datetime_complete for t in sources.trials if t.datetime_complete]
    return {
        "command": sessions[0].tags.get("okddip.command") if sessions else None,
        "host": tags.get("host"),
        "device": environment.get("device"),
        "precision": environment.get("precision"),
        "num_threads": environment.get("num_threads"),
        "slots": tags.get("slots"),
        "speed": sources.speed,
        "python": tags.get("python") or environment.get("python") or platform.python_version(),
        "versions": {name: tags[name] for name in packages if name in tags},
        "study_seed": sources.spec.study.seed,
        "split_seed": sources.spec.data.split_seed,
        "confirm_seeds": (sources.confirm or {}).get("seeds"),
        "data_fingerprint": sources.study_attrs.get(FINGERPRINT) or run.get("data_fingerprint"),
        "images": tags.get("images"),
        "first_trial_started": _iso(min(begun, default=None)),
        "last_trial_ended": _iso(max(ended, default=None)),
    }
