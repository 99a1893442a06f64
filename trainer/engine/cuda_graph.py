"""Steps without Python: a whole training step as one CUDA graph that is recorded once and repeated.

Launching a step of a group takes Python and the driver thousands of small calls, more time than
a GPU needs for what they ask of it. A CUDA graph is launched as a whole. It repeats the very same
operations on the very same memory, so all that differs between two steps is kept on the device: the
images themselves, the epoch's draw of them, how many steps are done (which says where in the draw
the batch begins), learning rate and ramp-up weight, and the row that the losses are written to.

The CPU gives the device the draw before an epoch and gets the losses after it; in between it waits
for nothing. A smaller last batch does not fit the graph and takes its step without it.
"""

from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor

from trainer.data.batches import Drawn, EpochBatches, TrainingBatches
from trainer.engine.learner import Learner
from trainer.engine.steps import StepLosses
from trainer.group.streams import new_stream
from trainer.methods.base import Batch

WARM_UP_STEPS = 3
"""Steps before the recording, in which libraries set up what may not be set up while recording."""


class CudaGraphSteps:
    """Steps that a GPU repeats from a recording; where nothing is recorded, the same ones launched.

    Recording runs extra steps; everything they change, random numbers included, is restored.

    Args:
        learner: The learner, with its learning rate on the device.
        batches: Its training batches, held on the same device.
        seed: Of the batches.

    Attributes:
        records: Whether a graph is recorded; without one the arithmetic is the same.
    """

    def __init__(self, learner: Learner, batches: EpochBatches, seed: int) -> None:
        assert isinstance(batches, TrainingBatches)  # TrainConfig refuses streamed images
        self._learner, self._batches, self._seed = learner, batches, seed
        device = learner.device
        self.records = device.type == "cuda"
        self._drawn = batches.draw(seed, 0)  # its memory is used for every epoch's
        self._offsets_B = torch.arange(batches.batch_size, device=device)
        self._done_1 = torch.zeros(1, dtype=torch.int64, device=device)
        self._ramp_weight = torch.zeros((), device=device)
        self._names: tuple[str, ...] = ()
        self._losses_SL: Tensor | None = None
        self._graph: Any = None
        self._recorded_at: list[int] = []

    def epoch(self, epoch: int, lr: float, ramp_weight: float) -> Iterator[StepLosses]:
        """Take all steps of an epoch and then look at their losses; see ``Steps``."""
        learner, steps = self._learner, len(self._batches)
        learner.set_lr(lr)
        self._ramp_weight.fill_(ramp_weight)
        for mine_N, new_N in zip(self._drawn, self._batches.draw(self._seed, epoch), strict=True):
            mine_N.copy_(new_N)
        count, batch_size = len(self._drawn.labels_N), self._batches.batch_size
        full, rest = divmod(count, batch_size)
        full_step = self._recorded_step() if self.records and full else self._full_step
        self._done_1.zero_()
        for step in range(steps):
            if step < full:
                full_step()
            else:
                self._step(self._drawn.slice(count - rest, count))
            learner.method.after_step(learner.group, epoch * steps + step + 1)
        assert self._losses_SL is not None
        sizes = [batch_size] * full + [rest] * (steps - full)
        yield StepLosses(self._names, self._losses_SL.to("cpu", copy=True), sizes)

    def _full_step(self) -> None:
        """Take the step that it is time for: all of it, and nothing but it, is recorded."""
        self._step(self._drawn.select(self._done_1 * self._batches.batch_size + self._offsets_B))

    def _step(self, drawn: Drawn) -> None:
        images, labels = self._batches.cut(drawn)
        losses = self._learner.step(Batch(images, labels, self._ramp_weight))
        row_L = torch.stack(list(losses.values())).detach()
        if self._losses_SL is None:  # the first step of all says how many parts there are
            self._names = tuple(losses)
            self._losses_SL = row_L.new_zeros(len(self._batches), len(row_L))
        self._losses_SL.index_copy_(0, self._done_1, row_L[None])
        self._done_1 += 1

    def _recorded_step(self) -> Callable[[], None]:
        """Return the graph's replay; it is recorded again if the weights have moved since."""
        memory = [tensor.data_ptr() for tensor in self._learner.tensors().values()]
        if memory != self._recorded_at:
            self._graph, self._recorded_at = self._record(), memory
        replay: Callable[[], None] = self._graph.replay
        return replay

    def _record(self) -> Any:
        device = self._learner.device
        tensors = self._learner.tensors().values()
        kept = [tensor.clone() for tensor in tensors]
        random_state = torch.cuda.get_rng_state(device)
        # Warm-up and recording on one stream, not the usual one, which cannot be recorded: autograd
        # goes back on the streams that it came on.
        usual = torch.cuda.current_stream(device)
        stream = new_stream(device)
        stream.wait_stream(usual)
        with torch.cuda.stream(stream):
            for _ in range(WARM_UP_STEPS):
                self._done_1.zero_()
                self._full_step()
        usual.wait_stream(stream)
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph, stream=stream):
            self._full_step()
        for tensor, old in zip(tensors, kept, strict=True):
            tensor.copy_(old)
        torch.cuda.set_rng_state(random_state, device)
        return graph
