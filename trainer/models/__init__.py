"""Networks by name. Each gives a trunk and a branch, from which every group structure is built."""

from collections.abc import Callable
from dataclasses import dataclass

from torch import nn

from trainer.config import ModelName
from trainer.models import resnet


@dataclass(frozen=True)
class Architecture:
    """A network cut in two, so that a group can share the first part.

    ``branch()`` modules map the trunk's output to pooled features (N, D), and ``classifier()``
    modules map those to logits (N, C). Every call makes fresh, independently initialised weights.

    Attributes:
        trunk: Makes the part that the branches of a branch-based group share.
        branch: Makes the rest, up to the pooled features.
        feature_dim: D, the width of the pooled features.
        num_classes: C.
    """

    trunk: Callable[[], nn.Module]
    branch: Callable[[], nn.Module]
    feature_dim: int
    num_classes: int

    def classifier(self) -> nn.Module:
        """Make the last layer, (N, D) → (N, C)."""
        return nn.Linear(self.feature_dim, self.num_classes)


def build_architecture(
    name: ModelName, *, channels: int, num_classes: int, width: float = 1.0
) -> Architecture:
    """Return the named network for images of so many channels and classes.

    Args:
        name: A name of ``trainer.config.ModelName``.
        channels: Image channels, 1 or 3.
        num_classes: C ≥ 2.
        width: Factor on all channel counts, 1 for the published network.
    """
    cut = resnet.cifar_resnet(int(name.removeprefix("resnet")), channels, width)
    return Architecture(*cut, num_classes=num_classes)
