"""The output at the end of a search: table of trials, the winner, next steps."""

import math
import shlex
from pathlib import Path

from optuna.trial import FrozenTrial, TrialState
from rich.console import Console
from rich.table import Table

from okddip_search.driver.bridge import StudyBridge
from okddip_search.formatting import params_text, percent, points, value_text
from okddip_search.hints import to_see
from okddip_search.layout import PAGE
from okddip_search.space.model import SearchSpec
from okddip_search.space.settings import format_duration
from okddip_search.study.trials import REASON, best_trial, paper_trial, trials_in

ROWS = 20


def print_result(
    console: Console,
    spec: SearchSpec,
    directory: Path,
    bridge: StudyBridge,
    *,
    num_validation: int,
    with_next_steps: bool,
) -> None:
    """Print how the search ended.

    Args:
        console: Console to print to.
        spec: Space of the search.
        directory: Directory of the search, as the user would type it.
        bridge: Has the study, and the reason why the search ended.
        num_validation: Number of validation images, for the standard error.
        with_next_steps: Whether to suggest the next commands.
    """
    study = bridge.study
    trials = study.get_trials(deepcopy=False)
    console.print(_table(trials, spec))
    counts = {
        state: len(trials_in(study, state))
        for state in (TrialState.COMPLETE, TrialState.PRUNED, TrialState.FAIL)
    }
    console.print(
        f"{counts[TrialState.COMPLETE]} complete, {counts[TrialState.PRUNED]} pruned, "
        f"{counts[TrialState.FAIL]} failed"
        + (f", {len(bridge.paused)} paused" if bridge.paused else "")
    )
    for trial in trials_in(study, TrialState.FAIL):
        console.print(f"trial {trial.number} failed: {trial.user_attrs.get(REASON, '')}")
    if bridge.abort_reason:
        console.print(f"Given up: {bridge.abort_reason}", style="red")
    ended = counts[TrialState.COMPLETE] + counts[TrialState.PRUNED]
    if missing := _missing(spec, bridge, ended):
        console.print(missing)
    best = best_trial(trials)
    if best is None:
        console.print("No trial was completed, so there is no winner.")
    else:
        _print_winner(console, spec, best, paper_trial(trials), num_validation)
    typed = shlex.quote(str(directory))
    if bridge.interrupted or bridge.abort_reason:
        stopped = "Stopped. " if bridge.interrupted else ""
        console.print(
            f"{stopped}Resume with:  okddip-search --resume --out {typed}", soft_wrap=True
        )
    elif best is not None and with_next_steps:
        console.print(
            f"Next:  okddip-search ui {typed}\n"
            f"       okddip-search export {typed} --output best.yaml\n"
            f"       okddip-search confirm {typed}\n"
            f"       {to_see(directory / PAGE)}",
            soft_wrap=True,
        )


def _missing(spec: SearchSpec, bridge: StudyBridge, ended: int) -> str:
    """Say how many trials the search ended without, and why; nothing if it has them all."""
    study = spec.study
    if study.budget is not None or ended >= study.trials:
        return ""
    if bridge.interrupted:
        reason = "a signal stopped it"
    elif bridge.abort_reason:
        reason = "it was given up"
    elif bridge.is_late and study.timeout is not None:
        reason = f"the timeout of {format_duration(study.timeout)} was over"
    else:
        reason = "every configuration of the space has been tried"
    return f"{study.trials - ended} of {study.trials} trials are missing: {reason}"


def _table(trials: list[FrozenTrial], spec: SearchSpec) -> Table:
    ended = [t for t in trials if t.state in (TrialState.COMPLETE, TrialState.PRUNED)]
    order = {TrialState.COMPLETE: 0, TrialState.PRUNED: 1}
    ended.sort(key=lambda t: (order[t.state], -(t.value or 0.0), t.number))
    hidden = len(ended) - ROWS
    table = Table(
        box=None,
        pad_edge=False,
        header_style="dim",
        title=f"Leader's validation accuracy ({spec.objective.words})",
        title_justify="left",
        caption=f"… and {hidden} more" if hidden > 0 else None,
    )
    for heading in ("trial", "state", "accuracy", "epochs", *spec.search):
        table.add_column(heading.replace("_", "\n"), justify="right", vertical="bottom")
    for trial in ended[:ROWS]:
        epochs = 0 if trial.last_step is None else trial.last_step + 1
        table.add_row(
            str(trial.number),
            trial.state.name,
            percent(trial.value),
            str(epochs),
            *(value_text(trial.params.get(name, "–")) for name in spec.search),
        )
    return table


def _print_winner(
    console: Console,
    spec: SearchSpec,
    best: FrozenTrial,
    paper: FrozenTrial | None,
    num_validation: int,
) -> None:
    console.print(
        f"Best: trial {best.number}, leader's validation accuracy {percent(best.value)} "
        f"({spec.objective.words})\n  {params_text(best.params)}"
    )
    if paper is None or paper.value is None:
        return
    if paper.number == best.number:
        console.print("It was enqueued first: the paper's own setting in the bundled spaces.")
        return
    text = (
        f"Enqueued first (the paper's own setting in the bundled spaces): trial {paper.number}, "
        f"{percent(paper.value)}"
    )
    if paper.state is TrialState.PRUNED:
        console.print(f"{text} when it was pruned after {len(paper.intermediate_values)} epochs")
        return
    console.print(text)
    console.print(_significance(best.value or 0.0, paper.value, num_validation))


def _significance(best: float, paper: float, count: int) -> str:
    """Judge the difference of two single runs, in one line.

    The standard error is that of two shares over ``count`` images each. It is a lower bound: seeds
    add to it, and so does the choice of the best of many trials.
    """
    error = math.sqrt((best * (1 - best) + paper * (1 - paper)) / count)
    verdict = "within noise" if best - paper < 2 * error else "to be confirmed over several seeds"
    return (
        f"Difference {points(best - paper)} points: {verdict} (one run each; standard error "
        f"from {count} validation images alone {points(error, sign=False)} points)"
    )
