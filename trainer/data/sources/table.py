"""A table of images: a CSV or Parquet file of path, label and perhaps split."""

import csv
from collections import Counter
from collections.abc import Collection, Iterator
from functools import cached_property
from pathlib import Path
from typing import NamedTuple

import torch

from trainer.data.decoding import file_errors
from trainer.data.images import DataError, Part, abbreviate
from trainer.data.listing import Listing
from trainer.data.sources.base import Source
from trainer.data.sources.files import class_order, only_file
from trainer.data.sources.names import part_named
from trainer.io.text import is_plain, truncate

_COLUMNS = {
    "path": ("path", "file", "filename", "file_name", "filepath", "image", "image_path", "img"),
    "label": ("label", "class", "class_name", "target", "category"),
    "split": ("split", "set", "subset", "partition", "part"),
}
"""Names of the columns, in lower case; the first one that is there counts."""
_SUFFIXES = {"csv": (".csv", ".tsv", ".txt"), "parquet": (".parquet", ".pq")}


class _Row(NamedTuple):
    path: Path
    label: str
    part: Part


class Table(Source):
    """Paths are relative to the table's folder; without a column split all rows are for training.

    Every row counts, whatever its file's suffix.
    """

    def parts(self) -> Collection[Part]:
        """Return the parts that a row belongs to, and the training part."""
        return {"train", *(row.part for row in self._rows)}

    def read(self, part: Part) -> Listing:
        """List the images of a part, by class and in the table's order."""
        rows = [row for row in self._rows if row.part == part]
        names = class_order({row.label for row in self._rows if row.part == "train"})
        label_of = {name: label for label, name in enumerate(names)}
        if len(names) < 2:
            problem = f"{len(names)} class(es) in the training part; classification needs two"
            raise DataError(f"{self._file}: {problem}")
        strange = {row.label for row in rows} - set(names)
        if strange:
            problem = f"{abbreviate(sorted(strange))} in the {part} part, but not in training"
            raise DataError(f"{self._file}: {problem}; make the classes agree")
        absent = [row.path for row in rows if not row.path.is_file()]
        if absent:
            problem = f"{len(absent)} of {len(rows)} {part} images are not there"
            raise DataError(
                f"{self._file}: {problem}: {abbreviate(absent)}; add them or remove their rows"
            )
        labels_N = torch.tensor([label_of[row.label] for row in rows])
        listing = Listing(self._file.parent, [row.path for row in rows], labels_N, names)
        return listing.subset(labels_N.argsort(stable=True))

    @cached_property
    def _file(self) -> Path:
        return only_file(self.root, _SUFFIXES[self.config.name])

    @cached_property
    def _rows(self) -> list[_Row]:
        path = self._file
        with file_errors(path):
            rows = list(_csv_rows(path) if self.config.name == "csv" else _parquet_rows(path))
        columns = _columns(path, rows[0]) if rows else {}
        found = [
            _checked(path, number, {key: cells[i].strip() for key, i in columns.items()})
            for number, cells in enumerate(rows[1:], 2)
        ]
        twice = [image for image, n in Counter(row.path for row in found).items() if n > 1]
        if not found or twice:
            problem = f"{abbreviate(twice)}: more than one row" if found else "no rows"
            raise DataError(f"{path}: {problem}; every image needs one")
        return found


def _csv_rows(path: Path) -> Iterator[list[str]]:
    """Yield the rows, the header first; commas, semicolons or tabs between the cells."""
    with path.open(newline="", encoding="utf-8-sig") as file:
        header = file.readline()
        file.seek(0)
        delimiter = max("\t;,", key=header.count)
        try:
            rows = [row for row in csv.reader(file, delimiter=delimiter) if row]
        except (csv.Error, UnicodeDecodeError) as error:
            raise DataError(f"{path}: no CSV file in UTF-8 ({error})") from error
    for row in rows:
        if len(row) != len(rows[0]):
            problem = f"{truncate(delimiter.join(row))} has {len(row)} cells"
            raise DataError(f"{path}: {problem}, the first row {len(rows[0])}")
        yield row


def _parquet_rows(path: Path) -> Iterator[list[str]]:
    """Yield the rows as texts, the header first."""
    try:
        from pyarrow import ArrowException, parquet
    except ImportError:
        raise DataError(f"{path}: reading Parquet needs pyarrow (pip install pyarrow)") from None
    try:
        columns = parquet.ParquetFile(path).read().to_pydict()
    except ArrowException as error:
        raise DataError(f"{path}: no Parquet file ({truncate(str(error))})") from error
    yield list(columns)
    for cells in zip(*columns.values(), strict=True):
        yield ["" if cell is None else str(cell) for cell in cells]


def _columns(path: Path, header: list[str]) -> dict[str, int]:
    """Return the places of the columns path, label and, if there is one, split."""
    names = [name.strip().casefold() for name in header]
    found = {
        key: next((names.index(name) for name in known if name in names), None)
        for key, known in _COLUMNS.items()
    }
    for key in ("path", "label"):
        if found[key] is None:
            raise DataError(
                f"{path}: no column {key} (or {', '.join(_COLUMNS[key][1:])}) among "
                f"{abbreviate(header, 10)}; name the columns in the first row"
            )
    return {key: place for key, place in found.items() if place is not None}


def _checked(table: Path, number: int, row: dict[str, str]) -> _Row:
    place = f"{table}: row {number}"
    for key, text in row.items():
        if not text or not is_plain(text):
            raise DataError(f"{place}: {key} is {truncate(text) or 'empty'}")
    part = part_named(row["split"]) if "split" in row else "train"
    if part is None:
        raise DataError(
            f"{place}: split is {truncate(row['split'])}, neither train nor val nor test"
        )
    return _Row(table.parent / row["path"], row["label"], part)
