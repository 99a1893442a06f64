"""Images that are held in memory."""

import hashlib
import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from trainer.config.data import DataConfig
from trainer.data.base import DevelopmentData, tensor_view
from trainer.data.batches import EvaluationBatches, TrainingBatches
from trainer.data.images import ImageSet
from trainer.data.parts import has_validation, read_part
from trainer.data.splits import development
from trainer.data.survey import survey_of
from trainer.registry import DATA_SETS

_PAPER_MEAN_STD = {  # per channel, pixels in [0, 1]; Chen et al. 2020
    "cifar10": ((0.4914, 0.4822, 0.4465), (0.2470, 0.2435, 0.2616)),
    "cifar100": ((0.5071, 0.4865, 0.4409), (0.2673, 0.2564, 0.2762)),
}


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
            "has_merged_splits": self.has_merged_splits,
            "survey": self.survey,
        }

    @classmethod
    def restored(cls, arrays: dict[str, Any]) -> "ResidentData":
        """Undo `to_arrays`."""
        names = arrays["class_names"]

        def images(part: str) -> ImageSet:
            pixels, labels = arrays[part]
            return ImageSet(tensor_view(pixels), tensor_view(labels), names)

        keys = ("mean_C", "std_C", "pad", "flip", "fingerprint", "has_merged_splits", "survey")
        plain = {key: arrays[key] for key in keys}
        return cls(train=images("train"), validation=images("validation"), **plain)


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


def load_resident_data(config: DataConfig, cache_dir: Path | None = None) -> ResidentData:
    """Read the training part of a data set into memory and divide it.

    Args:
        config: which data, and how to divide it.
        cache_dir: where decoded images are kept (image files only); None: nowhere.

    Raises:
        DataError: the files are missing or damaged, or too few for the division asked for.
    """
    data = development(
        config,
        lambda part: read_part(config, part, cache_dir),
        has_validation=has_validation(config),
    )
    train, validation = data.train, data.validation
    mean_C, std_C = _PAPER_MEAN_STD.get(config.name) or _mean_std(train.images_NCHW)
    info, skipped = DATA_SETS[config.name], sum(images.skipped for images in data.read)
    usual_pad = train.size[0] // 8 if info.pad is None else info.pad
    return ResidentData(
        train=train,
        validation=validation,
        mean_C=mean_C,
        std_C=std_C,
        pad=usual_pad if config.pad is None else config.pad,
        flip=info.flip if config.flip is None else config.flip,
        fingerprint=_fingerprint(train, validation),
        skipped=skipped,
        survey=survey_of(config, data, skipped=skipped),
    )
