"""The Oxford-IIIT pets: 37 breeds, images in one folder, parts in text files."""

import torch

from trainer.data.decoding import file_errors
from trainer.data.images import DataError, Part
from trainer.data.listing import Listing
from trainer.data.sources.base import Source
from trainer.data.sources.files import RESTORE, require_files

_FILES: dict[Part, str] = {"train": "trainval.txt", "test": "test.txt"}


class Pets(Source):
    """``root/oxford-iiit-pet/images/`` and ``annotations/`` (torchvision's layout)."""

    def read(self, part: Part) -> Listing:
        """List the images of a part, by class and name."""
        folder = self.root / "oxford-iiit-pet"
        listed = folder / "annotations" / _FILES[part]
        require_files(self.config.name, self.root, [listed])
        with file_errors(listed):
            rows = sorted(line.split() for line in listed.read_text().splitlines() if line.strip())
        try:  # Abyssinian_100 1 1 1: the second is the number of the breed
            numbers = [int(row[1]) for row in rows]
            breeds = {int(row[1]): row[0].rpartition("_")[0] for row in rows}
        except (IndexError, ValueError) as error:
            raise DataError(f"{listed} is no list of images and breeds; {RESTORE}") from error
        if sorted(breeds) != list(range(1, len(breeds) + 1)):
            raise DataError(f"{listed} lacks breeds; {RESTORE}")
        paths = [folder / "images" / f"{row[0]}.jpg" for row in rows]
        require_files(self.config.name, self.root, paths)
        names = tuple(breeds[number] for number in sorted(breeds))
        labels_N = torch.tensor(numbers) - 1
        listing = Listing(folder / "images", paths, labels_N, names)
        return listing.subset(labels_N.argsort(stable=True))
