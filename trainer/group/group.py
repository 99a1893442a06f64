"""The group of networks that train together, network-based or branch-based, from one definition."""

from collections.abc import Callable
from typing import Any, Literal, NamedTuple, Self

import torch
from torch import Tensor, nn

from trainer.models import Architecture


class GroupOutput(NamedTuple):
    """The outputs of a group for a batch; member M-1 is the one that is deployed.

    Attributes:
        logits_NMC: Logits of every member.
        features_NMD: Pooled features of every member, the input of its classifier.
        hidden_NE: Pooled output of the first trunk; the shared one in a branch-based group.
    """

    logits_NMC: Tensor
    features_NMD: Tensor
    hidden_NE: Tensor

    def float(self) -> "GroupOutput":
        """Return it in float32: losses are computed in full precision."""
        return GroupOutput(*(tensor.float() for tensor in self))


def scale_gradient(tensor: Tensor, factor: float) -> Tensor:
    """Return the tensor itself, whose gradient comes back multiplied by a factor."""
    if tensor.requires_grad:
        tensor = tensor.view_as(tensor)
        tensor.register_hook(lambda gradient: gradient * factor)  # type: ignore[no-untyped-call]
    return tensor


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


Executor = Callable[[Tensor], GroupOutput]
"""Computes ``PeerGroup.forward`` in its own way, on the group's own weights."""


class PeerGroup(nn.Module):
    """M members that see the same batch: M networks, or M branches on one trunk (paper, Fig. 2).

    The modules in here are the members one by one: what is trained, saved and deployed. How they
    are computed is an executor's business (``execute_with``), and changes no name and no number
    but by rounding.

    Args:
        architecture: The network, cut into trunk and branch.
        num_members: M ≥ 1, the deployed one included; it is the last member.
        structure: ``network`` for separate trunks, ``branch`` for one shared trunk.

    Attributes:
        blocks: The architecture's.
        trunk_gradient_scale: Factor on the gradient that a shared trunk gets from its branches.
    """

    trunk_gradient_scale = 1.0

    def __init__(
        self, architecture: Architecture, num_members: int, structure: Literal["network", "branch"]
    ) -> None:
        super().__init__()
        self.blocks = architecture.blocks
        self._make_executor: Callable[[PeerGroup], Executor] = eager
        self._executor: Executor | None = None
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
        if self._executor is None:
            self._executor = self._make_executor(self)
        return self._executor(images_NCHW)

    def execute_with(self, make: "Callable[[PeerGroup], Executor]") -> None:
        """Compute with the executor that a function makes of the group (``EXECUTORS``).

        It is rebuilt whenever the weights have moved to other memory.
        """
        self._make_executor, self._executor = make, make(self)

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> Self:
        self._executor = None  # an executor may have tied the weights to each other where they were
        super()._apply(fn, recurse)  # type: ignore[no-untyped-call]
        return self

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_executor": None}  # a copy makes its own

    def member(self, index: int) -> Network:
        """Return one member as a whole network; it shares the group's weights."""
        trunk = self.trunks[index % len(self.trunks)]
        return Network(trunk, self.branches[index], self.classifiers[index])

    def leader(self) -> Network:
        """Return the deployed member, the last one; it shares the group's weights."""
        return self.member(self.num_members - 1)


def eager(group: PeerGroup) -> Executor:
    """Return the plain executor: one member after the other."""

    def execute(images_NCHW: Tensor) -> GroupOutput:
        hidden = [trunk(images_NCHW) for trunk in group.trunks]
        if group.trunk_gradient_scale != 1.0:
            hidden = [scale_gradient(h, group.trunk_gradient_scale) for h in hidden]
        features = [branch(hidden[i % len(hidden)]) for i, branch in enumerate(group.branches)]
        logits = [head(f) for head, f in zip(group.classifiers, features, strict=True)]
        hidden_NE = hidden[0].mean(dim=(2, 3))
        return GroupOutput(torch.stack(logits, dim=1), torch.stack(features, dim=1), hidden_NE)

    return execute
