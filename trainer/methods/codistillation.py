"""Codistillation (Anil et al. 2018): members learn from stale copies of each other.

Made for members that train on different machines and exchange weights now and then; here they train
side by side, so that it can be compared.
"""

import copy
from pathlib import Path

import torch
from torch import Tensor

from trainer.data.base import DevelopmentData
from trainer.group.group import GroupOutput, PeerGroup
from trainer.methods.base import AUTHORS_EPSILON, Batch, Method, kl_divergence, mean_of_others


class Codistillation(Method):
    """``Σ CE + λ₁ Σ KL(mean of the others' stale probabilities, member)`` after the burn-in.

    No gradient reaches the others. The burn-in is the run's ramp-up length R: Anil et al. switch
    the term on at once, when the members have something to tell.
    """

    def prepare(self, group: PeerGroup, data: DevelopmentData, teacher_dir: Path | None) -> None:
        """Make the stale copies. They are part of the state: a resumed run needs the same ones."""
        self.stale = copy.deepcopy(group).requires_grad_(False)

    def train(self, mode: bool = True) -> "Codistillation":
        """Switch the mode; the stale copies stay in eval mode."""
        super().train(mode)
        self.stale.eval()
        return self

    def losses(self, output: GroupOutput, batch: Batch) -> dict[str, Tensor]:
        """Return ``total, ce, kd``."""
        ce = self.classification(output.logits_NMC, batch.labels_N)
        if batch.ramp_weight < 1.0:  # burning in
            return {"total": ce, "ce": ce, "kd": torch.zeros_like(ce)}
        with torch.no_grad():
            logits_NMC = self.stale(batch.images_NCHW).logits_NMC
        kd = codistillation_loss(logits_NMC, output.logits_NMC, self.config.temperature)
        return {"total": ce + self.config.peer_weight * kd, "ce": ce, "kd": kd}

    def after_step(self, group: PeerGroup, steps_done: int) -> None:
        """Refresh the stale copies every ``stale_steps`` steps."""
        if steps_done % self.config.stale_steps == 0:
            self.stale.load_state_dict(group.state_dict())


def codistillation_loss(stale_NMC: Tensor, logits_NMC: Tensor, temperature: float) -> Tensor:
    """Return the distillation term: probabilities are averaged, not logits; summed over members."""
    target_NMC = mean_of_others(torch.softmax(stale_NMC.detach() / temperature, dim=-1))
    return kl_divergence(target_NMC, logits_NMC, temperature, AUTHORS_EPSILON)
