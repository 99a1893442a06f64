"""EuroSAT: satellite images in ten folders, without parts."""

from pathlib import Path

from trainer.data.sources.image_folder import ImageFolder


class EuroSAT(ImageFolder):
    """``root/eurosat/2750/<class>/*.jpg`` (torchvision's layout), or the classes' own folder."""

    @property
    def root(self) -> Path:
        """The folder of the classes."""
        root = super().root
        places = (root / "eurosat" / "2750", root / "2750", root / "EuroSAT")
        return next((place for place in places if place.is_dir()), root)
