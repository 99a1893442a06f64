"""The contract of a training method: from a group's output and the labels to named losses.

A new method is one file with a class like this and one entry in ``trainer.registry.METHODS``.
"""

from abc import ABC, abstractmethod
from pathlib import Path
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from trainer.config.train import TrainConfig
from trainer.data.base import DevelopmentData
from trainer.group.group import GroupOutput, PeerGroup
from trainer.models import Architecture

AUTHORS_EPSILON = 1e-7
"""Added to the target probabilities, as the OKDDip authors' code does for all of its methods."""


class Batch(NamedTuple):
    """The input of a training step.

    Attributes:
        images_NCHW: Normalised and augmented, as the group has seen them.
        labels_N: Class indices, int64.
        ramp_weight: w(e) in [0, 1]; where steps are repeated from a CUDA graph, a scalar on the
            device, which ``losses`` must not read but may calculate with.
    """

    images_NCHW: Tensor
    labels_N: Tensor
    ramp_weight: float | Tensor


class Method(nn.Module, ABC):
    """How the members of a group teach each other; may hold learned weights of its own.

    The last member is the one that is deployed. Learned weights are trained and saved with the
    group's; tensors that must survive a restart without being trained are buffers.

    Args:
        config: The run.
        architecture: The members' network.

    Attributes:
        has_leader: Whether the last member is a leader that the others teach; else it is a member
            like all others, and the ensemble is made of all.
    """

    has_leader: bool = False

    def __init__(self, config: TrainConfig, architecture: Architecture) -> None:
        super().__init__()
        self.config = config

    def prepare(  # noqa: B027 - most methods have nothing to prepare
        self, group: PeerGroup, data: DevelopmentData, teacher_dir: Path | None
    ) -> None:
        """Get ready before the first step; by default nothing.

        Args:
            group: On its device, with fresh weights.
            data: The run's images.
            teacher_dir: A trained leader's folder, where the configuration names a teacher.

        Raises:
            ConfigError: The method cannot run like this.
        """

    @abstractmethod
    def losses(self, output: GroupOutput, batch: Batch) -> dict[str, Tensor]:
        """Return the named loss parts of a batch, scalars in float32.

        Args:
            output: Logits and features of every member.
            batch: Images, labels and the ramp-up weight.

        Returns:
            ``total`` first: what is minimised. The other parts explain it and are only reported.
        """

    def after_step(self, group: PeerGroup, steps_done: int) -> None:  # noqa: B027
        """Do what follows an update of the weights; by default nothing.

        Args:
            group: The group.
            steps_done: Since the beginning of the run, this one included.
        """

    def attention(self, output: GroupOutput) -> Tensor | None:
        """Return who listens to whom, (N, P, P), if the method has such a thing."""
        return None

    def ensemble_logits(self, output: GroupOutput) -> Tensor:
        """Return the logits (N, C) of the group's ensemble: the mean of those who teach."""
        return self.teachers(output.logits_NMC).mean(dim=1)

    def teachers(self, of_members: Tensor) -> Tensor:
        """Return the part (N, P, ...) of (N, M, ...) that belongs to the ensemble's members."""
        return of_members[:, :-1] if self.has_leader else of_members

    def classification(self, logits_NMC: Tensor, labels_N: Tensor) -> Tensor:
        """Return the run's classification loss (label smoothing, confidence penalty), summed."""
        return classification_loss(
            logits_NMC,
            labels_N,
            label_smoothing=self.config.label_smoothing,
            confidence_penalty=self.config.confidence_penalty,
        )


def classification_loss(
    logits_NMC: Tensor,
    labels_N: Tensor,
    *,
    label_smoothing: float = 0.0,
    confidence_penalty: float = 0.0,
) -> Tensor:
    """Return the cross-entropy, summed over members and averaged over the batch.

    Args:
        logits_NMC: Of the members.
        labels_N: Class indices, int64.
        label_smoothing: Szegedy et al. 2016, in [0, 1).
        confidence_penalty: β ≥ 0 of ``CE − β H(p)`` (Pereyra et al. 2017, eq. 4).
    """
    num_members = logits_NMC.shape[1]
    loss = num_members * F.cross_entropy(
        logits_NMC.flatten(0, 1),
        labels_N.repeat_interleave(num_members),
        label_smoothing=label_smoothing,
    )
    if confidence_penalty == 0.0:
        return loss
    log_p = F.log_softmax(logits_NMC, dim=-1)
    entropy = -(log_p.exp() * log_p).sum() / logits_NMC.shape[0]
    return loss - confidence_penalty * entropy


def kl_divergence(
    target_probabilities: Tensor, logits: Tensor, temperature: float, epsilon: float = 0.0
) -> Tensor:
    """Return ``T² · mean_n Σ_c p (log p − log q)``, q the softmax of ``logits / T``.

    Args:
        target_probabilities: p, (N, ..., C), already softened by T.
        logits: Of the student, same shape. Dimensions between N and C are summed over.
        temperature: T > 0.
        epsilon: Added to p; the authors add 1e-7.
    """
    # A probability that underflowed to 0 would have an infinite gradient of p log p.
    p = (target_probabilities + epsilon).clamp_min(torch.finfo(logits.dtype).tiny)
    log_q = F.log_softmax(logits / temperature, dim=-1)
    return temperature**2 * (p * (p.log() - log_q)).sum() / logits.shape[0]


def distillation(target_logits: Tensor, logits: Tensor, temperature: float) -> Tensor:
    """Return the authors' KL of students from target logits of the same shape."""
    target = torch.softmax(target_logits / temperature, dim=-1)
    return kl_divergence(target, logits, temperature, AUTHORS_EPSILON)


def mean_of_others(of_members_NMC: Tensor) -> Tensor:
    """Return, for each member, the mean over all the other members, (N, M, C); M ≥ 2."""
    total_N1C = of_members_NMC.sum(dim=1, keepdim=True)
    return (total_N1C - of_members_NMC) / (of_members_NMC.shape[1] - 1)
