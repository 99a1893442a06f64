"""Labelled images that stay on disk: the list of their files, each looked at once."""

import hashlib
import os
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from trainer.config.data import DataConfig
from trainer.data.decoding import check_images, file_errors, require_decodable
from trainer.data.images import Part
from trainer.data.parts import list_part
from trainer.io.files import read_json, write_json

_CHUNK = 256
"""Files that a thread asks the file system about in a row."""


@dataclass(frozen=True, eq=False)
class ImageFiles:
    """Labelled images that stay on disk.

    Attributes:
        folder: of the part, absolute.
        names_N: paths below the folder, in full for files elsewhere, as fixed-width bytes:
            processes share an array of them without copying, a list of a million strings they
            would not.
        bytes_N: int64, sizes of the files.
        labels_N: int64 in [0, num_classes).
        class_names: one per class, in the order of the labels.
        side: pixels a side, as the network sees them.
        skipped: images of the part that cannot be decoded and are not in here.
        left_out: number of files that lie there and are no images of the part, by reason.
    """

    folder: Path
    names_N: np.ndarray[Any, np.dtype[np.bytes_]]
    bytes_N: np.ndarray[Any, np.dtype[np.int64]]
    labels_N: Tensor
    class_names: tuple[str, ...]
    side: int
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
        """3: whatever a file holds becomes RGB."""
        return 3

    @property
    def size(self) -> tuple[int, int]:
        """Height and width in pixels, as the network sees them."""
        return self.side, self.side

    def path(self, index: int) -> Path:
        """Return where an image is."""
        return self.folder / os.fsdecode(self.names_N[index])

    def paths(self) -> list[Path]:
        """Return where all images are."""
        return [self.path(index) for index in range(len(self))]

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
        theirs_N = other.names_N
        if other.folder != self.folder:
            theirs_N = np.array([os.fsencode(path) for path in other.paths()], dtype=np.bytes_)
        return ImageFiles(
            self.folder,
            np.concatenate((self.names_N, theirs_N)),
            np.concatenate((self.bytes_N, other.bytes_N)),
            torch.cat((self.labels_N, other.labels_N)),
            self.class_names,
            self.side,
        )


def read_image_files(config: DataConfig, part: Part, cache_dir: Path | None = None) -> ImageFiles:
    """List the image files of a part, by class and name, after a look at every image.

    The look takes a fraction of an epoch and happens once for the same files: a search must not
    come upon an image that cannot be decoded after a night.

    `Trainer` must never ask for ``"test"``: only `trainer.test_set` does.

    Args:
        config: Where they are.
        part: ``"train"``, ``"validation"`` or ``"test"``.
        cache_dir: Where it is kept which of them can be decoded; None: nowhere.

    Raises:
        DataError: There are no classes, or not the same in both parts, or a class is empty, or
            images cannot be decoded and ``config.corrupt`` is ``"fatal"``.
    """
    assert config.image_size is not None  # DataConfig sees to it
    listing = list_part(config, part)
    with file_errors(listing.folder), ThreadPoolExecutor(16) as pool:
        chunks = [listing.paths[i : i + _CHUNK] for i in range(0, len(listing), _CHUNK)]
        stats = chain(*pool.map(lambda paths: [path.stat() for path in paths], chunks))
        facts = [(stat.st_size, stat.st_mtime_ns) for stat in stats]
    listed = ImageFiles(
        listing.folder,
        np.array([os.fsencode(listing.name(path)) for path in listing.paths], dtype=np.bytes_),
        np.array([size for size, _ in facts], dtype=np.int64),
        listing.labels_N,
        listing.class_names,
        config.image_size,
        left_out=listing.left_out,
    )
    failures = _failures(listed, [time for _, time in facts], part, cache_dir)
    kept_N = require_decodable(config, part, listed.paths(), failures, cache_dir)
    return (
        listed
        if not failures
        else replace(listed.subset(kept_N), skipped=len(failures), left_out=listed.left_out)
    )


def _failures(
    files: ImageFiles, times_ns: list[int], part: Part, cache_dir: Path | None
) -> dict[int, str]:
    """Return which images cannot be decoded, and why; from the file of an earlier look."""
    if cache_dir is None:
        return check_images(files.paths())
    digest = hashlib.sha256(b"\0".join(files.names_N.tolist()))
    digest.update(files.bytes_N.tobytes() + np.array(times_ns, dtype=np.int64).tobytes())
    path = cache_dir / f"checked-{part}-{digest.hexdigest()[:16]}.json"
    try:
        known = {int(index): str(reason) for index, reason in read_json(path).items()}
        if all(0 <= index < len(files) for index in known):
            return known
    except (OSError, ValueError, AttributeError):
        pass  # not looked at yet, or damaged
    failures = check_images(files.paths())
    with file_errors(cache_dir):
        cache_dir.mkdir(parents=True, exist_ok=True)
        write_json(path, failures)
    return failures
