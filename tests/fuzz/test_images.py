"""Whatever lies in an image folder: a data set whose images all can be shown, or a DataError."""

import gzip
import io
import os
import struct
import zlib
from pathlib import Path

import numpy as np
import pytest
import torch
from fuzz_helpers import case, damaged
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from trainer.config.data import DataConfig
from trainer.data.decoding import check_images
from trainer.data.images import DataError
from trainer.data.load import load_development_data
from trainer.data.parts import read_part

CPU = torch.device("cpu")
SIDE = 8


def saved(image: Image.Image, kind: str, **options) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def made(mode: str, kind: str, **options) -> bytes:
    """Return a small picture in one of Pillow's modes."""
    rgb = Image.fromarray(np.arange(12 * 12 * 3, dtype=np.uint8).reshape(12, 12, 3))
    if mode == "I;16":
        return saved(Image.fromarray(np.full((12, 12), 40_000, np.uint16)), kind, **options)
    return saved(rgb.convert(mode), kind, **options)


def chunk(name: bytes, body: bytes) -> bytes:
    return struct.pack(">I", len(body)) + name + body + struct.pack(">I", zlib.crc32(name + body))


def png(width: int, height: int, *, depth: int = 8, colour: int = 2, data: bytes = b"") -> bytes:
    """Return a PNG file that claims a size, with whatever pixels."""
    header = struct.pack(">IIBBBBB", width, height, depth, colour, 0, 0, 0)
    body = zlib.compress(data)
    return (
        b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", body) + chunk(b"IEND", b"")
    )


ORIENTED = Image.Exif()
ORIENTED[0x0112] = 6
GOOD = {
    "grey": made("L", "PNG"),
    "alpha": made("RGBA", "PNG"),
    "grey with alpha": made("LA", "PNG"),
    "16 bit": made("I;16", "PNG"),
    "palette": made("P", "PNG"),
    "palette with transparency": made("P", "PNG", transparency=0),
    "one bit": made("1", "PNG"),
    "CMYK": made("CMYK", "JPEG"),
    "grey JPEG": made("L", "JPEG"),
    "turned": made("RGB", "JPEG", exif=ORIENTED),
    "progressive": made("RGB", "JPEG", progressive=True),
    "one pixel": saved(Image.new("RGB", (1, 1)), "PNG"),
    "a GIF": saved(Image.new("L", (8, 8)), "GIF"),
    "a BMP": saved(Image.new("L", (8, 8)), "BMP"),
    "a WebP": made("RGBA", "WEBP"),
    "an AVIF": made("RGB", "AVIF"),
    "a TIFF of 16 bits": made("I;16", "TIFF"),
    "a PPM": made("RGB", "PPM"),
    "a TGA": made("RGBA", "TGA"),
    "JPEG 2000": made("RGB", "JPEG2000"),
    "long": saved(Image.new("L", (3000, 1)), "PNG"),
}
BAD = {
    "nothing": b"",
    "text": b"no image at all",
    "zeros": bytes(2048),
    "a TIFF of floats": saved(Image.new("F", (8, 8)), "TIFF"),
    "PostScript": saved(Image.new("RGB", (8, 8)), "EPS"),  # Ghostscript would run it
    "no pixels": png(8, 8),
    "no width": png(0, 8),
    "a bomb": png(60_000, 60_000, data=bytes(100)),
    "a bomb in pixels": png(20_000, 20_000, colour=0, data=bytes(20_001 * 20_00)),
    "as large as can be claimed": png(2**31 - 1, 2**31 - 1),
    "no such colours": png(8, 8, colour=5),
    "a text that unpacks to a hundred megabytes": png(8, 8)[:33]
    + chunk(b"zTXt", b"a\0\0" + zlib.compress(bytes(100 << 20)))
    + png(8, 8, data=bytes(8 * 25))[33:-12]
    + b"",
    "only the start of a JPEG": made("RGB", "JPEG")[:40],
    "a JPEG without its end": made("RGB", "JPEG")[:-200],
    "a pickle": b"\x80\x04cos\nsystem\n(S'true'\ntR.",
}  # fmt: skip


def config(root: Path, **fields) -> DataConfig:
    usual = {
        "name": "image_folder",
        "root": str(root),
        "image_size": SIDE,
        "validation": 0.5,
        "test": 0,
    }
    return DataConfig(**usual | fields)


def require_usable(config: DataConfig, cache: Path | None = None) -> None:
    """Load a data set and look at every image of it."""
    data = load_development_data(config, cache)
    for images, labels in data.validation_batches(16, CPU):
        assert torch.isfinite(images).all() and len(images) == len(labels)
    for images, _ in data.training_batches(16, CPU).epoch(0, 0):
        assert torch.isfinite(images).all()


