"""Published data sets where their files are: each part read from its own files, in their order."""

from pathlib import Path

import numpy as np
import pytest
from image_helpers import rows
from PIL import Image
from scipy.io import savemat
from test_layouts import counts, fill, pictures
from test_sources import write_idx

from trainer.config.data import DataConfig
from trainer.data.images import DataError
from trainer.data.load import load_development_data
from trainer.data.parts import read_part
from trainer.registry import DATA_SETS

TEN = list(range(10))
LABELS = {"train": TEN * 4, "test": TEN[::-1] * 2}


def colours(labels: list[int], side: int) -> np.ndarray:
    """Return images (N, side, side, 3) whose upper left pixel is the label, all different."""
    pixels = np.random.default_rng(len(labels)).integers(0, 256, (len(labels), side, side, 3))
    pixels[:, 0, 0] = np.array(labels)[:, None]
    pixels[:, 0, 1] = (0, 100, 200)
    return pixels.astype(np.uint8)


def write_svhn(root: Path) -> None:
    for part, labels in LABELS.items():
        ten_for_zero = np.array([label or 10 for label in labels], np.uint8)[:, None]
        images_HWCN = colours(labels, 32).transpose(1, 2, 3, 0)
        savemat(root / f"{part}_32x32.mat", {"X": images_HWCN, "y": ten_for_zero})


def write_stl10(root: Path) -> None:
    folder = root / "stl10_binary"
    folder.mkdir()
    (folder / "class_names.txt").write_text(
        "airplane\nbird\ncar\ncat\ndeer\ndog\nhorse\nmonkey\nship\ntruck\n"
    )
    for part, labels in LABELS.items():
        colours(labels, 96).transpose(0, 3, 2, 1).tofile(folder / f"{part}_X.bin")
        (np.array(labels, np.uint8) + 1).tofile(folder / f"{part}_y.bin")


def write_kmnist(root: Path, folder: str = "KMNIST") -> None:
    place = root / folder / "raw"
    place.mkdir(parents=True)
    for part, stem in (("train", "train"), ("test", "t10k")):
        labels = np.array(LABELS[part], np.uint8)
        write_idx(place / f"{stem}-images-idx3-ubyte.gz", colours(LABELS[part], 28)[..., 0], True)
        write_idx(place / f"{stem}-labels-idx1-ubyte.gz", labels, True)


IN_MEMORY = {
    "svhn": (write_svhn, "test_32x32.mat", ["0", "1", "2"]),
    "stl10": (write_stl10, "stl10_binary/test_X.bin", ["airplane", "bird", "car"]),
    "kmnist": (write_kmnist, "KMNIST/raw/t10k-images-idx3-ubyte.gz", ["o", "ki", "su"]),
    "mnist": (
        lambda root: write_kmnist(root, "MNIST"),
        "MNIST/raw/t10k-labels-idx1-ubyte.gz",
        ["0", "1", "2"],
    ),
}


@pytest.mark.parametrize("name", IN_MEMORY)
def test_arrays_are_read_upright_with_their_labels_and_the_test_part_alone(tmp_path, name):
    write, sealed, classes = IN_MEMORY[name]
    write(tmp_path)
    asked = DataConfig(name=name, root=str(tmp_path), validation=10)
    for part, labels in LABELS.items():
        images = read_part(asked, part)
        assert images.images_NCHW[:, 0, 0, 0].tolist() == labels == images.labels_N.tolist()
        blue_or_grey = 200 if images.channels == 3 else 0
        assert (images.images_NCHW[:, -1, 0, 1] == blue_or_grey).all()
        assert list(images.class_names[:3]) == classes
    (tmp_path / sealed).write_bytes(b"poison")
    data = load_development_data(asked)
    assert (len(data.train), len(data.validation)) == (30, 10)
    assert data.flip == DATA_SETS[name].flip
    if "labels" not in sealed:  # the test part is counted by its labels
        test = {"images": 20, "classes": 10} if name != "svhn" else None
        assert data.survey["test"] == test
    with pytest.raises(DataError):
        read_part(asked, "test")


def write_eurosat(root: Path) -> None:
    fill(root / "eurosat" / "2750", 0, 20)


def write_flowers(root: Path) -> None:
    folder = root / "flowers-102"
    (folder / "jpg").mkdir(parents=True)
    labels = [1, 2, 3] * 20
    for number, label in enumerate(labels, 1):
        image = pictures(label)[number]
        image.save(folder / "jpg" / f"image_{number:05}.jpg")
    savemat(folder / "imagelabels.mat", {"labels": np.array([labels])})
    parts = {"trnid": range(1, 31), "valid": range(31, 46), "tstid": range(46, 61)}
    savemat(folder / "setid.mat", {key: np.array([list(ids)]) for key, ids in parts.items()})


def write_pets(root: Path) -> None:
    folder = root / "oxford-iiit-pet"
    for name in ("images", "annotations"):
        (folder / name).mkdir(parents=True)
    lines = {"trainval.txt": [], "test.txt": []}
    for label, breed in enumerate(("Abyssinian", "american_bulldog", "Bengal")):
        for number in range(20):
            pictures(label)[number].save(folder / "images" / f"{breed}_{number}.jpg")
            line = f"{breed}_{number} {label + 1} 1 1\n"
            lines["trainval.txt" if number < 15 else "test.txt"].append(line)
    for name, texts in lines.items():
        (folder / "annotations" / name).write_text("".join(texts))


FILES = {
    "eurosat": (write_eurosat, [43, 5, 12], ["cat", "dog", "fox"]),
    "flowers102": (write_flowers, [30, 15, 15], ["1", "2", "3"]),
    "pets": (write_pets, [41, 4, 15], ["Abyssinian", "american_bulldog", "Bengal"]),
}


@pytest.mark.parametrize("streaming", [False, True], ids=["in memory", "streamed"])
@pytest.mark.parametrize("name", FILES)
def test_image_files_come_in_their_published_parts(tmp_path, name, streaming):
    write, numbers, classes = FILES[name]
    write(tmp_path)
    asked = DataConfig(name=name, root=str(tmp_path), image_size=8, streaming=streaming)
    data = load_development_data(asked)
    assert counts(data.survey) == numbers and list(data.train.class_names) == classes
    if not streaming:
        test = read_part(asked, "test")
        assert len(test) == numbers[2]
        assert not rows(test) & (rows(data.train) | rows(data.validation))


@pytest.mark.parametrize("name", ["svhn", "stl10", "flowers102", "pets", "kmnist"])
def test_files_that_are_absent_are_named(tmp_path, name):
    asked = DataConfig(name=name, root=str(tmp_path), image_size=8)
    with pytest.raises(DataError, match=f"no .* in {tmp_path}.*set data\\.") as caught:
        load_development_data(asked)
    assert ("data.download" in str(caught.value)) == (name == "kmnist")


def test_an_image_of_a_flower_has_the_label_of_its_number(tmp_path):
    write_flowers(tmp_path)
    part = read_part(DataConfig(name="flowers102", root=str(tmp_path), image_size=8), "train")
    path = tmp_path / "flowers-102" / "jpg" / "image_00001.jpg"
    first = np.asarray(Image.open(path).convert("RGB")).transpose(2, 0, 1)
    assert part.labels_N.bincount().tolist() == [10, 10, 10]
    assert np.array_equal(part.images_NCHW[0], first)
