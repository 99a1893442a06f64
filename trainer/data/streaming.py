"""Image folders too large for memory: decoded again in every epoch, by processes of their own.

The usual ImageNet recipe. Training: a random crop of 8 to 100 % of the image's area, resized to the
network's size, mirrored half of the time. Evaluation: the shorter side resized to size / 0.875
(256 for 224), then the centre. The mean and standard deviation are ImageNet's.

Which images an epoch shows, and how each is cropped, is a pure function of seed, epoch and image:
the number of processes changes no pixel, and a resumed run needs no state but its epoch number.
"""

import hashlib
import multiprocessing
import os
import signal
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from multiprocessing import resource_tracker
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, Sampler
from torchvision.transforms import v2

from trainer.config.data import DataConfig
from trainer.data.base import DevelopmentData, tensor_view
from trainer.data.batches import Batch, Normaliser, mixed_seed, require_two, steps_an_epoch
from trainer.data.decoding import open_rgb, undecodable
from trainer.data.image_files import ImageFiles, read_image_files
from trainer.data.images import DataError
from trainer.data.splits import divide

IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)
CROP_SHARE = 0.875
"""Evaluation sees the centre of the image: this share of its shorter side."""
MOST_WORKERS = 16
"""Unless a configuration asks for more: their batches in waiting fill the shared memory."""

_Decoded = tuple[Tensor, Tensor] | str
"""Bytes (B, H, W, 3) and labels; or what is wrong with the files."""


@dataclass(frozen=True, eq=False)
class StreamedData(DevelopmentData):
    """Images that stay on disk; what travels to a worker is the list of their files.

    Attributes:
        train: the images to learn from.
        validation: the images to choose hyperparameters by; disjoint from ``train``.
        fingerprint: over relative paths, sizes of the files and the side; no pixel is looked at.
        workers: processes that decode; None: see `decoding_processes`.
    """

    train: ImageFiles
    validation: ImageFiles
    workers: int | None

    def training_batches(self, batch_size: int, device: torch.device) -> "StreamedTraining":
        """Return the augmented batches; processes start with the first epoch."""
        return StreamedTraining(
            self.train,
            self.mean_C,
            self.std_C,
            flip=self.flip,
            batch_size=batch_size,
            device=device,
            workers=self.workers,
        )

    def validation_batches(self, batch_size: int, device: torch.device) -> "StreamedEvaluation":
        """Return the batches; processes start with the first evaluation."""
        return StreamedEvaluation(
            self.validation,
            self.mean_C,
            self.std_C,
            batch_size=batch_size,
            device=device,
            workers=self.workers,
        )

    def to_arrays(self) -> dict[str, Any]:
        """Return the lists of files as arrays, the rest as plain values."""

        def arrays(files: ImageFiles) -> tuple[np.ndarray[Any, Any], ...]:
            return files.names_N, files.bytes_N, files.labels_N.numpy()

        return {
            "streaming": True,
            "train": arrays(self.train),
            "validation": arrays(self.validation),
            "folder": str(self.train.folder),
            "class_names": self.train.class_names,
            "side": self.train.side,
            "mean_C": self.mean_C,
            "std_C": self.std_C,
            "flip": self.flip,
            "fingerprint": self.fingerprint,
            "has_merged_splits": self.has_merged_splits,
            "workers": self.workers,
        }

    @classmethod
    def restored(cls, arrays: dict[str, Any]) -> "StreamedData":
        """Undo `to_arrays`."""

        def files(part: str) -> ImageFiles:
            names_N, bytes_N, labels_N = arrays[part]
            return ImageFiles(
                Path(arrays["folder"]),
                names_N,
                bytes_N,
                tensor_view(labels_N),
                arrays["class_names"],
                arrays["side"],
            )

        keys = ("mean_C", "std_C", "flip", "fingerprint", "has_merged_splits", "workers")
        plain = {key: arrays[key] for key in keys}
        return cls(train=files("train"), validation=files("validation"), **plain)


def load_streamed_data(config: DataConfig, cache_dir: Path | None = None) -> StreamedData:
    """List the training part of an image folder and divide it as if it were held in memory.

    Args:
        config: Where it is, and how to divide it.
        cache_dir: Where the list of decodable images is kept; None: nowhere.

    Raises:
        DataError: Files are missing or cannot be decoded, or too few for the division asked for.
    """
    everything = read_image_files(config, "train", cache_dir)
    train, validation = map(everything.subset, divide(everything, config))
    return StreamedData(
        train=train,
        validation=validation,
        mean_C=IMAGENET_MEAN,
        std_C=IMAGENET_STD,
        flip=config.flip is not False,
        fingerprint=_fingerprint(train, validation),
        workers=config.workers,
        skipped=everything.skipped,
    )


def _fingerprint(*sets: ImageFiles) -> str:
    digest = hashlib.sha256()
    for files in sets:
        digest.update(f"{len(files)} images of {files.side} pixels a side".encode())
        digest.update(b"\0".join(files.names_N.tolist()))
        digest.update(files.bytes_N.tobytes())
    return digest.hexdigest()[:16]


# Batches


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


class _Draw(NamedTuple):
    """A batch to come: its images, and the numbers that their crops depend on."""

    indices: list[int]
    seed: int
    epoch: int


