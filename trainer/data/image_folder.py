"""Image folders, ``root/<part>/<class>/*.jpg|jpeg|png``: decoded once and kept in one file.

``trainer.data.image_files`` lists the files with the functions here, and decodes nothing.
"""

import contextlib
import hashlib
import json
import os
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

import numpy as np
import torch
from torch import Tensor

from trainer.config.data import DataConfig
from trainer.data.decoding import for_each_image, open_rgb, require_decodable
from trainer.data.images import DataError, ImageSet, Part, abbreviate
from trainer.io.files import expanded
from trainer.io.text import is_plain, printable

_IMAGE_SUFFIXES = {".jpg", ".jpeg", ".png"}


def read_image_folder(config: DataConfig, part: Part, cache_dir: Path | None) -> ImageSet:
    """Decode ``root/<part>/<class>/*`` to RGB, or read what an earlier call has decoded.

    Raises:
        DataError: Images cannot be decoded and ``config.corrupt`` is ``"fatal"``, or there are
            none.
    """
    folder, class_names, files = list_image_folder(config, part)
    paths = [path for group in files for path in group]
    with file_errors(folder):
        decoded = _Decoded.of(config, part, paths, cache_dir, _cache_key(folder, paths, config))
    sizes_C = torch.tensor([len(group) for group in files])
    labels_N = torch.arange(len(files)).repeat_interleave(sizes_C)
    skipped = len(paths) - len(decoded.kept_N)
    return ImageSet(decoded.images_NCHW, labels_N[decoded.kept_N], class_names, skipped)


@contextlib.contextmanager
def file_errors(folder: Path) -> Iterator[None]:
    """Turn errors of the file system into a ``DataError``."""
    try:
        yield
    except OSError as error:
        place = printable(error.filename or folder)
        raise DataError(f"cannot read {place} ({error.strerror or error})") from error


def list_image_folder(
    config: DataConfig, part: Part
) -> tuple[Path, tuple[str, ...], list[list[Path]]]:
    """Return the folder of a part, its class names, and the image files of each class.

    Raises:
        DataError: There are no classes, or not the same in both parts, or a class is empty.
    """
    assert config.root is not None  # DataConfig sees to it
    root = expanded(config.root).absolute()
    folder, class_names = root / part, _class_names(root / "train")
    if part == "test" and (names := _class_names(folder)) != class_names:
        odd = sorted(set(names) ^ set(class_names))
        raise DataError(
            f"{folder}: {abbreviate(odd)} not in both train and test; make the classes agree"
        )
    with ThreadPoolExecutor(16) as pool:  # a network's file system takes its time for each file
        files = list(pool.map(lambda name: _image_files(folder / name), class_names))
    return folder, class_names, files


def _class_names(folder: Path) -> tuple[str, ...]:
    entries = _entries(folder)
    with file_errors(folder):
        broken = [path for path in entries if path.is_symlink() and not path.exists()]
        names = tuple(path.name for path in entries if path.is_dir())
    if broken:  # a class would be missing without a word
        raise DataError(f"{len(broken)} broken link(s): {abbreviate(broken)}; mend or remove them")
    odd = [name for name in names if not is_plain(name)]
    if odd:  # they stand in JSON, in tables and on pages
        raise DataError(f"{printable(folder)}: {abbreviate(odd)} can be no class's name; rename it")
    if len(names) < 2:
        raise DataError(f"{folder} has {len(names)} class folder(s); classification needs two")
    return names


def _entries(folder: Path) -> list[Path]:
    """List a folder by name, without hidden entries."""
    try:
        return sorted(path for path in folder.iterdir() if not path.name.startswith("."))
    except OSError as error:
        raise DataError(
            f"cannot list {printable(folder)} ({error.strerror}); set data.root to a readable "
            "folder that holds train/<class>/ and test/<class>/"
        ) from error


def _image_files(folder: Path) -> list[Path]:
    """Return the images directly in a class folder, by name; other files are ignored."""
    paths = [
        path
        for path in _entries(folder)
        if path.suffix.lower() in _IMAGE_SUFFIXES and not path.is_dir()
    ]
    # A dangling or looping link would be missing without a word, a named pipe would wait for ever.
    broken = [path for path in paths if not path.is_file()]
    if broken:
        raise DataError(f"{len(broken)} broken link(s): {abbreviate(broken)}; mend or remove them")
    if not paths:
        raise DataError(
            f"{printable(folder)} holds no .jpg, .jpeg or .png; add images or remove the folder"
        )
    return paths


