"""Knowledge distillation (Hinton et al. 2015): one network learns from a larger, trained one."""

from pathlib import Path

import torch
from torch import Tensor, nn

from trainer.config.strict import ConfigError
from trainer.data.base import DevelopmentData
from trainer.group.group import GroupOutput, PeerGroup
from trainer.leader.leader import DamagedLeaderError, load_leader
from trainer.methods.base import Batch, Method, distillation


class Teacher(nn.Module):
    """A trained leader, frozen and in eval mode, that takes the student's normalised images."""

    def __init__(self, leader_dir: Path, data: DevelopmentData) -> None:
        super().__init__()
        try:
            leader = load_leader(leader_dir)
        except FileNotFoundError:
            raise ConfigError([(("teacher",), f"{leader_dir} holds no leader")]) from None
        except DamagedLeaderError as error:
            raise ConfigError([(("teacher",), str(error))]) from None
        if list(leader.info.class_names) != list(data.train.class_names):
            text = f"{leader_dir} was trained on other classes than {data.train.class_names[:5]}…"
            raise ConfigError([(("teacher",), text)])
        if leader.info.input_shape[0] != data.train.channels:
            text = f"{leader_dir} takes images of {leader.info.input_shape[0]} channels"
            raise ConfigError([(("teacher",), text)])
        self.network = leader.module.requires_grad_(False)
        mean, std = _per_channel(data.mean_C), _per_channel(data.std_C)
        own_mean, own_std = _per_channel(leader.info.mean), _per_channel(leader.info.std)
        self.scale: Tensor
        self.shift: Tensor
        self.register_buffer("scale", std / own_std)
        self.register_buffer("shift", (mean - own_mean) / own_std)

    def train(self, mode: bool = True) -> "Teacher":
        """Stay in eval mode: the teacher's batch statistics are those it was trained with."""
        return super().train(False)

    @torch.no_grad()
    def forward(self, images_NCHW: Tensor) -> Tensor:
        """Return the teacher's logits (N, C)."""
        logits_NC: Tensor = self.network(images_NCHW * self.scale + self.shift)
        return logits_NC


def _per_channel(values: tuple[float, ...] | list[float]) -> Tensor:
    return torch.tensor(values).view(1, -1, 1, 1)


class KD(Method):
    """``CE + λ₁ KL(teacher, student)``."""

    def prepare(self, group: PeerGroup, data: DevelopmentData, teacher_dir: Path | None) -> None:
        """Load the teacher.

        Raises:
            ConfigError: There is none, or it was trained on something else.
        """
        if teacher_dir is None:
            text = "method kd needs one: the folder of a leader, or a configuration to train first"
            raise ConfigError([(("teacher",), text)])
        device = next(group.parameters()).device
        # In a tuple, so that it is no part of what is trained and saved.
        self._teacher = (Teacher(teacher_dir, data).to(device).eval(),)

    def losses(self, output: GroupOutput, batch: Batch) -> dict[str, Tensor]:
        """Return ``total, ce, kd``."""
        ce = self.classification(output.logits_NMC, batch.labels_N)
        teacher_NC = self._teacher[0](batch.images_NCHW)
        kd = distillation(teacher_NC, output.logits_NMC[:, 0], self.config.temperature)
        return {"total": ce + self.config.peer_weight * kd, "ce": ce, "kd": kd}
