"""The data of a run: the training part of a data set, divided with a seed; the test part sealed.

`load_development_data` reads the training part alone (`trainer.sources`) and divides it into
training and validation images; `trainer.sealed_test` is the only caller that asks for the test
part. The pixels are in memory (`ResidentData`) or stay on disk (`trainer.streaming.StreamedData`);
a run sees only `DevelopmentData`.
"""

import hashlib
import math
import warnings
from abc import ABC, abstractmethod
from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Self

import numpy as np
import torch
from torch import Tensor

from trainer.augment import Batch, EpochBatches, EvaluationBatches, TrainingBatches
from trainer.config.data import DataConfig
from trainer.images import DataError, Images, ImageSet, some, stratified_draw
from trainer.sources import read_part

__all__ = [
    "DataError",
    "DevelopmentData",
    "ImageSet",
    "ResidentData",
    "divide",
    "load_development_data",
    "read_part",
]

_USUAL_PAD = {"digits": 1, "fashion_mnist": 2, "cifar10": 4, "cifar100": 4}
_PAPER_MEAN_STD = {  # per channel, pixels in [0, 1]; Chen et al. 2020
    "cifar10": ((0.4914, 0.4822, 0.4465), (0.2470, 0.2435, 0.2616)),
    "cifar100": ((0.5071, 0.4865, 0.4409), (0.2673, 0.2564, 0.2762)),
}


@dataclass(frozen=True, eq=False)
class DevelopmentData(ABC):
    """All that a training run may see of a data set, and how to prepare it.

    Attributes:
        train: the images to learn from.
        validation: the images to choose hyperparameters by; disjoint from ``train``.
        mean_C: mean of each channel, pixels in [0, 1].
        std_C: standard deviation of each channel, pixels in [0, 1]; positive.
        flip: whether to mirror training images at random.
        fingerprint: 16 hex digits: equal data, equal fingerprint.
        is_undivided: whether ``train`` holds the validation images, too (`undivided`): what is
            measured on them is then no estimate of anything.
        left_out: images that could not be decoded and are in neither set (`DataConfig.corrupt`).
    """

    train: Images
    validation: Images
    mean_C: tuple[float, ...]
    std_C: tuple[float, ...]
    flip: bool
    fingerprint: str
    is_undivided: bool = field(default=False, kw_only=True)
    left_out: int = field(default=0, kw_only=True)

    def undivided(self) -> Self:
        """Return the same data with all of its images to learn from, for a last training.

        ``train`` becomes the training images and then the validation images. How they are prepared
        stays, as it belongs to the recipe that was chosen. ``validation`` stays only because the
        trainer evaluates after every epoch.
        """
        if self.is_undivided:
            return self
        return replace(
            self,
            train=self.train.followed_by(self.validation),
            fingerprint=hashlib.sha256(f"undivided {self.fingerprint}".encode()).hexdigest()[:16],
            is_undivided=True,
        )

    @property
    def trained_on(self) -> str:
        """Name what a run learns from."""
        return "train and validation" if self.is_undivided else "train"

    @abstractmethod
    def training_batches(self, batch_size: int, device: torch.device) -> EpochBatches:
        """Return the augmented batches of ``train``, made on or brought to the device.

        Raises:
            ValueError: ``batch_size`` or the number of images is below 2.
        """

    @abstractmethod
    def validation_batches(self, batch_size: int, device: torch.device) -> Iterable[Batch]:
        """Return ``validation`` in its own order, to be iterated over any number of times."""

    @abstractmethod
    def to_arrays(self) -> dict[str, Any]:
        """Return numpy arrays (sharing memory) and plain values, as Ray's object store likes it."""

    @staticmethod
    def from_arrays(arrays: dict[str, Any]) -> "DevelopmentData":
        """Undo `to_arrays` without copying, also where the arrays are read-only."""
        if not arrays["streaming"]:
            return ResidentData.restored(arrays)
        from trainer.streaming import StreamedData  # it imports this module

        return StreamedData.restored(arrays)


@dataclass(frozen=True, eq=False)
class ResidentData(DevelopmentData):
    """Images that are held in memory, on the device where the run is.

    Attributes:
        train: the images to learn from.
        validation: the images to choose hyperparameters by; disjoint from ``train``.
        pad: pixels of zero padding before the random crop.
        fingerprint: over all pixels and labels.
    """

    train: ImageSet
    validation: ImageSet
    pad: int

    def training_batches(self, batch_size: int, device: torch.device) -> TrainingBatches:
        """Copy the training images to the device."""
        return TrainingBatches(
            self.train,
            self.mean_C,
            self.std_C,
            pad=self.pad,
            flip=self.flip,
            batch_size=batch_size,
            device=device,
        )

    def validation_batches(self, batch_size: int, device: torch.device) -> EvaluationBatches:
        """Copy the validation images to the device."""
        return EvaluationBatches(
            self.validation, self.mean_C, self.std_C, batch_size=batch_size, device=device
        )

    def to_arrays(self) -> dict[str, Any]:
        """Return pixels and labels as arrays, the rest as plain values."""
        return {
            "streaming": False,
            "train": (self.train.images_NCHW.numpy(), self.train.labels_N.numpy()),
            "validation": (self.validation.images_NCHW.numpy(), self.validation.labels_N.numpy()),
            "class_names": self.train.class_names,
            "mean_C": self.mean_C,
            "std_C": self.std_C,
            "pad": self.pad,
            "flip": self.flip,
            "fingerprint": self.fingerprint,
            "is_undivided": self.is_undivided,
        }

    @classmethod
    def restored(cls, arrays: dict[str, Any]) -> "ResidentData":
        """Undo `to_arrays`."""
        names = arrays["class_names"]

        def images(part: str) -> ImageSet:
            pixels, labels = arrays[part]
            return ImageSet(tensor_view(pixels), tensor_view(labels), names)

        keys = ("mean_C", "std_C", "pad", "flip", "fingerprint", "is_undivided")
        plain = {key: arrays[key] for key in keys}
        return cls(train=images("train"), validation=images("validation"), **plain)


