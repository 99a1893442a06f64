"""The deployed network on its own: weights as safetensors, everything else as JSON, no pickle."""

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from trainer.config.train import ModelName
from trainer.errors import TrainerError
from trainer.group.group import Network, single_network
from trainer.io.files import read_json, write_json
from trainer.io.tensors import write_tensors
from trainer.io.text import truncate
from trainer.leader.files import INFO, WEIGHTS
from trainer.models import build_architecture, check_size
from trainer.registry import MODELS


class DamagedLeaderError(TrainerError, ValueError):
    """A leader that is there but cannot be used: damaged, or not what its description says."""


@dataclass(frozen=True)
class LeaderInfo:
    """The facts that are needed to use a leader.

    Attributes:
        model: Name of the network.
        width: Factor on its channel counts.
        class_names: In the order of the logits.
        input_shape: (C, H, W) of an image.
        mean: Per channel, of pixels scaled to [0, 1]; subtract it.
        std: Per channel; divide by it.
        validation_accuracy: Share in [0, 1]; None where it was trained on the validation images.
        trained_with: The training configuration.
        trained_on: ``train``, or ``train and validation``.
    """

    model: ModelName
    width: float
    class_names: list[str]
    input_shape: list[int]
    mean: list[float]
    std: list[float]
    validation_accuracy: float | None
    trained_with: dict[str, Any]
    trained_on: str = "train"


@dataclass(frozen=True)
class Leader:
    """A leader ready for use.

    Attributes:
        module: In eval mode, float32, on the CPU: normalised images (N, C, H, W) → logits (N, K).
        info: How to feed it and what its outputs mean.
    """

    module: Network
    info: LeaderInfo

    def example_images(self, batch_size: int = 2) -> Tensor:
        """Return a batch of zeros of the right shape (torch.export freezes a batch of one)."""
        return torch.zeros(batch_size, *self.info.input_shape)


def save_leader(directory: Path, network: nn.Module, info: LeaderInfo) -> None:
    """Write ``leader.safetensors`` and ``leader.json``; the JSON comes last and makes it whole."""
    directory.mkdir(parents=True, exist_ok=True)
    write_tensors(directory / WEIGHTS, network.state_dict())
    write_json(directory / INFO, asdict(info))


def load_info(directory: Path) -> LeaderInfo:
    """Read what a leader is, without its weights.

    Raises:
        FileNotFoundError: There is no leader in the directory.
        DamagedLeaderError: Its description is damaged, or describes no network.
    """
    path = directory / INFO
    try:
        info = LeaderInfo(**read_json(path))
        problem = _problem(info)
    except FileNotFoundError:
        raise
    except (OSError, TypeError, ValueError) as error:
        raise DamagedLeaderError(f"{path} is damaged: {truncate(str(error), 300)}") from None
    if problem:
        raise DamagedLeaderError(f"{path} describes no network: {problem}")
    return info


def _problem(info: LeaderInfo) -> str:
    """Say what is wrong with a description, or return an empty string.

    A network of any size could be described: its own weights limit it, but they are read later.
    """
    shape, known = info.input_shape, isinstance(info.model, str) and info.model in MODELS
    channels = shape[0] if isinstance(shape, list) and shape else 0
    checks = {
        "model": known,
        "width": _are_numbers([info.width], 0.125, 8),
        "class_names": _are_texts(info.class_names) and 2 <= len(info.class_names) <= 100_000,
        "input_shape": _are_numbers(shape, 1, 1024) and len(shape) == 3 and channels in (1, 3),
        "mean": _are_numbers(info.mean, -100, 100) and len(info.mean) == channels,
        "std": _are_numbers(info.std, 1e-6, 100) and len(info.std) == channels,
        "validation_accuracy": info.validation_accuracy is None
        or _are_numbers([info.validation_accuracy], 0, 1),
        "trained_with": isinstance(info.trained_with, dict),
        "trained_on": isinstance(info.trained_on, str),
    }
    wrong = next((name for name, fine in checks.items() if not fine), None)
    if wrong is not None:
        return f"{wrong} is {truncate(repr(getattr(info, wrong)))}"
    if not all(isinstance(size, int) for size in shape):
        return f"input_shape is {shape}"
    try:
        check_size(info.model, *shape[1:])
    except ValueError as error:
        return str(error)
    return ""


def _are_numbers(values: object, low: float, high: float) -> bool:
    return isinstance(values, list) and all(
        isinstance(v, (int, float))
        and not isinstance(v, bool)
        and math.isfinite(v)
        and low <= v <= high
        for v in values
    )


def _are_texts(values: object) -> bool:
    return isinstance(values, list) and all(isinstance(value, str) for value in values)


def load_leader(directory: Path) -> Leader:
    """Read what ``save_leader`` wrote.

    Raises:
        FileNotFoundError: There is no leader in the directory.
        DamagedLeaderError: It is damaged.
    """
    info = load_info(directory)
    path = directory / WEIGHTS
    try:
        with torch.device("meta"):  # takes no memory: the description may be of something huge
            network = _build(info)
        weights = load_file(path)
        _require_same(network.state_dict(), weights)
        network = network.to_empty(device="cpu")
        network.load_state_dict(weights)
    except FileNotFoundError:
        raise
    except Exception as error:  # a damaged file leads a reader anywhere
        what = truncate(f"{type(error).__name__}: {error}", 300)
        raise DamagedLeaderError(f"{path} is damaged, or of another network: {what}") from None
    return Leader(network.eval(), info)


def _build(info: LeaderInfo) -> Network:
    architecture = build_architecture(
        info.model,
        channels=info.input_shape[0],
        num_classes=len(info.class_names),
        width=info.width,
    )
    return single_network(architecture)


def _require_same(wanted: Mapping[str, Tensor], found: Mapping[str, Tensor]) -> None:
    for name in sorted({*wanted, *found}):
        if name not in wanted or name not in found:
            raise ValueError(f"{name} is {'missing' if name in wanted else 'one too many'}")
        mine, its = wanted[name], found[name]
        if (mine.shape, mine.dtype) != (its.shape, its.dtype):
            raise ValueError(
                f"{name} is {its.dtype} {tuple(its.shape)}, not {mine.dtype} {tuple(mine.shape)}"
            )
