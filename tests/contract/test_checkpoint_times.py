"""When a run is saved: when that is due, beside the training, and all of it before it is let go."""

import errno
import os
import threading
from unittest.mock import Mock

import pytest
from training_helpers import EPOCHS, assert_same_state, state, tiny, train

from trainer.data.base import DevelopmentData
from trainer.data.load import load_development_data
from trainer.engine import checkpoint
from trainer.engine import run as run_module
from trainer.engine.run import TrainingRun


@pytest.fixture(scope="module")
def data() -> DevelopmentData:
    return load_development_data(tiny().data)


@pytest.fixture
def slow_disk(monkeypatch):
    """Return an event; until it is set, no tensors get to the disk."""
    ready, write = threading.Event(), checkpoint.write_tensors

    def waiting(*arguments):
        assert ready.wait(60)
        write(*arguments)

    monkeypatch.setattr(checkpoint, "write_tensors", waiting)
    yield ready
    ready.set()


OFTEN = 1e-9  # due after every epoch


def test_training_goes_on_while_a_state_is_written(data, tmp_path, slow_disk):
    with TrainingRun(tiny(checkpoint_every_s=OFTEN), data, tmp_path) as run:
        assert [run.step().epoch for _ in range(3)] == [0, 1, 2]
        assert not (tmp_path / "state.json").exists()
        slow_disk.set()
        run._writer.wait()
        assert len(state(tmp_path)[1]) == 1  # the next one waits for its turn
    assert len(state(tmp_path)[1]) == 3


def test_what_is_written_is_the_state_of_its_epoch(data, tmp_path, slow_disk):
    with TrainingRun(tiny(checkpoint_every_s=OFTEN), data, tmp_path / "late") as run:
        run.step()
        run.step()
        run._unsaved = False  # as if killed here
        slow_disk.set()
    train(tiny(), data, tmp_path / "at once", steps=1)
    assert_same_state(tmp_path / "late", tmp_path / "at once")


def test_a_disk_that_was_full_meanwhile_is_told_once_by_the_next_epoch(data, tmp_path, monkeypatch):
    full = Mock(side_effect=OSError(errno.ENOSPC, os.strerror(errno.ENOSPC)))
    with TrainingRun(tiny(checkpoint_every_s=OFTEN), data, tmp_path) as run:
        with monkeypatch.context() as patched:
            patched.setattr(checkpoint, "write_tensors", full)
            run.step()
            run._writer._thread.submit(int).result()  # it is through with it
        with pytest.raises(OSError, match="No space"):
            run.step()
        assert run.trainer.epoch == 1  # before more was trained in vain
        assert run.step().epoch == 1
    assert len(state(tmp_path)[1]) == 2


def test_without_an_interval_an_epoch_is_saved_before_it_is_reported(data, tmp_path):
    with TrainingRun(tiny(), data, tmp_path) as run:
        for epoch in range(EPOCHS):
            report = run.step()
            _, history = state(tmp_path)
            assert history[-1]["epoch"] == report.epoch == epoch
            assert history[-1]["leader_accuracy"] == report.leader_accuracy


def test_with_an_interval_only_what_is_due_is_saved(data, tmp_path, monkeypatch):
    clock = Mock(return_value=0.0)
    monkeypatch.setattr(run_module.time, "monotonic", clock)
    with TrainingRun(tiny(checkpoint_every_s=10.0), data, tmp_path) as run:
        for now_s, saved in ((9.0, 0), (10.0, 2), (19.0, 2), (19.5, 4)):  # the last one always
            clock.return_value = now_s
            run.step()
            run._writer.wait()
            assert (len(state(tmp_path)[1]) if saved else 0) == saved


def test_a_run_that_is_let_go_of_saves_what_was_not_due(data, tmp_path):
    config = tiny(checkpoint_every_s=3600.0)
    train(config, data, tmp_path / "straight")
    train(config, data, tmp_path / "left", steps=3)
    assert len(state(tmp_path / "left")[1]) == 3
    train(config, data, tmp_path / "left")
    assert_same_state(tmp_path / "left", tmp_path / "straight")


def test_a_run_that_broke_in_mid_epoch_saves_nothing_of_it(data, tmp_path, monkeypatch):
    config = tiny(checkpoint_every_s=3600.0)
    with pytest.raises(RuntimeError, match="broken"), TrainingRun(config, data, tmp_path) as run:
        run.step()
        monkeypatch.setattr(
            run.trainer.method, "after_step", Mock(side_effect=RuntimeError("broken"))
        )
        run.step()
    assert not (tmp_path / "state.json").exists()
