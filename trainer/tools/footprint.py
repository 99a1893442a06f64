"""The disk space of a run, from the shapes of its networks: nothing is trained, no weight is made.

``python -m trainer.tools.footprint`` answers for those who must not import torch: a JSON list of
``[config, channels, num_classes]`` on standard input, a list of footprints on standard output.
"""

import contextlib
import json
import sys
from collections.abc import Callable, Iterable, Mapping
from typing import TYPE_CHECKING, Any, NamedTuple, cast

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from trainer.config.strict import ConfigError
from trainer.config.train import TrainConfig
from trainer.group.group import PeerGroup, single_network
from trainer.methods import build_method
from trainer.models import build_architecture

if TYPE_CHECKING:
    from trainer.data.base import DevelopmentData

_HEADER_BYTES = 110
"""Of a tensor in a safetensors file: its name, shape and place in JSON."""


class Footprint(NamedTuple):
    """Bytes of a run's files.

    Attributes:
        state: Of one checkpoint's tensors.
        leader: Of the leader's weights.
    """

    state: int
    leader: int


def footprint(config: TrainConfig, channels: int, num_classes: int) -> Footprint:
    """Return what a run on such images takes on disk.

    Args:
        config: The run.
        channels: Of an image.
        num_classes: Of the data set.
    """
    with torch.device("meta"), _NoDraws():  # shapes alone
        architecture = build_architecture(
            config.model, channels=channels, num_classes=num_classes, width=config.width
        )
        leader = single_network(architecture)
        group = PeerGroup(architecture, config.num_members, config.structure)
        method = build_method(config, architecture)
        with contextlib.suppress(ConfigError):  # kd wants its teacher, which is no part of a state
            method.prepare(group, cast("DevelopmentData", None), None)
    model = nn.ModuleDict({"group": group, "method": method})
    tensors = list(model.state_dict().values())
    if config.momentum > 0:
        tensors += [parameter for parameter in model.parameters() if parameter.requires_grad]
    if config.leader_epoch == "best":
        tensors += leader.state_dict().values()
    state = _bytes([*tensors, torch.get_rng_state()])
    return Footprint(state, _bytes(leader.state_dict().values()))


class _NoDraws(TorchFunctionMode):
    """Leaves out drawing first weights: there are none, and without them torch takes seconds."""

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Any,
        args: tuple[Any, ...] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        if func in (Tensor.normal_, Tensor.uniform_):
            return args[0]
        return func(*args, **(kwargs or {}))


def _bytes(tensors: Iterable[Tensor]) -> int:
    return sum(t.numel() * t.element_size() + _HEADER_BYTES for t in tensors)


def main() -> None:
    """Answer for the runs on standard input."""
    asked = json.load(sys.stdin)
    print(json.dumps([footprint(TrainConfig(**values), *shape) for values, *shape in asked]))


if __name__ == "__main__":
    main()
