"""Labelled images that stay on disk: the list of their files."""

import os
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from trainer.config import DataConfig
from trainer.image_folder import list_image_folder
from trainer.images import Part


@dataclass(frozen=True, eq=False)
class ImageFiles:
    """Labelled images that stay on disk.

    Attributes:
        folder: of the part, absolute.
        names_N: paths below the folder as fixed-width bytes: processes share an array of them
            without copying, a list of a million strings they would not.
        bytes_N: int64, sizes of the files.
        labels_N: int64 in [0, num_classes).
        class_names: one per class, in the order of the labels.
        side: pixels a side, as the network sees them.
    """

    folder: Path
    names_N: np.ndarray[Any, np.dtype[np.bytes_]]
    bytes_N: np.ndarray[Any, np.dtype[np.int64]]
    labels_N: Tensor
    class_names: tuple[str, ...]
    side: int

    def __len__(self) -> int:
        """Number of images N."""
        return len(self.labels_N)

    @property
    def num_classes(self) -> int:
        """Number of classes, including those without an image in this set."""
        return len(self.class_names)

    @property
    def channels(self) -> int:
        """3: whatever a file holds becomes RGB."""
        return 3

    @property
    def size(self) -> tuple[int, int]:
        """Height and width in pixels, as the network sees them."""
        return self.side, self.side

    def path(self, index: int) -> Path:
        """Return where an image is."""
        return self.folder / os.fsdecode(self.names_N[index])

    def subset(self, indices: Tensor) -> "ImageFiles":
        """Return the images at int64 ``indices``, in that order."""
        return ImageFiles(
            self.folder,
            self.names_N[indices.numpy()],
            self.bytes_N[indices.numpy()],
            self.labels_N[indices],
            self.class_names,
            self.side,
        )

    def followed_by(self, other: "ImageFiles") -> "ImageFiles":
        """Return these images and then those of another part of the same data set."""
        return ImageFiles(
            self.folder,
            np.concatenate((self.names_N, other.names_N)),
            np.concatenate((self.bytes_N, other.bytes_N)),
            torch.cat((self.labels_N, other.labels_N)),
            self.class_names,
            self.side,
        )


def read_image_files(config: DataConfig, part: Part) -> ImageFiles:
    """List ``root/<part>/<class>/*``, by class and name; no image is opened.

    `Trainer` must never ask for ``"test"``: only `trainer.sealed_test` does.

    Raises:
        DataError: There are no classes, or not the same in both parts, or a class is empty.
    """
    assert config.image_size is not None  # DataConfig sees to it
    folder, class_names, files = list_image_folder(config, part)
    with ThreadPoolExecutor(16) as pool:
        sizes = pool.map(lambda group: [path.stat().st_size for path in group], files)
        bytes_N = np.array([size for group in sizes for size in group], dtype=np.int64)
    names = [os.fsencode(f"{path.parent.name}/{path.name}") for group in files for path in group]
    counts_C = torch.tensor([len(group) for group in files])
    labels_N = torch.arange(len(files)).repeat_interleave(counts_C)
    return ImageFiles(
        folder, np.array(names, dtype=np.bytes_), bytes_N, labels_N, class_names, config.image_size
    )
