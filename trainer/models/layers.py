"""What several families are made of."""

from typing import Literal, TypeVar

from torch import nn

AnyModule = TypeVar("AnyModule", bound=nn.Module)


def scaled(channels: int, width: float) -> int:
    """Return a channel count times the width factor, at least 1."""
    return max(1, round(width * channels))


def conv(in_channels: int, out_channels: int, kernel: int, stride: int = 1) -> nn.Conv2d:
    """Make a convolution without bias (batch norm has one) that keeps the size at stride 1."""
    return nn.Conv2d(in_channels, out_channels, kernel, stride, padding=kernel // 2, bias=False)


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
    """Draw all convolutions anew (He et al. 2015, for ReLU), biases 0; return the module."""
    for layer in module.modules():
        if isinstance(layer, nn.Conv2d):
            nn.init.kaiming_normal_(layer.weight, mode=mode, nonlinearity="relu")
            if layer.bias is not None:
                nn.init.zeros_(layer.bias)
    return module
