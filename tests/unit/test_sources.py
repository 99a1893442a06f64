"""Digits, Fashion-MNIST and CIFAR: read as they are, one part alone, and damage is refused."""

import gzip
import hashlib
import os
import pickle
import struct
from pathlib import Path

import numpy as np
import pytest
import torch
from image_helpers import rows
from sklearn.datasets import load_digits
from torch.nn import functional
from torchvision import datasets as torchvision_datasets

from trainer.config.data import DataConfig
from trainer.data import parts
from trainer.data.images import DataError
from trainer.data.load import load_development_data
from trainer.data.parts import read_part
from trainer.data.sources import cifar, idx

# Digits


def test_digits_are_bytes_over_the_full_range_in_a_fixed_division():
    train = read_part(DataConfig(name="digits", split_seed=0), "train")
    test = read_part(DataConfig(name="digits", split_seed=9), "test")
    assert (len(train), len(test)) == (1437, 360)
    assert train.images_NCHW.dtype == torch.uint8 and train.labels_N.dtype == torch.int64
    assert (train.channels, train.size, train.num_classes) == (1, (8, 8), 10)
    assert train.images_NCHW.max() == 255 and train.images_NCHW.min() == 0
    assert test.labels_N.bincount().min() >= 34  # 360 over ten classes of nearly one size

    # Together the parts are the whole set, each image once and with its own label.
    bunch = load_digits()
    known = {
        np.round(image * (255 / 16)).astype(np.uint8).tobytes(): label
        for image, label in zip(bunch.images, bunch.target, strict=True)
    }
    assert rows(train) | rows(test) == set(known) and not rows(train) & rows(test)
    for part in (train, test):
        for image, label in zip(part.images_NCHW, part.labels_N, strict=True):
            assert known[image.numpy().tobytes()] == label


@pytest.mark.parametrize(
    ("size", "expect"),
    [
        (14, lambda x: functional.avg_pool2d(x, 2)),
        (56, lambda x: functional.interpolate(x, (56, 56), mode="bilinear", antialias=True)),
    ],
)
def test_resizing_pools_areas_or_interpolates(size, expect):
    images = torch.randint(0, 256, (1030, 1, 28, 28), dtype=torch.uint8)  # more than one chunk
    resized = parts._resize(images, size)
    assert resized.dtype == torch.uint8
    assert (resized - expect(images.float())).abs().max() <= 0.501


# Fashion-MNIST


def write_idx(path: Path, array: np.ndarray, compress: bool) -> None:
    header = bytes((0, 0, 8, array.ndim)) + struct.pack(f">{array.ndim}I", *array.shape)
    opener = gzip.open if compress else open
    with opener(path, "wb") as file:
        file.write(header + array.tobytes())


def fashion_root(folder: Path, compress: bool = True, count: int = 100) -> np.ndarray:
    """Write the training part, and a test part that nobody can read."""
    folder.mkdir(parents=True, exist_ok=True)
    pixels = np.random.default_rng(0).integers(0, 256, (count, 28, 28), dtype=np.uint8)
    suffix = ".gz" if compress else ""
    write_idx(folder / f"train-images-idx3-ubyte{suffix}", pixels, compress)
    labels = np.arange(count, dtype=np.uint8) % 10
    write_idx(folder / f"train-labels-idx1-ubyte{suffix}", labels, compress)
    (folder / "t10k-images-idx3-ubyte.gz").write_bytes(b"poison")
    return pixels


@pytest.fixture
def no_network(monkeypatch):
    def refuse(*args, **kwargs):
        raise AssertionError("the network was touched")

    monkeypatch.setattr("torchvision.datasets.utils.download_url", refuse)


@pytest.mark.parametrize("where", ["", "FashionMNIST/raw"])
@pytest.mark.parametrize("compress", [True, False])
def test_fashion_mnist_reads_training_files_only(tmp_path, where, compress, no_network):
    pixels = fashion_root(tmp_path / where, compress)
    config = DataConfig(name="fashion_mnist", root=str(tmp_path), download=True, validation=20)
    loaded = load_development_data(config)
    assert (loaded.pad, loaded.flip) == (2, True)
    assert loaded.train.class_names[9] == "Ankle boot"
    seen = rows(loaded.train) | rows(loaded.validation)
    assert seen == {image.tobytes() for image in pixels}
    with pytest.raises(DataError, match=r"no t10k-images-idx3-ubyte.*data\.download.*data\.root"):
        read_part(config.model_copy(update={"download": False}), "test")


