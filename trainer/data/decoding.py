"""Images that cannot be decoded: found, listed once, and skipped or fatal."""

import contextlib
import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from trainer.config.data import DataConfig
from trainer.data.images import DataError, Part, abbreviate
from trainer.data.listing import image_formats
from trainer.io.files import write_atomically
from trainer.io.text import printable, truncate

if TYPE_CHECKING:
    from PIL import Image

logger = logging.getLogger(__name__)

SHOWN = 10
"""Names in a message; all of them are in the file."""
MAX_PIXELS = 89_478_485
"""Of one image, as many as Pillow takes without a warning: a small file can claim any size."""


def open_rgb(path: Path, *, smallest: bool = False) -> "Image.Image":
    """Decode to RGB, upright; transparency becomes white, 16-bit grey 8-bit.

    Args:
        path: A file in any of Pillow's image formats; of several frames or pages, the first.
        smallest: Whether a JPEG may come at an eighth of its size, in a fraction of the time.

    Raises:
        Exception: Of any kind, where the file is damaged or something else.
    """
    import numpy as np
    from PIL import Image, ImageOps

    with Image.open(path, formats=image_formats()) as opened:
        if opened.width * opened.height > MAX_PIXELS:
            raise ValueError(f"{opened.width} × {opened.height} are more than {MAX_PIXELS} pixels")
        if smallest:
            opened.draft(None, (1, 1))
        image: Image.Image = ImageOps.exif_transpose(opened)
        if image.mode == "F":
            raise ValueError("pixels are floats, of which nobody knows which is white")
        if image.mode.startswith("I"):  # convert() would clip all but the darkest 256 levels
            levels = np.asarray(image)
            if levels.min() < 0 or levels.max() > 65_535:
                raise ValueError(f"{levels.min()} to {levels.max()} are more than 16 bits of grey")
            image = Image.fromarray((levels // 257).astype(np.uint8))
        if image.has_transparency_data:
            white = Image.new("RGBA", image.size, "white")
            image = Image.alpha_composite(white, image.convert("RGBA"))
        return image.convert("RGB")


@contextlib.contextmanager
def file_errors(folder: Path) -> Iterator[None]:
    """Turn errors of the file system into a ``DataError``."""
    try:
        yield
    except OSError as error:
        place = printable(error.filename or folder)
        raise DataError(f"cannot read {place} ({error.strerror or error})") from error


def check_images(paths: Sequence[Path]) -> dict[int, str]:
    """Return which images cannot be decoded, by index, and why."""
    return for_each_image(paths, lambda index: open_rgb(paths[index], smallest=True), threads=None)


def for_each_image(
    paths: Sequence[Path], do: Callable[[int], object], *, threads: int | None
) -> dict[int, str]:
    """Call a function for every index of a list of images, in threads.

    Returns:
        Index → what went wrong.
    """
    failures: dict[int, str] = {}

    def do_slice(start: int) -> None:
        for index in range(start, min(start + 64, len(paths))):
            try:
                do(index)
            except Exception as error:  # a decoder may raise anything on a damaged file
                failures[index] = truncate(f"{type(error).__name__}: {error}", 200)

    with ThreadPoolExecutor(threads) as pool:
        list(pool.map(do_slice, range(0, len(paths), 64)))
    return dict(sorted(failures.items()))


def require_decodable(
    config: DataConfig,
    part: Part,
    paths: Sequence[Path],
    failures: Mapping[int, str],
    cache_dir: Path | None,
) -> Tensor:
    """Decide about images that cannot be decoded.

    Args:
        config: Its ``corrupt`` says whether they are fatal.
        part: The part they belong to.
        paths: Of all images of the part.
        failures: Index → what is wrong with it.
        cache_dir: Gets ``corrupt-<part>.txt``, the list of them; None: no list is written.

    Returns:
        Indices of the others, int64, ascending.

    Raises:
        DataError: There are some, and they are fatal; it lists them.
    """
    if not failures:
        return torch.arange(len(paths))
    message = undecodable([f"{paths[i]} ({reason})" for i, reason in failures.items()], len(paths))
    if config.corrupt == "fatal":
        raise DataError(
            f"{message}; replace or remove them, or set data.corrupt: skip to leave them out"
        )
    if cache_dir is not None:
        lines = [f"{printable(paths[i])}\t{reason}\n" for i, reason in failures.items()]
        cache_dir.mkdir(parents=True, exist_ok=True)
        write_atomically(cache_dir / f"corrupt-{part}.txt", "".join(lines))
    logger.warning("%s; they are left out", message)
    return torch.tensor([i for i in range(len(paths)) if i not in failures], dtype=torch.int64)


def undecodable(failures: Sequence[str], total: int) -> str:
    """Say which images cannot be decoded."""
    names = abbreviate(sorted(failures), SHOWN)
    return f"{len(failures)} of {total} images cannot be decoded: {names}"
