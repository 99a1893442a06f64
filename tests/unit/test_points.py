"""A space with few configurations: each is trained once, and then the search ends."""

import optuna
import pytest

from okddip_search.driver.work import SearchWork
from okddip_search.space.load import load_space
from okddip_search.space.resolve import requested_search

TWO = "lr_schedule: {type: categorical, choices: [multistep, cosine]}"
CONDITIONAL = f"""{TWO}
  lr_decay: {{type: float, low: 0.1, high: 0.3, step: 0.1, when: {{lr_schedule: multistep}}}}
  num_peers: {{type: int, low: 2, high: 3}}"""


@pytest.fixture
def space(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)

    def write(search, **study):
        settings = ", ".join(f"{name}: {value}" for name, value in study.items())
        text = f"name: few\ndata: {{name: digits}}\nsearch:\n  {search}\nstudy: {{{settings}}}\n"
        (tmp_path / "few.yaml").write_text(text)
        return tmp_path / "few.yaml"

    return write


def run(spec, enqueue=(), fail=()):
    """Run a search of a space whose trials take no time; return all their parameters."""
    study = optuna.create_study(direction="maximize")
    for params in enqueue:
        study.enqueue_trial(params)
    work, found = SearchWork(spec), []
    while not work.is_spent(study, 0):
        assert len(found) < 100
        study.sampler = work.sampler(len(found))
        trial = study.ask()
        work.config(trial)
        found.append(trial.params)
        failed = trial.number in fail
        study.tell(trial, None if failed else 0.5, optuna.trial.TrialState.FAIL if failed else None)
    return found


def different(found):
    return len({tuple(sorted(params.items())) for params in found})


@pytest.mark.parametrize(
    ("search", "points"),
    [
        (TWO, 2),
        (CONDITIONAL, 8),
        ("lr: {type: float, low: 0.1, high: 1}", None),
        (f"{TWO}\n  batch_size: {{type: int, low: 8, high: 64}}", None),
    ],
    ids=["two", "conditional", "endless", "more than trials"],
)
def test_configurations_are_counted_with_their_conditions(space, search, points):
    found = load_space(space(search, trials=20)).points()
    assert (None if found is None else len(found)) == points


@pytest.mark.parametrize("sampler", ["tpe", "random", "gp", "qmc"])
@pytest.mark.parametrize("search", [TWO, CONDITIONAL], ids=["two", "conditional"])
def test_each_is_trained_once(space, search, sampler):
    said = []
    ask = space(search, trials=30, sampler=sampler)
    spec, _, _ = requested_search(ask, resume=False, say=said.append)
    found = run(spec)
    assert len(found) == spec.study.trials == different(found)
    assert said == [
        f"the space has {len(found)} different configurations, fewer than study.trials (30): "
        "the search ends when each has been trained once"
    ]


def test_the_grid_sampler_may_have_fewer_points_than_trials_too(space):
    assert len(run(load_space(space(TWO, sampler="grid", trials=20)))) == 2


def test_an_enqueued_configuration_is_completed_and_not_repeated(space):
    spec = load_space(space(CONDITIONAL, trials=20))
    found = run(spec, [{"lr_schedule": "cosine", "num_peers": 3}, {"num_peers": 3}])
    assert found[0] == {"lr_schedule": "cosine", "num_peers": 3}
    assert found[1]["num_peers"] == 3 and found[1] != found[0]
    assert len(found) == 8 == different(found)


def test_one_that_failed_is_not_tried_for_ever(space):
    assert len(run(load_space(space(TWO, trials=20)), fail={0})) == 2


def test_the_order_depends_on_the_seed_alone(space):
    first, again, other = (
        run(load_space(space(CONDITIONAL, trials=20, seed=seed))) for seed in (1, 1, 2)
    )
    assert first == again != other
