"""Batches for training (pad, crop, flip, normalise) and for evaluation (normalise only).

The images stay on the device as bytes; a batch is cut out with a handful of tensor operations,
never with a Python loop over images and never with a wait for the device.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import NamedTuple, Protocol

import numpy as np
import torch
from torch import Tensor

from trainer.data.images import ImageSet

Batch = tuple[Tensor, Tensor]


class EpochBatches(Protocol):
    """The batches of a training set, an epoch at a time; see ``TrainingBatches``."""

    def __len__(self) -> int:
        """Steps an epoch."""

    def epoch(self, seed: int, epoch: int) -> Iterator[Batch]:
        """Yield the batches of one epoch, a pure function of ``(seed, epoch)``."""


@dataclass(frozen=True, eq=False)
class Augmentation:
    """The augmentation of N images in one epoch. Entry i of a tensor is for the i-th image drawn.

    Attributes:
        order_N: int64, a permutation: which image is drawn.
        top_N: int64 in [0, 2 * pad], first row of the crop in the padded image.
        left_N: int64 in [0, 2 * pad], first column of the crop in the padded image.
        flip_N: bool, whether the crop is mirrored left to right.
    """

    order_N: Tensor
    top_N: Tensor
    left_N: Tensor
    flip_N: Tensor


class Drawn(NamedTuple):
    """N images that were drawn, on the device: all that it takes to cut batches out of the set.

    Attributes:
        first_N: int64, where in the padded set the crop starts, in pixels.
        flip_N: bool, whether the crop is mirrored left to right.
        labels_N: int64.
    """

    first_N: Tensor
    flip_N: Tensor
    labels_N: Tensor

    def slice(self, start: int, stop: int) -> "Drawn":
        """Return some of them, in a row."""
        return Drawn(*(of_images_N[start:stop] for of_images_N in self))

    def select(self, places_B: Tensor) -> "Drawn":
        """Return those at places that the device alone knows, int64."""
        return Drawn(*(of_images_N.index_select(0, places_B) for of_images_N in self))


def mixed_seed(*numbers: int) -> int:
    """Mix numbers of at least 0 into 32 bits, all that torch's CPU generator is seeded with.

    In (seed, epoch), (0, 1) and (1, 0) differ.
    """
    return int(np.random.SeedSequence(numbers).generate_state(1)[0])


def draw_augmentation(count: int, *, pad: int, flip: bool, seed: int, epoch: int) -> Augmentation:
    """Draw order, crop offsets and flips of one epoch: a pure function of its arguments.

    Everything is drawn on the CPU, so that CPU and CUDA see the same batches and a resumed run
    needs no state but its epoch number.

    Args:
        count: number of images N, at least 0.
        pad: pixels of padding on each side; 0 leaves all crops at the origin.
        flip: whether to mirror each image with probability 1/2.
        seed: of the run, at least 0.
        epoch: counted from 0.

    Returns:
        CPU tensors of length N.
    """
    generator = torch.Generator().manual_seed(mixed_seed(seed, epoch))
    order_N = torch.randperm(count, generator=generator)
    top_N, left_N = torch.randint(0, 2 * pad + 1, (2, count), generator=generator)
    flip_N = torch.randint(0, 2, (count,), generator=generator) == 1
    return Augmentation(order_N, top_N, left_N, flip_N if flip else torch.zeros_like(flip_N))


class Normaliser:
    """Bytes (B, H, W, C) to float32 (B, C, H, W): ``(x / 255 - mean) / std``, channels last."""

    def __init__(
        self,
        mean_C: tuple[float, ...],
        std_C: tuple[float, ...],
        width: int,
        device: torch.device | str,
    ) -> None:
        mean, std = torch.tensor((mean_C, std_C), dtype=torch.float64)
        # Repeated over a line of pixels: three channels alone are too short an inner loop.
        self._scale_WC = (1 / (255 * std)).float().repeat(width).to(device)
        self._shift_WC = (-mean / std).float().repeat(width).to(device)

    def __call__(self, images_BHWC: Tensor) -> Tensor:
        """Return the normalised images."""
        lines = images_BHWC.reshape(-1, len(self._scale_WC)).float()
        lines = torch.addcmul(self._shift_WC, lines, self._scale_WC)
        return lines.view(images_BHWC.shape).permute(0, 3, 1, 2)


def require_two(batch_size: int, count: int) -> None:
    """Check that there are training batches: batch normalisation needs two images.

    Raises:
        ValueError: There are none.
    """
    if batch_size < 2 or count < 2:
        raise ValueError(
            f"a training batch needs 2 images: batch_size {batch_size}, {count} images"
        )


def steps_an_epoch(count: int, batch_size: int) -> int:
    """Return the number of training batches; a last batch of one image is dropped."""
    full, rest = divmod(count, batch_size)
    return full + (rest > 1)


class TrainingBatches:
    """Shuffled, augmented batches of a training set that lives on the device.

    The images are padded with black (before normalising, as torchvision's ``RandomCrop`` does) and
    kept as uint8 (N, H + 2 pad, W + 2 pad, C): about 1.6 times the set itself for CIFAR.

    Attributes:
        batch_size: Images a step.
    """

    def __init__(
        self,
        images: ImageSet,
        mean_C: tuple[float, ...],
        std_C: tuple[float, ...],
        *,
        pad: int,
        flip: bool,
        batch_size: int,
        device: torch.device | str = "cpu",
    ) -> None:
        """Copy the padded images to the device.

        Args:
            images: the training set, N images.
            mean_C: per channel, pixels in [0, 1].
            std_C: per channel, pixels in [0, 1]; positive.
            pad: pixels of black padding on each side, at least 0.
            flip: whether to mirror at random.
            batch_size: images a step, at least 2.
            device: where images are kept and batches made.

        Raises:
            ValueError: ``batch_size`` or N is below 2: batch normalisation needs two images.
        """
        require_two(batch_size, len(images))
        count, channels, (height, width) = len(images), images.channels, images.size
        padded = torch.zeros(
            (count, height + 2 * pad, width + 2 * pad, channels), dtype=torch.uint8, device=device
        )
        inner = padded[:, pad : pad + height, pad : pad + width]
        inner.copy_(images.images_NCHW.permute(0, 2, 3, 1))
        self._padded_shape = padded.shape
        # Row i is the line of W pixels that starts at pixel i: overlapping views of one storage,
        # so that a crop is H contiguous copies instead of H * W.
        starts = count * padded.shape[1] * padded.shape[2] - width + 1
        self._lines = padded.view(-1).as_strided((starts, width * channels), (channels, 1))
        self._line_offsets_H = torch.arange(height, device=device) * padded.shape[2]
        self._labels_N = images.labels_N.to(device)
        self._normalise = Normaliser(mean_C, std_C, width, device)
        self._crop_shape = (height, width, channels)
        self._pad, self._flip, self.batch_size, self._device = pad, flip, batch_size, device

    def __len__(self) -> int:
        """Steps an epoch. The last batch may be smaller; a last batch of one image is dropped."""
        return steps_an_epoch(len(self._labels_N), self.batch_size)

    def epoch(self, seed: int, epoch: int) -> Iterator[Batch]:
        """Yield the batches of one epoch, a pure function of ``(seed, epoch)``.

        Args:
            seed: of the run, at least 0.
            epoch: counted from 0.

        Yields:
            images float32 (B, C, H, W) in channels_last memory, normalised; labels int64 (B,).
            B is ``batch_size``, in the last batch possibly less but at least 2.
        """
        drawn = self.draw(seed, epoch)
        for step in range(len(self)):
            yield self.cut(drawn.slice(step * self.batch_size, (step + 1) * self.batch_size))

    def draw(self, seed: int, epoch: int) -> Drawn:
        """Draw all images of one epoch, in their order: a pure function of ``(seed, epoch)``."""
        count, rows, columns, _ = self._padded_shape
        draw = draw_augmentation(count, pad=self._pad, flip=self._flip, seed=seed, epoch=epoch)
        first_N = ((draw.order_N * rows + draw.top_N) * columns + draw.left_N).to(self._device)
        flip_N, order_N = draw.flip_N.to(self._device), draw.order_N.to(self._device)
        return Drawn(first_N, flip_N, self._labels_N[order_N])

    def cut(self, drawn: Drawn) -> Batch:
        """Make the batch of some drawn images; see ``epoch``."""
        images_BHWC = self._crop(drawn.first_N)
        if self._flip:
            images_BHWC = _mirror(images_BHWC, drawn.flip_N)
        return self._normalise(images_BHWC), drawn.labels_N

    def _crop(self, first_B: Tensor) -> Tensor:
        lines = (first_B[:, None] + self._line_offsets_H).view(-1)
        return self._lines.index_select(0, lines).view(-1, *self._crop_shape)


def _mirror(images_BHWC: Tensor, flip_B: Tensor) -> Tensor:
    """Mirror the marked images: mirror all, then pick (3 times as fast as ``torch.where``)."""
    both = torch.cat((images_BHWC, images_BHWC.flip(2)))
    pick_B = torch.arange(len(flip_B), device=flip_B.device) + len(flip_B) * flip_B
    return both.index_select(0, pick_B)


class EvaluationBatches:
    """A set in its own order, normalised and not augmented; it may be iterated over again."""

    def __init__(
        self,
        images: ImageSet,
        mean_C: tuple[float, ...],
        std_C: tuple[float, ...],
        *,
        batch_size: int,
        device: torch.device | str = "cpu",
    ) -> None:
        """Copy the images to the device, as bytes.

        Args:
            images: the set, N images; every one is seen.
            mean_C: per channel, pixels in [0, 1].
            std_C: per channel, pixels in [0, 1]; positive.
            batch_size: images a step, at least 1; the last batch may be smaller.
            device: where images are kept and batches made.

        Raises:
            ValueError: ``batch_size`` is below 1.
        """
        if batch_size < 1:
            raise ValueError(f"batch_size {batch_size} is below 1")
        self._images_NHWC = images.images_NCHW.to(device).permute(0, 2, 3, 1).contiguous()
        self._labels_N = images.labels_N.to(device)
        self._normalise = Normaliser(mean_C, std_C, images.size[1], device)
        self._batch_size = batch_size

    def __len__(self) -> int:
        """Batches in one pass."""
        return -(-len(self._labels_N) // self._batch_size)

    def __iter__(self) -> Iterator[Batch]:
        """Yield float32 images (B, C, H, W) in channels_last memory and int64 labels (B,)."""
        for start in range(0, len(self._labels_N), self._batch_size):
            batch = slice(start, start + self._batch_size)
            yield self._normalise(self._images_NHWC[batch]), self._labels_N[batch]
