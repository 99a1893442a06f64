"""CIFAR ResNets (He et al. 2016, section 4.2), cut as OKDDip's branch-based group cuts them.

Three stages of 16, 32 and 64 channels; a 1×1 convolution with batch norm is the shortcut wherever
the shape changes. The trunk is the stem and stages 1 and 2; a branch is stage 3 and the pooling.
"""

from collections.abc import Callable

import torch.nn.functional as F
from torch import Tensor, nn

STAGE_CHANNELS = (16, 32, 64)


class _Block(nn.Module):
    """A residual block: ``relu(residual(x) + shortcut(x))``."""

    def __init__(self, residual: nn.Module, in_channels: int, out_channels: int, stride: int):
        super().__init__()
        self.residual = residual
        self.shortcut: nn.Module = nn.Identity()
        if stride != 1 or in_channels != out_channels:
            self.shortcut = _conv_bn(in_channels, out_channels, kernel=1, stride=stride)

    def forward(self, x: Tensor) -> Tensor:
        return F.relu(self.residual(x) + self.shortcut(x))


class BasicBlock(_Block):
    """Two 3×3 convolutions; puts out ``channels``."""

    expansion = 1

    def __init__(self, in_channels: int, channels: int, stride: int):
        residual = nn.Sequential(
            _conv_bn(in_channels, channels, kernel=3, stride=stride),
            nn.ReLU(),
            _conv_bn(channels, channels, kernel=3),
        )
        super().__init__(residual, in_channels, channels, stride)


class Bottleneck(_Block):
    """1×1, 3×3 (with the stride) and 1×1 convolutions; puts out ``4 * channels``."""

    expansion = 4

    def __init__(self, in_channels: int, channels: int, stride: int):
        out_channels = self.expansion * channels
        residual = nn.Sequential(
            _conv_bn(in_channels, channels, kernel=1),
            nn.ReLU(),
            _conv_bn(channels, channels, kernel=3, stride=stride),
            nn.ReLU(),
            _conv_bn(channels, out_channels, kernel=1),
        )
        super().__init__(residual, in_channels, out_channels, stride)


def cifar_resnet(
    depth: int, in_channels: int, width: float
) -> tuple[Callable[[], nn.Module], Callable[[], nn.Module], int]:
    """Return makers of trunk and branch, and the feature width D, of a CIFAR ResNet.

    Args:
        depth: 6n+2 below 100 (basic blocks), 9n+2 from there on (bottlenecks), as in the paper.
        in_channels: Image channels.
        width: Factor on 16, 32 and 64.

    Raises:
        ValueError: No ResNet has this depth.
    """
    block: type[BasicBlock | Bottleneck] = BasicBlock if depth < 100 else Bottleneck
    convs_per_block = 2 if block is BasicBlock else 3
    blocks, rest = divmod(depth - 2, 3 * convs_per_block)
    if rest or blocks < 1:
        raise ValueError(f"no CIFAR ResNet has depth {depth}")
    channels = [max(1, round(width * c)) for c in STAGE_CHANNELS]
    outputs = [block.expansion * c for c in channels]

    def trunk() -> nn.Module:
        stem = nn.Sequential(_conv_bn(in_channels, channels[0], kernel=3), nn.ReLU())
        first = _stage(block, blocks, channels[0], channels[0], stride=1)
        second = _stage(block, blocks, outputs[0], channels[1], stride=2)
        return _initialised(nn.Sequential(stem, first, second))

    def branch() -> nn.Module:
        third = _stage(block, blocks, outputs[1], channels[2], stride=2)
        return _initialised(nn.Sequential(third, nn.AdaptiveAvgPool2d(1), nn.Flatten()))

    return trunk, branch, outputs[2]


def _stage(
    block: type[BasicBlock | Bottleneck], blocks: int, in_channels: int, channels: int, stride: int
) -> nn.Sequential:
    first = block(in_channels, channels, stride)
    return nn.Sequential(
        first, *(block(block.expansion * channels, channels, 1) for _ in range(blocks - 1))
    )


def _conv_bn(in_channels: int, out_channels: int, *, kernel: int, stride: int = 1) -> nn.Sequential:
    conv = nn.Conv2d(in_channels, out_channels, kernel, stride, padding=kernel // 2, bias=False)
    return nn.Sequential(conv, nn.BatchNorm2d(out_channels))


def _initialised(module: nn.Module) -> nn.Module:
    for layer in module.modules():
        if isinstance(layer, nn.Conv2d):
            nn.init.kaiming_normal_(layer.weight, mode="fan_out", nonlinearity="relu")
    return module