def fill(folder: Path, name: str, content: bytes, suffix: str = ".png") -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / f"{name}{suffix}").write_bytes(content)
    return folder / f"{name}{suffix}"


@pytest.fixture
def root(tmp_path):
    for name in ("a", "b"):
        for index in range(4):
            fill(tmp_path / "train" / name, str(index), GOOD["grey"])
    return tmp_path


@pytest.fixture(scope="module")
def one(tmp_path_factory):
    """Return a folder whose file ``train/b/x.png`` each case replaces."""
    folder = tmp_path_factory.mktemp("one")
    for name in ("a", "b"):
        for index in range(2):
            fill(folder / "train" / name, str(index), GOOD["grey"])
    return folder


# One file


@settings(max_examples=600)
@given(st.sampled_from(sorted(GOOD)).flatmap(lambda name: damaged(GOOD[name])))
def test_a_damaged_image_is_decoded_or_listed(one, content):
    path = fill(one / "train" / "b", "x", content)
    with case("image, bytes damaged", DataError):
        read_part(config(one), "train")
    assert set(check_images([path])) <= {0}


@settings(max_examples=150)
@given(st.sampled_from(sorted(GOOD)).flatmap(lambda name: damaged(GOOD[name])), st.booleans())
def test_a_damaged_image_is_left_out_and_the_rest_is_used(one, content, streaming):
    fill(one / "train" / "b", "x", content)
    with case("image folder, any", DataError):
        require_usable(config(one, corrupt="skip", streaming=streaming))


@pytest.mark.parametrize("streaming", [False, True], ids=["in memory", "streamed"])
@pytest.mark.parametrize("content", BAD.values(), ids=BAD.keys())
def test_a_file_that_is_no_image_is_listed_by_name(one, content, streaming):
    path = fill(one / "train" / "b", "x", content)
    with case("image, no image at all", DataError, fatal=True):
        try:
            require_usable(config(one, streaming=streaming))
        except DataError as error:
            assert f"1 of 5 images cannot be decoded: {path} (" in str(error)
            raise
    with case("image, no image at all", DataError):
        require_usable(config(one, streaming=streaming, corrupt="skip"))


@pytest.mark.parametrize("streaming", [False, True], ids=["in memory", "streamed"])
@pytest.mark.parametrize("content", GOOD.values(), ids=GOOD.keys())
def test_every_kind_of_image_is_taken(one, content, streaming):
    fill(one / "train" / "b", "x", content)
    with case("image folder, any", DataError):
        data = load_development_data(config(one, streaming=streaming))
        assert len(data.train) + len(data.validation) == 5


# The folder


NAMES = ["a", "b", "-", " ", "a\nb", "\x1b[31mred", "\udcff", "é", "\u202ex", ".hidden", "x" * 200,
         "train", "CON", "a b", "'", '"', "$(true)", "%s", "{}"]  # fmt: skip
KINDS = ["image", "image", "image", "image", "none", "text", "folder", "dangling", "loop",
         "to the root", "pipe"]  # fmt: skip


def lay(place: Path, kind: str) -> None:
    match kind:
        case "image":
            place.write_bytes(GOOD["grey"])
        case "text":
            place.write_text("no image")
        case "folder":
            place.mkdir(exist_ok=True)
        case "dangling":
            place.symlink_to("nowhere")
        case "loop":
            place.symlink_to(place.name)
        case "to the root":
            place.symlink_to("/", target_is_directory=True)
        case "pipe":
            os.mkfifo(place)


@settings(max_examples=350)
@given(st.data())
def test_any_folder_is_a_data_set_or_refused(tmp_path_factory, data):
    root = tmp_path_factory.mktemp("any")
    for name in ("good", "fine"):
        for stem in "012":
            fill(root / "train" / name, stem, GOOD["grey"])
    classes = data.draw(st.lists(st.sampled_from(NAMES), max_size=2, unique=True))
    for name in classes:
        (root / "train" / name).mkdir(parents=True)
        files = st.lists(
            st.tuples(st.sampled_from(NAMES), st.sampled_from([".png", ".JPG", ".txt"])),
            max_size=4, unique=True,
        )  # fmt: skip
        for stem, suffix in data.draw(files):
            lay(root / "train" / name / f"{stem}{suffix}", data.draw(st.sampled_from(KINDS)))
    if data.draw(st.booleans()):
        lay(root / "train" / "odd", data.draw(st.sampled_from(KINDS)))
    fields = data.draw(
        st.fixed_dictionaries(
            {},
            optional={
                "validation": st.sampled_from([1, 2, 0.5, 0.999, 10**9]),
                "train_limit": st.sampled_from([1, 2, 10**9]),
                "corrupt": st.just("skip"),
                "streaming": st.just(True),
            },
        )
    )
    with case("image folder, any", DataError):
        require_usable(config(root, **fields))


