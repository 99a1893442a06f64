"""Building blocks of several families."""

from typing import Literal, TypeVar

import torch.nn.functional as F
from torch import Tensor, nn

AnyModule = TypeVar("AnyModule", bound=nn.Module)


def scaled(channels: int, width: float) -> int:
    """Return a channel count times the width factor, at least 1."""
    return max(1, round(width * channels))


class StridedPointwise(nn.Conv2d):
    """A 1×1 convolution that drops the pixels it skips beforehand; the same numbers.

    oneDNN's own way writes beyond its buffer in the backward pass where the input has fewer
    channels than a vector has lanes (its issue 6035; torch 2.15 on a CPU with AVX2): training
    crashes, or continues with wrong gradients.
    """

    def forward(self, input: Tensor) -> Tensor:
        """Return what ``nn.Conv2d`` returns, (N, C, H, W) → (N, C', ⌈H / s⌉, ⌈W / s⌉)."""
        return F.conv2d(subsampled(input, self.stride), self.weight, self.bias, groups=self.groups)


def subsampled(x_NCHW: Tensor, stride: tuple[int, ...]) -> Tensor:
    """Return every ``stride``-th row and column."""
    return x_NCHW[:, :, :: stride[0], :: stride[1]]


def conv(in_channels: int, out_channels: int, kernel: int, stride: int = 1) -> nn.Conv2d:
    """Make a convolution without bias (batch norm has one) that keeps the size at stride 1."""
    kind = StridedPointwise if kernel == 1 and stride > 1 else nn.Conv2d
    return kind(in_channels, out_channels, kernel, stride, padding=kernel // 2, bias=False)


def bn_relu(channels: int) -> nn.Sequential:
    """Make a batch norm with its activation."""
    return nn.Sequential(nn.BatchNorm2d(channels), nn.ReLU(inplace=True))


def pooling() -> nn.Sequential:
    """Make the global average pooling, (N, D, H, W) → (N, D)."""
    return nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten())


def linear(inputs: int, outputs: int, *, std: float | None = None) -> nn.Linear:
    """Make a linear layer whose bias starts at 0 and, if given, whose weights at N(0, std²)."""
    layer = nn.Linear(inputs, outputs)
    nn.init.zeros_(layer.bias)
    if std is not None:
        nn.init.normal_(layer.weight, std=std)
    return layer


def kaiming(module: AnyModule, mode: Literal["fan_in", "fan_out"] = "fan_out") -> AnyModule:
    """Initialise all convolutions (He et al. 2015, for ReLU), biases 0; return the module."""
    for layer in module.modules():
        if isinstance(layer, nn.Conv2d):
            nn.init.kaiming_normal_(layer.weight, mode=mode, nonlinearity="relu")
            if layer.bias is not None:
                nn.init.zeros_(layer.bias)
    return module
