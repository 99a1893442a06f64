"""The images that a training run may see."""

import hashlib
import warnings
from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Self

import numpy as np
import torch
from torch import Tensor

from trainer.data.batches import Batch, EpochBatches
from trainer.data.images import Images


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
        has_merged_splits: whether ``train`` holds the validation images as well (`merged_splits`):
            an accuracy measured on them then estimates nothing.
        skipped: images that could not be decoded and are in neither set (`DataConfig.corrupt`).
        survey: number of images and classes of each part, and of files left out, as plain values
            (`trainer.data.survey`).
    """

    train: Images
    validation: Images
    mean_C: tuple[float, ...]
    std_C: tuple[float, ...]
    flip: bool
    fingerprint: str
    has_merged_splits: bool = field(default=False, kw_only=True)
    skipped: int = field(default=0, kw_only=True)
    survey: Mapping[str, Any] = field(default_factory=dict, kw_only=True)

    def merged_splits(self) -> Self:
        """Return the same data with all of its images to learn from, for a last training.

        ``train`` becomes the training images and then the validation images. How they are prepared
        stays, as it belongs to the recipe that was chosen. ``validation`` stays only because the
        trainer evaluates after every epoch.
        """
        if self.has_merged_splits:
            return self
        return replace(
            self,
            train=self.train.followed_by(self.validation),
            fingerprint=hashlib.sha256(f"undivided {self.fingerprint}".encode()).hexdigest()[:16],
            has_merged_splits=True,
        )

    @property
    def trained_on(self) -> str:
        """Name the images that a run learns from."""
        return "train and validation" if self.has_merged_splits else "train"

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


def tensor_view(array: np.ndarray[Any, Any]) -> Tensor:
    """Return a tensor over the memory of an array that may be read-only; never write to it."""
    # A tensor cannot be marked read-only, so torch warns that a write to it would be undefined.
    # Nobody writes to a set of images: batches are cut out of it by copying.
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "The given NumPy array is not writable", UserWarning)
        return torch.from_numpy(array)
