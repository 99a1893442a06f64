"""Finding, fetching and unpacking the original files of published data sets."""

import tarfile
import zlib
from collections.abc import Collection, Sequence
from pathlib import Path

from trainer.data.decoding import file_errors
from trainer.data.images import DataError, abbreviate
from trainer.io.files import write_atomically

MOST_BYTES = 256 << 20
"""Of one file; CIFAR-100's takes 155 MB. A small gzip file can hold any number of zeros."""

REPLACE = "delete it and set data.download: true, or put the original file there"
RESTORE = "put the original file there"
"""For data sets that are never fetched."""


def require_files(
    data_set: str, root: Path, paths: Sequence[Path], *, fetched: bool = False
) -> None:
    """Raise a DataError if one of the files is absent.

    Args:
        data_set: Its name.
        root: Where it was looked for.
        paths: The files.
        fetched: Whether ``data.download`` would bring them.
    """
    for path in paths:
        if not path.is_file():
            inside = path.relative_to(root) if path.is_relative_to(root) else path
            raise missing(data_set, str(inside), [root], fetched=fetched)


def only_file(root: Path, suffixes: Collection[str]) -> Path:
    """Return the root if it is a file, or else the only file with one of the suffixes in it.

    Raises:
        DataError: There is none, or more than one.
    """
    if root.is_file():
        return root
    with file_errors(root):
        found = sorted(path for path in root.iterdir() if path.suffix.lower() in suffixes)
    if len(found) != 1:
        names = f": {abbreviate(path.name for path in found)}" if found else ""
        raise DataError(
            f"{root} holds {len(found)} files {' or '.join(suffixes)}{names}; "
            "set data.root to the file itself"
        )
    return found[0]


def class_order(names: Collection[str]) -> tuple[str, ...]:
    """Sort the names of classes: numbers by their value, other names by the alphabet."""
    if all(name.isdecimal() for name in names):
        return tuple(sorted(names, key=int))
    return tuple(sorted(names))


def missing(data_set: str, name: str, folders: Sequence[Path], *, fetched: bool) -> DataError:
    """Return the error that says where a file was looked for."""
    places = " or ".join(str(folder) for folder in folders)
    fetching = "data.download: true to fetch it, or " if fetched else ""
    return DataError(
        f"{data_set}: no {name} in {places}; set {fetching}data.root to the folder that holds it"
    )


def fetch(urls: Sequence[str], md5: str, folder: Path) -> Path:
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


def unpack(archive: Path, inside: str, names: Sequence[str], root: Path) -> None:
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
                    raise DataError(f"{archive}: {inside}/{name} is no file; {REPLACE}")
                write_atomically(root / inside / name, content.read())
    except (tarfile.TarError, OSError, EOFError, KeyError, zlib.error) as error:
        raise DataError(f"cannot unpack {archive} ({error}); {REPLACE}") from error
