"""Lists of image files, made without opening one."""

import os
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path

from torch import Tensor

from trainer.data.images import DataError, abbreviate
from trainer.io.text import printable

NOT_DECODED = frozenset({"EPS", "WMF", "MPEG", "BUFR", "GRIB", "HDF5"})
"""Formats that Pillow knows by name alone, or hands to another program (EPS to Ghostscript)."""


@dataclass(frozen=True, eq=False)
class Listing:
    """Labelled image files of one part; none of them was opened.

    Attributes:
        folder: Of the part, absolute; files may lie elsewhere.
        paths: Of the images, absolute.
        labels_N: int64 in [0, num_classes).
        class_names: One per class, in the order of the labels.
        left_out: Number of files that lie there and are no images of the part, by reason.
    """

    folder: Path
    paths: list[Path]
    labels_N: Tensor
    class_names: tuple[str, ...]
    left_out: Mapping[str, int] = field(default_factory=dict)

    def __len__(self) -> int:
        """Number of images N."""
        return len(self.paths)

    def name(self, path: Path) -> str:
        """Return a file's name below the folder; in full where it lies elsewhere."""
        return str(path.relative_to(self.folder) if path.is_relative_to(self.folder) else path)

    def subset(self, indices: Tensor) -> "Listing":
        """Return the images at int64 ``indices``, in that order."""
        paths = [self.paths[index] for index in indices.tolist()]
        labels_N = self.labels_N[indices]
        return Listing(self.folder, paths, labels_N, self.class_names, self.left_out)


@cache
def image_formats() -> tuple[str, ...]:
    """Return the formats of image files that the installed Pillow decodes."""
    from PIL import Image

    Image.init()
    return tuple(sorted(Image.OPEN.keys() - NOT_DECODED))


@cache
def image_suffixes() -> frozenset[str]:
    """Return the suffixes of files in those formats, with the dot, in lower case."""
    from PIL import Image

    known = {*image_formats(), "MPO"}  # MPO: a JPEG file with more pictures behind the first
    suffixes = Image.registered_extensions()
    return frozenset(suffix for suffix, kind in suffixes.items() if kind in known)


def entries(folder: Path) -> list[Path]:
    """List a folder by name, without hidden entries.

    Raises:
        DataError: It cannot be listed.
    """
    try:
        return sorted(path for path in folder.iterdir() if not path.name.startswith("."))
    except OSError as error:
        raise DataError(
            f"cannot list {printable(folder)} ({error.strerror}); set data.root to a readable "
            "folder that holds the images in folders named after their classes, or such folders "
            "in train/ and test/"
        ) from error


def find_images(folder: Path) -> tuple[list[Path], Counter[str]]:
    """Return the images in a folder at any depth, by name, and the other files by suffix.

    Hidden files (macOS and editors leave some) are counted as such. Linked folders are read like
    others, but a link that leads back to a folder around it is not followed.

    Raises:
        DataError: A link is broken, or a folder cannot be listed.
    """
    images: list[Path] = []
    broken: list[Path] = []
    others: Counter[str] = Counter()
    for directory, names, files in os.walk(folder, onerror=_refuse, followlinks=True):
        place = Path(directory)
        names[:] = [name for name in names if _is_walked(place / name, others)]
        for name in files:
            path = place / name
            if not is_image(path):
                others[kind_of(path)] += 1
            else:  # a link to nowhere would be missing without a word, a pipe would wait for ever
                (images if path.is_file() else broken).append(path)
    if broken:
        shown = abbreviate(sorted(broken))
        raise DataError(f"{len(broken)} broken link(s): {shown}; mend or remove them")
    return sorted(images), others


def is_image(path: Path) -> bool:
    """Say by its name whether a file is an image that Pillow decodes."""
    return not path.name.startswith(".") and path.suffix.lower() in image_suffixes()


def kind_of(path: Path) -> str:
    """Return the reason why a file is left out that is no image: its suffix, if it looks like one.

    Whatever strangers call their files: reasons are few, short and fit to be printed.
    """
    if path.name.startswith("."):
        return "hidden files"
    suffix = path.suffix.lower()
    letters = suffix[1:]
    if not letters:
        return "files without a suffix"
    is_usual = letters.isascii() and letters.isalnum() and not letters.isdecimal()
    return suffix if is_usual and len(letters) <= 8 else "oddly named files"


def _is_walked(folder: Path, others: Counter[str]) -> bool:
    if folder.name.startswith("."):
        others["hidden files"] += 1
        return False
    if folder.is_symlink() and folder.parent.resolve().is_relative_to(folder.resolve()):
        others["links to a folder around them"] += 1
        return False
    return True


def _refuse(error: OSError) -> None:
    raise DataError(f"cannot list {printable(error.filename)} ({error.strerror})") from error
