"""The deployed network on its own: weights as safetensors, everything else as JSON, no pickle."""

import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from trainer.config import ModelName
from trainer.files import write_json
from trainer.group import Network, single_network
from trainer.models import build_architecture

WEIGHTS = "leader.safetensors"
INFO = "leader.json"


@dataclass(frozen=True)
class LeaderInfo:
    """What it takes to use a leader.

    Attributes:
        model: Name of the network.
        width: Factor on its channel counts.
        class_names: In the order of the logits.
        input_shape: (C, H, W) of an image.
        mean: Per channel, of pixels scaled to [0, 1]; subtract it.
        std: Per channel; divide by it.
        validation_accuracy: Share in [0, 1].
        trained_with: The training configuration.
    """

    model: ModelName
    width: float
    class_names: list[str]
    input_shape: list[int]
    mean: list[float]
    std: list[float]
    validation_accuracy: float
    trained_with: dict[str, Any]


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
    weights = {k: t.detach().cpu().contiguous() for k, t in network.state_dict().items()}
    temporary = directory / f".{WEIGHTS}.tmp"
    save_file(weights, temporary)
    temporary.replace(directory / WEIGHTS)
    write_json(directory / INFO, asdict(info))


def load_leader(directory: Path) -> Leader:
    """Read what ``save_leader`` wrote.

    Raises:
        FileNotFoundError: There is no leader in the directory.
    """
    info = LeaderInfo(**json.loads((directory / INFO).read_text(encoding="utf-8")))
    architecture = build_architecture(
        info.model,
        channels=info.input_shape[0],
        num_classes=len(info.class_names),
        width=info.width,
    )
    network = single_network(architecture)
    network.load_state_dict(load_file(directory / WEIGHTS))
    return Leader(network.eval(), info)


def export_pt2(leader: Leader, path: Path) -> None:
    """Write the leader as a PyTorch 2 archive with a free batch size (``torch.export.load``)."""
    batch = torch.export.Dim("batch", min=1)
    program = torch.export.export(
        leader.module, (leader.example_images(),), dynamic_shapes=({0: batch},)
    )
    torch.export.save(program, path)


def export_onnx(leader: Leader, path: Path) -> None:
    """Write the leader as ONNX with a free batch size.

    Raises:
        ImportError: The extra ``onnx`` is not installed.
    """
    torch.onnx.export(
        leader.module,
        (leader.example_images(),),
        path,
        input_names=["images"],
        output_names=["logits"],
        dynamic_shapes=({0: torch.export.Dim("batch", min=1)},),
        dynamo=True,
        verbose=False,
    )
