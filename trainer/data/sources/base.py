"""The interface of a data set, whatever its files."""

import re
from abc import ABC, abstractmethod
from collections.abc import Collection
from pathlib import Path
from typing import ClassVar

from trainer.config.data import DataConfig
from trainer.data.images import DataError, ImageSet, Labels, Part
from trainer.data.listing import Listing
from trainer.io.files import expanded
from trainer.io.text import printable

DEFAULT_ROOT = Path("data")  # under the working directory, where `root: null` looks and downloads


class Source(ABC):
    """A data set on disk, one part at a time; reading one part opens no image of another.

    A part that is absent is made by `trainer.data.parts`, which draws images of the training part.
    """

    all_parts: ClassVar[tuple[Part, ...]] = ("train", "test")

    def __init__(self, config: DataConfig) -> None:
        """Keep the configuration; no file is looked at yet."""
        self.config = config

    def parts(self) -> Collection[Part]:
        """Return the parts that the data set is divided into, among them ``"train"``.

        Raises:
            DataError: The files cannot be found.
        """
        return self.all_parts

    @abstractmethod
    def read(self, part: Part) -> ImageSet | Listing:
        """Return the images of a part, or the list of their files, of which none is opened.

        Raises:
            DataError: Files are missing or damaged.
        """

    def labels(self, part: Part) -> Labels | Listing | ImageSet:
        """Return what is known of a part without its pixels: by default, what `read` returns.

        Raises:
            DataError: Files are missing or damaged.
        """
        return self.read(part)

    def require(self, part: Part) -> None:
        """Look whether the files of a part are there; no image is read.

        Raises:
            DataError: They are not, or its classes are not those of the training part.
        """
        self.labels(part)

    @property
    def root(self) -> Path:
        """Where the data set lies, absolute."""
        if self.config.root is None:
            return DEFAULT_ROOT.absolute()
        root = expanded(self.config.root)
        unset = re.search(r"\$\{?(\w+)\}?", str(root))
        if unset and not root.exists():
            raise DataError(
                f"data.root: {printable(self.config.root)} names the environment variable "
                f"{unset[1]}, which is not set"
            )
        return root.absolute()
