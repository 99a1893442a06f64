"""STL-10: the binary files; its unlabelled images are not read."""

from pathlib import Path

import numpy as np
import torch

from trainer.data.decoding import file_errors
from trainer.data.images import DataError, ImageSet, Labels, Part
from trainer.data.sources.base import Source
from trainer.data.sources.files import RESTORE, require_files

_SIDE = 96


class STL10(Source):
    """``root/stl10_binary/train_X.bin``, ``train_y.bin``, and the same of the test part."""

    def read(self, part: Part) -> ImageSet:
        """Read the files of a part."""
        labels = self.labels(part)
        pixels_path, labels_path, _ = self._files(part)
        with file_errors(pixels_path.parent):
            pixels = np.fromfile(pixels_path, dtype=np.uint8)
        if len(pixels) != len(labels.labels_N) * 3 * _SIDE**2:
            raise DataError(f"{pixels_path} and {labels_path} do not belong together; {RESTORE}")
        images_NCWH = torch.from_numpy(pixels).view(-1, 3, _SIDE, _SIDE)  # column after column
        images_NCHW = images_NCWH.transpose(2, 3).contiguous()
        return ImageSet(images_NCHW, labels.labels_N, labels.class_names)

    def labels(self, part: Part) -> Labels:
        """Read the labels of a part alone."""
        self.require(part)
        _, labels_path, names_path = self._files(part)
        with file_errors(labels_path.parent):
            labels = np.fromfile(labels_path, dtype=np.uint8)
            names = tuple(names_path.read_text().split())
        if not ((1 <= labels) & (labels <= len(names))).all():
            raise DataError(f"{labels_path} and {names_path} do not belong together; {RESTORE}")
        return Labels(torch.from_numpy(labels).long() - 1, names)

    def require(self, part: Part) -> None:
        """Look for the files of a part."""
        require_files(self.config.name, self.root, self._files(part))

    def _files(self, part: Part) -> tuple[Path, Path, Path]:
        folder = self.root / "stl10_binary"
        return folder / f"{part}_X.bin", folder / f"{part}_y.bin", folder / "class_names.txt"
