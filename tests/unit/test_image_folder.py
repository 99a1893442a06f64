"""Image folders: read in a fixed order, decoded once, and every broken file is named."""

import os
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from image_helpers import same
from PIL import Image
from sklearn.datasets import load_digits

from trainer.config.data import DataConfig
from trainer.config.strict import ConfigError
from trainer.data import decoded as decoding
from trainer.data.images import DataError
from trainer.data.load import load_development_data
from trainer.data.parts import read_part


def write_digits(folder: Path, count: int = 60, suffix: str = ".png") -> None:
    """Write digits 0 to 2, scaled to bytes, into ``folder/<digit>/``."""
    bunch = load_digits(n_class=3)
    for i in range(count):
        target = folder / str(bunch.target[i])
        target.mkdir(parents=True, exist_ok=True)
        pixels = (bunch.images[i] * 15.9375).astype(np.uint8)
        Image.fromarray(pixels).save(target / f"{i:03}{suffix}")


@pytest.fixture
def folder_root(tmp_path) -> Path:
    write_digits(tmp_path / "root" / "train")
    return tmp_path / "root"


def folder_config(root: Path, **fields: object) -> DataConfig:
    return DataConfig(
        **{"name": "image_folder", "root": str(root), "image_size": 8, "test": 0, **fields}
    )


def test_image_folder_reads_rgb_in_sorted_order(folder_root):
    (folder_root / "train" / "notes.txt").write_text("no class")
    (folder_root / "train" / "1" / "notes.txt").write_text("no image")
    (folder_root / "train" / ".hidden").mkdir()
    (folder_root / "test").mkdir()  # and nothing in it: nobody looks
    part = read_part(folder_config(folder_root), "train")
    assert part.class_names == ("0", "1", "2") and len(part) == 60
    assert (part.channels, part.size) == (3, (8, 8))
    paths = sorted((folder_root / "train").glob("*/*.png"))
    for path, image, label in zip(paths, part.images_NCHW, part.labels_N, strict=True):
        assert path.parent.name == part.class_names[label]
        expected = torch.from_numpy(np.array(Image.open(path)))
        assert torch.equal(image, expected.expand(3, 8, 8))
    loaded = load_development_data(folder_config(folder_root, validation=15))
    assert (loaded.pad, loaded.flip) == (1, True)


def test_image_folder_test_part_has_the_classes_of_the_training_part(folder_root):
    write_digits(folder_root / "test", count=30)
    test = read_part(folder_config(folder_root), "test")
    assert len(test) == 30 and test.class_names == ("0", "1", "2")
    (folder_root / "test" / "0").rename(folder_root / "test" / "zero")
    with pytest.raises(DataError, match="0, zero not in both train and test"):
        read_part(folder_config(folder_root), "test")


