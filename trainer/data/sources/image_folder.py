"""Folders of images: ``train/<class>/…``, ``val/<class>/…``, ``test/<class>/…``, or fewer of them.

Classes are the folders in the training part, or those in the root where it has no parts. Whatever
lies below a class's folder, at any depth, belongs to the class.
"""

import contextlib
from collections import Counter
from collections.abc import Collection, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import cached_property
from itertools import chain
from pathlib import Path

import torch

from trainer.data.decoding import file_errors
from trainer.data.images import DataError, Part, abbreviate
from trainer.data.listing import Listing, entries, find_images, is_image, kind_of
from trainer.data.sources.annotations import annotated_classes
from trainer.data.sources.base import Source
from trainer.data.sources.names import part_named
from trainer.io.text import is_plain, printable

OUTSIDE = "images in no class's folder"


class ImageFolder(Source):
    """Images in folders named after their classes."""

    def parts(self) -> Collection[Part]:
        """Return the parts that have a folder with labelled images."""
        return self._folders.keys()

    def read(self, part: Part) -> Listing:
        """List the images of a part, by class and name."""
        folder = self._folders[part]
        if part != "train":
            if not _has_classes(folder) and (classes := annotated_classes(folder, self.root)):
                return self._annotated(folder, classes)
            self._require_same_classes(folder)
        with ThreadPoolExecutor(16) as pool:  # a network's file system takes its time for each file
            found = list(pool.map(lambda name: _of_class(folder / name), self._class_names))
        left_out = self._beside() if part == "train" else _outside_classes(folder)
        for (images, others), name in zip(found, self._class_names, strict=True):
            if not images and (part == "train" or self.config.rare_classes == "refuse"):
                raise _empty(folder / name, others)
            left_out += others
        sizes_C = torch.tensor([len(images) for images, _ in found])
        labels_N = torch.arange(len(found)).repeat_interleave(sizes_C)
        paths = list(chain.from_iterable(images for images, _ in found))
        return Listing(folder, paths, labels_N, self._class_names, left_out)

    @cached_property
    def _folders(self) -> dict[Part, Path]:
        """Folders of the parts."""
        named: dict[Part, list[Path]] = {}
        folders = [path for path in entries(self.root) if path.is_dir()]
        for path in folders:
            if (part := part_named(path.name)) is not None:
                named.setdefault(part, []).append(path)
        for part, paths in named.items():
            if len(paths) > 1:
                names = " and ".join(path.name for path in paths)
                raise DataError(f"{self.root}: {names} could both be the {part} part; remove one")
        found = {part: paths[0] for part, paths in named.items()}
        if "train" not in found or not _folders_in(found["train"]):
            if folders and len(found) == len(folders):
                raise DataError(
                    f"{self.root} has {', '.join(p.name for p in folders)}, but no class in a "
                    "folder train; name the training part train, or point data.root elsewhere"
                )
            return {"train": self.root}
        if "validation" in found and "test" in found:  # two names of one folder: it is the test's
            if found["validation"].resolve() == found["test"].resolve():
                del found["validation"]
        return {p: f for p, f in found.items() if p == "train" or self._is_labelled(f)}

    def _is_labelled(self, folder: Path) -> bool:
        """Say whether a part tells the classes of its images: published test sets often do not."""
        return _has_classes(folder) or annotated_classes(folder, self.root) is not None

    @cached_property
    def _class_names(self) -> tuple[str, ...]:
        folder = self._folders["train"]
        names = tuple(path.name for path in _folders_in(folder))
        odd = [name for name in names if not is_plain(name)]
        if odd:  # they stand in JSON, in tables and on pages
            raise DataError(
                f"{printable(folder)}: {abbreviate(odd)} can be no class's name; rename it"
            )
        if len(names) < 2:
            raise DataError(f"{folder} has {len(names)} class folder(s); classification needs two")
        return names

    def _require_same_classes(self, folder: Path) -> None:
        here, known = {path.name for path in _folders_in(folder)}, set(self._class_names)
        odd = here - known if self.config.rare_classes == "train" else here ^ known
        if odd:
            raise DataError(
                f"{folder}: {abbreviate(sorted(odd))} not in both {self._folders['train'].name} "
                f"and {folder.name}; make the classes agree"
                + ("" if here - known else ", or set data.rare_classes: train")
            )

    def _annotated(self, folder: Path, classes: dict[str, str]) -> Listing:
        """List images that lie together, and whose classes are in a file beside them."""
        images, left_out = find_images(folder)
        label_of = {name: label for label, name in enumerate(self._class_names)}
        known = [path for path in images if classes.get(path.name) in label_of]
        if not known:
            raise DataError(f"{folder}: no image is annotated with a class of the training part")
        left_out["images without a class of the training part"] += len(images) - len(known)
        labels_N = torch.tensor([label_of[classes[path.name]] for path in known])
        order_N = labels_N.argsort(stable=True)
        listing = Listing(folder, known, labels_N, self._class_names, +left_out)
        return listing.subset(order_N)

    def _beside(self) -> Counter[str]:
        """Count the files that lie beside the classes and the parts."""
        folder = self._folders["train"]
        found = _outside_classes(folder)
        if folder == self.root:
            return found
        found += _outside_classes(self.root)
        parts = {path.resolve() for path in self._folders.values()}
        for other in entries(self.root):
            if other.is_dir() and other.resolve() not in parts:
                with contextlib.suppress(DataError):  # nothing is read there
                    images, _ = find_images(other)
                    reason = f"images in {printable(other.name)}/, where no class is given"
                    found[reason] = len(images)
        return +found


def _has_classes(folder: Path) -> bool:
    """Say whether a part has folders named after classes; not so where all lie together."""
    return [path.name for path in _folders_in(folder)] not in ([], ["images"])


def _folders_in(folder: Path) -> list[Path]:
    """Return the folders in a folder by name."""
    found = entries(folder)
    with file_errors(folder):
        broken = [path for path in found if path.is_symlink() and not path.exists()]
        if broken:  # a class would be missing without a word
            raise DataError(
                f"{len(broken)} broken link(s): {abbreviate(broken)}; mend or remove them"
            )
        return [path for path in found if path.is_dir()]


def _of_class(folder: Path) -> tuple[Sequence[Path], Counter[str]]:
    return find_images(folder) if folder.is_dir() else ((), Counter())


def _outside_classes(folder: Path) -> Counter[str]:
    """Count the files that lie directly in a folder of classes or parts."""
    files = [path for path in folder.iterdir() if not path.is_dir()]
    return Counter(OUTSIDE if is_image(path) else kind_of(path) for path in files)


def _empty(folder: Path, others: Counter[str]) -> DataError:
    held = ", ".join(f"{count} {reason}" for reason, count in sorted(others.items()))
    return DataError(
        f"{printable(folder)} holds no image that Pillow reads ({held or 'nothing at all'}); "
        "add images or remove the folder"
    )
