"""Image files that are held in memory: decoded once and kept in one file."""

import contextlib
import hashlib
import json
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

import numpy as np
import torch
from torch import Tensor

from trainer.config.data import DataConfig
from trainer.data.decoding import file_errors, for_each_image, open_rgb, require_decodable
from trainer.data.images import DataError, ImageSet, Part
from trainer.data.listing import Listing


def decode(config: DataConfig, part: Part, listing: Listing, cache_dir: Path | None) -> ImageSet:
    """Decode a list of files to RGB, or read what an earlier call has decoded.

    Raises:
        DataError: Images cannot be decoded and ``config.corrupt`` is ``"fatal"``.
    """
    with file_errors(listing.folder):
        key = _cache_key(listing, config)
        decoded = _Decoded.of(config, part, listing.paths, cache_dir, key)
    return ImageSet(
        decoded.images_NCHW,
        listing.labels_N[decoded.kept_N],
        listing.class_names,
        len(listing) - len(decoded.kept_N),
        listing.left_out,
    )


def _cache_key(listing: Listing, config: DataConfig) -> str:
    """Hash all that a decoding depends on: names, sizes and times of the files, and side."""
    # The leading number is the version of `_decode`: raise it when its pixels change.
    stats = ((path, path.stat()) for path in listing.paths)
    facts = [(listing.name(path), stat.st_size, stat.st_mtime_ns) for path, stat in stats]
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
