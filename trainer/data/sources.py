"""Reading each data set from its own files into uint8 tensors, one part at a time.

A data set has two parts, ``"train"`` and ``"test"``, in separate files (digits: in a fixed
division). Reading one opens no file of the other.
"""

import gzip
import hashlib
import io
import math
import pickle
import struct
import tarfile
import zlib
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from trainer.config.data import DataConfig, DatasetName
from trainer.data.image_folder import file_errors, list_image_folder, read_image_folder
from trainer.data.images import DataError, ImageSet, Part, stratified_draw
from trainer.io.files import expanded, write_atomically

DEFAULT_ROOT = Path("data")  # under the working directory, where `root: null` looks and downloads
_DEBIAN_FASHION_MNIST = Path("/usr/share/datasets/fashion-mnist")  # package dataset-fashion-mnist
_DIGITS_TEST_IMAGES, _DIGITS_TEST_SEED = 360, 20200

_MOST_BYTES = 256 << 20
"""Of one file; CIFAR-100's takes 155 MB. A small gzip file can hold any number of zeros."""

_FASHION_CLASSES = (
    "T-shirt/top", "Trouser", "Pullover", "Dress", "Coat",
    "Sandal", "Shirt", "Sneaker", "Bag", "Ankle boot",
)  # fmt: skip


def read_part(config: DataConfig, part: Part, cache_dir: Path | None = None) -> ImageSet:
    """Read one part of a data set, at ``config.image_size`` if that is set.

    `Trainer` must never ask for ``"test"``: only `trainer.test_set` does.

    Args:
        config: which data set, and where it is.
        part: ``"train"`` (training and validation images) or ``"test"``.
        cache_dir: where decoded images are kept (`image_folder` only); None: nowhere.

    Raises:
        DataError: the files are missing or damaged.
    """
    images = _SOURCES[config.name](config, part, cache_dir)
    if config.image_size is None or images.size == (config.image_size, config.image_size):
        return images
    resized = _resize(images.images_NCHW, config.image_size)
    return ImageSet(resized, images.labels_N, images.class_names)


def require_part(config: DataConfig, part: Part) -> None:
    """Look whether a part's files are there, and its classes right; no image is read.

    Raises:
        DataError: They are missing, or its classes are not those of the training part.
    """
    if config.name == "image_folder":
        list_image_folder(config, part)
    elif config.name == "fashion_mnist":
        folders, names = _fashion_files(config, part)
        if not config.download and not _find_idx(folders, names):
            raise _missing("Fashion-MNIST", names[0] + "[.gz]", folders)
    elif config.name in ("cifar10", "cifar100") and not config.download:
        root, needed, _ = _cifar_files(config, part)
        _require_files(config, root, [path for path, _ in needed])


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


# scikit-learn's digits


def _digits(config: DataConfig, part: Part, cache_dir: Path | None) -> ImageSet:
    """1,797 images of 8 × 8: 360 for testing, always the same ones, and 1,437 for training."""
    from sklearn.datasets import load_digits  # only this data set needs scikit-learn

    bunch = load_digits()
    grey_NHW = torch.from_numpy(bunch.images) * (255 / 16)
    labels_N = torch.from_numpy(bunch.target).long()
    images = ImageSet(grey_NHW.round().byte()[:, None], labels_N, tuple("0123456789"))
    generator = torch.Generator().manual_seed(_DIGITS_TEST_SEED)
    test, train = stratified_draw(labels_N, _DIGITS_TEST_IMAGES, generator)
    return images.subset(test if part == "test" else train)


# Fashion-MNIST: IDX files


