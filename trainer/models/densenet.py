"""DenseNet-BC for 32×32 images (Huang et al. 2017), cut as OKDDip's branch-based group cuts it.

Three dense blocks; each layer adds ``growth`` channels through a 1×1 convolution of four times as
many, and each of the two transitions halves channels and size. The trunk goes to transition 2; a
branch is the last block, batch norm and pooling.

Deviates: the authors of OKDDip share one last block among all branches, a bug; ours are separate.
"""

from functools import partial
from itertools import pairwise

import torch
from torch import Tensor, nn

from trainer.models.architecture import Architecture
from trainer.models.layers import bn_relu, conv, kaiming, linear, pooling, scaled


class DenseLayer(nn.Module):
    """Puts out its input and ``growth`` channels more."""

    def __init__(self, in_channels: int, growth: int):
        super().__init__()
        self.added = nn.Sequential(
            bn_relu(in_channels),
            conv(in_channels, 4 * growth, 1),
            bn_relu(4 * growth),
            conv(4 * growth, growth, 3),
        )

    def forward(self, x: Tensor) -> Tensor:
        """Concatenate."""
        return torch.cat([x, self.added(x)], dim=1)


def densenet_bc(
    *, depth: int, growth: int, channels: int, num_classes: int, width: float
) -> Architecture:
    """Return DenseNet-BC.

    Args:
        depth: 6n+4.
        growth: k, channels that a layer adds.
        channels: Image channels.
        num_classes: C.
        width: Factor on the growth, to which all channels are proportional.

    Raises:
        ValueError: No DenseNet-BC has this depth.
    """
    layers, rest = divmod(depth - 4, 6)
    if rest or layers < 1:
        raise ValueError(f"no DenseNet-BC has depth {depth}")
    growth = scaled(growth, width)
    inputs = [2 * growth]  # of each dense block
    for _ in range(2):
        inputs.append((inputs[-1] + layers * growth) // 2)
    feature_dim = inputs[2] + layers * growth

    def trunk() -> nn.Module:
        parts: list[nn.Module] = [conv(channels, inputs[0], 3)]
        for start, end in pairwise(inputs):
            parts.append(_block(start, growth, layers))
            parts.append(_transition(start + layers * growth, end))
        return kaiming(nn.Sequential(*parts), "fan_in")

    def branch() -> nn.Module:
        block = _block(inputs[2], growth, layers)
        return kaiming(nn.Sequential(block, bn_relu(feature_dim), pooling()), "fan_in")

    head = partial(linear, feature_dim, num_classes)
    return Architecture(trunk, branch, inputs[2], feature_dim, num_classes, head)


def _block(in_channels: int, growth: int, layers: int) -> nn.Sequential:
    return nn.Sequential(*(DenseLayer(in_channels + i * growth, growth) for i in range(layers)))


def _transition(in_channels: int, out_channels: int) -> nn.Sequential:
    squeeze = conv(in_channels, out_channels, 1)
    return nn.Sequential(bn_relu(in_channels), squeeze, nn.AvgPool2d(2))
