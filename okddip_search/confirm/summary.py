"""The results of a confirmation, as text on the terminal."""

import shlex
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from okddip_search.formatting import percent, points, spread
from okddip_search.hints import to_see
from okddip_search.layout import PAGE
from okddip_search.report.confirm_data import looks, times_opened


def print_results(console: Console, found: Mapping[str, Any], directory: Path) -> None:
    """Print the results of a confirmation; the verdict comes last.

    Args:
        console: Console to print to.
        found: The content of ``confirm/confirm.json``.
        directory: Directory of the search, as the user would type it.
    """
    console.print(_results_table(found))
    for configuration in found["contenders"]:
        for run in configuration["runs"]:
            if run["state"] == "failed":
                console.print(f"{configuration['label']}, seed {run['seed']} failed: "
                              f"{run['reason']}")  # fmt: skip
    for rival, words in (looks(found) or {"left": {}})["left"].items():
        console.print(f"{rival} left after {words}")
    if any(_is_clear_alone(comparison) for comparison in found["comparisons"]):
        console.print(
            "Intervals are per baseline; verdicts are corrected for all of them, so an interval "
            "can exclude 0 although the verdict is 'within noise'"
        )
    best, floor = found["search_best"], found["noise_floor"]
    console.print(
        f"The search's best value, {best['label']}: {percent(best['value'])}; its mean over fresh "
        f"seeds: {percent(best['confirmed_mean'])} ({found['objective']['words']}, validation)"
    )
    if floor is not None:
        console.print(
            f"Noise: one setting ({floor['contender']}) over {floor['n']} seeds has a "
            f"standard deviation of {points(floor['sd'], sign=False)} points on the test set"
        )
    console.print(f"The sealed test set was opened {_openings(found['openings'])}")
    if not best["is_still_best"]:
        console.print(
            f"The search has continued since: this covers its first {found['search_trials']} trials"
        )
    leader = found["leader"]
    final = "retrained on train + validation" if found["retrained"] else f"seed {leader['seed']}"
    console.print(
        f"The winner's network: {found['winner']}, {final}\n"
        f"Next:  okddip-search export {shlex.quote(str(directory))} --output best.yaml\n"
        f"       {to_see(directory / PAGE)}",
        soft_wrap=True,
    )
    if found["verdict"] is not None:
        console.print(f"Verdict: {found['verdict']['sentence']}", style="bold")


def _openings(openings: Sequence[Mapping[str, Any]]) -> str:
    """Say how often the test set was opened."""
    times, looks = times_opened(openings).values()
    planned = f", with {looks} further planned look{'s' * (looks > 1)}" if looks else ""
    return f"{'once' if times == 1 else f'{times} times'}{planned}"


def _results_table(found: Mapping[str, Any]) -> Table:
    table = Table(
        box=None,
        pad_edge=False,
        header_style="dim",
        title=f"Leader's accuracy over {_seeds(found)} seeds "
        f"(validation: {found['objective']['words']}; mean ± standard deviation)",
        title_justify="left",
    )
    columns = ("", "method", "validation", "test", "winner − it, points (95 %)", "the winner is",
               "s a run", "leader's\nparameters")  # fmt: skip
    for index, heading in enumerate(columns):
        table.add_column(heading, justify="left" if index in (0, 1, 5) else "right")
    compared = {comparison["rival"]: comparison for comparison in found["comparisons"]}
    for configuration in found["contenders"]:
        label, cost = configuration["label"], configuration["cost"]
        is_winner = label == found["winner"]
        seconds, size = cost["training_s_per_run"], cost["leader_parameters"]
        table.add_row(
            label,
            configuration["method"],
            spread(configuration["validation"]),
            spread(configuration["test"]),
            *(("", "the winner") if is_winner else _difference(compared.get(label))),
            "–" if seconds is None else f"{seconds:.1f}",
            "–" if size is None else f"{size:,}",
            style="bold" if is_winner else None,
        )
    return table


def _seeds(found: Mapping[str, Any]) -> str:
    return f"{'up to ' if looks(found) else ''}{len(found['seeds'])}"


def _is_clear_alone(comparison: Mapping[str, Any]) -> bool:
    low, high = comparison["low"], comparison["high"]
    return comparison["verdict"] == "within noise" and low is not None and low * high > 0


def _difference(comparison: Mapping[str, Any] | None) -> tuple[str, str]:
    if comparison is None or comparison["difference"] is None:
        return "", ""
    text = points(comparison["difference"])
    if comparison["low"] is not None:
        text += f" ({points(comparison['low'])} to {points(comparison['high'])})"
    return text, comparison["words"].partition(":")[0]