@pytest.mark.parametrize(
    "damage", [lambda b: b[:-1], lambda b: b + b"x", lambda b: b"\1" + b[1:], lambda b: b[:3]]
)
def test_a_damaged_idx_file_is_refused(tmp_path, damage):
    fashion_root(tmp_path, compress=False)
    path = tmp_path / "train-images-idx3-ubyte"
    path.write_bytes(damage(path.read_bytes()))
    with pytest.raises(DataError, match=r"train-images.*no complete IDX.*download: true"):
        read_part(DataConfig(name="fashion_mnist", root=str(tmp_path)), "train")


def test_a_truncated_gzip_file_is_refused(tmp_path):
    fashion_root(tmp_path)
    path = tmp_path / "train-images-idx3-ubyte.gz"
    path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(DataError, match="cannot read"):
        read_part(DataConfig(name="fashion_mnist", root=str(tmp_path)), "train")


def test_download_true_fetches_what_is_absent_and_only_then(tmp_path, monkeypatch):
    fetched = []

    def fetch(url, folder, name, md5):
        fetched.append(url)
        if "mirror" in url:
            raise OSError("mirror is down")
        fashion_root(Path(folder))

    monkeypatch.setattr("torchvision.datasets.utils.download_url", fetch)
    mirrors = ["https://mirror.invalid/", "https://example.invalid/"]
    monkeypatch.setattr(torchvision_datasets.FashionMNIST, "mirrors", mirrors)
    config = DataConfig(name="fashion_mnist", root=str(tmp_path), download=True)
    assert len(read_part(config, "train")) == 100
    assert len(fetched) == 8  # four files, each tried at two mirrors
    read_part(config, "train")
    assert len(fetched) == 8
    with pytest.raises(DataError, match=r"no train-images.*data\.download: true"):
        absent = {"root": str(tmp_path / "absent"), "download": False}
        read_part(config.model_copy(update=absent), "train")


def test_a_failed_download_names_the_cause(tmp_path, monkeypatch):
    def fail(url, folder, name, md5):
        raise OSError("no route to host")

    monkeypatch.setattr("torchvision.datasets.utils.download_url", fail)
    config = DataConfig(name="cifar10", root=str(tmp_path), download=True)
    with pytest.raises(DataError, match="no route to host.*by hand"):
        load_development_data(config)