def _cache_key(folder: Path, paths: Sequence[Path], config: DataConfig) -> str:
    """Hash all that a decoding depends on: names, sizes and times of the files, and side."""
    # The leading number is the version of `_decode`: raise it when its pixels change.
    facts = [(str(p.relative_to(folder)), (s := p.stat()).st_size, s.st_mtime_ns) for p in paths]
    known = [2, config.image_size, config.corrupt, facts]
    return hashlib.sha256(json.dumps(known).encode()).hexdigest()[:16]


@dataclass(frozen=True)
class _Decoded:
    """The content of a cache.

    Attributes:
        images_NCHW: uint8, those that can be decoded.
        kept_N: int64, their places in the list of files.
    """

    images_NCHW: Tensor
    kept_N: Tensor

    @classmethod
    def of(
        cls, config: DataConfig, part: Part, paths: Sequence[Path], cache_dir: Path | None, key: str
    ) -> Self:
        """Decode images, or read what is kept of them; mend what is damaged."""
        if cache_dir is None:
            return cls.decode(config, part, paths, None)
        path = cache_dir / f"images-{part}-{key}.safetensors"
        known = cls.load(path, config, len(paths))
        if known is None:
            known = cls.decode(config, part, paths, cache_dir)
            known.save(path)
        return known

    @classmethod
    def decode(
        cls, config: DataConfig, part: Part, paths: Sequence[Path], cache_dir: Path | None
    ) -> Self:
        """Decode to uint8 (N, 3, side, side); name every image that fails."""
        side = config.image_size
        assert side is not None  # DataConfig sees to it
        pixels_NCHW = np.empty((len(paths), 3, side, side), dtype=np.uint8)

        def decode_one(index: int) -> None:
            pixels_NCHW[index] = _decode(paths[index], side).transpose(2, 0, 1)

        # Pillow releases the GIL while it decodes, but on small images threads only fight over it:
        # 32 px: 9,400 images/s with one thread, 6,000 with two; 400 px: 800 and 1,500.
        small = sum(path.stat().st_size for path in paths) < 8192 * len(paths)
        failures = for_each_image(paths, decode_one, threads=1 if small else None)
        kept_N = require_decodable(config, part, paths, failures, cache_dir)
        return cls(torch.from_numpy(pixels_NCHW)[kept_N], kept_N)

    @classmethod
    def load(cls, path: Path, config: DataConfig, total: int) -> Self | None:
        """Return what is kept; None where there is nothing, or it is damaged."""
        from safetensors.torch import load_file

        try:
            found = cls(**load_file(path))
            shape = (len(found.kept_N), 3, config.image_size, config.image_size)
            places = found.kept_N
            fits = (
                found.images_NCHW.dtype == torch.uint8
                and tuple(found.images_NCHW.shape) == shape
                and places.dtype == torch.int64
                and bool((places[1:] > places[:-1]).all())
                and (0 <= int(places[0]) and int(places[-1]) < total if len(places) else True)
            )
        except Exception:  # a damaged file leads a reader anywhere
            return None
        return found if fits else None

    def save(self, path: Path) -> None:
        """Keep it.

        Raises:
            DataError: It cannot be written.
        """
        from safetensors import SafetensorError
        from safetensors.torch import save_file

        unfinished = path.with_name(f"{path.name}.{os.getpid()}.tmp")
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            save_file({"images_NCHW": self.images_NCHW, "kept_N": self.kept_N}, unfinished)
            os.replace(unfinished, path)
        except (OSError, SafetensorError) as error:
            with contextlib.suppress(OSError):
                unfinished.unlink()
            raise DataError(f"cannot write {path} ({error}); make room for the images") from error


def _decode(path: Path, side: int) -> np.ndarray[Any, Any]:
    """Decode to RGB (side, side, 3)."""
    from PIL import Image

    image = open_rgb(path)
    if image.size != (side, side):
        image = image.resize((side, side), Image.Resampling.BILINEAR)  # antialiased by Pillow
    return np.asarray(image)
