"""scikit-learn's digits, which come with the library."""

import torch

from trainer.data.images import ImageSet, Part, stratified_draw
from trainer.data.sources.base import Source

_TEST_IMAGES, _TEST_SEED = 360, 20200


class Digits(Source):
    """1,797 images of 8 × 8: 360 for testing, always the same ones, and 1,437 for training."""

    def read(self, part: Part) -> ImageSet:
        """Return the images of a part."""
        from sklearn.datasets import load_digits  # only this data set needs scikit-learn

        bunch = load_digits()
        grey_NHW = torch.from_numpy(bunch.images) * (255 / 16)
        labels_N = torch.from_numpy(bunch.target).long()
        images = ImageSet(grey_NHW.round().byte()[:, None], labels_N, tuple("0123456789"))
        generator = torch.Generator().manual_seed(_TEST_SEED)
        test, train = stratified_draw(labels_N, _TEST_IMAGES, generator)
        return images.subset(test if part == "test" else train)

    def require(self, part: Part) -> None:
        """Nothing can be missing."""
