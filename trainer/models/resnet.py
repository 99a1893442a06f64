"""CIFAR ResNets (He et al. 2016, section 4.2), cut as OKDDip's branch-based group cuts them.

Three stages of 16, 32 and 64 channels; a 1×1 convolution with batch norm is the shortcut wherever
the shape changes. The trunk is the stem and stages 1 and 2; a branch is stage 3 and the pooling.
OKDDip's WRN-20-8 (Chen et al. 2020) is one of them, of bottlenecks that are 8 times wider inside;
the wide networks of Zagoruyko & Komodakis are in ``wrn.py``.
"""

from collections.abc import Callable
from functools import partial

import torch.nn.functional as F
from torch import Tensor, nn

from trainer.models.architecture import Architecture
from trainer.models.layers import conv, kaiming, pooling, scaled

STAGE_CHANNELS = (16, 32, 64)

BlockMaker = Callable[[int, int, int], nn.Module]
"""From input channels, output channels and stride."""


class _Block(nn.Module):
    """A residual block: ``relu(residual(x) + shortcut(x))``."""

    def __init__(self, residual: nn.Module, in_channels: int, out_channels: int, stride: int):
        super().__init__()
        self.residual = residual
        self.shortcut: nn.Module = nn.Identity()
        if stride != 1 or in_channels != out_channels:
            self.shortcut = _conv_bn(in_channels, out_channels, kernel=1, stride=stride)

    def forward(self, x: Tensor) -> Tensor:
        return F.relu(self.residual(x) + self.shortcut(x), inplace=True)


class BasicBlock(_Block):
    """Two 3×3 convolutions."""

    expansion = 1

    def __init__(self, in_channels: int, out_channels: int, stride: int):
        residual = nn.Sequential(
            _conv_bn(in_channels, out_channels, kernel=3, stride=stride),
            nn.ReLU(inplace=True),
            _conv_bn(out_channels, out_channels, kernel=3),
        )
        super().__init__(residual, in_channels, out_channels, stride)


class Bottleneck(_Block):
    """1×1, 3×3 (with the stride) and 1×1 convolutions; ``widen`` times a quarter as wide inside."""

    expansion = 4

    def __init__(self, in_channels: int, out_channels: int, stride: int, *, widen: int):
        inner = widen * out_channels // self.expansion
        residual = nn.Sequential(
            _conv_bn(in_channels, inner, kernel=1),
            nn.ReLU(inplace=True),
            _conv_bn(inner, inner, kernel=3, stride=stride),
            nn.ReLU(inplace=True),
            _conv_bn(inner, out_channels, kernel=1),
        )
        super().__init__(residual, in_channels, out_channels, stride)


def cifar_resnet(
    *,
    depth: int,
    channels: int,
    num_classes: int,
    width: float,
    bottleneck: bool = False,
    widen: int = 1,
) -> Architecture:
    """Return a CIFAR ResNet.

    Args:
        depth: 6n+2 with basic blocks, 9n+2 with bottlenecks.
        channels: Image channels.
        num_classes: C.
        width: Factor on 16, 32 and 64.
        bottleneck: Bottlenecks instead of basic blocks.
        widen: Factor on the inner channels of bottlenecks alone.

    Raises:
        ValueError: No ResNet has this depth.
    """
    blocks, rest = divmod(depth - 2, 9 if bottleneck else 6)
    if rest or blocks < 1:
        raise ValueError(f"no CIFAR ResNet has depth {depth}")
    block: BlockMaker = partial(Bottleneck, widen=widen) if bottleneck else BasicBlock
    expansion = Bottleneck.expansion if bottleneck else BasicBlock.expansion
    stem_channels = scaled(STAGE_CHANNELS[0], width)
    outputs = [expansion * scaled(c, width) for c in STAGE_CHANNELS]

    def trunk() -> nn.Module:
        stem = nn.Sequential(_conv_bn(channels, stem_channels, kernel=3), nn.ReLU(inplace=True))
        first = _stage(block, blocks, stem_channels, outputs[0], stride=1)
        second = _stage(block, blocks, outputs[0], outputs[1], stride=2)
        return kaiming(nn.Sequential(stem, first, second))

    def branch() -> nn.Module:
        third = _stage(block, blocks, outputs[1], outputs[2], stride=2)
        return kaiming(nn.Sequential(third, pooling()))

    return Architecture(
        trunk, branch, outputs[1], outputs[2], num_classes, blocks=(BasicBlock, Bottleneck)
    )


def _stage(
    block: BlockMaker, blocks: int, in_channels: int, out_channels: int, stride: int
) -> nn.Sequential:
    first = block(in_channels, out_channels, stride)
    return nn.Sequential(first, *(block(out_channels, out_channels, 1) for _ in range(blocks - 1)))


def _conv_bn(in_channels: int, out_channels: int, *, kernel: int, stride: int = 1) -> nn.Sequential:
    return nn.Sequential(
        conv(in_channels, out_channels, kernel, stride), nn.BatchNorm2d(out_channels)
    )
