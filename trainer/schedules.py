"""Learning rate and ramp-up as pure functions of the epoch, so that resuming needs no state."""

import math
from collections.abc import Sequence

from trainer.config.train import TrainConfig


def rampup_weight(epoch: int, ramp_length: int) -> float:
    """Return ``w(e) = exp(-5 (1 - min(e, R) / R)²)``, the weight of the distillation terms.

    The sigmoid-shaped ramp-up of Temporal Ensembling (Laine & Aila 2017), as OKDDip uses it.

    Args:
        epoch: e, from 0.
        ramp_length: R in epochs; 0 gives 1.
    """
    if ramp_length == 0:
        return 1.0
    return math.exp(-5.0 * (1.0 - min(epoch, ramp_length) / ramp_length) ** 2)


def multistep_lr(
    epoch: int, epochs: int, lr: float, milestones: Sequence[float], decay: float
) -> float:
    """Return the learning rate of an epoch: ``lr`` times ``decay`` per milestone reached.

    Args:
        epoch: From 0.
        epochs: Length of the run.
        lr: Initial learning rate.
        milestones: Fractions of the run; the paper's epochs 150 and 225 of 300 are 0.5 and 0.75.
        decay: Factor at each milestone.
    """
    drops = sum(epoch >= round(milestone * epochs) for milestone in milestones)
    return lr * decay**drops


def cosine_lr(epoch: int, epochs: int, lr: float) -> float:
    """Return ``lr (1 + cos(π e / E)) / 2`` (Loshchilov & Hutter 2017, without restarts)."""
    return 0.5 * lr * (1.0 + math.cos(math.pi * epoch / epochs))


def learning_rate(config: TrainConfig, epoch: int) -> float:
    """Return the learning rate of an epoch of this run."""
    if config.lr_schedule == "cosine":
        return cosine_lr(epoch, config.epochs, config.lr)
    return multistep_lr(epoch, config.epochs, config.lr, config.lr_milestones, config.lr_decay)