def _fashion_mnist(config: DataConfig, part: Part, cache_dir: Path | None) -> ImageSet:
    """Read ``root/FashionMNIST/raw`` (torchvision's layout) or the files lying in ``root``."""
    folders, names = _fashion_files(config, part)
    directory = folders[-2]
    found = _find_idx(folders, names)
    if not found and config.download:
        from torchvision.datasets import FashionMNIST

        for name, md5 in FashionMNIST.resources:
            _fetch([mirror + name for mirror in FashionMNIST.mirrors], md5, directory)
        found = _find_idx(folders, names)
    if not found:
        raise _missing("Fashion-MNIST", names[0] + "[.gz]", folders)
    images_NHW, labels_N = _read_idx(found[0], 3), _read_idx(found[1], 1).long()
    if len(images_NHW) != len(labels_N) or len(labels_N) == 0 or labels_N.max() > 9:
        raise DataError(f"{found[0]} and {found[1]} do not belong together; {_REPLACE}")
    return ImageSet(images_NHW[:, None], labels_N, _FASHION_CLASSES)


def _fashion_files(config: DataConfig, part: Part) -> tuple[list[Path], tuple[str, str]]:
    """Return the folders to look in, torchvision's last but one, and the names to look for."""
    root = _root(config)
    directory = root / "FashionMNIST" / "raw"
    folders = [*([] if config.root else [_DEBIAN_FASHION_MNIST]), directory, root]
    stem = "train" if part == "train" else "t10k"
    return folders, (f"{stem}-images-idx3-ubyte", f"{stem}-labels-idx1-ubyte")


def _find_idx(folders: Sequence[Path], names: Sequence[str]) -> list[Path]:
    """Return the files of these names, plain or gzipped, in the first folder that has them all."""
    for folder in folders:
        paths = [next(filter(Path.is_file, (folder / n, folder / f"{n}.gz")), None) for n in names]
        if all(paths):
            return [path for path in paths if path]
    return []


def _read_idx(path: Path, dimensions: int) -> Tensor:
    """Read an IDX file of bytes: magic ``00 00 08 dimensions``, big-endian sizes, the bytes."""
    opener: Callable[..., Any] = gzip.open if path.suffix == ".gz" else open
    try:
        with opener(path, "rb") as file:
            raw = bytearray(file.read(_MOST_BYTES + 1))
    except (OSError, EOFError, zlib.error) as error:
        raise DataError(f"cannot read {path} ({error}); {_REPLACE}") from error
    header = 4 + 4 * dimensions
    shape = struct.unpack_from(f">{dimensions}I", raw, 4) if len(raw) >= header else ()
    if (
        raw[:4] != bytes((0, 0, 8, dimensions))
        or len(raw) != header + math.prod(shape)
        or 0 in shape
    ):
        raise DataError(f"{path} is no complete IDX file of {dimensions} dimensions; {_REPLACE}")
    return torch.frombuffer(raw, dtype=torch.uint8)[header:].view(shape)


# CIFAR: the pickles of the original archive


def _cifar(config: DataConfig, part: Part, cache_dir: Path | None) -> ImageSet:
    """Read ``root/cifar-10-batches-py`` or ``root/cifar-100-python``: this part's files only."""
    root, needed, about = _cifar_files(config, part)
    if config.download and not all(path.is_file() for path, _ in needed):
        wanted = [name for name, _ in (*about.train_list, *about.test_list)]
        archive = _fetch([about.url], about.tgz_md5, root)
        _unpack(archive, about.base_folder, [*wanted, about.meta["filename"]], root)
    _require_files(config, root, [path for path, _ in needed])
    *batches, meta = [_read_verified_pickle(path, md5) for path, md5 in needed]
    labels = [label for batch in batches for label in batch.get("labels", batch.get("fine_labels"))]
    pixels = np.concatenate([batch["data"] for batch in batches])
    return ImageSet(
        torch.from_numpy(pixels).view(-1, 3, 32, 32),
        torch.tensor(labels),
        tuple(meta[about.meta["key"]]),
    )


