"""The group of networks that train together, network-based or branch-based, from one definition."""

from typing import Literal, NamedTuple

import torch
from torch import Tensor, nn

from trainer.models import Architecture


class GroupOutput(NamedTuple):
    """What a group computes for a batch; member M-1 is the leader.

    Attributes:
        logits_NMC: Logits of every member.
        features_NMD: Pooled features of every member, the input of its classifier.
    """

    logits_NMC: Tensor
    features_NMD: Tensor


class Network(nn.Module):
    """One whole classifier: trunk, branch and last layer; what is deployed."""

    def __init__(self, trunk: nn.Module, branch: nn.Module, classifier: nn.Module) -> None:
        super().__init__()
        self.trunk = trunk
        self.branch = branch
        self.classifier = classifier

    def forward(self, images_NCHW: Tensor) -> Tensor:
        """Return logits (N, C) for normalised images."""
        logits_NC: Tensor = self.classifier(self.branch(self.trunk(images_NCHW)))
        return logits_NC


def single_network(architecture: Architecture) -> Network:
    """Make one network with fresh weights."""
    return Network(architecture.trunk(), architecture.branch(), architecture.classifier())


class PeerGroup(nn.Module):
    """M members that see the same batch: M networks, or M branches on one trunk (paper, Fig. 2).

    Args:
        architecture: The network, cut into trunk and branch.
        num_members: M ≥ 1, the leader included; it is the last member.
        structure: ``network`` for separate trunks, ``branch`` for one shared trunk.
    """

    def __init__(
        self, architecture: Architecture, num_members: int, structure: Literal["network", "branch"]
    ) -> None:
        super().__init__()
        num_trunks = num_members if structure == "network" else 1
        self.trunks = nn.ModuleList(architecture.trunk() for _ in range(num_trunks))
        self.branches = nn.ModuleList(architecture.branch() for _ in range(num_members))
        self.classifiers = nn.ModuleList(architecture.classifier() for _ in range(num_members))

    @property
    def num_members(self) -> int:
        """M, the leader included."""
        return len(self.branches)

    def forward(self, images_NCHW: Tensor) -> GroupOutput:
        """Run every member on the same normalised images."""
        hidden = [trunk(images_NCHW) for trunk in self.trunks]
        features = [branch(hidden[i % len(hidden)]) for i, branch in enumerate(self.branches)]
        logits = [head(f) for head, f in zip(self.classifiers, features, strict=True)]
        return GroupOutput(torch.stack(logits, dim=1), torch.stack(features, dim=1))

    def member(self, index: int) -> Network:
        """Return one member as a whole network; it shares the group's weights."""
        trunk = self.trunks[index % len(self.trunks)]
        return Network(trunk, self.branches[index], self.classifiers[index])

    def leader(self) -> Network:
        """Return the deployed member, the last one; it shares the group's weights."""
        return self.member(self.num_members - 1)
