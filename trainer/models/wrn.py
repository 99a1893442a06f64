"""Wide residual networks (Zagoruyko & Komodakis 2016): WRN-depth-k, pre-activation, no dropout.

A stem of 16 channels and three stages of 16k, 32k and 64k; a bare 1×1 convolution on the activated
input is the shortcut wherever the shape changes. The trunk is the stem and stages 1 and 2; a
branch is stage 3, the last batch norm and the pooling.
"""

from functools import partial

from torch import Tensor, nn

from trainer.models.architecture import Architecture
from trainer.models.layers import bn_relu, conv, kaiming, linear, pooling, scaled

STEM_CHANNELS = 16


class PreActivationBlock(nn.Module):
    """Batch norm and ReLU come before each of the two 3×3 convolutions."""

    def __init__(self, in_channels: int, out_channels: int, stride: int):
        super().__init__()
        self.activation = bn_relu(in_channels)
        self.residual = nn.Sequential(
            conv(in_channels, out_channels, 3, stride),
            bn_relu(out_channels),
            conv(out_channels, out_channels, 3),
        )
        self.shortcut: nn.Module | None = None
        if stride != 1 or in_channels != out_channels:
            self.shortcut = conv(in_channels, out_channels, 1, stride)

    def forward(self, x: Tensor) -> Tensor:
        """Return the sum, which is not activated."""
        activated = self.activation(x)
        residual: Tensor = self.residual(activated)
        return residual + (x if self.shortcut is None else self.shortcut(activated))


def wide_resnet(
    *, depth: int, widen: int, channels: int, num_classes: int, width: float
) -> Architecture:
    """Return WRN-depth-widen.

    Args:
        depth: 6n+4.
        widen: k.
        channels: Image channels.
        num_classes: C.
        width: Further factor on all channels, the stem's too.

    Raises:
        ValueError: No wide ResNet has this depth.
    """
    blocks, rest = divmod(depth - 4, 6)
    if rest or blocks < 1:
        raise ValueError(f"no wide ResNet has depth {depth}")
    stem = scaled(STEM_CHANNELS, width)
    outputs = [scaled(factor * widen * STEM_CHANNELS, width) for factor in (1, 2, 4)]

    def trunk() -> nn.Module:
        return kaiming(
            nn.Sequential(
                conv(channels, stem, 3),
                _stage(blocks, stem, outputs[0], stride=1),
                _stage(blocks, outputs[0], outputs[1], stride=2),
            )
        )

    def branch() -> nn.Module:
        third = _stage(blocks, outputs[1], outputs[2], stride=2)
        return kaiming(nn.Sequential(third, bn_relu(outputs[2]), pooling()))

    head = partial(linear, outputs[2], num_classes)
    return Architecture(
        trunk, branch, outputs[1], outputs[2], num_classes, head, blocks=(PreActivationBlock,)
    )


def _stage(blocks: int, in_channels: int, out_channels: int, stride: int) -> nn.Sequential:
    first = PreActivationBlock(in_channels, out_channels, stride)
    rest = (PreActivationBlock(out_channels, out_channels, 1) for _ in range(blocks - 1))
    return nn.Sequential(first, *rest)
