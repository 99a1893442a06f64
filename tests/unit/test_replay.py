"""Tables of curves load, and a search replayed on them decides the same, killed or not."""

import json

import numpy as np
import optuna
import pytest
from optuna.storages import JournalStorage
from optuna.storages.journal import JournalFileBackend
from replay import Ours, Setup, Stock, replay
from tables import CHANCE, SHIPPED, Grid, read, recorded

optuna.logging.set_verbosity(optuna.logging.ERROR)

TABLE = recorded(SHIPPED[0])
SCREEN = Setup({"pruner": "none", "searcher": {"type": "screen", "sampler": "gp"}})
UNPRUNED = Setup({"sampler": "tpe", "pruner": "none"})
SEED = 3


def journal(path):
    storage = JournalStorage(JournalFileBackend(str(path)))
    return optuna.create_study(
        storage=storage, study_name="replay", direction="maximize", load_if_exists=True
    )


def screened(study=None):
    return Ours(TABLE, SCREEN, SEED, TABLE.paper(SEED), study)


def decisions(study):
    """What a search decided: every trial's parameters, and how far each was let go."""
    return [(t.params, len(t.intermediate_values), t.state) for t in study.trials]


def test_the_shipped_table_holds_enough_whole_curves():
    assert TABLE.epochs == 60
    assert len(TABLE._nearest.rows) >= 200
    assert np.isnan(TABLE._accuracy).mean() < 0.02  # the few that diverged
    assert np.nanmax(TABLE._accuracy) <= 1
    assert sum(file.stat().st_size for file in SHIPPED) < 5e6


def test_a_point_of_the_grid_is_found_by_its_parameters():
    assert [TABLE.row(params) for params in TABLE._nearest.rows] == list(range(240))


def test_the_truth_leaves_out_the_seed_that_was_seen():
    values = np.array([[[0.1, 0.2]], [[0.3, 0.8]], [[0.1, 0.4]]])
    table = Grid("three seeds", {"lr": [1.0]}, [(0,)], values, judged_from=1)
    seen = table.curve(0, seed=0, number=0)[-1]
    others = [v for v in (0.2, 0.8, 0.4) if v != seen]
    assert table.truth(0, seed=0, number=0) == pytest.approx(np.mean(others))


def test_a_run_that_diverged_counts_as_chance():
    values = np.array([[[0.5, np.nan]], [[0.5, 0.9]]])
    table = Grid("diverged", {"lr": [1.0]}, [(0,)], values, judged_from=1)
    assert {table.truth(0, 0, number) for number in range(20)} == {CHANCE, 0.9}


def test_public_tables_are_told_from_what_they_hold(tmp_path):
    draw = np.random.default_rng(0)
    np.savez(
        tmp_path / "accuracies.npz",
        names=np.array(["units", "lr"]),
        hyperparameters=np.stack([draw.integers(1, 9, 50), draw.uniform(0, 1, 50)], axis=1),
        low=np.array([1, 0.0]),
        high=np.array([8, 1.0]),
        log_scale=np.array([True, False]),
        integer=np.array([True, False]),
        near_good=np.zeros(50, bool),
        accuracy_x100=draw.integers(0, 10_000, (50, 6)).astype(np.uint16),
    )
    losses = draw.uniform(0, 1, (50, 6)).astype(np.float32)
    np.savez(
        tmp_path / "losses.npz",
        names=np.array(["lr"]),
        hyperparameters=draw.uniform(0.1, 1, (50, 1)),
        valid_loss=losses,
        test_loss=losses,
    )
    (tmp_path / "grid.jsonl").write_text(
        json.dumps({"config": 3, "seed": 0, "correct": [400, 900]}) + "\n"
    )
    accuracies = read(tmp_path / "accuracies.npz")
    assert 0 <= accuracies.worst < accuracies.best <= 1
    assert set(accuracies.paper(0)) == {"units", "lr"}
    table = read(tmp_path / "losses.npz")
    assert table.best == pytest.approx(-float(losses[:, -1].min()))
    assert read(tmp_path / "grid.jsonl").best == 0.45


@pytest.mark.parametrize("kind", ["screen", "unpruned", "stock"])
def test_a_replay_is_deterministic(kind):
    def once():
        told = TABLE.paper(SEED)
        if kind == "stock":
            search = Stock(TABLE, SEED, told)
        else:
            search = Ours(TABLE, {"screen": SCREEN, "unpruned": UNPRUNED}[kind], SEED, told)
        return replay(TABLE, search, SEED, slots=2, steps=300)

    assert once() == once()


def test_screening_leads_with_the_papers_setting_and_spends_half_on_beginnings():
    search = screened()
    replay(TABLE, search, SEED, slots=2, steps=360)
    trials = search.bridge.study.trials
    complete = [t for t in trials if t.state.name == "COMPLETE"]
    begun = sum(min(len(t.intermediate_values), TABLE.judged_from) for t in trials)
    went_on = sum(len(t.intermediate_values) for t in trials) - begun
    assert complete[0].number == 0 and complete[0].params == TABLE.paper(SEED)
    assert len(complete) >= 3
    assert 0.6 < went_on / begun < 1.6
    assert search.bridge.paused, "some were not let go on"


@pytest.mark.parametrize("attempt", range(3))
def test_a_search_killed_at_any_epoch_decides_as_the_unbroken_one(tmp_path, attempt):
    unbroken = screened(first := journal(tmp_path / "unbroken"))
    first.enqueue_trial(TABLE.paper(SEED), user_attrs={"okddip:enqueued": True})
    moments = replay(TABLE, unbroken, SEED, slots=1, steps=400)

    path = tmp_path / "killed"
    second = journal(path)
    second.enqueue_trial(TABLE.paper(SEED), user_attrs={"okddip:enqueued": True})
    killed_at = np.random.default_rng(attempt).choice(400, 4, replace=False)
    again = replay(
        TABLE,
        screened(second),
        SEED,
        slots=1,
        steps=400,
        killed_at=set(map(int, killed_at)),
        reopen=lambda: screened(journal(path)),
    )
    assert again == moments
    assert decisions(journal(path)) == decisions(first)
