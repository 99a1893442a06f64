"""Street View House Numbers: the cropped digits, two MATLAB files."""

from pathlib import Path
from typing import Any

import numpy as np
import torch

from trainer.data.images import DataError, ImageSet, Labels, Part
from trainer.data.sources.base import Source
from trainer.data.sources.files import RESTORE, require_files

_NAMES = tuple("0123456789")


class SVHN(Source):
    """``root/train_32x32.mat`` and ``root/test_32x32.mat``; the extra images are not read."""

    def read(self, part: Part) -> ImageSet:
        """Read the file of a part."""
        labels_N = self.labels(part).labels_N
        images_HWCN = torch.from_numpy(self._array(part, "X"))
        images_NCHW = images_HWCN.permute(3, 2, 0, 1).contiguous()
        if len(images_NCHW) != len(labels_N) or images_NCHW.dtype != torch.uint8:
            raise DataError(f"{self._file(part)}: images and labels do not belong together")
        return ImageSet(images_NCHW, labels_N, _NAMES)

    def labels(self, part: Part) -> Labels:
        """Read the labels of a part alone."""
        labels_N = torch.from_numpy(self._array(part, "y")).long().flatten()
        return Labels(labels_N % 10, _NAMES)  # 10 stands for 0

    def require(self, part: Part) -> None:
        """Look for the file of a part."""
        require_files(self.config.name, self.root, [self._file(part)])

    def _file(self, part: Part) -> Path:
        return self.root / f"{part}_32x32.mat"

    def _array(self, part: Part, key: str) -> np.ndarray[Any, Any]:
        from scipy.io import loadmat

        self.require(part)
        try:
            array: np.ndarray[Any, Any] = loadmat(self._file(part), variable_names=[key])[key]
        except Exception as error:  # a damaged file leads a reader anywhere
            raise DataError(f"cannot read {self._file(part)} ({error}); {RESTORE}") from error
        return array
