"""All members of a group at once: M networks of one shape as one network of M times the channels.

M convolutions become one with M groups, M batch norms one over M times the channels, M linear
layers one batched product. Each member computes the same as before, in fewer calls.

The members stay what is trained and saved. Their tensors become slices of the joined ones, in the
same memory, so that there is nothing to pack or unpack: an update of a member, or a state loaded
into it, is an update of the whole. Gradients are handed down the same way, without copying.

Activations hold the members one after the other, (N, M * C, H, W), where a layer sees only its own
member's channels; so only modules that treat channels alike may stand between the layers.
"""

import copy
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from trainer.group.group import GroupOutput, PeerGroup, scale_gradient
from trainer.models.layers import StridedPointwise, subsampled

CHANNELS_ALIKE = (
    nn.Identity, nn.ReLU, nn.ReLU6, nn.AvgPool2d, nn.MaxPool2d, nn.AdaptiveAvgPool2d, nn.Flatten,
)  # fmt: skip
"""Modules without weights that compute each channel separately."""


def obstacle(group: PeerGroup) -> str:
    """Say why the members of a group cannot be fused, or return an empty string."""
    for module in group.leader().modules():
        if isinstance(module, nn.Dropout):
            return "its dropout would draw other random numbers for fused members"
        if isinstance(module, nn.Conv2d) and module.padding_mode != "zeros":
            return f"its padding is {module.padding_mode}"
        known = (type(group.leader()), nn.Sequential, *group.blocks, *_JOINED, *CHANNELS_ALIKE)
        if type(module) not in known:
            return f"its {type(module).__name__} does not keep the members' channels apart"
    return ""


