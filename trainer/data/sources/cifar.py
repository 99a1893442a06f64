"""CIFAR-10 and CIFAR-100: the pickles of the original archives."""

import hashlib
import io
import pickle
from pathlib import Path
from typing import Any

import numpy as np
import torch

from trainer.data.decoding import file_errors
from trainer.data.images import DataError, ImageSet, Part
from trainer.data.sources.base import Source
from trainer.data.sources.files import MOST_BYTES, REPLACE, fetch, require_files, unpack


class Cifar(Source):
    """``root/cifar-10-batches-py`` or ``root/cifar-100-python``."""

    def read(self, part: Part) -> ImageSet:
        """Read the files of a part, fetched if they are absent and may be."""
        needed, about = self._files(part)
        if self.config.download and not all(path.is_file() for path, _ in needed):
            wanted = [name for name, _ in (*about.train_list, *about.test_list)]
            archive = fetch([about.url], about.tgz_md5, self.root)
            unpack(archive, about.base_folder, [*wanted, about.meta["filename"]], self.root)
        require_files(self.config.name, self.root, [path for path, _ in needed], fetched=True)
        *batches, meta = [_read_verified_pickle(path, md5) for path, md5 in needed]
        labels = [
            label for batch in batches for label in batch.get("labels", batch.get("fine_labels"))
        ]
        pixels = np.concatenate([batch["data"] for batch in batches])
        return ImageSet(
            torch.from_numpy(pixels).view(-1, 3, 32, 32),
            torch.tensor(labels),
            tuple(meta[about.meta["key"]]),
        )

    def require(self, part: Part) -> None:
        """Look for the files of a part."""
        if not self.config.download:
            needed, _ = self._files(part)
            require_files(self.config.name, self.root, [path for path, _ in needed], fetched=True)

    def _files(self, part: Part) -> tuple[list[tuple[Path, str]], Any]:
        """Return a part's files with their checksums, and torchvision's class about them."""
        from torchvision import datasets

        about = datasets.CIFAR10 if self.config.name == "cifar10" else datasets.CIFAR100
        files = about.train_list if part == "train" else about.test_list
        needed = [*files, (about.meta["filename"], about.meta["md5"])]
        return [(self.root / about.base_folder / name, md5) for name, md5 in needed], about


def _read_verified_pickle(path: Path, md5: str) -> Any:
    # The checksum is taken of the very bytes that are unpickled, not of the file beforehand.
    with file_errors(path.parent), path.open("rb") as file:
        raw = file.read(MOST_BYTES + 1)
    if hashlib.md5(raw, usedforsecurity=False).hexdigest() != md5:
        raise DataError(f"{path} is not the original file (its checksum differs); {REPLACE}")
    return _ArrayUnpickler(io.BytesIO(raw), encoding="latin1").load()


class _ArrayUnpickler(pickle.Unpickler):
    """Knows plain containers and numpy arrays; a pickle that names anything else is refused."""

    def find_class(self, module: str, name: str) -> Any:
        allowed = {"numpy.core.multiarray._reconstruct", "numpy.ndarray", "numpy.dtype"}
        if f"{module}.{name}" not in allowed:
            raise pickle.UnpicklingError(f"{module}.{name} has no business in an image file")
        return super().find_class(module, name)