def test_root_null_means_debians_folder_or_else_data(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(idx.FashionMNIST, "system_folders", (tmp_path / "debian",))
    fashion_root(tmp_path / "data", count=50)
    assert len(read_part(DataConfig(name="fashion_mnist"), "train")) == 50
    fashion_root(tmp_path / "debian", count=70)
    assert len(read_part(DataConfig(name="fashion_mnist"), "train")) == 70
    assert len(read_part(DataConfig(name="fashion_mnist", root="data"), "train")) == 50


def test_root_null_finds_debians_fashion_mnist():
    if not idx.FashionMNIST.system_folders[0].is_dir():
        pytest.skip("Debian's package dataset-fashion-mnist is not installed")
    loaded = load_development_data(DataConfig(name="fashion_mnist", image_size=14))
    assert (len(loaded.train), len(loaded.validation)) == (54_000, 6_000)
    assert loaded.train.size == (14, 14)


# CIFAR


def python2_pickle(**entries: object) -> bytes:
    """Pickle as Python 2's cPickle did for CIFAR: byte strings, numpy.core.multiarray."""

    def dump(value: object) -> bytes:
        if isinstance(value, str):
            return b"U" + bytes((len(value),)) + value.encode()
        if isinstance(value, list):
            return b"](" + b"".join(map(dump, value)) + b"e"
        if isinstance(value, int):
            return b"J" + struct.pack("<i", value)
        assert isinstance(value, np.ndarray)
        shape = b"(" + b"".join(map(dump, value.shape)) + b"t"
        dtype = b"cnumpy\ndtype\nU\2u1K\0K\1\x87R(K\3U\1|NNNJ\xff\xff\xff\xffJ\xff\xff\xff\xffK\0tb"
        raw = b"T" + struct.pack("<i", value.nbytes) + value.tobytes()
        new = b"cnumpy.core.multiarray\n_reconstruct\ncnumpy\nndarray\nK\0\x85U\1b\x87R"
        return new + b"(K\1" + shape + dtype + b"\x89" + raw + b"tb"

    items = b"".join(dump(key) + dump(value) for key, value in entries.items())
    return b"\x80\2}(" + items + b"u."


def cifar_root(root: Path, monkeypatch: pytest.MonkeyPatch, name: str = "cifar10") -> np.ndarray:
    """Write a small CIFAR whose checksums torchvision is told to expect; no test file."""
    about = getattr(torchvision_datasets, name.upper())
    folder = root / about.base_folder
    folder.mkdir(parents=True)
    classes = 10 if name == "cifar10" else 100
    pixels = np.random.default_rng(1).integers(0, 256, (len(about.train_list), 2 * classes, 3072))
    pixels = pixels.astype(np.uint8)
    key = "labels" if name == "cifar10" else "fine_labels"
    checksums = []
    for (file, _), batch in zip(about.train_list, pixels, strict=True):
        raw = python2_pickle(**{key: list(range(classes)) * 2, "data": batch})
        (folder / file).write_bytes(raw)
        checksums.append([file, hashlib.md5(raw).hexdigest()])
    names = [f"class {i}" for i in range(classes)]
    meta = python2_pickle(**{about.meta["key"]: names})
    (folder / about.meta["filename"]).write_bytes(meta)
    monkeypatch.setattr(about, "train_list", checksums)
    monkeypatch.setattr(about, "meta", {**about.meta, "md5": hashlib.md5(meta).hexdigest()})
    return pixels.reshape(-1, 3, 32, 32)


@pytest.mark.parametrize("name", ["cifar10", "cifar100"])
def test_cifar_reads_training_files_only(tmp_path, monkeypatch, no_network, name):
    pixels = cifar_root(tmp_path, monkeypatch, name)
    config = DataConfig(name=name, root=str(tmp_path), download=True, validation=0.5)
    part = read_part(config, "train")
    assert np.array_equal(part.images_NCHW.numpy(), pixels)
    classes = part.num_classes
    assert part.labels_N.tolist() == list(range(classes)) * (len(pixels) // classes)
    assert part.class_names[classes - 1] == f"class {classes - 1}"

    loaded = load_development_data(config)
    assert (loaded.pad, loaded.flip) == (4, True)
    assert loaded.mean_C[0] == {"cifar10": 0.4914, "cifar100": 0.5071}[name]  # the paper's
    assert loaded.std_C[2] == {"cifar10": 0.2616, "cifar100": 0.2762}[name]
    with pytest.raises(DataError, match=r"no cifar-10.*/test.* in .*data\.download: true"):
        read_part(config.model_copy(update={"download": False}), "test")


class Malicious:
    def __init__(self, witness: Path) -> None:
        self.witness = witness

    def __reduce__(self):
        return os.mkdir, (str(self.witness),)


def test_a_planted_pickle_is_refused_before_anything_of_it_runs(tmp_path, monkeypatch):
    cifar_root(tmp_path, monkeypatch)
    witness = tmp_path / "executed"
    path = tmp_path / "cifar-10-batches-py" / "data_batch_3"
    planted = pickle.dumps(Malicious(witness))
    path.write_bytes(planted)
    config = DataConfig(name="cifar10", root=str(tmp_path))
    with pytest.raises(DataError, match="data_batch_3 is not the original file"):
        load_development_data(config)
    assert not witness.exists()

    # Should a checksum ever be wrong or forged, the names in the pickle are still checked.
    with pytest.raises(pickle.UnpicklingError, match="mkdir has no business"):
        cifar._read_verified_pickle(path, hashlib.md5(planted).hexdigest())
    assert not witness.exists()
    pickle.loads(planted)
    assert witness.exists()  # the plant was a live one
