"""Members side by side, each on a CUDA stream of its own."""

from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor, nn

from trainer.group.group import Executor, GroupOutput, PeerGroup, eager, scale_gradient


def capture_obstacle(group: PeerGroup) -> str:
    """Say why no CUDA graph can be recorded of a group's steps, or return an empty string."""
    device = next(group.parameters()).device
    return "" if device.type == "cuda" else f"there are CUDA graphs on a GPU alone, not on {device}"


def forked(group: PeerGroup) -> Executor:
    """Return the executor that runs the members side by side, each on a CUDA stream of its own.

    The last member stays on the current stream. On the CPU it is the plain executor.
    """
    device = next(group.parameters()).device
    if device.type != "cuda":
        return eager(group)
    return on_streams(group, [new_stream(device) for _ in range(group.num_members - 1)])


def new_stream(device: torch.device) -> torch.cuda.Stream:
    """Return a new stream of a GPU."""
    return torch.cuda.Stream(device)  # type: ignore[no-untyped-call]


def on_streams(group: PeerGroup, streams: list[torch.cuda.Stream]) -> Executor:
    """Return the executor that runs all members but the last on these streams, one each."""

    def each(modules: Iterable[nn.Module], inputs: list[Tensor], lanes: list[Any]) -> list[Tensor]:
        outputs = []
        for module, tensor, lane in zip(modules, inputs, lanes, strict=True):
            with torch.cuda.stream(lane):
                outputs.append(module(tensor))
        return outputs

    def execute(images_NCHW: Tensor) -> GroupOutput:
        home = torch.cuda.current_stream(images_NCHW.device)
        lanes = [*streams, home]
        hidden: list[Tensor] = []
        if len(group.trunks) < len(lanes):  # one trunk for all
            hidden = each(group.trunks, [images_NCHW], [home])
        for stream in streams:
            stream.wait_stream(home)
        # Member after member in every part, not part after part in every member: dropout draws
        # its random numbers in the order of the eager executor.
        hidden = hidden or each(group.trunks, [images_NCHW] * len(lanes), lanes)
        if group.trunk_gradient_scale != 1.0:
            hidden = [scale_gradient(h, group.trunk_gradient_scale) for h in hidden]
        shared = hidden * (len(lanes) // len(hidden))
        features = each(group.branches, shared, lanes)
        logits = each(group.classifiers, features, lanes)
        for stream in streams:
            home.wait_stream(stream)
        hidden_NE = hidden[0].mean(dim=(2, 3))
        return GroupOutput(torch.stack(logits, dim=1), torch.stack(features, dim=1), hidden_NE)

    return execute
