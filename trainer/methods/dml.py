"""Deep mutual learning (Zhang et al. 2018): every member learns from all the others."""

from typing import Literal

import torch
from torch import Tensor

from trainer.group.group import GroupOutput
from trainer.methods.base import Batch, Method, distillation, mean_of_others


def dml_loss(
    logits_NMC: Tensor, temperature: float, target: Literal["ensemble_first", "pairwise"]
) -> Tensor:
    """Return the distillation term, summed over members.

    Args:
        logits_NMC: M ≥ 2.
        temperature: T; Zhang et al. use 1.
        target: ``ensemble_first``: from the mean logits of the others; ``pairwise``: the mean over
            the others of the KL from each of them.
    """
    if target == "ensemble_first":
        return distillation(mean_of_others(logits_NMC), logits_NMC, temperature)
    num_members = logits_NMC.shape[1]
    # Every shift pairs each member with another one; indices would make the CPU wait for a GPU.
    pairs = [
        distillation(logits_NMC.roll(shift, dims=1), logits_NMC, temperature)
        for shift in range(1, num_members)
    ]
    return torch.stack(pairs).mean()


class DML(Method):
    """``Σ CE + λ₁ Σ KL(others, member)``; no ramp-up, and T is the method's own (1)."""

    def losses(self, output: GroupOutput, batch: Batch) -> dict[str, Tensor]:
        """Return ``total, ce, kd``."""
        ce = self.classification(output.logits_NMC, batch.labels_N)
        kd = dml_loss(output.logits_NMC, self.config.temperature, self.config.dml_target)
        return {"total": ce + self.config.peer_weight * kd, "ce": ce, "kd": kd}
