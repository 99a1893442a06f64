"""VGG-16 with batch norm (Simonyan & Zisserman 2015) as OKDDip trains it on 32×32 images.

Thirteen 3×3 convolutions, with bias, in five stages that each end in a max-pooling; the classifier
has two hidden layers of 512 with dropout. The trunk goes to the fourth pooling; a branch is the
last stage, and its classifier is its own. Images above 32×32 leave more than one pixel, whose mean
is taken. Convolutions and linear layers start as torchvision's.
"""

from functools import partial

from torch import nn

from trainer.models.architecture import Architecture
from trainer.models.layers import bn_relu, kaiming, linear, pooling, scaled

STAGES = ((64, 2), (128, 2), (256, 3), (512, 3), (512, 3))
"""Channels and convolutions of each."""


def vgg16(*, channels: int, num_classes: int, width: float) -> Architecture:
    """Return VGG-16 with batch norm.

    Args:
        channels: Image channels.
        num_classes: C.
        width: Factor on all channels, the classifier's too.
    """
    outputs = [scaled(c, width) for c, _ in STAGES]
    inputs = [channels, *outputs[:-1]]

    def stage(index: int) -> nn.Sequential:
        return _stage(inputs[index], outputs[index], STAGES[index][1])

    def trunk() -> nn.Module:
        return kaiming(nn.Sequential(*(stage(index) for index in range(4))))

    def branch() -> nn.Module:
        return kaiming(nn.Sequential(stage(4), pooling()))

    head = partial(_classifier, outputs[4], num_classes)
    return Architecture(trunk, branch, outputs[3], outputs[4], num_classes, head)


def _stage(in_channels: int, out_channels: int, convolutions: int) -> nn.Sequential:
    layers: list[nn.Module] = []
    for index in range(convolutions):
        source = out_channels if index else in_channels
        layers += [nn.Conv2d(source, out_channels, 3, padding=1), bn_relu(out_channels)]
    return nn.Sequential(*layers, nn.MaxPool2d(2))


def _classifier(hidden: int, num_classes: int) -> nn.Sequential:
    layer = partial(linear, hidden, std=0.01)
    return nn.Sequential(
        layer(hidden), nn.ReLU(), nn.Dropout(0.5),
        layer(hidden), nn.ReLU(), nn.Dropout(0.5),
        layer(num_classes),
    )  # fmt: skip
