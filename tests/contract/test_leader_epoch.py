"""``leader_epoch: best``: the network that is handed over is the one with the best accuracy."""

import logging

import pytest
import torch
from training_helpers import assert_same_state, state, tiny, train

from trainer.data.base import DevelopmentData
from trainer.data.load import load_development_data
from trainer.engine.checkpoint import Checkpoint, load_checkpoint, save_checkpoint
from trainer.engine.run import TrainingRun
from trainer.engine.trainer import Trainer
from trainer.leader.leader import load_leader

RESTLESS = {"lr": 2.0, "epochs": 6, "lr_decay": 1.0}  # the best epoch may be any
SEEDS = (1, 2, 3)


@pytest.fixture(scope="module")
def data() -> DevelopmentData:
    return load_development_data(tiny().data)


def leaders_of(config, data):
    """Train, and return each epoch's accuracy and a copy of its leader's weights."""
    trainer, found = Trainer(config, data), []
    for report in trainer.epochs():
        weights = {k: t.clone() for k, t in trainer.group.leader().state_dict().items()}
        found.append((report.leader_accuracy, weights))
    return found


def same(weights, others):
    return weights.keys() == others.keys() and all(
        torch.equal(weights[name], others[name]) for name in weights
    )


def replace_state(directory, checkpoint):
    for left in directory.glob("state*"):
        left.unlink()
    save_checkpoint(directory, checkpoint)


@pytest.mark.parametrize("executor", ["eager", "fused"])
@pytest.mark.parametrize("leader_epoch", ["last", "best"])
def test_the_leader_of_the_epoch_that_was_asked_for_is_handed_over(
    data, tmp_path, executor, leader_epoch
):
    best_ones = []
    for seed in SEEDS:
        fields = {**RESTLESS, "executor": executor, "seed": seed}
        epochs = leaders_of(tiny(**fields), data)
        accuracies = [accuracy for accuracy, _ in epochs]
        best_ones.append(accuracies.index(max(accuracies)))  # the first of equals
        accuracy, weights = epochs[best_ones[-1] if leader_epoch == "best" else -1]
        train(tiny(**fields, leader_epoch=leader_epoch), data, tmp_path / str(seed))
        leader = load_leader(tmp_path / str(seed) / "leader")
        assert leader.info.validation_accuracy == accuracy
        assert same(leader.module.state_dict(), weights)
    assert min(best_ones) < len(epochs) - 1  # or this test would show nothing


@pytest.mark.parametrize("steps", [1, 4, 5])
def test_a_run_that_was_broken_off_hands_over_the_same(data, tmp_path, steps):
    config = tiny(**RESTLESS, leader_epoch="best")
    train(config, data, tmp_path / "straight")
    train(config, data, tmp_path / "broken off", steps=steps)
    train(config, data, tmp_path / "broken off")
    assert_same_state(tmp_path / "broken off", tmp_path / "straight")
    straight, resumed = (load_leader(tmp_path / d / "leader") for d in ("straight", "broken off"))
    assert same(resumed.module.state_dict(), straight.module.state_dict())
    assert resumed.info == straight.info


def test_a_state_without_the_best_leader_is_started_over(data, tmp_path, caplog):
    config = tiny(**RESTLESS, leader_epoch="best")
    train(config, data, tmp_path, steps=3)
    found = load_checkpoint(tmp_path)
    without = {name: t for name, t in found.tensors.items() if not name.startswith("best.")}
    replace_state(tmp_path, Checkpoint(without, found.meta))
    with caplog.at_level(logging.WARNING), TrainingRun(config, data, tmp_path) as run:
        assert run.trainer.epoch == 0
    assert "no usable tensor best." in caplog.text


def test_a_state_of_before_there_was_a_choice_is_gone_on_from(data, tmp_path):
    train(tiny(), data, tmp_path, steps=2)
    found = load_checkpoint(tmp_path)
    del found.meta["config"]["leader_epoch"]
    replace_state(tmp_path, found)
    with TrainingRun(tiny(), data, tmp_path) as run:
        assert run.trainer.epoch == 2


def test_among_images_that_it_was_trained_on_the_last_epoch_counts(data, tmp_path):
    train(tiny(**RESTLESS, leader_epoch="best"), data.merged_splits(), tmp_path)
    assert not [name for name in state(tmp_path)[0] if name.startswith("best.")]
    assert load_leader(tmp_path / "leader").info.validation_accuracy is None