def tensor_view(array: np.ndarray[Any, Any]) -> Tensor:
    """Return a tensor over the memory of an array that may be read-only; never write to it."""
    # A tensor cannot be marked read-only, so torch warns that a write to it would be undefined.
    # Nobody writes to a set of images: batches are cut out of it by copying.
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "The given NumPy array is not writable", UserWarning)
        return torch.from_numpy(array)


def load_development_data(config: DataConfig, cache_dir: Path | None = None) -> DevelopmentData:
    """Read the training part of a data set and divide it. No test file is opened.

    The validation images are a stratified draw from the whole training part that depends on
    ``split_seed`` and ``validation`` alone; ``train_limit`` is a stratified draw from the rest.

    Args:
        config: which data, and how to divide it.
        cache_dir: where decoded images are kept, or which can be decoded (`image_folder` only);
            None: nowhere.

    Raises:
        DataError: the files are missing or damaged, or too few for the division asked for.
    """
    if config.streaming:
        from trainer.streaming import load_streamed_data  # it imports this module

        return load_streamed_data(config, cache_dir)
    everything = read_part(config, "train", cache_dir)
    train, validation = map(everything.subset, divide(everything, config))
    mean_C, std_C = _PAPER_MEAN_STD.get(config.name) or _mean_std(train.images_NCHW)
    usual_pad = _USUAL_PAD.get(config.name, everything.size[0] // 8)
    return ResidentData(
        train=train,
        validation=validation,
        mean_C=mean_C,
        std_C=std_C,
        pad=usual_pad if config.pad is None else config.pad,
        flip=config.name != "digits" if config.flip is None else config.flip,
        fingerprint=_fingerprint(train, validation),
        left_out=everything.left_out,
    )


def divide(images: Images, config: DataConfig) -> tuple[Tensor, Tensor]:
    """Return the indices of the training and of the validation images, int64, ascending.

    Raises:
        DataError: There are too few images for the division asked for.
    """
    generator = torch.Generator().manual_seed(config.split_seed)
    total, asked = len(images), config.validation
    wanted = asked if isinstance(asked, int) else round(asked * total)
    if not 0 < wanted < total:
        raise DataError(
            f"data.validation: {asked} is {wanted} of {total} images, which leaves a part empty; "
            f"ask for 1 to {total - 1} images, or a fraction"
        )
    held_out, rest = stratified_draw(images.labels_N, wanted, generator)
    if config.train_limit is not None:
        if config.train_limit > len(rest):
            raise DataError(
                f"data.train_limit: {config.train_limit} images wanted, {len(rest)} available "
                f"({total} less {wanted} for validation); lower train_limit or validation"
            )
        chosen, _ = stratified_draw(images.labels_N[rest], config.train_limit, generator)
        rest = rest[chosen]
    names = images.class_names
    _require_every_class(images.labels_N[held_out], names, "validation", "raise data.validation")
    remedy = "lower data.validation or raise data.train_limit"
    _require_every_class(images.labels_N[rest], names, "training", remedy)
    return rest, held_out


def _require_every_class(
    labels_N: Tensor, class_names: tuple[str, ...], part: str, remedy: str
) -> None:
    counts_C = labels_N.bincount(minlength=len(class_names))
    absent = [class_names[c] for c in (counts_C == 0).nonzero().flatten().tolist()]
    if absent:
        raise DataError(
            f"no {part} image of {some(absent)} among {len(labels_N)}: every class needs one; "
            f"{remedy}, or add images"
        )


def _mean_std(images_NCHW: Tensor) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Exact mean and standard deviation per channel in [0, 1]; std at least one grey level."""
    grey = torch.arange(256, dtype=torch.float64) / 255
    moments = []
    for channel_NHW in images_NCHW.unbind(1):
        share = channel_NHW.flatten().bincount(minlength=256).double() / channel_NHW.numel()
        mean = float(share @ grey)
        moments.append((mean, math.sqrt(float(share @ (grey - mean) ** 2))))
    return tuple(m for m, _ in moments), tuple(max(s, 1 / 255) for _, s in moments)


def _fingerprint(*sets: ImageSet) -> str:
    digest = hashlib.sha256()
    for images in sets:
        for tensor in (images.images_NCHW, images.labels_N):
            digest.update(repr(tuple(tensor.shape)).encode())
            digest.update(tensor.contiguous().numpy().data)
    return digest.hexdigest()[:16]
