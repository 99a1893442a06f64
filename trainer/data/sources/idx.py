"""MNIST and the sets in its format: IDX files, gzipped or not."""

import gzip
import math
import struct
import zlib
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, ClassVar

import torch
from torch import Tensor

from trainer.data.images import DataError, ImageSet, Labels, Part
from trainer.data.sources.base import Source
from trainer.data.sources.files import MOST_BYTES, REPLACE, fetch, missing

_PUBLISHED: dict[Part, int] = {"train": 60_000, "test": 10_000}


class MNIST(Source):
    """``root/MNIST/raw`` (torchvision's layout), or the files lying in ``root``."""

    name: ClassVar[str] = "MNIST"
    """Of torchvision's class, and of its folder."""
    class_names: ClassVar[tuple[str, ...]] = tuple("0123456789")
    system_folders: ClassVar[tuple[Path, ...]] = ()
    """Where to look first if `data.root` is not set."""

    def read(self, part: Part) -> ImageSet:
        """Read the two files of a part, fetched if they are absent and may be."""
        found = self._find(part)
        if not found and self.config.download:
            from torchvision import datasets

            about = getattr(datasets, self.name)
            for name, md5 in about.resources:
                fetch([mirror + name for mirror in about.mirrors], md5, self._folders[-2])
            found = self._find(part)
        if not found:
            raise self._missing(part)
        images_NHW, labels_N = _read_idx(found[0], 3), _read_idx(found[1], 1).long()
        most = len(self.class_names) - 1
        if len(images_NHW) != len(labels_N) or len(labels_N) == 0 or labels_N.max() > most:
            raise DataError(f"{found[0]} and {found[1]} do not belong together; {REPLACE}")
        return ImageSet(images_NHW[:, None], labels_N, self.class_names)

    def labels(self, part: Part) -> Labels:
        """Read the labels alone; where they will be fetched, there are as many as are published."""
        found = self._find(part)
        if found:
            return Labels(_read_idx(found[1], 1).long(), self.class_names)
        self.require(part)
        return Labels(torch.arange(_PUBLISHED[part]) % 10, self.class_names)

    def require(self, part: Part) -> None:
        """Look for the two files of a part."""
        if not self.config.download and not self._find(part):
            raise self._missing(part)

    @property
    def _folders(self) -> list[Path]:
        """Folders to look in; torchvision's is the last but one."""
        before = [] if self.config.root else self.system_folders
        return [*before, self.root / self.name / "raw", self.root]

    def _find(self, part: Part) -> list[Path]:
        """Return the files, plain or gzipped, in the first folder that has them both."""
        names = _file_names(part)
        for folder in self._folders:
            tries = ((folder / name, folder / f"{name}.gz") for name in names)
            paths = [next(filter(Path.is_file, pair), None) for pair in tries]
            if all(paths):
                return [path for path in paths if path]
        return []

    def _missing(self, part: Part) -> DataError:
        return missing(self.name, _file_names(part)[0] + "[.gz]", self._folders, fetched=True)


class FashionMNIST(MNIST):
    """Clothes instead of digits; Debian packages them."""

    name = "FashionMNIST"
    class_names = (
        "T-shirt/top", "Trouser", "Pullover", "Dress", "Coat",
        "Sandal", "Shirt", "Sneaker", "Bag", "Ankle boot",
    )  # fmt: skip
    system_folders = (Path("/usr/share/datasets/fashion-mnist"),)  # package dataset-fashion-mnist


class KMNIST(MNIST):
    """Handwritten Japanese syllables."""

    name = "KMNIST"
    class_names = ("o", "ki", "su", "tsu", "na", "ha", "ma", "ya", "re", "wo")


def _file_names(part: Part) -> Sequence[str]:
    stem = "train" if part == "train" else "t10k"
    return f"{stem}-images-idx3-ubyte", f"{stem}-labels-idx1-ubyte"


def _read_idx(path: Path, dimensions: int) -> Tensor:
    """Read an IDX file of bytes: magic ``00 00 08 dimensions``, big-endian sizes, the bytes."""
    opener: Callable[..., Any] = gzip.open if path.suffix == ".gz" else open
    try:
        with opener(path, "rb") as file:
            raw = bytearray(file.read(MOST_BYTES + 1))
    except (OSError, EOFError, zlib.error) as error:
        raise DataError(f"cannot read {path} ({error}); {REPLACE}") from error
    header = 4 + 4 * dimensions
    shape = struct.unpack_from(f">{dimensions}I", raw, 4) if len(raw) >= header else ()
    if (
        raw[:4] != bytes((0, 0, 8, dimensions))
        or len(raw) != header + math.prod(shape)
        or 0 in shape
    ):
        raise DataError(f"{path} is no complete IDX file of {dimensions} dimensions; {REPLACE}")
    return torch.frombuffer(raw, dtype=torch.uint8)[header:].view(shape)
