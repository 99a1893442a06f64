"""Image folders, ``root/<part>/<class>/*.jpg|jpeg|png``: decoded once and kept in one file.

``trainer.streaming`` lists and opens the files with the functions here, and keeps nothing.
"""

import contextlib
import hashlib
import json
import os
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from trainer.config import DataConfig
from trainer.images import DataError, ImageSet, Part, some

if TYPE_CHECKING:
    from PIL import Image

_IMAGE_SUFFIXES = {".jpg", ".jpeg", ".png"}


def read_image_folder(config: DataConfig, part: Part, cache_dir: Path | None) -> ImageSet:
    """Decode ``root/<part>/<class>/*`` to RGB, or read what an earlier call has decoded."""
    assert config.image_size is not None  # DataConfig sees to it
    side = config.image_size
    folder, class_names, files = list_image_folder(config, part)
    paths = [path for group in files for path in group]
    if cache_dir is None:
        images_NCHW = _decode_all(paths, side)
    else:
        cache = cache_dir / f"images-{part}-{_cache_key(folder, paths, side)}.safetensors"
        images_NCHW = _cached(cache, lambda: _decode_all(paths, side))
    sizes_C = torch.tensor([len(group) for group in files])
    return ImageSet(images_NCHW, torch.arange(len(files)).repeat_interleave(sizes_C), class_names)


def list_image_folder(
    config: DataConfig, part: Part
) -> tuple[Path, tuple[str, ...], list[list[Path]]]:
    """Return the folder of a part, its class names, and the image files of each class.

    Raises:
        DataError: There are no classes, or not the same in both parts, or a class is empty.
    """
    assert config.root is not None  # DataConfig sees to it
    root = Path(config.root).expanduser().absolute()
    folder, class_names = root / part, _class_names(root / "train")
    if part == "test" and (names := _class_names(folder)) != class_names:
        odd = sorted(set(names) ^ set(class_names))
        raise DataError(f"{folder}: {some(odd)} not in both train and test; make the classes agree")
    with ThreadPoolExecutor(16) as pool:  # a network's file system takes its time for each file
        files = list(pool.map(lambda name: _image_files(folder / name), class_names))
    return folder, class_names, files


def _class_names(folder: Path) -> tuple[str, ...]:
    names = tuple(path.name for path in _entries(folder) if path.is_dir())
    if len(names) < 2:
        raise DataError(f"{folder} has {len(names)} class folder(s); classification needs two")
    return names


def _entries(folder: Path) -> list[Path]:
    """List a folder by name, without hidden entries."""
    try:
        return sorted(path for path in folder.iterdir() if not path.name.startswith("."))
    except OSError as error:
        raise DataError(
            f"cannot list {folder} ({error.strerror}); set data.root to a readable folder that "
            "holds train/<class>/ and test/<class>/"
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
        raise DataError(f"{len(broken)} broken link(s): {some(broken)}; mend or remove them")
    if not paths:
        raise DataError(f"{folder} holds no .jpg, .jpeg or .png; add images or remove the folder")
    return paths


def _cache_key(folder: Path, paths: Sequence[Path], side: int) -> str:
    """Hash what tells one decoding from another: names, sizes and times of the files, and side."""
    # The leading number is the version of `_decode`: raise it when its pixels change.
    facts = [(str(p.relative_to(folder)), (s := p.stat()).st_size, s.st_mtime_ns) for p in paths]
    return hashlib.sha256(json.dumps([1, side, facts]).encode()).hexdigest()[:16]


def _cached(path: Path, make: Callable[[], Tensor]) -> Tensor:
    """Return the tensor kept in a file; make and keep it if the file is absent or damaged."""
    from safetensors import SafetensorError
    from safetensors.torch import load_file, save_file

    try:
        return load_file(path)["images_NCHW"]
    except (OSError, SafetensorError, KeyError):
        images_NCHW = make()
    unfinished = path.with_name(f"{path.name}.{os.getpid()}.tmp")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        save_file({"images_NCHW": images_NCHW}, unfinished)
        os.replace(unfinished, path)
    except (OSError, SafetensorError) as error:
        with contextlib.suppress(OSError):
            unfinished.unlink()
        raise DataError(f"cannot write {path} ({error}); make room for the images") from error
    return images_NCHW


def _decode_all(paths: Sequence[Path], side: int) -> Tensor:
    """Decode images to uint8 (N, 3, side, side); name every one that fails."""
    pixels_NCHW = np.empty((len(paths), 3, side, side), dtype=np.uint8)
    failures: list[str] = []

    def decode_slice(start: int) -> None:
        for index in range(start, min(start + 64, len(paths))):
            try:
                pixels_NCHW[index] = _decode(paths[index], side).transpose(2, 0, 1)
            except Exception as error:  # a decoder may raise anything on a damaged file
                failures.append(f"{paths[index]} ({error})")

    # Pillow releases the GIL while it decodes, but on small images threads only fight over it:
    # 32 px: 9,400 images/s with one thread, 6,000 with two; 400 px: 800 and 1,500.
    small = sum(path.stat().st_size for path in paths) < 8192 * len(paths)
    with ThreadPoolExecutor(1 if small else None) as pool:
        list(pool.map(decode_slice, range(0, len(paths), 64)))
    if failures:
        raise DataError(undecodable(failures, len(paths)))
    return torch.from_numpy(pixels_NCHW)


def undecodable(failures: Sequence[str], total: int) -> str:
    """Say which images cannot be decoded, and what to do about it."""
    return (
        f"{len(failures)} of {total} images cannot be decoded: {some(sorted(failures))}; "
        "replace or remove them"
    )


def _decode(path: Path, side: int) -> np.ndarray[Any, Any]:
    """Decode to RGB (side, side, 3)."""
    from PIL import Image

    image = open_rgb(path)
    if image.size != (side, side):
        image = image.resize((side, side), Image.Resampling.BILINEAR)  # antialiased by Pillow
    return np.asarray(image)


def open_rgb(path: Path) -> "Image.Image":
    """Decode to RGB, upright; transparency becomes white, 16-bit grey 8-bit."""
    from PIL import Image, ImageOps

    with Image.open(path, formats=("JPEG", "PNG")) as opened:
        image: Image.Image = ImageOps.exif_transpose(opened)
        if image.mode.startswith("I"):  # convert() would clip all but the darkest 256 levels
            image = Image.fromarray((np.asarray(image) // 257).astype(np.uint8))
        if image.has_transparency_data:
            white = Image.new("RGBA", image.size, "white")
            image = Image.alpha_composite(white, image.convert("RGBA"))
        return image.convert("RGB")
