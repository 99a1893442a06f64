"""Each sampler, made anew for every trial: no repetition, and the same after a restart."""

from pathlib import Path

import optuna
import pytest
from optuna.storages import JournalStorage
from optuna.storages.journal import JournalFileBackend
from optuna.trial import TrialState

from okddip_search.algorithms.samplers import SAMPLERS
from okddip_search.space.load import load_space
from okddip_search.space.model import SearchSpec

optuna.logging.set_verbosity(optuna.logging.WARNING)

SPACE = """\
name: t
data: {{name: digits}}
search:
  lr: {{type: float, low: 0.1, high: 0.5, step: 0.1}}
  num_peers: {{type: int, low: 1, high: 4}}
  lr_schedule: {{type: categorical, choices: [multistep, cosine]}}
{extra}
enqueue:
  - {{lr: 0.1, num_peers: 3}}
study:
  trials: 12
  seed: {seed}
  sampler: {{type: {sampler}{arguments}}}
"""
EARLY = {"tpe": ", n_startup_trials: 4", "gp": ", n_startup_trials: 4"}
CONTINUOUS = "  temperature: {type: float, low: 1, high: 8}"
CONDITIONAL = CONTINUOUS[:-1] + ", when: {lr_schedule: cosine}}"


def load(folder: Path, sampler: str, extra: str | None = None, seed: int = 0) -> SearchSpec:
    extra = extra if extra is not None else "" if sampler == "grid" else CONTINUOUS
    path = folder / "space.yaml"
    arguments = EARLY.get(sampler, "")
    path.write_text(SPACE.format(sampler=sampler, arguments=arguments, extra=extra, seed=seed))
    return load_space(path)


def open_study(folder: Path, spec: SearchSpec) -> optuna.Study:
    storage = JournalStorage(JournalFileBackend(str(folder / "study.journal")))
    study = optuna.create_study(
        study_name="t", storage=storage, direction="maximize", load_if_exists=True
    )
    if not study.trials:
        for entry in spec.enqueue:
            study.enqueue_trial(dict(entry))
    return study


def ask(study: optuna.Study, spec: SearchSpec) -> optuna.Trial:
    waiting = [t.number for t in study.trials if t.state == TrialState.WAITING]
    study.sampler = spec.make_sampler(min(waiting, default=len(study.trials)))
    trial = study.ask()
    spec.suggest(trial)
    return trial


def run(folder: Path, spec: SearchSpec, count: int, restart: bool) -> list[dict[str, object]]:
    """Run trials one at a time, reopening the storage before each where asked."""
    folder.mkdir()
    study = open_study(folder, spec)
    for _ in range(count):
        if restart:
            study = open_study(folder, spec)
        trial = ask(study, spec)
        params = trial.params
        study.tell(trial, params["lr"] - (params["lr"] - 0.25) ** 2 + 0.1 * params["num_peers"])
    return [trial.params for trial in study.trials]


@pytest.mark.parametrize("sampler", SAMPLERS)
def test_resumed_search_chooses_as_an_unbroken_one(tmp_path: Path, sampler: str) -> None:
    spec = load(tmp_path, sampler)
    straight = run(tmp_path / "straight", spec, 12, restart=False)
    assert run(tmp_path / "resumed", spec, 12, restart=True) == straight
    assert straight[0]["lr"] == 0.1 and straight[0]["num_peers"] == 3
    assert len({tuple(sorted(params.items())) for params in straight[1:]}) == 11
    assert len({params["lr"] for params in straight}) > 2
    assert {params["lr_schedule"] for params in straight} == {"multistep", "cosine"}


@pytest.mark.parametrize("sampler", sorted(SAMPLERS.keys() - {"grid"}))
def test_study_seed_decides(tmp_path: Path, sampler: str) -> None:
    runs = []
    for seed in (0, 1):
        spec = load(tmp_path, sampler, seed=seed)
        runs.append(run(tmp_path / str(seed), spec, 6, restart=False))
    assert all(one != other for one, other in zip(*runs, strict=True))


@pytest.mark.parametrize("sampler", sorted(SAMPLERS.keys() - {"grid"}))
def test_conditional_parameters_vary_too(tmp_path: Path, sampler: str) -> None:
    spec = load(tmp_path, sampler, extra=CONDITIONAL)
    trials = run(tmp_path / "run", spec, 14, restart=False)
    assert all(("temperature" in t) == (t["lr_schedule"] == "cosine") for t in trials)
    found = [t["temperature"] for t in trials if "temperature" in t]
    assert len(found) > 1 and len(set(found)) == len(found)


def test_many_trials_at_once_differ(tmp_path: Path) -> None:
    spec = load(tmp_path, "tpe")
    study = open_study(tmp_path, spec)
    trials = [ask(study, spec).params for _ in range(8)]
    assert len({tuple(sorted(params.items())) for params in trials}) == 8


def test_grid_visits_every_point_once_and_is_told_without_optimize(tmp_path: Path) -> None:
    spec = load(tmp_path, "grid")
    points = run(tmp_path / "run", spec, 41, restart=False)  # 40 points and the enqueued trial
    assert len({tuple(sorted(params.items())) for params in points[1:]}) == 40


def test_tpe_groups_conditional_parameters_only(tmp_path: Path) -> None:
    for extra, grouped in ((CONTINUOUS, False), (CONDITIONAL, True)):
        sampler = load(tmp_path, "tpe", extra=extra).make_sampler(0)
        assert sampler._group is grouped  # type: ignore[attr-defined]


def test_no_warnings(tmp_path: Path, recwarn: pytest.WarningsRecorder) -> None:
    for sampler in SAMPLERS:
        load(tmp_path, sampler).make_sampler(0)
    assert not list(recwarn)