class FusedGroup:
    """Runs a group's members as one network; the group's weights become views of its own.

    Args:
        group: One without an ``obstacle``, on its device. Whatever moves its weights to other
            memory (``to``, a deep copy) ends this: ``PeerGroup`` then makes a new one.
    """

    def __init__(self, group: PeerGroup) -> None:
        self._group, self._training = group, group.training
        with torch.inference_mode(False):  # also where the first call is an evaluation
            self._trunk, self._branch, self._classifier = (
                _join(parts).train(group.training)
                for parts in (group.trunks, group.branches, group.classifiers)
            )

    def __call__(self, images_NCHW: Tensor) -> GroupOutput:
        """Return what the group returns for the same normalised images."""
        group = self._group
        if self._training != group.training:
            self._training = group.training
            for part in (self._trunk, self._branch, self._classifier):
                part.train(group.training)
        hidden_NEHW = self._trunk(images_NCHW)
        if group.trunk_gradient_scale != 1.0:
            hidden_NEHW = scale_gradient(hidden_NEHW, group.trunk_gradient_scale)
        features_ND = self._branch(hidden_NEHW)
        logits_NC = self._classifier(features_ND)
        first_NEHW = hidden_NEHW[:, : hidden_NEHW.shape[1] // len(group.trunks)]
        return GroupOutput(
            logits_NC.unflatten(1, (group.num_members, -1)),
            features_ND.unflatten(1, (group.num_members, -1)),
            first_NEHW.mean(dim=(2, 3)),
        )


def _join(members: Iterable[nn.Module]) -> nn.Module:
    """Walk the members' modules in step and return one module of their shape."""
    modules = list(members)
    first = modules[0]
    if len(modules) == 1:  # the shared trunk
        return first
    if type(first) in _JOINED:
        return _JOINED[type(first)](modules)
    joined = copy.copy(first)
    joined._modules = {
        name: None if child is None else _join(module.get_submodule(name) for module in modules)
        for name, child in first._modules.items()
    }
    return joined


def _joined_tensor(parts: Sequence[Tensor]) -> Tensor:
    """Return the tensors behind one another, of which they are slices from now on."""
    whole = torch.cat([part.detach() if part.dim() else part.view(1) for part in parts])
    for part, piece in zip(parts, whole.chunk(len(parts)), strict=True):
        part.data = piece.view(part.shape)
    return whole


def _joined_parameter(parts: Sequence[nn.Parameter]) -> nn.Parameter:
    """Return the same as a parameter whose gradient is passed to the parts, as slices."""
    whole = nn.Parameter(_joined_tensor(parts), requires_grad=parts[0].requires_grad)

    def hand_down(whole: Tensor) -> None:
        assert whole.grad is not None
        for part, gradient in zip(parts, whole.grad.chunk(len(parts)), strict=True):
            part.grad = gradient if part.grad is None else part.grad + gradient
        whole.grad = None

    if whole.requires_grad:
        whole.register_post_accumulate_grad_hook(hand_down)  # type: ignore[no-untyped-call]
    return whole


class _Joined(nn.Module):
    """A layer with weights, of all members.

    Args:
        members: The layers, all of one shape.
        in_channels: That each of them takes.
    """

    def __init__(self, members: Sequence[Any], in_channels: int) -> None:
        super().__init__()
        self.count, self.in_channels = len(members), in_channels
        self.weight = _joined_parameter([layer.weight for layer in members])
        self.bias: nn.Parameter | None = None
        if members[0].bias is not None:
            self.bias = _joined_parameter([layer.bias for layer in members])

    def is_shared(self, x: Tensor) -> bool:
        """Return whether all members take the same channels: images, or the shared trunk's."""
        return x.shape[1] == self.in_channels

    def own(self, x: Tensor) -> Tensor:
        """Return an input that has channels for every member."""
        return x.repeat(1, self.count, *[1] * (x.dim() - 2)) if self.is_shared(x) else x


class _JoinedConv2d(_Joined):
    def __init__(self, members: Sequence[nn.Conv2d]) -> None:
        first = members[0]
        super().__init__(members, first.in_channels)
        self.stride, self.padding, self.dilation = first.stride, first.padding, first.dilation
        self.groups = first.groups

    def forward(self, x: Tensor) -> Tensor:
        groups = self.groups * self.count
        if self.is_shared(x) and self.groups == 1:
            groups = 1  # one plain convolution gives the outputs of all members
        else:
            x = self.own(x)
        return F.conv2d(x, self.weight, self.bias, self.stride, self.padding, self.dilation, groups)


class _JoinedPointwise(_JoinedConv2d):
    def __init__(self, members: Sequence[StridedPointwise]) -> None:
        super().__init__(members)
        self.skipped, self.stride = self.stride, (1, 1)

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(subsampled(x, self.skipped))


class _JoinedBatchNorm2d(_Joined):
    def __init__(self, members: Sequence[nn.BatchNorm2d]) -> None:
        first = members[0]
        super().__init__(members, first.num_features)
        self.momentum, self.eps = first.momentum, first.eps
        self.mean, self.var, self.steps = (
            _joined_tensor([getattr(layer, name) for layer in members])
            for name in ("running_mean", "running_var", "num_batches_tracked")
        )

    def forward(self, x: Tensor) -> Tensor:
        if self.training:
            self.steps.add_(1)
        return F.batch_norm(
            self.own(x), self.mean, self.var, self.weight, self.bias, self.training,
            self.momentum or 0.0, self.eps,
        )  # fmt: skip


class _JoinedLinear(_Joined):
    def __init__(self, members: Sequence[nn.Linear]) -> None:
        super().__init__(members, members[0].in_features)

    def forward(self, x: Tensor) -> Tensor:
        x_MND = self.own(x).view(len(x), self.count, -1).transpose(0, 1)
        weight_MDO = self.weight.view(self.count, -1, self.in_channels).transpose(1, 2)
        if self.bias is None:
            y_MNO = torch.bmm(x_MND, weight_MDO)
        else:
            y_MNO = torch.baddbmm(self.bias.view(self.count, 1, -1), x_MND, weight_MDO)
        return y_MNO.transpose(0, 1).flatten(1)


_JOINED: dict[type[nn.Module], Callable[[Sequence[Any]], nn.Module]] = {
    nn.Conv2d: _JoinedConv2d,
    StridedPointwise: _JoinedPointwise,
    nn.BatchNorm2d: _JoinedBatchNorm2d,
    nn.Linear: _JoinedLinear,
}
