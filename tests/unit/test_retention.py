"""What stays on disk of closed trials: curves of all, networks of the best, checkpoints of none."""

import resource

import pytest
import torch

from okddip_search.driver.retention import Retention, drop_teachers
from okddip_search.study.events import TrialEnd
from trainer.engine.checkpoint import (
    Checkpoint,
    DamagedCheckpointError,
    load_checkpoint,
    save_checkpoint,
)
from trainer.io.files import exclusive_lock


def write_run(directory, finished=True):
    """Write what a run leaves: a real checkpoint and, if it was finished, leader and result."""
    directory.mkdir(parents=True, exist_ok=True)
    (directory / "lock").touch()
    save_checkpoint(directory, Checkpoint({"weight": torch.ones(8)}, {"history": [1, 2]}))
    (directory / ".state-000003.safetensors.tmp").write_bytes(b"a worker was killed here")
    if finished:
        (directory / "leader").mkdir(exist_ok=True)
        (directory / "leader" / "leader.safetensors").write_bytes(b"weights")
        (directory / "result.json").write_text("{}")


def tensors(directory):
    return sorted(path.name for path in directory.iterdir() if "safetensors" in path.name)


def leaders(trials_dir):
    return {int(path.parent.name) for path in trials_dir.glob("*/leader")}


def complete(number, value):
    return TrialEnd(number, "complete", value, 5)


def pruned(number):
    return TrialEnd(number, "pruned", 0.5, 2)


def failed(number):
    return TrialEnd(number, "failed", None, 2, "loss is nan")


@pytest.mark.parametrize("end", [complete(0, 0.9), pruned(0), failed(0)], ids=lambda end: end.state)
def test_a_closed_trial_keeps_its_curves_and_no_checkpoint(tmp_path, end):
    write_run(tmp_path / "0", finished=end.state == "complete")
    Retention(tmp_path, 3).trial_ended(end, None)
    assert tensors(tmp_path / "0") == []
    assert '"history": [1, 2]' in (tmp_path / "0" / "state.json").read_text()
    assert (tmp_path / "0" / "result.json").exists() == (end.state == "complete")
    with pytest.raises(DamagedCheckpointError):
        load_checkpoint(tmp_path / "0")


def test_only_the_best_keep_their_network_in_whatever_order_they_end(tmp_path):
    values = [0.5, 0.9, 0.7, 0.9, 0.6, 0.8]
    retention = Retention(tmp_path, 3)
    kept = []
    for number, value in enumerate(values):
        write_run(tmp_path / str(number))
        retention.trial_ended(complete(number, value), None)
        kept.append(leaders(tmp_path))
    assert kept[2:] == [{0, 1, 2}, {1, 2, 3}, {1, 2, 3}, {1, 3, 5}]


def test_among_equals_the_first_is_kept_as_it_is_the_best(tmp_path):
    retention = Retention(tmp_path, 1)
    for number in (1, 0, 2):
        write_run(tmp_path / str(number))
        retention.trial_ended(complete(number, 0.9), None)
    assert leaders(tmp_path) == {0}


def test_where_all_are_kept_no_network_goes(tmp_path):
    retention = Retention(tmp_path, None)
    for number in range(6):
        write_run(tmp_path / str(number))
        retention.trial_ended(complete(number, number / 10), None)
    assert leaders(tmp_path) == set(range(6))
    assert not list(tmp_path.glob("*/*.safetensors"))


def test_what_a_worker_holds_is_left_until_it_lets_go(tmp_path):
    write_run(tmp_path / "0", finished=False)
    retention = Retention(tmp_path, 3)
    with exclusive_lock(tmp_path / "0" / "lock"):
        retention.trial_ended(pruned(0), None)
        retention.epoch_reported(1, 0, {})
        assert "state-000002.safetensors" in tensors(tmp_path / "0")
        save_checkpoint(
            tmp_path / "0", Checkpoint({"weight": torch.ones(8)}, {"history": [1, 2, 3]})
        )
    retention.epoch_reported(1, 1, {})
    assert tensors(tmp_path / "0") == []
    assert "[1, 2, 3]" in (tmp_path / "0" / "state.json").read_text()


def test_a_trial_is_swept_once_so_that_thousands_cost_nothing(tmp_path):
    retention = Retention(tmp_path, 3)
    write_run(tmp_path / "0")
    retention.trial_ended(complete(0, 0.9), None)
    write_run(tmp_path / "0")  # nobody does: it only shows whether the trial is looked at
    write_run(tmp_path / "1")
    retention.trial_ended(complete(1, 0.8), None)
    retention.epoch_reported(2, 0, {})
    assert tensors(tmp_path / "0")
    assert tensors(tmp_path / "1") == []


def test_a_later_driver_sweeps_what_an_earlier_one_left_and_no_running_trial(tmp_path):
    for number in range(6):
        write_run(tmp_path / str(number), finished=number < 4)
    closed = [*(complete(n, n / 10) for n in range(4)), pruned(4)]
    Retention(tmp_path, 2).sweep(closed)
    assert leaders(tmp_path) == {2, 3}
    assert [n for n in range(6) if tensors(tmp_path / str(n))] == [5]
    assert load_checkpoint(tmp_path / "5") is not None


def test_a_trial_that_failed_before_it_had_a_directory_is_no_trouble(tmp_path):
    Retention(tmp_path / "trials", 3).trial_ended(failed(0), None)
    assert not (tmp_path / "trials").exists()


def test_room_is_made_on_a_full_disk_too(tmp_path):
    write_run(tmp_path / "0", finished=False)
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (0, before[1]))  # no file can grow by a byte
    try:
        Retention(tmp_path, 3).trial_ended(pruned(0), None)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert tensors(tmp_path / "0") == []


def test_a_finished_teacher_keeps_its_network_alone_and_one_in_training_everything(tmp_path):
    write_run(tmp_path / "done")
    write_run(tmp_path / "training", finished=False)
    drop_teachers(tmp_path)
    assert tensors(tmp_path / "done") == []
    assert (tmp_path / "done" / "leader" / "leader.safetensors").exists()
    assert tensors(tmp_path / "training")


def test_a_paused_trial_without_a_chance_loses_its_checkpoint_and_no_other(tmp_path):
    for number in range(3):
        write_run(tmp_path / str(number), finished=False)
    retention = Retention(tmp_path, 3)
    retention.trials_hopeless({0, 2})
    assert [n for n in range(3) if tensors(tmp_path / str(n))] == [1]
    assert '"history": [1, 2]' in (tmp_path / "0" / "state.json").read_text()


def test_a_hopeless_trial_that_goes_on_all_the_same_keeps_what_it_saves(tmp_path):
    write_run(tmp_path / "0", finished=False)
    retention = Retention(tmp_path, 3)
    with exclusive_lock(tmp_path / "0" / "lock"):
        retention.trials_hopeless({0})  # its worker has not yet let go of it
    retention.trial_started(0, {}, True)
    retention.epoch_reported(0, 0, {})
    assert tensors(tmp_path / "0")
    retention.trials_hopeless({0})
    assert not tensors(tmp_path / "0"), "it was paused again, by another driver's decision"
