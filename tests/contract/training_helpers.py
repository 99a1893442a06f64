"""What the tests of resumed runs share."""

import json
from pathlib import Path

import torch
from safetensors.torch import load_file

from trainer.config.train import TrainConfig
from trainer.data.base import DevelopmentData
from trainer.engine.run import TrainingRun
from trainer.engine.trainer import Trainer

EPOCHS = 4
TIMING = {"seconds", "images_per_s", "ended_s"}


def state(directory: Path) -> tuple[dict[str, torch.Tensor], list[dict[str, object]]]:
    """Return tensors (weights, momentum, RNG) and history without times."""
    meta = json.loads((directory / "state.json").read_text())
    history = [{k: v for k, v in entry.items() if k not in TIMING} for entry in meta["history"]]
    return load_file(directory / meta["tensors"]), history


def assert_same_state(directory: Path, other: Path) -> None:
    (tensors, history), (other_tensors, other_history) = state(directory), state(other)
    assert history == other_history
    assert tensors.keys() == other_tensors.keys()
    assert {"model", "momentum", "rng"} <= {name.partition(".")[0] for name in tensors}
    different = [name for name in tensors if not torch.equal(tensors[name], other_tensors[name])]
    assert not different


def tiny(**changes: object) -> TrainConfig:
    values = {
        "data": {"train_limit": 100, "validation": 150},
        "model": "resnet8", "width": 0.25, "num_peers": 2, "epochs": EPOCHS, "ramp_epochs": 3,
        "batch_size": 32, "lr": 0.05, "device": "cpu", "num_threads": 1, "seed": 1,
        "checkpoint_every_s": 0.0,
    }  # fmt: skip
    return TrainConfig(**{**values, **changes})


def train(config: TrainConfig, data: DevelopmentData, directory: Path, steps: int = 99) -> Trainer:
    with TrainingRun(config, data, directory) as run:
        for _ in range(min(steps, config.epochs - run.trainer.epoch)):
            run.step()
    return run.trainer