class _Batches(Sampler[_Draw]):
    """Draws the batches of an epoch. The processes get everything from here."""

    def __init__(self, count: int, batch_size: int, steps: int, *, shuffle: bool) -> None:
        self.seed, self.epoch = 0, 0
        self._count, self._batch_size, self._steps = count, batch_size, steps
        self._shuffle = shuffle

    def __len__(self) -> int:
        return self._steps

    def __iter__(self) -> Iterator[_Draw]:
        order_N = torch.arange(self._count)
        if self._shuffle:
            generator = torch.Generator().manual_seed(mixed_seed(self.seed, self.epoch))
            order_N = torch.randperm(self._count, generator=generator)
        for step in range(self._steps):
            indices_B = order_N[step * self._batch_size : (step + 1) * self._batch_size]
            yield _Draw(indices_B.tolist(), self.seed, self.epoch)


class _Decoder(Dataset[_Decoded]):
    """Decodes a batch at a time.

    Errors are returned and not raised: raised in a process, they would reach the run as tracebacks.
    """

    def __init__(self, files: ImageFiles, transform: v2.Transform) -> None:
        self._files, self._transform = files, transform

    def __getitem__(self, draw: _Draw) -> _Decoded:
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


class StreamedTraining:
    """Shuffled, augmented batches of a training set that stays on disk.

    The processes live from the first epoch until this object goes.
    """

    def __init__(
        self,
        files: ImageFiles,
        mean_C: tuple[float, ...],
        std_C: tuple[float, ...],
        *,
        flip: bool,
        batch_size: int,
        device: torch.device | str = "cpu",
        workers: int | None = None,
    ) -> None:
        """Prepare; nothing is opened or started yet.

        Args:
            files: the training set, N images.
            mean_C: per channel, pixels in [0, 1].
            std_C: per channel, pixels in [0, 1]; positive.
            flip: whether to mirror at random.
            batch_size: images a step, at least 2.
            device: where batches are wanted.
            workers: processes that decode; None: see `decoding_processes`.

        Raises:
            ValueError: ``batch_size`` or N is below 2: batch normalisation needs two images.
        """
        require_two(batch_size, len(files))
        steps = steps_an_epoch(len(files), batch_size)
        self._batches = _Batches(len(files), batch_size, steps, shuffle=True)
        crop = v2.RandomResizedCrop(files.side, antialias=True)
        mirror = v2.RandomHorizontalFlip(0.5 if flip else 0.0)
        decoder = _Decoder(files, v2.Compose([crop, mirror]))
        self._device = torch.device(device)
        self._loader = _loader(decoder, self._batches, self._device, workers)
        self._normalise = Normaliser(mean_C, std_C, files.side, device)

    def __len__(self) -> int:
        """Steps an epoch. The last batch may be smaller; a last batch of one image is dropped."""
        return len(self._batches)

    def epoch(self, seed: int, epoch: int) -> Iterator[Batch]:
        """Yield the batches of one epoch, a pure function of ``(seed, epoch)``; one at a time.

        Args:
            seed: of the run, at least 0.
            epoch: counted from 0.

        Yields:
            images float32 (B, 3, H, W) in channels_last memory, normalised; labels int64 (B,).
            B is ``batch_size``, in the last batch possibly less but at least 2.

        Raises:
            DataError: Files cannot be decoded; names them.
        """
        self._batches.seed, self._batches.epoch = seed, epoch
        for decoded in _pass(self._loader):
            yield _on_device(decoded, self._device, self._normalise)


class StreamedEvaluation:
    """A set in its own order, centre crops, normalised; it may be iterated over again."""

    def __init__(
        self,
        files: ImageFiles,
        mean_C: tuple[float, ...],
        std_C: tuple[float, ...],
        *,
        batch_size: int,
        device: torch.device | str = "cpu",
        workers: int | None = None,
    ) -> None:
        """Prepare; nothing is opened or started yet.

        Args:
            files: the set, N images; every one is seen.
            mean_C: per channel, pixels in [0, 1].
            std_C: per channel, pixels in [0, 1]; positive.
            batch_size: images a step, at least 1; the last batch may be smaller.
            device: where batches are wanted.
            workers: processes that decode; None: see `decoding_processes`.

        Raises:
            ValueError: ``batch_size`` is below 1.
        """
        if batch_size < 1:
            raise ValueError(f"batch_size {batch_size} is below 1")
        self._batches = _Batches(
            len(files), batch_size, -(-len(files) // batch_size), shuffle=False
        )
        resize = v2.Resize(round(files.side / CROP_SHARE), antialias=True)
        decoder = _Decoder(files, v2.Compose([resize, v2.CenterCrop(files.side)]))
        self._device = torch.device(device)
        self._loader = _loader(decoder, self._batches, self._device, workers)
        self._normalise = Normaliser(mean_C, std_C, files.side, device)

    def __len__(self) -> int:
        """Batches in one pass."""
        return len(self._batches)

    def __iter__(self) -> Iterator[Batch]:
        """Yield float32 images (B, 3, H, W) in channels_last memory and int64 labels (B,).

        Raises:
            DataError: Files cannot be decoded; names them.
        """
        for decoded in _pass(self._loader):
            yield _on_device(decoded, self._device, self._normalise)


def _loader(
    decoder: _Decoder, batches: _Batches, device: torch.device, workers: int | None
) -> DataLoader[_Decoded]:
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


# Processes: forked, spawned or from a fork server, whichever way this one starts others


def _pass(loader: DataLoader[_Decoded]) -> Iterator[_Decoded]:
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


def _on_device(decoded: _Decoded, device: torch.device, normalise: Normaliser) -> Batch:
    if isinstance(decoded, str):
        raise DataError(decoded)
    images_BHWC, labels_B = decoded
    # Bytes travel, a quarter of the floats; from pinned memory the CPU need not wait for them.
    images_BHWC = images_BHWC.to(device, non_blocking=True)
    return normalise(images_BHWC), labels_B.to(device, non_blocking=True)
