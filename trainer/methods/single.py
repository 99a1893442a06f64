"""One network and cross-entropy: the baseline that every other method has to beat."""

from torch import Tensor

from trainer.group.group import GroupOutput
from trainer.methods.base import Batch, Method


class Single(Method):
    """One network on its own."""

    def losses(self, output: GroupOutput, batch: Batch) -> dict[str, Tensor]:
        """Return ``total``."""
        return {"total": self.classification(output.logits_NMC, batch.labels_N)}
