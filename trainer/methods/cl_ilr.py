"""Collaborative learning with intermediate-level representation sharing (Song & Chai 2018).

Branches learn from the mean logits of the other branches. The shared trunk would get the sum of all
branches' gradients; it is scaled by 1/M, so that the trunk learns at the pace of one network.
"""

from pathlib import Path

from torch import Tensor

from trainer.data.base import DevelopmentData
from trainer.group.group import GroupOutput, PeerGroup
from trainer.methods.base import Batch, Method, distillation, mean_of_others


class CLILR(Method):
    """``Σ CE + w(e) λ₁ Σ KL(mean of the others, member)`` with the trunk's gradient over M."""

    def prepare(self, group: PeerGroup, data: DevelopmentData, teacher_dir: Path | None) -> None:
        """Scale the trunk's gradient by the number of branches."""
        group.trunk_gradient_scale = 1.0 / group.num_members

    def losses(self, output: GroupOutput, batch: Batch) -> dict[str, Tensor]:
        """Return ``total, ce, kd``."""
        logits_NMC = output.logits_NMC
        ce = self.classification(logits_NMC, batch.labels_N)
        kd = distillation(mean_of_others(logits_NMC), logits_NMC, self.config.temperature)
        total = ce + batch.ramp_weight * self.config.peer_weight * kd
        return {"total": total, "ce": ce, "kd": kd}
