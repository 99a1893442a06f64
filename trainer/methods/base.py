"""The contract of a training method: from a group's output and the labels to named losses."""

from abc import ABC, abstractmethod

from torch import Tensor, nn

from trainer.group import GroupOutput


class Method(nn.Module, ABC):
    """How the members of a group teach each other; may hold learned weights of its own."""

    @abstractmethod
    def losses(
        self, output: GroupOutput, labels_N: Tensor, ramp_weight: float
    ) -> dict[str, Tensor]:
        """Return the named loss parts of a batch, scalars.

        Args:
            output: Logits and features of every member.
            labels_N: Class indices, int64.
            ramp_weight: w(e) in [0, 1].

        Returns:
            ``total`` is what is minimised; the other parts explain it and are only reported.
        """