@settings(max_examples=120)
@given(st.data())
def test_a_damaged_cache_is_made_anew(tmp_path_factory, one, data):
    fill(one / "train" / "b", "x", GOOD["grey"])
    cache = tmp_path_factory.mktemp("cache")
    fields = {"streaming": data.draw(st.booleans()), "corrupt": "skip"}
    before = load_development_data(config(one, **fields), cache)
    for kept in cache.iterdir():
        kept.write_bytes(data.draw(damaged(kept.read_bytes())))
    with case("image folder, any", DataError):
        require_usable(config(one, **fields), cache)
        after = load_development_data(config(one, **fields), cache)
        # Pixels have no checksum of their own: the fingerprint tells that they are others.
        assert len(after.train) + after.skipped == len(before.train) + before.skipped


def test_folders_that_are_refused_by_name(root):
    def refused(match: str, **fields) -> None:
        with case("image folder, any", DataError, fatal=True):
            try:
                require_usable(config(root, **fields))
            except DataError as error:
                assert match in str(error)
                raise

    (root / "train" / "c").mkdir()
    refused("c holds no image")
    (root / "train" / "c").rmdir()
    (root / "train" / "c").symlink_to("c")
    refused("1 broken link")
    (root / "train" / "c").unlink()
    for odd in ("a\nb", "\x1b[31m", os.fsdecode(b"\xff")):
        (root / "train" / odd).mkdir()
        refused("can be no class's name")
        (root / "train" / odd).rmdir()
    refused("leaves a part empty", validation=10**9)
    refused("train_limit", train_limit=10**9)
    refused("no validation image of", validation=1)
    for path in (root / "train" / "b").iterdir():
        path.unlink()
    (root / "train" / "b").rmdir()
    refused("1 class folder")


@pytest.mark.parametrize(
    "place", ["~nobody-of-this-name/x", "/proc/self/mem", "/dev/null", "x" * 300]
)
def test_a_root_that_is_no_folder_is_refused(place):
    for streaming in (False, True):
        with case("image folder, any", DataError, fatal=True):
            require_usable(config(Path(place), streaming=streaming))


# Fashion-MNIST's files


def idx(*shape: int, values: bytes | None = None) -> bytes:
    head = bytes((0, 0, 8, len(shape))) + struct.pack(f">{len(shape)}I", *shape)
    return head + (bytes(int(np.prod(shape))) if values is None else values)


IMAGES, LABELS = idx(20, 10, 10), idx(20, values=bytes(range(10)) * 2)


@settings(max_examples=300)
@given(st.data())
def test_a_damaged_idx_file_is_read_or_refused(tmp_path_factory, data):
    root = tmp_path_factory.mktemp("idx")
    pack = data.draw(st.sampled_from([bytes, gzip.compress]))
    files = {"train-images-idx3-ubyte": pack(IMAGES), "train-labels-idx1-ubyte": pack(LABELS)}
    name = data.draw(st.sampled_from(sorted(files)))
    files[name] = data.draw(damaged(files[name]))
    for name, content in files.items():
        (root / f"{name}{'.gz' if pack is gzip.compress else ''}").write_bytes(content)
    with case("IDX files", DataError):
        require_usable(DataConfig(name="fashion_mnist", root=str(root), validation=10))


@pytest.mark.parametrize(
    "content",
    [idx(20, 0, 10), idx(0, 10, 10), idx(2**32 - 1, 2**32 - 1, 2**32 - 1, values=b""), b"",
     gzip.compress(bytes(400 << 20))],
    ids=["no height", "no image", "as many as can be claimed", "nothing", "a bomb"],
)  # fmt: skip
def test_an_idx_file_made_to_hurt_is_refused(tmp_path, content):
    suffix = ".gz" if content[:2] == b"\x1f\x8b" else ""
    (tmp_path / f"train-images-idx3-ubyte{suffix}").write_bytes(content)
    (tmp_path / "train-labels-idx1-ubyte").write_bytes(LABELS)
    with case("IDX files", DataError, fatal=True):
        require_usable(DataConfig(name="fashion_mnist", root=str(tmp_path), validation=10))
