"""The cost of a leader where it is deployed."""

import copy
import statistics
import time
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from trainer.leader.leader import Leader

WARM_UP = 5
"""Calls that are not timed: the first ones choose kernels and fill caches."""


@dataclass(frozen=True)
class LeaderCost:
    """The cost of a leader where it is deployed, whatever its training cost.

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
        leader: It is fed with images of its own input shape.
        device: Where it runs. On the CPU with one thread, as a deployed network may have no more.
        budget_s: Seconds to spend on timing, beside the warm-up; at least 5 images are timed.
    """
    module = copy.deepcopy(leader.module).to(device)
    image_NCHW = leader.example_images(1).to(device)
    return LeaderCost(
        parameters=count_parameters(module),
        macs=count_macs(module, leader.info.input_shape),
        latency_ms=1000 * median_s(module, image_NCHW, budget_s),
    )


@torch.inference_mode()
def median_s(module: nn.Module, image_NCHW: Tensor, budget_s: float) -> float:
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
