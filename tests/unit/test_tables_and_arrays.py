"""Images named in a table (CSV, Parquet), or held in NumPy's .npz."""

import csv
from pathlib import Path

import numpy as np
import pytest
import torch
from image_helpers import rows, same
from sklearn.datasets import load_digits
from test_layouts import config as folder_config
from test_layouts import counts, fill

from trainer.config.data import DataConfig
from trainer.config.strict import ConfigError
from trainer.data.images import DataError
from trainer.data.load import load_development_data
from trainer.data.parts import labels_of, read_part
from trainer.data.survey import survey


def table(root: Path, **fields: object) -> DataConfig:
    return DataConfig(**{"name": "csv", "root": str(root), "image_size": 8, **fields})


def write_csv(path: Path, header: list[str], lines: list[list[str]], **dialect: object) -> Path:
    with path.open("w", newline="", encoding=dialect.pop("encoding", "utf-8")) as file:
        csv.writer(file, **dialect).writerows([header, *lines])
    return path


@pytest.fixture
def images(tmp_path) -> list[list[str]]:
    """Rows of path, label, split: 14 images of each class for training, 4 and 4 for the rest."""
    fill(tmp_path / "all", 0, 22)
    split = ["train"] * 14 + ["valid"] * 4 + ["test"] * 4
    return [
        [f"all/{name}/{number:03}.png", name, split[number]]
        for number in range(22)
        for name in ("fox", "cat", "dog")
    ]


@pytest.mark.parametrize("streaming", [False, True], ids=["in memory", "streamed"])
def test_a_table_with_splits_is_divided_as_it_says(tmp_path, images, streaming):
    asked = table(write_csv(tmp_path / "set.csv", ["path", "label", "split"], images))
    asked = asked.model_copy(update={"streaming": streaming})
    data = load_development_data(asked)
    assert counts(data.survey) == [42, 12, 12] and data.survey == survey(asked)
    assert data.train.class_names == ("cat", "dog", "fox")
    if not streaming:  # the same images as in folders
        parts = {"train": (0, 14), "validation": (14, 18), "test": (18, 22)}
        for part, numbers in parts.items():
            fill(tmp_path / "folders" / part, *numbers)
        for part in parts:
            in_folders = read_part(folder_config(tmp_path / "folders"), part)
            assert same(read_part(asked, part), in_folders)


@pytest.mark.parametrize("streaming", [False, True], ids=["in memory", "streamed"])
def test_a_table_without_splits_is_divided_with_a_seed_and_a_fifth_sealed(
    tmp_path, images, streaming
):
    lines = [row[:2] for row in images]
    asked = table(write_csv(tmp_path / "set.csv", ["path", "label"], lines), streaming=streaming)
    assert counts(load_development_data(asked).survey) == [48, 5, 13]
    assert len(labels_of(asked, "test").labels_N) == 13


@pytest.mark.parametrize(
    ("name", "header", "dialect"),
    [
        ("a.csv", ["Filename", "Class", "Subset"], {"delimiter": ";"}),
        ("a.tsv", ["image", "target", "set"], {"delimiter": "\t"}),
        ("a.csv", ["image_path", "category", "partition"], {"encoding": "utf-8-sig"}),
        ("a.csv", [" file", "label ", "split"], {"lineterminator": "\r\n\r\n"}),
    ],
)
def test_tables_are_written_in_many_ways(tmp_path, images, name, header, dialect):
    write_csv(tmp_path / name, header, images, **dialect)
    assert counts(survey(table(tmp_path))) == [42, 12, 12]  # the only table in the folder


def test_every_row_counts_whatever_its_file_is_called(tmp_path, images):
    for row in images[:5]:
        path = tmp_path / row[0]
        row[0] = str(path.rename(path.with_suffix(".heic")))  # a PNG all the same; an absolute path
    asked = table(write_csv(tmp_path / "set.csv", ["path", "label", "split"], images))
    assert len(read_part(asked, "train")) == 42


def test_classes_that_are_numbers_are_in_the_order_of_numbers(tmp_path, images):
    labels = {"cat": "10", "dog": "9", "fox": "1"}
    lines = [[path, labels[label], split] for path, label, split in images]
    asked = table(write_csv(tmp_path / "set.csv", ["path", "label", "split"], lines))
    assert read_part(asked, "train").class_names == ("1", "9", "10")


