"""Oxford's 102 flowers: images in one folder, labels and parts in MATLAB files."""

import torch

from trainer.data.images import DataError, Part
from trainer.data.listing import Listing
from trainer.data.sources.base import Source
from trainer.data.sources.files import RESTORE, require_files

_KEYS: dict[Part, str] = {"train": "trnid", "validation": "valid", "test": "tstid"}


class Flowers102(Source):
    """``root/flowers-102/jpg/``, ``imagelabels.mat`` and ``setid.mat`` (torchvision's layout)."""

    all_parts = ("train", "validation", "test")

    def read(self, part: Part) -> Listing:
        """List the images of a part, by class and number."""
        from scipy.io import loadmat

        folder = self.root / "flowers-102"
        labels_path, parts_path = folder / "imagelabels.mat", folder / "setid.mat"
        require_files(self.config.name, self.root, [labels_path, parts_path])
        try:
            labels = loadmat(labels_path, squeeze_me=True)["labels"].tolist()
            numbers = sorted(loadmat(parts_path, squeeze_me=True)[_KEYS[part]].tolist())
            labels_N = torch.tensor([labels[number - 1] - 1 for number in numbers])
        except Exception as error:  # a damaged file leads a reader anywhere
            raise DataError(f"cannot read {folder}/*.mat ({error}); {RESTORE}") from error
        paths = [folder / "jpg" / f"image_{number:05}.jpg" for number in numbers]
        require_files(self.config.name, self.root, paths)
        names = tuple(str(number) for number in range(1, max(labels) + 1))
        listing = Listing(folder / "jpg", paths, labels_N, names)
        return listing.subset(labels_N.argsort(stable=True))
