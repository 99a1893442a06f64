"""The shipped curves load, and a search replayed on them decides the same every time."""

import numpy as np
import optuna
import pytest
import tabulated

optuna.logging.set_verbosity(optuna.logging.ERROR)

TABLE = tabulated.Table()


def spent(search: object) -> int:
    return int(tabulated.replay(TABLE, search, 0, trials=12, epochs=0)[11].epochs)


def test_shipped_table_holds_enough_whole_curves() -> None:
    seeds, configurations, epochs = TABLE.accuracy.shape
    assert seeds >= 2 and seeds * configurations >= 200 and epochs == 60
    assert len(TABLE.points) == configurations
    assert np.isnan(TABLE.accuracy).mean() < 0.02  # the few that diverged
    assert np.nanmax(TABLE.accuracy) <= 1
    assert tabulated.CURVES.stat().st_size < 5e6
    assert {"machine", "versions", "command", "grid", "trainer", "data"} <= set(TABLE.meta)


def test_look_up_finds_every_point() -> None:
    for index, point in enumerate(TABLE.points):
        params = {
            name: TABLE.grid[name][i] if isinstance(TABLE.grid[name][i], str) else i
            for name, i in zip(TABLE.grid, point, strict=True)
        }
        assert TABLE.index(params) == index


def test_truth_leaves_out_the_seed_that_was_seen() -> None:
    last = np.nan_to_num(TABLE.accuracy[:, 7, -1], nan=tabulated.CHANCE)
    assert TABLE.truth(7, 0) == pytest.approx(last[1:].mean())


@pytest.mark.parametrize("kind", ["ours", "stock"])
def test_replay_is_deterministic(kind: str) -> None:
    def once() -> object:
        if kind == "ours":
            search = tabulated.Ours(TABLE, tabulated.Contestant(), 3)
        else:
            search = tabulated.Stock(TABLE, 3)
        return tabulated.replay(TABLE, search, 3, trials=12, epochs=0)

    assert once() == once()


def test_pruning_saves_epochs_and_stock_spends_the_fewest() -> None:
    unpruned = spent(tabulated.Ours(TABLE, tabulated.Contestant(pruner="none"), 0))
    median = spent(tabulated.Ours(TABLE, tabulated.Contestant(), 0))
    stock = spent(tabulated.Stock(TABLE, 0))
    assert stock < median < unpruned
