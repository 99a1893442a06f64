"""Networks for ImageNet-size images: torchvision's own, with fresh weights, taken apart.

The cut is where the map is an eighth of the image's side: in ResNet-34 behind stage 2, as OKDDip
cuts it (Chen et al. 2020); in the others at the same place. To make a part, a whole network is
made and the rest let go, so that structure and initial weights are torchvision's.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import torch
import torchvision
from torch import nn
from torchvision.models.resnet import BasicBlock, Bottleneck

from trainer.models.architecture import Architecture
from trainer.models.layers import kaiming, pooling


class Parts(NamedTuple):
    """A torchvision network's modules in order; the pooling, which has no weights, is left out.

    Attributes:
        trunk: To the cut.
        branch: From the cut to the last feature map.
        head: The classifier.
    """

    trunk: list[nn.Module]
    branch: list[nn.Module]
    head: nn.Module


def resnet(*, depth: int, channels: int, num_classes: int, width: float) -> Architecture:
    """Return ResNet-18, -34 or -50 (He et al. 2016).

    Args:
        depth: 18, 34 or 50.
        channels: Image channels.
        num_classes: C.
        width: 1; there is no other.
    """

    def parts() -> Parts:
        net = torchvision.models.get_model(f"resnet{depth}", num_classes=num_classes)
        stem = [net.conv1, net.bn1, net.relu, net.maxpool]
        return Parts([*stem, net.layer1, net.layer2], [net.layer3, net.layer4], net.fc)

    return _cut(parts, channels, num_classes, kaiming, (BasicBlock, Bottleneck))


def mobilenet_v2(*, channels: int, num_classes: int, width: float) -> Architecture:
    """Return MobileNetV2 (Sandler et al. 2018).

    Args:
        channels: Image channels.
        num_classes: C.
        width: Factor on all channels, rounded to multiples of 8; the features stay 1280 below 1.
    """

    def parts() -> Parts:
        net = torchvision.models.mobilenet_v2(num_classes=num_classes, width_mult=width)
        return Parts([*net.features[:7]], [*net.features[7:]], net.classifier)

    return _cut(parts, channels, num_classes, kaiming)


def shufflenet_v2(*, channels: int, num_classes: int, width: float) -> Architecture:
    """Return ShuffleNetV2 (Ma et al. 2018).

    Args:
        channels: Image channels.
        num_classes: C.
        width: 0.5, 1, 1.5 or 2.
    """
    name = f"shufflenet_v2_x{width:.1f}".replace(".", "_")

    def parts() -> Parts:
        net = torchvision.models.get_model(name, num_classes=num_classes)
        return Parts([net.conv1, net.maxpool, net.stage2], [net.stage3, net.stage4, net.conv5],
                     net.fc)  # fmt: skip

    return _cut(parts, channels, num_classes, nn.Conv2d.reset_parameters)


def _cut(
    parts: Callable[[], Parts],
    channels: int,
    num_classes: int,
    initialise: Callable[[nn.Conv2d], Any],
    blocks: tuple[type[nn.Module], ...] = (),
) -> Architecture:
    def trunk() -> nn.Module:
        module = nn.Sequential(*parts().trunk)
        if channels != 3:
            _replace_channels(module, channels, initialise)
        return module

    def branch() -> nn.Module:
        return nn.Sequential(*parts().branch, pooling())

    def head() -> nn.Module:
        return parts().head

    with torch.device("meta"):  # shapes alone: nothing is computed
        map_NCHW = trunk().eval()(torch.empty(1, channels, 32, 32))
        features_ND = branch().eval()(map_NCHW)
    return Architecture(
        trunk, branch, map_NCHW.shape[1], features_ND.shape[1], num_classes, head, blocks
    )


def _replace_channels(
    module: nn.Module, channels: int, initialise: Callable[[nn.Conv2d], Any]
) -> None:
    """Make the first convolution take this many image channels, initialised as torchvision does."""
    first = next(layer for layer in module.modules() if isinstance(layer, nn.Conv2d))
    first.in_channels = channels
    shape = (first.out_channels, channels, *first.kernel_size)
    first.weight = nn.Parameter(first.weight.new_empty(shape))
    initialise(first)
