"""The benchmarks' reference computes what the trainer computes: else a ratio would mean nothing."""

import pytest
import reference
import torch
from side_by_side import MEAN, STD, random_data, reference_group, take_turns

from trainer.config.train import TrainConfig
from trainer.engine.evaluation import evaluate
from trainer.engine.trainer import Trainer
from trainer.methods.base import Batch

STRUCTURES = ["branch", "network"]


@pytest.fixture(params=STRUCTURES)
def pair(request):
    """A reference and a trainer with the same weights, and their images."""
    data = random_data(32, 40, 8)
    config = TrainConfig(
        model="resnet8", width=0.25, structure=request.param, batch_size=32, epochs=1,
        ramp_epochs=0, device="cpu", num_threads=1,
    )  # fmt: skip
    trainer = Trainer(config, data)
    group = reference_group("resnet8", 0.25, 4, request.param)
    mine = {k.replace("classifiers.", "heads."): v for k, v in trainer.group.state_dict().items()}
    group.load_state_dict({**mine, **trainer.method.state_dict()})
    return group, trainer, data


def test_a_step_of_the_reference_is_a_step_of_the_trainer(pair):
    group, trainer, _ = pair
    images, labels = next(trainer._batches.epoch(0, 0))
    optimizer = reference.make_optimizer(group)
    trainer.learner.model.train()
    expected = trainer.learner.step(Batch(images, labels, 1.0))["total"].item()
    actual = reference.train_step(group.train(), optimizer, images.contiguous(), labels)
    assert actual == pytest.approx(expected, rel=1e-5)
    for head, own in zip(group.heads, trainer.group.classifiers, strict=True):
        torch.testing.assert_close(head.weight, own.weight, rtol=1e-3, atol=1e-4)
    torch.testing.assert_close(group.query.weight, trainer.method.query.weight)


def test_an_evaluation_of_the_reference_is_one_of_the_trainer(pair):
    group, trainer, data = pair
    batches = reference.loader(data.validation, MEAN, STD, batch=16, train=False)
    expected = evaluate(trainer.group, trainer.method, trainer._validation)
    for name, value in reference.evaluate(group, batches).items():
        assert value == pytest.approx(expected[name], rel=1e-4, abs=1e-6), name


def test_the_references_images_are_normalised_like_the_trainers(pair):
    _, trainer, data = pair
    batches = reference.loader(data.validation, MEAN, STD, batch=40, train=False)
    (images, labels), (expected, own) = next(iter(batches)), next(iter(trainer._validation))
    torch.testing.assert_close(images, expected, rtol=1e-5, atol=1e-5)
    assert torch.equal(labels, own)
    crops, _ = next(iter(reference.loader(data.train, MEAN, STD, batch=32, train=True)))
    assert crops.shape == (32, 3, 8, 8)


def test_turns_are_taken_until_the_budget_is_spent():
    calls = []
    work = {name: lambda name=name: calls.append(name) for name in "ab"}
    assert set(take_turns(work, rounds=3, budget_s=60)) == {"a", "b"}
    assert "".join(calls) == "abababab"  # the first round warms up
    calls.clear()
    take_turns(work, rounds=3, budget_s=0)
    assert "".join(calls) == "abab"
