"""Street View House Numbers: the cropped digits, two MATLAB files."""

import torch

from trainer.data.images import DataError, ImageSet, Part
from trainer.data.sources.base import Source
from trainer.data.sources.files import RESTORE, require_files


class SVHN(Source):
    """``root/train_32x32.mat`` and ``root/test_32x32.mat``; the extra images are not read."""

    def read(self, part: Part) -> ImageSet:
        """Read the file of a part."""
        from scipy.io import loadmat

        self.require(part)
        path = self.root / f"{part}_32x32.mat"
        try:
            content = loadmat(path)
            images_HWCN = torch.from_numpy(content["X"])
            labels_N = torch.from_numpy(content["y"]).long().flatten() % 10  # 10 stands for 0
            images_NCHW = images_HWCN.permute(3, 2, 0, 1).contiguous()
        except Exception as error:  # a damaged file leads a reader anywhere
            raise DataError(f"cannot read {path} ({error}); {RESTORE}") from error
        if len(images_NCHW) != len(labels_N) or images_NCHW.dtype != torch.uint8:
            raise DataError(f"{path} does not hold images and their labels; {RESTORE}")
        return ImageSet(images_NCHW, labels_N, tuple("0123456789"))

    def require(self, part: Part) -> None:
        """Look for the file of a part."""
        require_files(self.config.name, self.root, [self.root / f"{part}_32x32.mat"])
