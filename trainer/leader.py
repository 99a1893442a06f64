"""The deployed network on its own: weights as safetensors, everything else as JSON, no pickle."""

import copy
import json
import statistics
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from trainer.config import ModelName
from trainer.files import write_json
from trainer.group import Network, single_network
from trainer.models import build_architecture

WEIGHTS = "leader.safetensors"
INFO = "leader.json"
WARM_UP = 5
"""Calls that are not timed: the first ones choose kernels and fill caches."""


class DamagedLeaderError(ValueError):
    """What should be a leader cannot be read as one."""


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
    weights = {k: t.detach().cpu().contiguous() for k, t in network.state_dict().items()}
    temporary = directory / f".{WEIGHTS}.tmp"
    save_file(weights, temporary)
    temporary.replace(directory / WEIGHTS)
    write_json(directory / INFO, asdict(info))


def load_info(directory: Path) -> LeaderInfo:
    """Read what a leader is, without its weights.

    Raises:
        FileNotFoundError: There is no leader in the directory.
        DamagedLeaderError: It is no JSON, or not a leader's.
    """
    content = (directory / INFO).read_bytes()
    try:
        return LeaderInfo(**json.loads(content.decode()))
    except (ValueError, TypeError) as error:
        raise DamagedLeaderError(f"{directory / INFO} is not a leader's: {error}") from error


def load_leader(directory: Path) -> Leader:
    """Read what ``save_leader`` wrote.

    Raises:
        FileNotFoundError: There is no leader in the directory.
        DamagedLeaderError: Its files are not a leader's.
    """
    info = load_info(directory)
    architecture = build_architecture(
        info.model,
        channels=info.input_shape[0],
        num_classes=len(info.class_names),
        width=info.width,
    )
    network = single_network(architecture)
    try:
        network.load_state_dict(load_file(directory / WEIGHTS))
    except (SafetensorError, RuntimeError) as error:  # no safetensors, or another network's
        text = f"{directory / WEIGHTS} is not the leader's: {error}"
        raise DamagedLeaderError(text) from error
    return Leader(network.eval(), info)


@dataclass(frozen=True)
class LeaderCost:
    """What a leader costs where it is deployed, whatever its training cost.

    Attributes:
        parameters: Number of weights and biases.
        macs: Multiply-adds of the convolutions and linear layers for one image.
        latency_ms: Median time for one image.
    """

    parameters: int
    macs: int
    latency_ms: float


def count_parameters(module: nn.Module) -> int:
    """Return the number of weights and biases."""
    return sum(parameter.numel() for parameter in module.parameters())


def count_macs(module: nn.Module, input_shape: Sequence[int]) -> int:
    """Return the multiply-adds of the convolutions and linear layers for one image.

    Args:
        module: In eval mode; on the meta device nothing is computed.
        input_shape: (C, H, W) of the image.
    """
    from torch.utils.flop_counter import FlopCounterMode  # it imports triton: a quarter second

    image_NCHW = torch.zeros(1, *input_shape, device=next(module.parameters()).device)
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        module(image_NCHW)
    return int(counter.get_total_flops()) // 2  # a multiply-add is two operations


def measure_cost(
    leader: Leader, *, device: torch.device | str = "cpu", budget_s: float = 0.5
) -> LeaderCost:
    """Measure what a leader costs in use: float32, one image at a time, on an idle machine.

    Args:
        leader: Its own input shape is what it is fed with.
        device: Where it runs. On the CPU with one thread, as a deployed network may have no more.
        budget_s: Seconds to spend on timing, beside the warm-up; at least 5 images are timed.
    """
    module = copy.deepcopy(leader.module).to(device)
    image_NCHW = leader.example_images(1).to(device)
    return LeaderCost(
        parameters=count_parameters(module),
        macs=count_macs(module, leader.info.input_shape),
        latency_ms=1000 * _median_s(module, image_NCHW, budget_s),
    )


@torch.inference_mode()
def _median_s(module: nn.Module, image_NCHW: Tensor, budget_s: float) -> float:
    """Return the median seconds of a call, the device's work included."""
    threads, on_gpu = torch.get_num_threads(), image_NCHW.is_cuda
    torch.set_num_threads(1)
    try:
        times: list[float] = []
        while len(times) < WARM_UP + 5 or sum(times[WARM_UP:]) < budget_s:
            started = time.perf_counter()
            module(image_NCHW)
            if on_gpu:
                torch.cuda.synchronize(image_NCHW.device)
            times.append(time.perf_counter() - started)
    finally:
        torch.set_num_threads(threads)
    return statistics.median(times[WARM_UP:])


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