def test_parquet_holds_the_same(tmp_path, images):
    pyarrow = pytest.importorskip("pyarrow")
    from pyarrow import parquet

    columns = dict(zip(("path", "label", "split"), zip(*images, strict=True), strict=True))
    parquet.write_table(pyarrow.table(columns), tmp_path / "set.parquet")
    write_csv(tmp_path / "set.csv", ["path", "label", "split"], images)
    asked = table(tmp_path / "set.parquet").model_copy(update={"name": "parquet"})
    assert same(read_part(asked, "train"), read_part(table(tmp_path / "set.csv"), "train"))
    (tmp_path / "set.parquet").write_bytes(b"PAR1 no more")
    with pytest.raises(DataError, match="set.parquet: no Parquet file"):
        survey(asked)


def mistaken(change):
    def write(folder: Path, images: list[list[str]]) -> None:
        header, lines = ["path", "label", "split"], [list(row) for row in images]
        write_csv(folder / "set.csv", *change(header, lines))

    return write


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda h, r: (["path", "lbl", "split"], r), "no column label .or class.*'?path, lbl"),
        (lambda h, r: (h, [*r, ["all/cat/000.png", "cat", "train"]]), "more than one row"),
        (lambda h, r: (h, [[*r[0][:2], "holdout"], *r[1:]]), "row 2: split is holdout, neither"),
        (lambda h, r: (h, [[r[0][0], "", "train"], *r[1:]]), "row 2: label is empty"),
        (lambda h, r: (h, [[*r[0], "x"], *r[1:]]), "has 4 cells, the first row 3"),
        (lambda h, r: (h, []), "no rows"),
        (lambda h, r: (h, [["all/none.png", "cat", "train"], *r]), "1 of 43 train images are not"),
        (lambda h, r: (h, [r[0]] + [row for row in r if row[2] == "test"]), "1 class.es. in the"),
        (lambda h, r: (h, [*r, ["all/x.png", "bird", "test"]]), "bird in the test part, but not"),
    ],
)
def test_a_mistake_in_a_table_is_named(tmp_path, images, change, message):
    mistaken(change)(tmp_path, images)
    with pytest.raises(DataError, match=f"set.csv: .*{message}"):
        for part in ("train", "test"):
            labels_of(table(tmp_path / "set.csv"), part)


def test_a_folder_of_several_tables_wants_one_named(tmp_path, images):
    for name in ("a.csv", "b.csv"):
        write_csv(tmp_path / name, ["path", "label", "split"], images)
    with pytest.raises(DataError, match=r"holds 2 files .csv or .tsv.*a.csv, b.csv.*data.root"):
        survey(table(tmp_path))


def test_a_table_needs_its_place_and_a_size():
    with pytest.raises(ConfigError, match="root: csv needs it.*image_size: csv needs it"):
        DataConfig(name="csv")


# Arrays


def digits(first: int, last: int) -> tuple[np.ndarray, np.ndarray]:
    bunch = load_digits(n_class=3)
    return (bunch.images[first:last] * 15.9375).astype(np.uint8), bunch.target[first:last]


def npz(root: Path, **fields: object) -> DataConfig:
    return DataConfig(**{"name": "npz", "root": str(root), **fields})


NAMES = {
    "Keras": ("x_train", "y_train", "x_val", "y_val", "x_test", "y_test"),
    "capitals": ("X_train", "y_train", "X_valid", "y_valid", "X_test", "y_test"),
    "MedMNIST": ("train_images", "train_labels", "val_images", "val_labels", "test_images",
                 "test_labels"),
}  # fmt: skip


def arrays(names, column=False) -> dict[str, np.ndarray]:
    found = {}
    for place, (first, last) in enumerate(((0, 60), (60, 75), (75, 99))):
        pixels, labels = digits(first, last)
        found[names[2 * place]] = pixels
        found[names[2 * place + 1]] = labels[:, None] if column else labels
    return found


@pytest.mark.parametrize("style", NAMES)
def test_arrays_are_known_by_their_usual_names(tmp_path, style):
    np.savez_compressed(tmp_path / "set.npz", **arrays(NAMES[style], column=style == "MedMNIST"))
    data = load_development_data(npz(tmp_path / "set.npz"))
    assert counts(data.survey) == [60, 15, 24] and data.survey == survey(npz(tmp_path))
    pixels, labels = digits(0, 60)
    assert torch.equal(data.train.images_NCHW, torch.from_numpy(pixels)[:, None])
    assert data.train.labels_N.tolist() == labels.tolist()
    assert data.train.class_names == ("0", "1", "2")
    test = read_part(npz(tmp_path), "test")
    assert test.labels_N.tolist() == digits(75, 99)[1].tolist()


