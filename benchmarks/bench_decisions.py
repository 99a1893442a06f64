"""How long does screening think about what a free slot is to do?

A study of the digits space with so many trials, one in five complete, the others paused, values
from a smooth function with noise. Timed: letting a trial go on (a model is fitted, all paused
trials are ranked), proposing a new one (a model is fitted and its acquisition maximised), and
asking the bridge while the answer is not there, which is all that Tune's loop waits for.
"""

import logging
import time
from collections.abc import Callable

import click
import numpy as np
import optuna
from optuna.trial import FrozenTrial, TrialState, create_trial

from okddip_search.algorithms.choice import Choice
from okddip_search.algorithms.pruners import PRUNE_FROM
from okddip_search.algorithms.screen import Begin, Room, Screening
from okddip_search.cluster.resources import Concurrency
from okddip_search.driver.bridge import StudyBridge
from okddip_search.driver.work import SearchWork
from okddip_search.space.load import load_space
from okddip_search.space.model import SearchSpec
from okddip_search.space.settings import StudySettings

RUNG = 13


def trials(spec: SearchSpec, count: int) -> list[FrozenTrial]:
    """Return trials of the space; one in five went on."""
    draw = np.random.default_rng(0)
    sampler = optuna.samplers.RandomSampler(seed=0)
    study = optuna.create_study(direction="maximize", sampler=sampler)
    made = []
    for number in range(count):
        asked = study.ask()
        spec.suggest(asked)
        params = asked.params
        level = 0.95 - 0.05 * abs(np.log10(params["lr"]) + 1) + 0.01 * draw.normal()
        epochs = spec.max_epochs if number % 5 == 0 else RUNG
        curve = {e: level - 0.3 * np.exp(-e / 10) for e in range(epochs)}
        is_complete = epochs == spec.max_epochs
        made.append(
            create_trial(
                state=TrialState.COMPLETE if is_complete else TrialState.RUNNING,
                value=curve[epochs - 1] if is_complete else None,
                params=params,
                distributions=asked.distributions,
                intermediate_values=curve,
                user_attrs={PRUNE_FROM: RUNG - 1},
            )
        )
        made[-1].number = number
    return made


def median_ms(call: Callable[[], object], times: int) -> float:
    """Return the median of so many calls."""
    took = []
    for _ in range(times):
        began = time.perf_counter()
        call()
        took.append(time.perf_counter() - began)
    return 1000 * float(np.median(took))


@click.command()
@click.option("--trials", "counts", multiple=True, type=int, default=(10, 100, 500, 5000))
@click.option("--times", default=5, show_default=True)
def main(counts: tuple[int, ...], times: int) -> None:
    """Time and print."""
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    logging.disable(logging.WARNING)
    spec = load_space("digits")
    study_settings = StudySettings(searcher="screen", pruner="none", trials=10_000)
    spec = spec.model_copy(update={"study": study_settings, "enqueue": ()})
    rules = Screening(spec.max_epochs, Choice(type="gp"), 0)
    print(f"{'trials':>7}{'goes on':>10}{'proposes':>10}{'asks':>8}   (ms, medians of {times})")
    for count in counts:
        known = trials(spec, count)
        study = optuna.create_study(direction="maximize")
        study.add_trials(known)
        bridge = StudyBridge(study, SearchWork(spec), Concurrency(2), ())
        end_game = Room(epochs=spec.max_epochs - 1)
        number = next(n for n in range(count, count + 100) if _is_modelled(rules, known, n))
        goes_on = median_ms(lambda: rules.decide(known, (), count, end_game), times)  # noqa: B023
        proposes = median_ms(lambda: rules.begin(known, (), number), times)  # noqa: B023
        bridge.next_trial()
        asks = median_ms(lambda: bridge.is_deciding, 3)  # noqa: B023
        print(f"{count:>7}{goes_on:>10.0f}{proposes:>10.0f}{asks:>8.1f}", flush=True)


def _is_modelled(rules: Screening, known: list[FrozenTrial], number: int) -> bool:
    return rules.begin(known, (), number) != Begin()


if __name__ == "__main__":
    main()
