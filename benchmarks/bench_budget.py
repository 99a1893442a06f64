"""Is everything over by the end of a budget, and how much of it is used?

Runs the real command with ``--budget`` so many times, one after the other, each with a study seed
of its own. Finished runs are kept as lines in a file, so the same command continues where it was
stopped. Seconds are those of the whole process, confirmation and report included.

    python benchmarks/bench_budget.py --out DIR --runs 5 --budget 6m
    python benchmarks/bench_budget.py --out DIR2 --space cifar10_small.yaml --set data.root=FOLDER
"""

import json
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path
from typing import Any

import click

from okddip_search.layout import CONFIRM, CONFIRMATION, JOURNAL
from okddip_search.space.settings import parse_duration
from okddip_search.study.reading import read_study
from okddip_search.study.trials import state_of

RUNS = "runs.jsonl"
LEAST_USED = 0.8


def run_once(space: str, budget: str, sets: tuple[str, ...], seed: int, home: Path) -> Any:
    """Run one search with its confirmation, and return what it took and came to."""
    changes = [word for text in (*sets, f"study.seed={seed}") for word in ("--set", text)]
    command = [sys.executable, "-m", "okddip_search", "--space", space, "--budget", budget]
    began = time.monotonic()
    with (home.parent / f"{home.name}.log").open("w") as log:
        done = subprocess.run(
            [*command, "--out", str(home), *changes], stdout=log, stderr=subprocess.STDOUT
        )
    seconds = time.monotonic() - began
    if done.returncode:
        raise click.ClickException(f"the search failed: see {home}.log")
    trials, _ = read_study(home / JOURNAL)
    findings = home / CONFIRM / CONFIRMATION
    found = json.loads(findings.read_text()) if findings.exists() else {}
    return {
        "seed": seed,
        "seconds": round(seconds, 1),
        "states": Counter(state_of(trial) for trial in trials),
        "seeds": len(found.get("seeds", ())),
        "confirm": found.get("state", "none"),
    }


def describe(run: Any, budget_s: float) -> str:
    """Return a line of the table."""
    share = run["seconds"] / budget_s
    is_kept = LEAST_USED <= share <= 1
    states = ", ".join(f"{count} {state}" for state, count in sorted(run["states"].items()))
    return (
        f"{run['seed']:>4}{run['seconds']:>9.1f}{share:>8.0%}{'yes' if is_kept else 'NO':>6}"
        f"{run['seeds']:>7}  {run['confirm']:<10}{states}"
    )


@click.command()
@click.option("--out", type=click.Path(path_type=Path), required=True, help="Folder of the runs.")
@click.option("--space", default="digits", show_default=True)
@click.option("--budget", default="6m", show_default=True)
@click.option("--runs", default=5, show_default=True)
@click.option("--set", "sets", multiple=True, help="As of okddip-search.")
def main(out: Path, space: str, budget: str, runs: int, sets: tuple[str, ...]) -> None:
    """Run, and print a table."""
    out.mkdir(parents=True, exist_ok=True)
    kept = out / RUNS
    lines = kept.read_text().splitlines() if kept.exists() else []
    known = {run["seed"]: run for run in map(json.loads, lines)}
    budget_s = parse_duration(budget)
    print(f"{'seed':>4}{'seconds':>9}{'used':>8}{'kept':>6}{'seeds':>7}  {'confirm':<10}trials")
    for seed in range(runs):
        if seed not in known:
            home = out / f"{seed}-{int(time.time())}"  # one that was broken off stays where it is
            known[seed] = run_once(space, budget, sets, seed, home)
            with kept.open("a") as file:
                file.write(json.dumps(known[seed]) + "\n")
        print(describe(known[seed], budget_s), flush=True)


if __name__ == "__main__":
    main()