@pytest.mark.parametrize("names", [("x", "y"), ("images", "labels"), ("x_train", "y_train")])
def test_arrays_without_parts_are_divided_and_a_fifth_is_sealed(tmp_path, names):
    pixels, labels = digits(0, 100)
    np.savez(tmp_path / "set.npz", **dict(zip(names, (pixels, labels), strict=True)))
    data = load_development_data(npz(tmp_path))
    assert counts(data.survey) == [72, 8, 20] and data.survey == survey(npz(tmp_path))
    test = rows(read_part(npz(tmp_path), "test"))
    assert not test & (rows(data.train) | rows(data.validation))


def test_a_run_reads_no_test_array(tmp_path):
    """What is not asked for is not even unpacked: a damaged one stands in nobody's way."""
    content = arrays(NAMES["Keras"])
    content["x_test"] = np.array(["a", {}], dtype=object)
    np.savez(tmp_path / "set.npz", **content, allow_pickle=True)
    assert counts(load_development_data(npz(tmp_path)).survey) == [60, 15, 24]
    with pytest.raises(DataError, match=r"no \.npz file of plain arrays.*allow_pickle"):
        read_part(npz(tmp_path), "test")


@pytest.mark.parametrize(
    "form",
    [
        lambda x: x[..., None],
        lambda x: np.repeat(x[..., None], 3, axis=-1),
        lambda x: np.repeat(x[:, None], 3, axis=1),
        lambda x: x.astype(np.int64),
        lambda x: (x / 255).astype(np.float32),
        lambda x: x / 255.0,
    ],
    ids=["HW1", "HWC", "CHW", "int64", "float32", "float64"],
)
def test_pixels_come_in_many_forms(tmp_path, form):
    pixels, labels = digits(0, 60)
    np.savez(tmp_path / "set.npz", x_train=form(pixels), y_train=labels)
    part = read_part(npz(tmp_path, test=0), "train")
    assert part.channels in (1, 3)
    assert (part.images_NCHW == torch.from_numpy(pixels)[:, None]).all()


@pytest.mark.parametrize(
    "form",
    [
        lambda y: np.array(["zero", "one", "two"])[y],
        lambda y: np.eye(3)[y],
        lambda y: y.astype(np.float32),
        lambda y: y[:, None].astype(np.uint8),
    ],
    ids=["texts", "one-hot", "floats", "a column"],
)
def test_labels_come_in_many_forms(tmp_path, form):
    pixels, labels = digits(0, 60)
    np.savez(tmp_path / "set.npz", x=pixels, y=form(labels))
    part = read_part(npz(tmp_path, test=0), "train")
    names = {"0": 0, "1": 1, "2": 2, "zero": 0, "one": 1, "two": 2}
    assert [names[part.class_names[i]] for i in part.labels_N.tolist()] == labels.tolist()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"x_train": None}, "no x_train and y_train.*among y_train"),
        ({"x_train": np.zeros((60, 8, 8, 8), np.uint8)}, r"x_train has shape \(60, 8, 8, 8\)"),
        ({"x_train": np.full((60, 8, 8), 300)}, "x_train holds 300 to 300 of type int64"),
        ({"x_train": np.full((60, 8, 8), -0.5)}, "x_train holds -0.5 to -0.5 of type float64"),
        ({"y_train": np.zeros(60, int)}, "one class alone"),
        ({"y_train": np.arange(59) % 3}, "60 images in x_train, and 59 labels in y_train"),
        ({"y_train": np.ones((60, 3), int)}, "gives an image several classes or none"),
        ({"y_train": np.linspace(0, 1, 60)}, "y_train has shape .60,. and type float64"),
        ({"y_train": np.array([{}] * 60)}, r"no \.npz file of plain arrays.*allow_pickle"),
    ],
)
def test_arrays_that_are_no_images_or_labels_are_refused(tmp_path, change, message):
    pixels, labels = digits(0, 60)
    content = {"x_train": pixels, "y_train": labels, **change}
    kept = {name: array for name, array in content.items() if array is not None}
    np.savez(tmp_path / "set.npz", **kept, allow_pickle=True)
    with pytest.raises(DataError, match=f"set.npz.*{message}"):
        read_part(npz(tmp_path, test=0), "train")


def test_a_file_that_is_no_npz_is_refused(tmp_path):
    (tmp_path / "set.npz").write_bytes(b"nothing of the kind")
    with pytest.raises(DataError, match=r"set\.npz: no \.npz file of plain arrays"):
        survey(npz(tmp_path))
    np.save(tmp_path / "one.npy", np.zeros(3))
    (tmp_path / "one.npy").rename(tmp_path / "set.npz")
    with pytest.raises(DataError, match="a single array"):
        survey(npz(tmp_path))
