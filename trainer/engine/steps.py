"""The steps of an epoch, launched one after the other; ``cuda_graph`` has another way."""

from collections.abc import Iterator
from typing import NamedTuple, Protocol

import torch
from torch import Tensor

from trainer.data.batches import EpochBatches
from trainer.engine.learner import Learner
from trainer.methods.base import Batch

CUDA_CHECK_STEPS = 32
"""Steps between two looks at the loss on a GPU: each one makes the CPU wait."""


class StepLosses(NamedTuple):
    """Losses of S steps in a row.

    Attributes:
        names: Of the L parts of the loss; ``total`` is the first.
        values_SL: float32.
        sizes: Images of each step's batch.
    """

    names: tuple[str, ...]
    values_SL: Tensor
    sizes: list[int]


class Steps(Protocol):
    """A way of running the steps of an epoch."""

    def epoch(self, epoch: int, lr: float, ramp_weight: float) -> Iterator[StepLosses]:
        """Take all steps of an epoch; yield losses whenever it is time to look at them.

        Args:
            epoch: From 0; with the run's seed it says which batches there are.
            lr: Learning rate.
            ramp_weight: w(e) in [0, 1].
        """


class EagerSteps:
    """Steps that Python launches operation by operation.

    Args:
        learner: The learner that takes them.
        batches: Its training batches.
        seed: Of the batches.
    """

    def __init__(self, learner: Learner, batches: EpochBatches, seed: int) -> None:
        self._learner, self._batches, self._seed = learner, batches, seed
        self._look_every = CUDA_CHECK_STEPS if learner.device.type == "cuda" else 1

    def epoch(self, epoch: int, lr: float, ramp_weight: float) -> Iterator[StepLosses]:
        """Take all steps of an epoch; see ``Steps``."""
        learner, done = self._learner, epoch * len(self._batches)
        learner.set_lr(lr)
        names: tuple[str, ...] = ()
        rows: list[Tensor] = []  # stay on the device
        sizes: list[int] = []
        for images, labels in self._batches.epoch(self._seed, epoch):
            losses = learner.step(Batch(images, labels, ramp_weight))
            done += 1
            learner.method.after_step(learner.group, done)
            names = tuple(losses)
            rows.append(torch.stack(list(losses.values())).detach())
            sizes.append(len(labels))
            if len(rows) == self._look_every:
                yield StepLosses(names, torch.stack(rows), sizes)
                rows, sizes = [], []
        if rows:
            yield StepLosses(names, torch.stack(rows), sizes)
