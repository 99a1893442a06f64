"""The data of a run: the training part of a data set, divided with a seed; the test part sealed.

`load_development_data` reads the training part alone (`trainer.sources`) and divides it into
training and validation images; `trainer.sealed_test` is the only caller that asks for the test
part.
"""

import hashlib
import math
import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

import numpy as np
import torch
from torch import Tensor

from trainer.config import DataConfig
from trainer.images import DataError, ImageSet, some, stratified_draw
from trainer.sources import read_part

__all__ = ["DataError", "DevelopmentData", "ImageSet", "load_development_data", "read_part"]

_USUAL_PAD = {"digits": 1, "fashion_mnist": 2, "cifar10": 4, "cifar100": 4}
_PAPER_MEAN_STD = {  # per channel, pixels in [0, 1]; Chen et al. 2020
    "cifar10": ((0.4914, 0.4822, 0.4465), (0.2470, 0.2435, 0.2616)),
    "cifar100": ((0.5071, 0.4865, 0.4409), (0.2673, 0.2564, 0.2762)),
}


@dataclass(frozen=True, eq=False)
class DevelopmentData:
    """All that a training run may see of a data set, and how to prepare it.

    Attributes:
        train: the images to learn from.
        validation: the images to choose hyperparameters by; disjoint from ``train``.
        mean_C: mean of each channel, pixels in [0, 1].
        std_C: standard deviation of each channel, pixels in [0, 1]; positive.
        pad: pixels of zero padding before the random crop.
        flip: whether to mirror training images at random.
        fingerprint: 16 hex digits over all pixels and labels: equal data, equal fingerprint.
    """

    train: ImageSet
    validation: ImageSet
    mean_C: tuple[float, ...]
    std_C: tuple[float, ...]
    pad: int
    flip: bool
    fingerprint: str

    def to_arrays(self) -> dict[str, Any]:
        """Return numpy arrays (sharing memory) and plain values, as Ray's object store likes it."""
        return {
            "train": (self.train.images_NCHW.numpy(), self.train.labels_N.numpy()),
            "validation": (self.validation.images_NCHW.numpy(), self.validation.labels_N.numpy()),
            "class_names": self.train.class_names,
            "mean_C": self.mean_C,
            "std_C": self.std_C,
            "pad": self.pad,
            "flip": self.flip,
            "fingerprint": self.fingerprint,
        }

    @classmethod
    def from_arrays(cls, arrays: dict[str, Any]) -> Self:
        """Undo `to_arrays` without copying, also where the arrays are read-only."""
        names = arrays["class_names"]

        def images(part: str) -> ImageSet:
            pixels, labels = arrays[part]
            return ImageSet(_tensor_view(pixels), _tensor_view(labels), names)

        plain = {key: arrays[key] for key in ("mean_C", "std_C", "pad", "flip", "fingerprint")}
        return cls(train=images("train"), validation=images("validation"), **plain)


def _tensor_view(array: np.ndarray[Any, Any]) -> Tensor:
    # A tensor cannot be marked read-only, so torch warns that a write to it would be undefined.
    # Nobody writes to an ImageSet: batches are cut out of it by copying.
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "The given NumPy array is not writable", UserWarning)
        return torch.from_numpy(array)


def load_development_data(config: DataConfig, cache_dir: Path | None = None) -> DevelopmentData:
    """Read the training part of a data set and divide it. No test file is opened.

    The validation images are a stratified draw from the whole training part that depends on
    ``split_seed`` and ``validation`` alone; ``train_limit`` is a stratified draw from the rest.

    Args:
        config: which data, and how to divide it.
        cache_dir: where decoded images are kept (`image_folder` only); None: nowhere.

    Raises:
        DataError: the files are missing or damaged, or too few for the division asked for.
    """
    everything = read_part(config, "train", cache_dir)
    train, validation = _divide(everything, config)
    mean_C, std_C = _PAPER_MEAN_STD.get(config.name) or _mean_std(train.images_NCHW)
    usual_pad = _USUAL_PAD.get(config.name, everything.size[0] // 8)
    return DevelopmentData(
        train=train,
        validation=validation,
        mean_C=mean_C,
        std_C=std_C,
        pad=usual_pad if config.pad is None else config.pad,
        flip=config.name != "digits" if config.flip is None else config.flip,
        fingerprint=_fingerprint(train, validation),
    )


def _divide(images: ImageSet, config: DataConfig) -> tuple[ImageSet, ImageSet]:
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
    train, validation = images.subset(rest), images.subset(held_out)
    _require_every_class(validation, "validation", "raise data.validation")
    _require_every_class(train, "training", "lower data.validation or raise data.train_limit")
    return train, validation


def _require_every_class(images: ImageSet, part: str, remedy: str) -> None:
    counts_C = images.labels_N.bincount(minlength=images.num_classes)
    absent = [images.class_names[c] for c in (counts_C == 0).nonzero().flatten().tolist()]
    if absent:
        raise DataError(
            f"no {part} image of {some(absent)} among {len(images)}: every class needs one; "
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
