"""A network cut in two, so that a group can share the first part."""

from collections.abc import Callable
from dataclasses import dataclass

from torch import nn


@dataclass(frozen=True)
class Architecture:
    """A network cut in two, so that a group can share the first part.

    ``branch()`` modules map the trunk's output to pooled features (N, D), and ``classifier()``
    modules map those to logits (N, C). Every call makes fresh, independently initialised weights.

    Attributes:
        trunk: Makes the part that the branches of a branch-based group share.
        branch: Makes the rest, up to the pooled features.
        trunk_channels: Channels of the trunk's output (N, channels, H, W).
        feature_dim: D, the width of the pooled features.
        num_classes: C.
        head: Makes the classifier where it is more than a plain linear layer.
        blocks: Modules in it that join what their children compute by sums and activations alone,
            channel by channel: what ``trainer.group.fused`` may take for several members at once.
    """

    trunk: Callable[[], nn.Module]
    branch: Callable[[], nn.Module]
    trunk_channels: int
    feature_dim: int
    num_classes: int
    head: Callable[[], nn.Module] | None = None
    blocks: tuple[type[nn.Module], ...] = ()

    def classifier(self) -> nn.Module:
        """Make what follows the pooled features, (N, D) → (N, C)."""
        return self.head() if self.head else nn.Linear(self.feature_dim, self.num_classes)
