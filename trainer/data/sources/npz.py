"""NumPy's ``.npz``: ``x_train, y_train, …`` or MedMNIST's ``train_images, train_labels, …``."""

import zipfile
import zlib
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.lib.npyio import NpzFile

from trainer.data.images import DataError, ImageSet, Labels, Part, abbreviate
from trainer.data.sources.base import Source
from trainer.data.sources.files import class_order, only_file
from trainer.data.sources.names import PART_NAMES
from trainer.io.text import is_plain, truncate

_PIXELS, _LABELS = ("x", "images", "image", "data"), ("y", "labels", "label", "targets")
Array = np.ndarray[Any, Any]


class Npz(Source):
    """Images (N, H, W), (N, H, W, C) or (N, C, H, W), of bytes or of floats in [0, 1].

    Arrays are read one by one: those of another part stay in the file. Pickled ones are refused.
    """

    def parts(self) -> Collection[Part]:
        """Return the parts that have images and labels in the file."""
        if "train" not in self._keys:
            raise DataError(
                f"{self._file}: no x_train and y_train, and no train_images and train_labels, "
                f"among {abbreviate(self._names, 10)}"
            )
        return self._keys.keys()

    def read(self, part: Part) -> ImageSet:
        """Read the images and labels of a part."""
        labels = self.labels(part)
        key = self._keys[part][0]
        images_NCHW = torch.from_numpy(_bytes(self._array(key), f"{self._file}: {key}"))
        if len(images_NCHW) != len(labels.labels_N):
            raise DataError(
                f"{self._file}: {len(images_NCHW)} images in {key}, and {len(labels.labels_N)} "
                f"labels in {self._keys[part][1]}"
            )
        return ImageSet(images_NCHW, labels.labels_N, labels.class_names)

    def labels(self, part: Part) -> Labels:
        """Read the labels of a part and of the training part, which has all classes."""
        names = self._class_names
        found = self._texts(part)
        if strange := set(found) - set(names):
            raise DataError(
                f"{self._file}: {abbreviate(sorted(strange))} in {self._keys[part][1]}, but not "
                "in the training part; make the classes agree"
            )
        label_of = {name: label for label, name in enumerate(names)}
        return Labels(torch.tensor([label_of[text] for text in found]), names)

    @cached_property
    def _file(self) -> Path:
        return only_file(self.root, (".npz",))

    @cached_property
    def _class_names(self) -> tuple[str, ...]:
        names = class_order(set(self._texts("train")))
        if len(names) < 2:
            raise DataError(f"{self._file}: one class alone; classification needs two")
        return names

    def _texts(self, part: Part) -> list[str]:
        """Return the labels of a part as texts."""
        self.parts()  # there is a training part
        key = self._keys[part][1]
        labels = self._array(key)
        if labels.ndim == 2 and labels.shape[1] > 1:
            if not (labels.astype(bool).sum(axis=1) == 1).all():
                raise DataError(
                    f"{self._file}: {key} gives an image several classes or none; one is needed"
                )
            labels = labels.argmax(axis=1)
        if labels.dtype.kind == "f" and (labels == labels.round()).all():
            labels = labels.astype(np.int64)
        if labels.size == 0 or labels.size != len(labels) or labels.dtype.kind not in "iubU":
            raise DataError(
                f"{self._file}: {key} has shape {labels.shape} and type {labels.dtype}; a whole "
                "number or a text for each image is needed"
            )
        texts = [str(label) for label in labels.flatten().tolist()]
        if odd := [text for text in set(texts) if not text or not is_plain(text)]:
            raise DataError(f"{self._file}: {key}: {abbreviate(odd)} can be no class's name")
        return texts

    @cached_property
    def _names(self) -> tuple[str, ...]:
        with self._opened() as file:
            return tuple(file.files)

    @cached_property
    def _keys(self) -> dict[Part, tuple[str, str]]:
        """Names of the two arrays of each part."""
        lower = {name.casefold(): name for name in self._names}
        found: dict[Part, tuple[str, str]] = {}
        for part, words in PART_NAMES.items():
            for images, labels in _usual_names(part, words):
                if images in lower and labels in lower:
                    found.setdefault(part, (lower[images], lower[labels]))
        return found

    @contextmanager
    def _opened(self) -> Iterator[NpzFile]:
        try:
            loaded = np.load(self._file, allow_pickle=False)
            if not isinstance(loaded, NpzFile):
                raise ValueError("a single array")
            with loaded as file:
                yield file
        except (OSError, ValueError, EOFError, zipfile.BadZipFile, zlib.error) as error:
            text = truncate(str(error), 200)
            raise DataError(f"{self._file}: no .npz file of plain arrays ({text})") from error

    def _array(self, key: str) -> Array:
        with self._opened() as file:
            array: Array = file[key]
        return array


def _usual_names(part: Part, words: Collection[str]) -> Iterator[tuple[str, str]]:
    """Yield the names that the two arrays of a part may have."""
    kinds = [(images, labels) for images in _PIXELS for labels in _LABELS]
    for word in sorted(words):
        for images, labels in kinds:
            yield f"{images}_{word}", f"{labels}_{word}"
            yield f"{word}_{images}", f"{word}_{labels}"
    if part == "train":  # a file without parts
        yield from kinds


def _bytes(pixels: Array, place: str) -> Array:
    """Return bytes (N, C, H, W) of images in any usual form."""
    if pixels.ndim == 3:
        pixels = pixels[:, None]
    elif pixels.ndim == 4 and pixels.shape[3] in (1, 3):
        pixels = pixels.transpose(0, 3, 1, 2)
    if pixels.ndim != 4 or pixels.shape[1] not in (1, 3) or 0 in pixels.shape:
        raise DataError(
            f"{place} has shape {pixels.shape}; (N, H, W), (N, H, W, C) or (N, C, H, W) with 1 or "
            "3 channels is needed"
        )
    if pixels.dtype == np.bool_:
        pixels = pixels.astype(np.uint8) * 255
    elif pixels.dtype != np.uint8:
        low, high = pixels.min(), pixels.max()
        whole = pixels.dtype.kind in "iu"
        if not (0 <= low and high <= (255 if whole else 1)):
            raise DataError(
                f"{place} holds {low:g} to {high:g} of type {pixels.dtype}; whole numbers up to "
                "255, or floats in [0, 1], are needed"
            )
        pixels = (pixels if whole else (pixels * 255).round()).astype(np.uint8)
    return np.ascontiguousarray(pixels)
