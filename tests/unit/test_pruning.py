"""No trial is pruned before it is itself; after that, the wrapped pruner decides."""

import math
from pathlib import Path

import optuna
import pytest
from optuna.pruners import BasePruner, MedianPruner, NopPruner
from optuna.study import Study
from optuna.trial import FrozenTrial, TrialState

from okddip_search.algorithms.pruners import (
    PRUNE_FROM,
    PRUNERS,
    RampUpPruner,
    first_prunable_step,
)
from okddip_search.space.load import load_space
from trainer.config.train import TrainConfig

ARGUMENTS = {"percentile": ", percentile: 50", "patient": ", patience: 1, wrapped: median"}


class Eager(BasePruner):
    """Prunes whatever it is asked about."""

    def prune(self, study: Study, trial: FrozenTrial) -> bool:
        return True


def ramp_up(epoch: int, length: int) -> float:
    return math.exp(-5 * (1 - min(epoch, length) / length) ** 2) if length else 1.0


@pytest.mark.parametrize("length", [*range(200), 999, 12_345])
def test_first_prunable_step_is_where_the_weight_reaches_its_mark(length: int) -> None:
    step = first_prunable_step(TrainConfig(ramp_epochs=length))
    assert ramp_up(step, length) >= 0.7
    assert step == 0 or ramp_up(step - 1, length) < 0.7


def test_first_prunable_step_of_the_papers_run() -> None:
    # 1 - sqrt(-ln 0.7 / 5) = 0.7329 of the ramp-up's 80 epochs is 58.6
    assert first_prunable_step(TrainConfig()) == 59
    assert first_prunable_step(TrainConfig(epochs=60)) == 12  # 80/300 of 60 epochs: 16
    assert first_prunable_step(TrainConfig(epochs=60, ramp_epochs=1.0)) == 44
    assert first_prunable_step(TrainConfig(epochs=5, ramp_epochs=80)) == 59  # never
    assert first_prunable_step(TrainConfig(ramp_epochs=0)) == 0


@pytest.mark.parametrize("place", ["user", "system"])
def test_ramp_up_pruner_waits_for_the_trials_own_step(place: str) -> None:
    study = optuna.create_study(direction="maximize", pruner=RampUpPruner(Eager()))
    trial = study.ask()
    assert not trial.should_prune()  # nothing reported yet
    if place == "user":
        trial.set_user_attr(PRUNE_FROM, 12)
    else:
        study._storage.set_trial_system_attr(trial._trial_id, PRUNE_FROM, 12)
    for step in range(15):
        trial.report(0.5, step)
        assert trial.should_prune() == (step >= 12)


def test_trial_that_starts_ramped_up_may_go_at_once() -> None:
    study = optuna.create_study(pruner=RampUpPruner(Eager()))
    trial = study.ask()
    trial.set_user_attr(PRUNE_FROM, 0)
    trial.report(0.5, 0)
    assert trial.should_prune()


def test_trial_without_a_mark_is_left_alone() -> None:
    study = optuna.create_study(pruner=RampUpPruner(Eager()))
    trial = study.ask()
    trial.report(0.5, 1000)
    assert not trial.should_prune()


def space(folder: Path, pruner: str, *overrides: str) -> BasePruner:
    path = folder / "space.yaml"
    path.write_text(
        "name: t\ndata: {name: digits}\ntrainer: {epochs: 27, ramp_epochs: 0}\n"
        "search: {lr: {type: float, low: 0.1, high: 1}}\n"
        f"study: {{pruner: {{type: {pruner}{ARGUMENTS.get(pruner, '')}}}}}\n"
    )
    return load_space(path, overrides).make_pruner()


@pytest.mark.parametrize("name", PRUNERS)
def test_every_pruner_prunes_a_hopeless_trial(tmp_path: Path, name: str) -> None:
    """Curves fall from trial to trial, and within a trial (for the patient one)."""
    study = optuna.create_study(study_name="t", direction="maximize", pruner=space(tmp_path, name))
    for number in range(12):
        trial = study.ask()
        trial.set_user_attr(PRUNE_FROM, 5)
        for step in range(27):
            trial.report(1 - 0.05 * number - 0.001 * step, step)
            if trial.should_prune():
                study.tell(trial, state=TrialState.PRUNED)
                break
        else:
            study.tell(trial, 1 - 0.05 * number)
    pruned = [trial for trial in study.trials if trial.state == TrialState.PRUNED]
    assert bool(pruned) == (name != "none")
    assert all(trial.last_step is not None and trial.last_step >= 5 for trial in pruned)
    assert study.best_trial.number == 0


def test_waiting_is_on_by_default_and_can_be_switched_off(tmp_path: Path) -> None:
    assert isinstance(space(tmp_path, "median"), RampUpPruner)
    assert isinstance(space(tmp_path, "median", "study.wait_for_ramp_up=false"), MedianPruner)
    off = ("study.wait_for_ramp_up=false", "study.pruner=none")
    assert isinstance(space(tmp_path, "median", *off), NopPruner)


def test_hyperband_knows_the_length_of_a_run(tmp_path: Path) -> None:
    pruner = space(tmp_path, "hyperband", "study.wait_for_ramp_up=false")
    assert pruner._max_resource == 27  # type: ignore[attr-defined]


def test_no_warnings(tmp_path: Path, recwarn: pytest.WarningsRecorder) -> None:
    for name in PRUNERS:
        space(tmp_path, name)
    assert not list(recwarn)
