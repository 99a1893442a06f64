"""How a group is computed: executors by name, and which one a run gets.

An executor is made of a group whose weights lie where they will stay, and computes its forward
pass. ``cuda_graph`` changes more than that: the whole step is
recorded (``trainer.engine.cuda_graph``).
"""

from collections.abc import Callable

from torch import nn

from trainer.config.strict import ConfigError
from trainer.config.train import TrainConfig
from trainer.group.fused import FusedGroup, obstacle
from trainer.group.group import Executor, PeerGroup, eager
from trainer.group.streams import capture_obstacle, forked

EXECUTORS: dict[str, Callable[[PeerGroup], Executor]] = {
    "eager": eager,
    "fused": FusedGroup,
    "cuda_graph": forked,
}

FEW_CHANNELS = 32
"""Channels of a member's last layer up to which fused members are chosen: a CIFAR ResNet of half
width."""


def resolve_executor(config: TrainConfig, group: PeerGroup) -> str:
    """Return a name in ``EXECUTORS``.

    Raises:
        ConfigError: Fused members were asked for, of a network that cannot be fused; or a CUDA
            graph where there can be none.
    """
    if config.executor == "eager":
        return "eager"
    if config.executor == "cuda_graph":
        if problem := capture_obstacle(group):
            raise ConfigError([(("executor",), f"'cuda_graph' was asked for, but {problem}")])
        return "cuda_graph"
    problem = obstacle(group)
    if config.executor == "fused":
        if problem:
            text = f"'fused' was asked for, but {config.model} cannot be fused: {problem}"
            raise ConfigError([(("executor",), text)])
        return "fused"
    return "eager" if problem or not fusing_pays(group) else "fused"


def fusing_pays(group: PeerGroup) -> bool:
    """Say whether fused members were faster where it was measured (docs/performance.md).

    They are on the CPU for members of few channels, whose convolutions are too short to keep it
    busy. On a GPU nothing is measured yet.
    """
    head = group.classifiers[-1]
    return (
        group.num_members > 1
        and isinstance(head, nn.Linear)
        and head.weight.device.type == "cpu"
        and head.in_features <= FEW_CHANNELS
    )
