"""Labelled images in memory, and what all modules that make them share."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Literal, Protocol, Self

import torch
from torch import Tensor

from trainer.errors import TrainerError
from trainer.io.text import printable

Part = Literal["train", "validation", "test"]


class DataError(TrainerError, ValueError):
    """Data that is missing or cannot be used. The message says what, and what to do about it."""


class Labelled(Protocol):
    """Facts about a set of images, without their pixels."""

    @property
    def labels_N(self) -> Tensor:
        """Class indices, int64 in [0, num_classes)."""

    @property
    def class_names(self) -> tuple[str, ...]:
        """One per class, in the order of the labels."""

    @property
    def left_out(self) -> Mapping[str, int]:
        """Number of files that lie there and are no images of the set, by reason."""


class Images(Labelled, Protocol):
    """A set of labelled images, wherever their pixels are."""

    @property
    def num_classes(self) -> int:
        """Number of classes, including those without an image in this set."""

    @property
    def channels(self) -> int:
        """1 (grey) or 3 (RGB)."""

    @property
    def size(self) -> tuple[int, int]:
        """Height and width in pixels, as the network sees them."""

    def __len__(self) -> int:
        """Number of images N."""

    def followed_by(self, other: Self) -> Self:
        """Return these images and then those of another part of the same data set."""


@dataclass(frozen=True, eq=False)
class ImageSet:
    """Labelled images of one size.

    Attributes:
        images_NCHW: uint8 in [0, 255]; possibly read-only memory, never write to it.
        labels_N: int64 in [0, num_classes).
        class_names: one per class, in the order of the labels.
        skipped: images of the part that could not be decoded and are not in here.
        left_out: number of files that lie there and are no images of the part, by reason.
    """

    images_NCHW: Tensor
    labels_N: Tensor
    class_names: tuple[str, ...]
    skipped: int = 0
    left_out: Mapping[str, int] = field(default_factory=dict)

    def __len__(self) -> int:
        """Number of images N."""
        return len(self.labels_N)

    @property
    def num_classes(self) -> int:
        """Number of classes, including those without an image in this set."""
        return len(self.class_names)

    @property
    def channels(self) -> int:
        """1 (grey) or 3 (RGB)."""
        return self.images_NCHW.shape[1]

    @property
    def size(self) -> tuple[int, int]:
        """Height and width in pixels."""
        return self.images_NCHW.shape[2], self.images_NCHW.shape[3]

    def subset(self, indices: Tensor) -> "ImageSet":
        """Return a copy of the images at int64 ``indices``, in that order."""
        return ImageSet(self.images_NCHW[indices], self.labels_N[indices], self.class_names)

    def followed_by(self, other: "ImageSet") -> "ImageSet":
        """Return a copy of these images and then those of another part of the same data set."""
        images_NCHW = torch.cat((self.images_NCHW, other.images_NCHW))
        return ImageSet(images_NCHW, torch.cat((self.labels_N, other.labels_N)), self.class_names)


@dataclass(frozen=True, eq=False)
class Labels:
    """The labels of images whose pixels nobody needs yet.

    Attributes:
        labels_N: int64 in [0, num_classes).
        class_names: one per class, in the order of the labels.
        left_out: number of files that lie there and are no images of the set, by reason.
    """

    labels_N: Tensor
    class_names: tuple[str, ...]
    left_out: Mapping[str, int] = field(default_factory=dict)

    def subset(self, indices: Tensor) -> "Labels":
        """Return the labels at int64 ``indices``, in that order."""
        return Labels(self.labels_N[indices], self.class_names, self.left_out)


def stratified_draw(
    labels_N: Tensor, count: int, generator: torch.Generator, *, leave: int = 0
) -> tuple[Tensor, Tensor]:
    """Draw ``count`` of N images so that every class keeps its share, to within one image.

    A class whose share rounds to nothing gets one image all the same, at the cost of the largest.

    Args:
        labels_N: Class indices, int64.
        count: Images to draw.
        generator: Decides which.
        leave: Images that each class with more than that must keep among the others.

    Returns:
        Indices of the drawn images and of the others, int64, ascending.
    """
    total = len(labels_N)
    sizes_C = labels_N.bincount()
    quota_C = sizes_C * count // total
    missing = count - int(quota_C.sum())
    by_remainder = (sizes_C * count % total).argsort(descending=True, stable=True)
    quota_C[by_remainder[:missing]] += 1
    quota_C = _with_every_class(quota_C, sizes_C, leave)

    order_N = torch.randperm(total, generator=generator)
    order_N = order_N[labels_N[order_N].argsort(stable=True)]  # by class, shuffled within it
    sorted_N = labels_N[order_N]
    rank_N = torch.arange(total) - (sizes_C.cumsum(0) - sizes_C)[sorted_N]
    drawn_N = rank_N < quota_C[sorted_N]
    return order_N[drawn_N].sort().values, order_N[~drawn_N].sort().values


def _with_every_class(quota_C: Tensor, sizes_C: Tensor, leave: int) -> Tensor:
    """Change as little as possible of how many of each class are drawn, so that none goes without.

    Classes with at most ``leave`` images keep their number. Where it cannot be done, all do.
    """
    large_C = sizes_C > leave
    low = torch.where(large_C, 1, quota_C).tolist()
    high = torch.where(large_C, sizes_C - leave, quota_C).tolist()
    bounds = list(zip(quota_C.tolist(), low, high, strict=True))
    found = [min(max(quota, least), most) for quota, least, most in bounds]
    excess = sum(found) - int(quota_C.sum())
    step, end = (-1, low) if excess > 0 else (1, high)
    for _ in range(abs(excess)):
        room = [abs(limit - number) for limit, number in zip(end, found, strict=True)]
        richest = max(range(len(found)), key=room.__getitem__)
        if room[richest] == 0:
            return quota_C
        found[richest] += step
    return torch.tensor(found)


def abbreviate(items: Iterable[object], shown: int = 3) -> str:
    """List the first few: ``"a, b, c and 4 more"``."""
    texts = [printable(item) for item in items]
    more = f" and {len(texts) - shown} more" if len(texts) > shown else ""
    return ", ".join(texts[:shown]) + more