def _cifar_files(config: DataConfig, part: Part) -> tuple[Path, list[tuple[Path, str]], Any]:
    """Return the root, a part's files with their checksums, and torchvision's class about them."""
    from torchvision import datasets

    about = datasets.CIFAR10 if config.name == "cifar10" else datasets.CIFAR100
    root = _root(config)
    files = about.train_list if part == "train" else about.test_list
    needed = [*files, (about.meta["filename"], about.meta["md5"])]
    return root, [(root / about.base_folder / name, md5) for name, md5 in needed], about


def _require_files(config: DataConfig, root: Path, paths: Sequence[Path]) -> None:
    for path in paths:
        if not path.is_file():
            raise _missing(config.name, f"{path.parent.name}/{path.name}", [root])


def _read_verified_pickle(path: Path, md5: str) -> Any:
    # The checksum is taken of the very bytes that are unpickled, not of the file beforehand.
    with file_errors(path.parent), path.open("rb") as file:
        raw = file.read(_MOST_BYTES + 1)
    if hashlib.md5(raw, usedforsecurity=False).hexdigest() != md5:
        raise DataError(f"{path} is not the original file (its checksum differs); {_REPLACE}")
    return _ArrayUnpickler(io.BytesIO(raw), encoding="latin1").load()


class _ArrayUnpickler(pickle.Unpickler):
    """Knows plain containers and numpy arrays; a pickle that names anything else is refused."""

    def find_class(self, module: str, name: str) -> Any:
        allowed = {"numpy.core.multiarray._reconstruct", "numpy.ndarray", "numpy.dtype"}
        if f"{module}.{name}" not in allowed:
            raise pickle.UnpicklingError(f"{module}.{name} has no business in an image file")
        return super().find_class(module, name)


# Finding and fetching

_REPLACE = "delete it and set data.download: true, or put the original file there"


def _root(config: DataConfig) -> Path:
    return expanded(config.root) if config.root else DEFAULT_ROOT


def _missing(data_set: str, name: str, folders: Sequence[Path]) -> DataError:
    places = " or ".join(str(folder) for folder in folders)
    return DataError(
        f"{data_set}: no {name} in {places}; "
        "set data.download: true to fetch it, or data.root to the folder that holds it"
    )


def _fetch(urls: Sequence[str], md5: str, folder: Path) -> Path:
    """Download a file from the first mirror that works, unless it is there; check its md5."""
    from torchvision.datasets.utils import download_url

    failures = []
    for url in urls:
        name = url.rpartition("/")[2]
        try:
            download_url(url, str(folder), name, md5)
            return folder / name
        except (OSError, RuntimeError) as error:  # URLError is an OSError
            failures.append(f"{url}: {error}")
    raise DataError(
        f"download failed ({'; '.join(failures)}); check the network, "
        f"or put the files into {folder} by hand"
    )


def _unpack(archive: Path, inside: str, names: Sequence[str], root: Path) -> None:
    """Copy the files ``inside/name`` of an archive to ``root/inside/name``, and nothing else.

    Where a file goes is decided here alone: an archive can neither name another place nor make a
    link, a device or a file that was not asked for.
    """
    (root / inside).mkdir(parents=True, exist_ok=True)
    try:
        with tarfile.open(archive) as tar:
            for name in names:
                member = tar.getmember(f"{inside}/{name}")
                content = tar.extractfile(member) if member.isfile() else None
                if content is None:
                    raise DataError(f"{archive}: {inside}/{name} is no file; {_REPLACE}")
                write_atomically(root / inside / name, content.read())
    except (tarfile.TarError, OSError, EOFError, KeyError, zlib.error) as error:
        raise DataError(f"cannot unpack {archive} ({error}); {_REPLACE}") from error


_SOURCES: dict[DatasetName, Callable[[DataConfig, Part, Path | None], ImageSet]] = {
    "digits": _digits,
    "fashion_mnist": _fashion_mnist,
    "cifar10": _cifar,
    "cifar100": _cifar,
    "image_folder": read_image_folder,
}
