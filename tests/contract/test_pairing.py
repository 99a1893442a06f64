"""Two runs of one seed are a pair: they see the very same batches, whatever is trained on them.

Then their difference is that of the methods, and the images drawn, their order and their crops
cancel out.
"""

from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest
import torch
from PIL import Image

from trainer.config.train import TrainConfig
from trainer.data.base import DevelopmentData
from trainer.data.load import load_development_data
from trainer.engine.run import TrainingRun
from trainer.engine.trainer import Trainer
from trainer.methods.base import Batch
from trainer.registry import METHODS

EPOCHS = 2
CPU = torch.device("cpu")
RUNS = {
    **{
        f"{name}-{structure}": {"method": name, "structure": structure}
        for name, info in METHODS.items()
        for structure in info.structures
    },
    "more peers": {"num_peers": 4},
    "one peer": {"num_peers": 1},
    "random attention": {"attention": "random"},  # draws from torch's generator in every step
    "wider": {"width": 0.5},
    "other optimiser": {"lr": 0.2, "weight_decay": 0.0, "lr_schedule": "cosine"},
    "another network": {"model": "wrn16_2"},
}


@pytest.fixture(scope="module", params=["in memory", "streamed"])
def data(request, tmp_path_factory) -> DevelopmentData:
    """Ten classes of small images with crops and flips to be drawn."""
    fields: dict[str, object] = {"name": "digits", "train_limit": 70, "validation": 100}
    if request.param == "streamed":
        folder = tmp_path_factory.mktemp("noise")
        generator = torch.Generator().manual_seed(0)
        for index in range(80):
            path = folder / "train" / str(index % 10) / f"{index}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            noise = torch.randint(0, 256, (12, 12, 3), generator=generator, dtype=torch.uint8)
            Image.fromarray(noise.numpy()).save(path)
        fields = {"name": "image_folder", "root": str(folder), "image_size": 8, "test": 0}
        fields |= {"streaming": True, "validation": 10}
    return load_development_data(TrainConfig(data={**fields, "flip": True}).data)


def configure(**changes: object) -> TrainConfig:
    values = {
        "model": "resnet8", "width": 0.25, "epochs": EPOCHS, "ramp_epochs": 1, "batch_size": 32,
        "lr": 0.05, "device": "cpu", "num_threads": 1, "seed": 1,
    }  # fmt: skip
    if METHODS[str(changes.get("method", "okddip"))].grouped:
        values["num_peers"] = 2
    return TrainConfig(**{**values, **changes})


def batches_seen(
    config: TrainConfig, data: DevelopmentData, teacher_dir: Path | None = None
) -> list[Batch]:
    """Train, and return what the method got to see."""
    trainer, seen = Trainer(config, data, teacher_dir), []
    losses = trainer.method.losses

    def watch(output, batch):
        seen.append(batch)
        return losses(output, batch)

    trainer.method.losses = watch  # a spy: the run itself is the real one
    list(trainer.epochs())
    return seen


def same(batches: Sequence[Batch], others: Sequence[Batch]) -> bool:
    return len(batches) == len(others) and all(
        torch.equal(batch.images_NCHW, other.images_NCHW)
        and torch.equal(batch.labels_N, other.labels_N)
        for batch, other in zip(batches, others, strict=True)
    )


@pytest.fixture(scope="module")
def teacher_dir(data, tmp_path_factory) -> Path:
    """A leader for method kd to learn from."""
    directory = tmp_path_factory.mktemp("teacher")
    with TrainingRun(configure(method="single", epochs=1), data, directory) as run:
        run.step()
    return directory / "leader"


@pytest.fixture(scope="module")
def expected(data) -> list[Batch]:
    return batches_seen(configure(), data)


@pytest.mark.parametrize("fields", RUNS.values(), ids=RUNS)
def test_runs_of_one_seed_see_the_same_batches(data, expected, teacher_dir, fields):
    if fields.get("method") == "kd":
        fields = {**fields, "teacher": str(teacher_dir)}
    assert len(expected) == EPOCHS * 3
    assert same(batches_seen(configure(**fields), data, teacher_dir), expected)


def test_runs_of_another_seed_see_others(data, expected):
    assert not same(batches_seen(configure(seed=2), data), expected)
    assert not same(expected[:3], expected[3:])  # as do other epochs


def test_batches_follow_from_seed_and_epoch_alone(data, expected):
    """Neither from what was drawn before, nor from the epochs before."""

    def disturbed() -> Iterator[Batch]:
        for epoch in reversed(range(EPOCHS)):
            torch.manual_seed(epoch + 17)
            for images, labels in data.training_batches(32, CPU).epoch(1, epoch):
                torch.rand(5)
                yield Batch(images, labels, 0.0)

    later_first = list(disturbed())
    assert same(later_first[3:] + later_first[:3], expected)


def test_a_smaller_batch_holds_the_same_images_in_the_same_order(data, expected):
    labels = torch.cat([batch.labels_N for batch in expected])
    smaller = batches_seen(configure(batch_size=10), data)
    assert torch.equal(torch.cat([batch.labels_N for batch in smaller]), labels)


@pytest.mark.parametrize("method", ["okddip", "dml", "single"])
def test_a_run_that_was_stopped_sees_the_rest_of_the_same_batches(data, expected, tmp_path, method):
    config = configure(method=method)
    first = Trainer(config, data)
    first.run_epoch()
    first.save(tmp_path)
    torch.rand(3)
    resumed, seen = Trainer(config, data), []
    assert resumed.load(tmp_path)
    resumed.group.register_forward_pre_hook(
        lambda group, images: seen.append(images[0]) if group.training else None
    )
    resumed.run_epoch()
    assert all(
        torch.equal(images, batch.images_NCHW)
        for images, batch in zip(seen, expected[3:], strict=True)
    )
