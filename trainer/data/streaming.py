"""Image files too large for memory: decoded again in every epoch, by processes of their own.

The usual ImageNet recipe. Training: a random crop of 8 to 100 % of the image's area, resized to the
network's size, mirrored half of the time. Evaluation: the shorter side resized to size / 0.875
(256 for 224), then the centre. The mean and standard deviation are ImageNet's.

Which images an epoch shows, and how each is cropped, is a pure function of seed, epoch and image:
the number of processes changes no pixel, and a resumed run needs no state but its epoch number.
"""

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torchvision.transforms import v2

from trainer.config.data import DataConfig
from trainer.data.base import DevelopmentData, tensor_view
from trainer.data.batches import Batch, Normaliser, require_two, steps_an_epoch
from trainer.data.decoders import CROP_SHARE, Decoded, Decoder, DrawnBatches, make_loader, one_pass
from trainer.data.image_files import ImageFiles, read_image_files
from trainer.data.images import DataError
from trainer.data.parts import has_validation
from trainer.data.splits import development
from trainer.data.survey import survey_of

IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)


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

        folders = {"train": str(self.train.folder), "validation": str(self.validation.folder)}

        return {
            "streaming": True,
            "train": arrays(self.train),
            "validation": arrays(self.validation),
            "folders": folders,
            "class_names": self.train.class_names,
            "side": self.train.side,
            "mean_C": self.mean_C,
            "std_C": self.std_C,
            "flip": self.flip,
            "fingerprint": self.fingerprint,
            "has_merged_splits": self.has_merged_splits,
            "survey": self.survey,
            "workers": self.workers,
        }

    @classmethod
    def restored(cls, arrays: dict[str, Any]) -> "StreamedData":
        """Undo `to_arrays`."""

        def files(part: str) -> ImageFiles:
            names_N, bytes_N, labels_N = arrays[part]
            return ImageFiles(
                Path(arrays["folders"][part]),
                names_N,
                bytes_N,
                tensor_view(labels_N),
                arrays["class_names"],
                arrays["side"],
            )

        keys = ("mean_C", "std_C", "flip", "fingerprint", "has_merged_splits", "survey", "workers")
        plain = {key: arrays[key] for key in keys}
        return cls(train=files("train"), validation=files("validation"), **plain)


def load_streamed_data(config: DataConfig, cache_dir: Path | None = None) -> StreamedData:
    """List the images of a data set and divide them as if they were held in memory.

    Args:
        config: Where it is, and how to divide it.
        cache_dir: Where the list of decodable images is kept; None: nowhere.

    Raises:
        DataError: Files are missing or cannot be decoded, or too few for the division asked for.
    """
    data = development(
        config,
        lambda part: read_image_files(config, part, cache_dir),
        has_validation=has_validation(config),
    )
    skipped = sum(files.skipped for files in data.read)
    return StreamedData(
        train=data.train,
        validation=data.validation,
        mean_C=IMAGENET_MEAN,
        std_C=IMAGENET_STD,
        flip=config.flip is not False,
        fingerprint=_fingerprint(data.train, data.validation),
        workers=config.workers,
        skipped=skipped,
        survey=survey_of(config, data, skipped=skipped),
    )


def _fingerprint(*sets: ImageFiles) -> str:
    digest = hashlib.sha256()
    for files in sets:
        digest.update(f"{len(files)} images of {files.side} pixels a side".encode())
        digest.update(b"\0".join(files.names_N.tolist()))
        digest.update(files.bytes_N.tobytes())
    return digest.hexdigest()[:16]


# Batches


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
        self._batches = DrawnBatches(len(files), batch_size, steps, shuffle=True)
        crop = v2.RandomResizedCrop(files.side, antialias=True)
        mirror = v2.RandomHorizontalFlip(0.5 if flip else 0.0)
        decoder = Decoder(files, v2.Compose([crop, mirror]))
        self._device = torch.device(device)
        self._loader = make_loader(decoder, self._batches, self._device, workers)
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
        for decoded in one_pass(self._loader):
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
        self._batches = DrawnBatches(
            len(files), batch_size, -(-len(files) // batch_size), shuffle=False
        )
        resize = v2.Resize(round(files.side / CROP_SHARE), antialias=True)
        decoder = Decoder(files, v2.Compose([resize, v2.CenterCrop(files.side)]))
        self._device = torch.device(device)
        self._loader = make_loader(decoder, self._batches, self._device, workers)
        self._normalise = Normaliser(mean_C, std_C, files.side, device)

    def __len__(self) -> int:
        """Batches in one pass."""
        return len(self._batches)

    def __iter__(self) -> Iterator[Batch]:
        """Yield float32 images (B, 3, H, W) in channels_last memory and int64 labels (B,).

        Raises:
            DataError: Files cannot be decoded; names them.
        """
        for decoded in one_pass(self._loader):
            yield _on_device(decoded, self._device, self._normalise)


def _on_device(decoded: Decoded, device: torch.device, normalise: Normaliser) -> Batch:
    if isinstance(decoded, str):
        raise DataError(decoded)
    images_BHWC, labels_B = decoded
    # Bytes travel, a quarter of the floats; from pinned memory the CPU need not wait for them.
    images_BHWC = images_BHWC.to(device, non_blocking=True)
    return normalise(images_BHWC), labels_B.to(device, non_blocking=True)