def test_image_folder_takes_modes_suffixes_and_sizes_as_they_come(tmp_path):
    rgb = np.zeros((16, 16, 3), np.uint8) + np.array([200, 100, 50], np.uint8)
    half_clear = np.dstack((rgb, np.full((16, 16), 0, np.uint8)))
    half_clear[:, :8, 3] = 255
    grey16 = np.full((16, 16), 40_000, np.uint16)
    palette = Image.fromarray(rgb).quantize(4)
    upside = Image.Exif()
    upside[0x0112] = 3  # orientation: rotated by 180 degrees
    top_black = np.full((16, 16), 255, np.uint8)
    top_black[:8] = 0
    images = {
        "a/0-alpha.png": Image.fromarray(half_clear),
        "a/1-grey16.PNG": Image.fromarray(grey16),
        "a/2-palette.png": palette,
        "b/0-cmyk.JPEG": Image.fromarray(rgb).convert("CMYK"),
        "b/1-colour.jpg": Image.fromarray(rgb).resize((40, 24)),
        "b/2-one-bit.png": Image.fromarray(rgb).convert("L").point(lambda v: 255, "1"),
        "b/3-turned.jpg": Image.fromarray(top_black),
    }
    for name, image in images.items():
        (tmp_path / "train" / name).parent.mkdir(parents=True, exist_ok=True)
        extra = {"exif": upside} if "turned" in name else {}
        image.save(tmp_path / "train" / name, **extra)
    part = read_part(folder_config(tmp_path, image_size=16), "train")
    alpha, grey, palette_, cmyk, colour, one_bit, turned = part.images_NCHW.float()
    colour_C = torch.tensor([200.0, 100.0, 50.0])[:, None, None]
    assert (
        torch.equal(alpha[:, :, :8], colour_C.expand(3, 16, 8)) and (alpha[:, :, 8:] == 255).all()
    )
    assert (grey == 40_000 // 257).all()
    assert (palette_ - colour_C).abs().max() <= 4
    assert (cmyk - colour_C).abs().max() <= 6 and (colour - colour_C).abs().max() <= 6
    assert (one_bit == 255).all()
    assert turned[:, :6].min() > 240 and turned[:, 10:].max() < 15


def test_shrinking_an_image_is_antialiased(tmp_path):
    stripes = np.tile(np.array([0, 255], np.uint8), (64, 32))  # one pixel wide
    for name in ("a", "b"):
        (tmp_path / "train" / name).mkdir(parents=True)
        Image.fromarray(stripes).save(tmp_path / "train" / name / "0.png")
    inner = read_part(folder_config(tmp_path), "train").images_NCHW[..., 1:-1].float()
    assert (inner - 127.5).abs().max() < 10


def test_decoded_images_are_kept_in_one_file_without_pickle(folder_root, tmp_path, monkeypatch):
    cache, config = tmp_path / "run" / "cache", folder_config(folder_root)
    first = read_part(config, "train", cache)
    (kept,) = cache.iterdir()
    assert kept.name.startswith("images-train-") and kept.suffix == ".safetensors"

    decoded = []
    decode = decoding._decode
    monkeypatch.setattr(decoding, "_decode", lambda *args: decoded.append(args) or decode(*args))
    assert same(read_part(config, "train", cache), first) and not decoded

    kept.write_bytes(kept.read_bytes()[:-5])  # cut short: decoded again and mended
    assert same(read_part(config, "train", cache), first) and len(decoded) == 60
    assert same(read_part(config, "train", cache), first) and len(decoded) == 60

    # Any change of the files or of the size makes another key.
    image = folder_root / "train" / "1" / "001.png"
    os.utime(image, ns=(1, 1))
    read_part(config, "train", cache)
    read_part(folder_config(folder_root, image_size=16), "train", cache)
    shutil.copy(image, image.with_name("999.png"))
    assert len(read_part(config, "train", cache)) == 61
    assert len(list(cache.iterdir())) == 4 and len(decoded) == 60 + 60 + 60 + 61


def test_a_cache_that_cannot_be_written_says_so(folder_root, tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(DataError, match="cannot write"):
        read_part(folder_config(folder_root), "train", tmp_path / "file")


def test_no_cache_dir_writes_nothing(folder_root, tmp_path):
    before = sorted(tmp_path.rglob("*"))
    read_part(folder_config(folder_root), "train")
    assert sorted(tmp_path.rglob("*")) == before


def test_corrupt_images_are_all_counted_and_some_named(folder_root, tmp_path):
    damaged = sorted((folder_root / "train" / "2").iterdir())[:5]
    for path in damaged[:4]:
        path.write_bytes(path.read_bytes()[:60])
    damaged[4].write_text("no image at all")
    with pytest.raises(DataError, match=r"5 of 60 images.*replace.*data.corrupt: skip") as caught:
        read_part(folder_config(folder_root), "train", tmp_path / "cache")
    assert all(str(path) in str(caught.value) for path in damaged)
    assert not list(tmp_path.glob("cache/*"))  # a failure leaves nothing behind


@pytest.mark.parametrize("streaming", [False, True], ids=["in memory", "streamed"])
def test_corrupt_images_are_listed_once_and_fatal_or_left_out_by_a_switch(
    folder_root, tmp_path, caplog, streaming
):
    cache = tmp_path / "cache"
    config = folder_config(folder_root, validation=15, streaming=streaming)
    whole = load_development_data(config)
    damaged = sorted((folder_root / "train" / "2").iterdir())[:12]
    for path in damaged:
        path.write_bytes(path.read_bytes()[:60])
    with pytest.raises(DataError, match=r"12 of 60 images.*and 2 more.*data.corrupt: skip"):
        load_development_data(config, cache)
    skipping = config.model_copy(update={"corrupt": "skip"})
    data = load_development_data(skipping, cache)
    assert (data.skipped, len(data.train) + len(data.validation)) == (12, 48)
    assert data.train.labels_N.bincount().tolist() != whole.train.labels_N.bincount().tolist()
    assert data.fingerprint != whole.fingerprint  # a search goes on with the same images or not
    listed = (cache / "corrupt-train.txt").read_text().splitlines()
    assert [line.partition("\t")[0] for line in listed] == [str(path) for path in damaged]
    assert sum("left out" in record.message for record in caplog.records) == 1

    again = load_development_data(skipping, cache)  # read from what was kept, and the same
    assert (again.skipped, again.fingerprint) == (12, data.fingerprint)
    damaged[0].write_bytes((folder_root / "train" / "2").joinpath(damaged[-1].name).read_bytes())
    with pytest.raises(DataError, match="12 of 60"):  # nothing kept makes them less fatal
        load_development_data(config, cache)


def test_a_class_of_corrupt_images_alone_is_no_class(folder_root):
    for path in (folder_root / "train" / "2").iterdir():
        path.write_bytes(b"")
    with pytest.raises(DataError, match="no validation image of 2"):
        load_development_data(folder_config(folder_root, validation=15, corrupt="skip"))


def test_only_an_image_folder_can_be_corrupt_in_part():
    with pytest.raises(ConfigError, match=r"corrupt: digits is checked as a whole"):
        DataConfig(corrupt="skip")


def test_symlink_loops_neither_hang_nor_pass_unseen(folder_root):
    a_class = folder_root / "train" / "0"
    (a_class / "up").symlink_to(folder_root, target_is_directory=True)  # never descended into
    assert len(read_part(folder_config(folder_root), "train")) == 60
    (a_class / "loop.png").symlink_to(a_class / "loop.png")
    os.mkfifo(a_class / "pipe.png")
    with pytest.raises(DataError, match=r"2 broken link\(s\)"):
        read_part(folder_config(folder_root), "train")


def test_an_unusable_folder_says_what_is_missing(folder_root, tmp_path):
    with pytest.raises(DataError, match="cannot list .*data.root"):
        read_part(folder_config(tmp_path / "absent"), "train")
    empty = folder_root / "train" / "empty"
    empty.mkdir()
    with pytest.raises(DataError, match="empty holds no image that Pillow reads .nothing at all"):
        read_part(folder_config(folder_root), "train")
    empty.rmdir()
    for name in ("1", "2"):
        shutil.rmtree(folder_root / "train" / name)
    with pytest.raises(DataError, match=r"1 class folder\(s\)"):
        read_part(folder_config(folder_root), "train")


def test_development_data_need_no_test_folder_and_ignore_a_poisoned_one(folder_root):
    config = folder_config(folder_root, validation=15)
    without = load_development_data(config)
    (folder_root / "test" / "0").mkdir(parents=True)
    (folder_root / "test" / "0" / "0.png").write_text("poison")
    assert load_development_data(config).fingerprint == without.fingerprint


def test_the_real_cifar10_images():
    root = os.environ.get("OKDDIP_CIFAR10_IMAGES")
    if not root:
        pytest.skip("OKDDIP_CIFAR10_IMAGES does not name the unpacked CIFAR-10 images")
    loaded = load_development_data(folder_config(Path(root), image_size=32, validation=5000))
    assert (len(loaded.train), len(loaded.validation), loaded.train.num_classes) == (
        45000,
        5000,
        10,
    )
    assert (loaded.pad, loaded.flip) == (4, True)
    assert loaded.mean_C == pytest.approx((0.4914, 0.4822, 0.4465), abs=0.003)
    assert loaded.std_C == pytest.approx((0.2470, 0.2435, 0.2616), abs=0.003)
