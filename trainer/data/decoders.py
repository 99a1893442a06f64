"""Processes that decode batches of images, however Python starts them."""

import multiprocessing
import os
import signal
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from multiprocessing import resource_tracker
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, Sampler
from torchvision.transforms import v2

from trainer.data.batches import mixed_seed
from trainer.data.decoding import open_rgb, undecodable
from trainer.data.image_files import ImageFiles

MOST_WORKERS = 16
"""Unless a configuration asks for more: their batches in waiting fill the shared memory."""


def decoding_processes(workers: int | None, device: torch.device) -> int:
    """Return how many processes decode, if a configuration leaves it open.

    On a GPU the cores have little else to do: one a thread of the run, less one for the run itself.
    On the CPU they would take them from the training: none, the run decodes for itself.
    """
    if workers is not None:
        return workers
    if device.type != "cuda":
        return 0
    return min(MOST_WORKERS, max(1, torch.get_num_threads() - 1))


class Draw(NamedTuple):
    """A batch to come: its images, and the numbers that their crops depend on."""

    indices: list[int]
    seed: int
    epoch: int


class DrawnBatches(Sampler[Draw]):
    """Draws the batches of an epoch. The processes get everything from here."""

    def __init__(self, count: int, batch_size: int, steps: int, *, shuffle: bool) -> None:
        self.seed, self.epoch = 0, 0
        self._count, self._batch_size, self._steps = count, batch_size, steps
        self._shuffle = shuffle

    def __len__(self) -> int:
        return self._steps

    def __iter__(self) -> Iterator[Draw]:
        order_N = torch.arange(self._count)
        if self._shuffle:
            generator = torch.Generator().manual_seed(mixed_seed(self.seed, self.epoch))
            order_N = torch.randperm(self._count, generator=generator)
        for step in range(self._steps):
            indices_B = order_N[step * self._batch_size : (step + 1) * self._batch_size]
            yield Draw(indices_B.tolist(), self.seed, self.epoch)


CROP_SHARE = 0.875
"""Evaluation sees the centre of the image: this share of its shorter side."""
Decoded = tuple[Tensor, Tensor] | str
"""Bytes (B, H, W, 3) and labels; or what is wrong with the files."""


class Decoder(Dataset[Decoded]):
    """Decodes a batch at a time.

    Errors are returned and not raised: raised in a process, they would reach the run as tracebacks.
    """

    def __init__(self, files: ImageFiles, transform: v2.Transform) -> None:
        self._files, self._transform = files, transform

    def __getitem__(self, draw: Draw) -> Decoded:
        side = self._files.side
        images_BHWC = torch.empty((len(draw.indices), side, side, 3), dtype=torch.uint8)
        pixels_BHWC, failures = images_BHWC.numpy(), []
        with torch.random.fork_rng(devices=()):  # transforms draw from torch's own generator
            for place, index in enumerate(draw.indices):
                path = self._files.path(index)
                try:
                    image = open_rgb(path)
                except Exception as error:  # a decoder may raise anything on a damaged file
                    failures.append(f"{path} ({type(error).__name__}: {error})")
                    continue
                # Not torch.manual_seed: that would seed the GPU as well.
                torch.default_generator.manual_seed(mixed_seed(draw.seed, draw.epoch, index))
                pixels_BHWC[place] = np.asarray(self._transform(image))
        if failures:
            message = undecodable(failures, len(draw.indices))
            return (
                f"{message}; replace or remove them (they could be decoded when the search began)"
            )
        return images_BHWC, self._files.labels_N[draw.indices]


def make_loader(
    decoder: Decoder, batches: DrawnBatches, device: torch.device, workers: int | None
) -> DataLoader[Decoded]:
    """Return the loader that decodes batches in processes, or in this one on the CPU."""
    count = min(decoding_processes(workers, device), len(batches))
    return DataLoader(
        decoder,
        batch_size=None,  # the decoder makes whole batches
        sampler=batches,
        num_workers=count,
        persistent_workers=count > 0,
        collate_fn=_unchanged,
        worker_init_fn=partial(_obey_only, os.getpid()),
        pin_memory=device.type == "cuda",
        generator=torch.Generator(),  # it draws a number a pass, which must not be the run's
    )


def _unchanged(decoded: Any) -> Any:
    return decoded


def one_pass(loader: DataLoader[Decoded]) -> Iterator[Decoded]:
    """Begin a pass over the batches; the first one starts the processes."""
    if loader.num_workers == 0:
        return iter(loader)
    if multiprocessing.get_start_method() == "forkserver":
        # Otherwise every process would import torch for itself: seconds, and memory of its own.
        multiprocessing.set_forkserver_preload(["__main__", __name__])
    with _signals_held_back():
        return iter(loader)


@contextmanager
def _signals_held_back() -> Iterator[None]:
    """Start processes inside: one that is hit before it is deaf would die, and so would a server.

    They inherit the mask, whatever starts them. Signals for the run itself arrive at the end.
    """
    before = signal.pthread_sigmask(signal.SIG_BLOCK, ())
    if multiprocessing.get_start_method() != "fork":
        resource_tracker.ensure_running()  # later, it would unblock the signals
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT, signal.SIGTERM})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _obey_only(run: int, worker: int) -> None:
    """Make a process deaf to signals that are meant for all: the run may finish its epoch first.

    Terminals, batch systems and service managers signal every process at once. When the run itself
    dies, torch's own watch on the parent ends the process within seconds.

    Args:
        run: Process ID of the run, which is not the parent of what a fork server started.
        worker: Number of the process.
    """
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)  # a fork has the handler of its parent
    if sys.platform == "darwin":  # it does not say who sent a signal
        signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGTERM})
    else:
        threading.Thread(target=_end_on_sigterm_from, args=(run,), daemon=True).start()


if sys.platform != "darwin":

    def _end_on_sigterm_from(run: int) -> None:
        while signal.sigwaitinfo({signal.SIGTERM}).si_pid != run:
            pass
        os._exit(0)
