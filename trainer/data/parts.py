"""The parts of any data set: its own ones, and a test part where it has none.

Which part an image belongs to depends on the files alone, and is decided before one is opened. The
test part is read by `trainer.test_set`; everybody else may count it.
"""

from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor
from torch.nn import functional

from trainer.config.data import DataConfig
from trainer.data.decoded import decode
from trainer.data.images import DataError, ImageSet, Part
from trainer.data.listing import Listing
from trainer.data.sources.base import Source
from trainer.data.splits import Divisible, S, divide_test
from trainer.registry import DATA_SETS, load_object


def open_source(config: DataConfig) -> Source:
    """Return the data set of a configuration; no file is looked at yet."""
    source: Source = load_object(DATA_SETS[config.name].import_path)(config)
    return source


def has_validation(config: DataConfig) -> bool:
    """Say whether the data set has validation images of its own that are to be used.

    Raises:
        DataError: Its files cannot be found.
    """
    return _has_validation(open_source(config))


def _has_validation(source: Source) -> bool:
    return source.config.own_validation and "validation" in source.parts()


def read_part(config: DataConfig, part: Part, cache_dir: Path | None = None) -> ImageSet:
    """Read one part of a data set, at ``config.image_size`` if that is set.

    `Trainer` must never ask for ``"test"``: only `trainer.test_set` does.

    Args:
        config: which data set, and where it is.
        part: ``"train"`` (images to divide, or without the validation images if the data set has
            its own), ``"validation"`` or ``"test"``.
        cache_dir: where decoded images are kept (image files only); None: nowhere.

    Raises:
        DataError: the files are missing or damaged.
    """
    source = open_source(config)
    images = _taken(source, source.read, part)
    if isinstance(images, Listing):
        images = decode(config, part, images, cache_dir)
    if config.image_size is None or images.size == (config.image_size, config.image_size):
        return images
    resized = _resize(images.images_NCHW, config.image_size)
    return ImageSet(resized, images.labels_N, images.class_names, left_out=images.left_out)


def list_part(config: DataConfig, part: Part) -> Listing:
    """Return the image files of a part, for a data set that has files; none is opened.

    Raises:
        DataError: They are missing.
    """
    source = open_source(config)
    found = _taken(source, source.read, part)
    assert isinstance(found, Listing)  # DataConfig sees to it
    return found


def labels_of(config: DataConfig, part: Part) -> Divisible:
    """Return the labels of a part; no pixel is looked at.

    Raises:
        DataError: Its files are missing, or its classes are not those of the training part.
    """
    source = open_source(config)
    return _taken(source, source.labels, part)


def require_part(config: DataConfig, part: Part) -> None:
    """Look whether a part's files are there, and its classes right; no image is read.

    Raises:
        DataError: They are missing, or its classes are not those of the training part.
    """
    source = open_source(config)
    if part in source.parts():
        source.require(part)
    else:
        _taken(source, source.labels, part)


def _taken(source: Source, read: Callable[[Part], S], part: Part) -> S:
    """Return a part of the data set, or the images drawn for it."""
    config, parts = source.config, source.parts()
    if part in parts and (part != "train" or "test" in parts or not config.test):
        return read(part)
    if part == "test" and not config.test:
        raise DataError(
            f"{source.root}: there is no test part, and data.test is 0; a search that begins with "
            "data.test: 0.2 seals a fifth of the images for it"
        )
    whole = read("train")
    leave = 1 if _has_validation(source) else 2
    rest, test = divide_test(whole, config, leave=leave)
    return whole.subset(test if part == "test" else rest)


def _resize(images_NCHW: Tensor, side: int) -> Tensor:
    """Resize to side × side: area means where that shrinks, bilinear where it grows."""
    shrinks = side <= min(images_NCHW.shape[2:])
    chunks = []
    for start in range(0, len(images_NCHW), 1024):  # the whole set as floats might not fit
        chunk = images_NCHW[start : start + 1024].float()
        if shrinks:
            resized = functional.adaptive_avg_pool2d(chunk, side)
        else:
            resized = functional.interpolate(
                chunk, size=(side, side), mode="bilinear", antialias=True
            )
        chunks.append(resized.round().clamp(0, 255).byte())
    return torch.cat(chunks)
