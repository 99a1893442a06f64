"""Images as they lie on disks: every layout and format is read, and what is left out is counted."""

import json
import os
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from image_helpers import rows, same
from PIL import Image
from sklearn.datasets import load_digits

from trainer.config.data import DataConfig
from trainer.data.decoding import open_rgb
from trainer.data.image_files import read_image_files
from trainer.data.images import DataError
from trainer.data.listing import image_formats, image_suffixes
from trainer.data.load import development_data_from_arrays, load_development_data
from trainer.data.parts import labels_of, read_part, require_part
from trainer.data.survey import describe, survey

NAMES = ("cat", "dog", "fox")
DIGITS = load_digits()


def pictures(label: int) -> list[Image.Image]:
    """Return all digits of a kind in 8 × 8 grey pixels, no two alike."""
    grey = (DIGITS.images[DIGITS.target == label] * 15.9375).astype(np.uint8)
    return [Image.fromarray(pixels) for pixels in grey]


def fill(folder: Path, start: int, stop: int, names: tuple[str, ...] = NAMES) -> Path:
    """Write ``folder/<class>/NNN.png`` for each class, the images from start to stop."""
    for label, name in enumerate(names):
        (folder / name).mkdir(parents=True, exist_ok=True)
        for number, image in enumerate(pictures(label)[start:stop], start):
            image.save(folder / name / f"{number:03}.png")
    return folder


def config(root: Path, **fields: object) -> DataConfig:
    return DataConfig(**{"name": "image_folder", "root": str(root), "image_size": 8, **fields})


def counts(found) -> list[int | None]:
    return [found[part] and found[part]["images"] for part in ("train", "validation", "test")]


@pytest.fixture
def whole(tmp_path) -> Path:
    """20 images of each class in train/, 10 in test/."""
    fill(tmp_path / "train", 0, 20)
    fill(tmp_path / "test", 20, 30)
    return tmp_path


# Nothing is left out in silence


def test_images_count_at_any_depth_below_their_class(whole):
    flat = read_part(config(whole), "train")
    for path in sorted((whole / "train" / "cat").glob("*.png"))[3:]:
        deep = path.parent / "session 2" / "left" / path.name
        deep.parent.mkdir(parents=True, exist_ok=True)
        path.rename(deep)
    nested = read_part(config(whole), "train")
    assert len(nested) == 60 and rows(nested) == rows(flat)
    assert nested.labels_N.tolist() == flat.labels_N.tolist()


def test_every_suffix_of_a_format_that_pillow_decodes_is_read():
    formats = {
        suffix: name for suffix, name in Image.registered_extensions().items()
        if name in Image.OPEN or name == "MPO"
    }  # fmt: skip
    left = {suffix for suffix in formats if suffix not in image_suffixes()}
    assert {formats[suffix] for suffix in left} == {"EPS", "WMF", "MPEG", "BUFR", "GRIB", "HDF5"}
    assert set(image_formats()) >= {"AVIF", "BMP", "GIF", "JPEG", "PNG", "PPM", "TIFF", "WEBP"}


SUFFIXES = [
    suffix
    for suffix in (".apng .avif .bmp .dds .dib .gif .JFIF .jp2 .jpe .jpeg .jpg .pcx .png .pnm .ppm "
                   ".sgi .tga .TIF .tiff .webp").split()
    if suffix.lower() in image_suffixes()  # the oldest Pillow knows no AVIF
]  # fmt: skip


def test_formats_that_people_bring_give_their_pixels_in_memory_and_streamed(whole):
    image = pictures(0)[0].resize((16, 16)).convert("RGB")
    shutil.rmtree(whole / "train" / "cat")
    (whole / "train" / "cat").mkdir()
    for suffix in SUFFIXES:
        image.save(whole / "train" / "cat" / f"x{suffix}", quality=100)
    asked = config(whole, image_size=16, test=0)
    part = read_part(asked, "train")
    assert part.labels_N.bincount().tolist() == [len(SUFFIXES), 20, 20] and not part.left_out
    expected_CHW = torch.from_numpy(np.array(image)).permute(2, 0, 1).int()
    assert (part.images_NCHW[: len(SUFFIXES)] - expected_CHW).abs().float().mean() < 2
    files = read_image_files(asked, "train")
    assert torch.equal(files.labels_N, part.labels_N)
    for path, pixels in zip(files.paths(), part.images_NCHW, strict=True):
        decoded = open_rgb(path).resize((16, 16), Image.Resampling.BILINEAR)
        assert np.array_equal(np.asarray(decoded).transpose(2, 0, 1), pixels)


def test_what_is_no_image_is_counted_by_reason(whole):
    cat = whole / "train" / "cat"
    (cat / "notes.txt").write_text("no image")
    (cat / "scan.heic").write_bytes(b"Pillow reads none")
    (cat / "LICENSE").touch()
    (cat / "a.\x1b[31m").touch()
    (cat / os.fsdecode(b"b.\xff")).touch()
    (cat / "run.0001").touch()
    (cat / "._000.png").write_bytes(b"macOS")
    (cat / ".cache").mkdir()
    (cat / "up").symlink_to(whole / "train", target_is_directory=True)
    (whole / "train" / "list.csv").touch()
    shutil.copy(cat / "000.png", whole / "train" / "lost.png")
    fill(whole / "unsorted", 0, 2)
    (whole / "test" / "dog" / "more.txt").touch()
    found = survey(config(whole))
    assert found["left_out"] == {
        ".txt": 2, ".heic": 1, ".csv": 1, "files without a suffix": 1, "oddly named files": 3,
        "hidden files": 2, "links to a folder around them": 1, "images in no class's folder": 1,
        "images in unsorted/, where no class is given": 6,
    }  # fmt: skip
    assert counts(found) == [54, 6, 30] and found == load_development_data(config(whole)).survey
    assert describe(found).startswith(
        "images: 54 training, 6 validation, 30 sealed test; 3 classes\n"
        "left out: 6 images in unsorted/, where no class is given, 3 oddly named files"
    )


def test_images_beyond_a_limit_and_those_that_cannot_be_decoded_are_counted(whole):
    (whole / "train" / "cat" / "000.png").write_bytes(b"broken")
    data = load_development_data(config(whole, validation=9, train_limit=40, corrupt="skip"))
    assert data.survey["left_out"] == {
        "images beyond data.train_limit": 10, "images that cannot be decoded": 1
    }  # fmt: skip
    assert counts(data.survey) == [40, 9, 30]


def test_a_linked_folder_is_read_like_any_other(whole, tmp_path):
    (whole / "train" / "cat").rename(tmp_path / "elsewhere")
    (whole / "train" / "cat").mkdir()
    (whole / "train" / "cat" / "more").symlink_to(tmp_path / "elsewhere")
    assert len(read_part(config(whole), "train")) == 60


def test_the_counts_travel_with_the_data_to_workers_and_into_the_result(whole):
    for streaming in (False, True):
        data = load_development_data(config(whole, streaming=streaming))
        back = development_data_from_arrays(data.to_arrays())
        assert back.survey == data.survey and json.dumps(back.survey)


# Layouts


@pytest.mark.parametrize("name", ["val", "valid", "validation", "dev", "eval", "Val"])
@pytest.mark.parametrize("streaming", [False, True], ids=["in memory", "streamed"])
def test_validation_images_of_one_s_own_are_the_validation_set(whole, name, streaming):
    fill(whole / name, 30, 37)
    asked = config(whole, streaming=streaming, validation=0.3)
    data = load_development_data(asked)
    assert counts(data.survey) == [60, 21, 30] and data.survey == survey(asked)
    if not streaming:
        own = read_part(asked, "validation")
        assert same(data.validation, own) and not rows(data.train) & rows(own)
    merged = data.merged_splits().train
    assert len(merged) == 81
    if streaming:
        assert all(path.is_file() for path in merged.paths())
        back = development_data_from_arrays(data.merged_splits().to_arrays())
        assert back.train.paths() == merged.paths()
        assert [p.parents[1].name for p in back.validation.paths()] == [name] * 21
    drawn = load_development_data(config(whole, own_validation=False, validation=12))
    assert counts(drawn.survey) == [48, 12, 30]


def test_a_validation_folder_that_is_the_test_folder_by_another_name_stays_sealed(whole):
    (whole / "val").symlink_to(whole / "test", target_is_directory=True)
    assert counts(survey(config(whole))) == [54, 6, 30]


def test_folders_beside_the_parts_that_cannot_be_read_stop_nobody(whole):
    (whole / "unsorted").mkdir()
    (whole / "unsorted" / "x.png").symlink_to("nowhere")
    (whole / "old").symlink_to("nowhere")
    assert counts(survey(config(whole))) == [54, 6, 30]


def test_folders_of_classes_need_no_annotations(whole):
    """ImageNet's validation images are often sorted, with the devkit still there."""
    fill(whole / "val", 30, 34)
    (whole / "LOC_val_solution.csv").write_text("ImageId,PredictionString\nx,none 1 2 3 4\n")
    assert counts(survey(config(whole))) == [60, 12, 30]


def test_two_folders_for_one_part_are_refused(whole):
    fill(whole / "val", 30, 32)
    fill(whole / "valid", 32, 34)
    with pytest.raises(DataError, match="val and valid could both be the validation part"):
        survey(config(whole))


@pytest.mark.parametrize("streaming", [False, True], ids=["in memory", "streamed"])
@pytest.mark.parametrize("inside", ["train", "."])
def test_without_a_test_part_a_fifth_is_sealed_whatever_the_split(tmp_path, inside, streaming):
    fill(tmp_path / inside, 0, 20)
    asked = config(tmp_path, validation=0.25, streaming=streaming)
    data = load_development_data(asked)
    assert counts(data.survey) == [36, 12, 12] and data.survey == survey(asked)
    memory = asked.model_copy(update={"streaming": False})
    test = read_part(memory, "test")
    assert test.labels_N.bincount().tolist() == [4, 4, 4]
    for seed in (0, 1):
        other = load_development_data(memory.model_copy(update={"split_seed": seed}))
        assert not rows(test) & (rows(other.train) | rows(other.validation))
        assert len(rows(other.train) | rows(other.validation)) == 48
    require_part(asked, "test")


def test_sealed_images_are_never_opened_by_a_run(tmp_path):
    """They may be broken: nobody but the test looks."""
    fill(tmp_path, 0, 20)
    asked = config(tmp_path)
    sealed = rows(read_part(asked, "test"))
    for path in tmp_path.glob("*/*.png"):
        if np.asarray(Image.open(path).convert("RGB")).transpose(2, 0, 1).tobytes() in sealed:
            path.write_bytes(b"broken")
    assert counts(load_development_data(asked).survey)[2] == len(sealed) == 12
    with pytest.raises(DataError, match="12 of 12 images cannot be decoded"):
        read_part(asked, "test")


def test_no_test_part_and_none_to_be_drawn_is_said_when_one_is_needed(tmp_path):
    fill(tmp_path / "train", 0, 20)
    asked = config(tmp_path, test=0)
    assert counts(survey(asked)) == [54, 6, None]
    with pytest.raises(DataError, match=r"no test part, and data.test is 0.*data.test: 0.2"):
        require_part(asked, "test")


def test_tiny_imagenet_lies_as_it_was_unpacked(tmp_path):
    fill(tmp_path / "flat", 0, 20)
    for folder in (tmp_path / "flat").iterdir():
        inner = tmp_path / "train" / folder.name / "images"
        inner.parent.mkdir(parents=True)
        folder.rename(inner)
        (inner.parent / f"{inner.parent.name}_boxes.txt").touch()
    (tmp_path / "flat").rmdir()
    (tmp_path / "wnids.txt").touch()
    for part in ("val", "test"):
        (tmp_path / part / "images").mkdir(parents=True)
        for number, image in enumerate(pictures(1)[20:26] + pictures(0)[20:22]):
            image.save(tmp_path / part / "images" / f"{part}_{number}.JPEG")
    lines = [f"val_{n}.JPEG\t{'dog' if n < 6 else 'cat'}\t0\t0\t62\t62\n" for n in range(8)]
    (tmp_path / "val" / "val_annotations.txt").write_text("".join(lines))
    data = load_development_data(config(tmp_path))
    assert counts(data.survey) == [48, 8, 12]
    assert data.survey["validation"]["classes"] == 2
    assert data.validation.labels_N.tolist() == [0, 0, 1, 1, 1, 1, 1, 1]
    assert data.survey["left_out"] == {
        ".txt": 5, "images in test/, where no class is given": 8
    }  # fmt: skip


@pytest.mark.parametrize("kind", ["devkit", "kaggle"])
def test_imagenet_s_validation_images_get_their_classes_from_its_devkit_or_table(tmp_path, kind):
    from scipy.io import savemat

    root = tmp_path / "ILSVRC" / "Data" / "CLS-LOC"
    fill(root / "train", 0, 20)
    (root / "val").mkdir()
    truth = [2, 0, 1, 1]
    for place, label in enumerate(truth, 1):
        pictures(label)[30].save(root / "val" / f"ILSVRC2012_val_{place:08}.JPEG")
    if kind == "devkit":
        home = root / "ILSVRC2012_devkit_t12" / "data"
        home.mkdir(parents=True)
        numbers = [label + 1 for label in truth]
        (home / "ILSVRC2012_validation_ground_truth.txt").write_text("\n".join(map(str, numbers)))
        synsets = np.zeros(3, dtype=[("ILSVRC2012_ID", "O"), ("WNID", "O")])
        for place, name in enumerate(NAMES):
            synsets[place] = (place + 1, name)
        savemat(home / "meta.mat", {"synsets": synsets})
    else:
        table = [
            f"ILSVRC2012_val_{n:08},{NAMES[label]} 1 2 3 4\n" for n, label in enumerate(truth, 1)
        ]
        (tmp_path / "LOC_val_solution.csv").write_text(
            "ImageId,PredictionString\n" + "".join(table)
        )
    data = load_development_data(config(root))
    assert data.validation.labels_N.tolist() == sorted(truth)
    assert counts(data.survey) == [48, 4, 12]


def test_a_folder_of_parts_without_a_training_part_says_so(tmp_path):
    fill(tmp_path / "val", 0, 5)
    fill(tmp_path / "test", 5, 9)
    with pytest.raises(DataError, match="has test, val, but no class in a folder train"):
        survey(config(tmp_path))


def test_a_class_may_be_called_train(tmp_path):
    fill(tmp_path, 0, 20, ("bus", "car", "train"))
    assert load_development_data(config(tmp_path)).train.class_names == ("bus", "car", "train")


# Rare classes


def with_counts(root: Path, *sizes: int) -> Path:
    for label, size in enumerate(sizes):
        folder = root / "train" / NAMES[label]
        folder.mkdir(parents=True)
        for number, image in enumerate(pictures(label)[:size]):
            image.save(folder / f"{number:03}.png")
    fill(root / "test", 170, 172)
    return root


@pytest.mark.parametrize("rare", [2, 3, 4])
@pytest.mark.parametrize("validation", [0.02, 0.1, 0.5, 0.98])
def test_a_class_that_rounds_to_nothing_gets_one_image_in_each_part(tmp_path, rare, validation):
    root = with_counts(tmp_path, 150, 150, rare)
    data = load_development_data(config(root, validation=validation))
    assert abs(len(data.validation) - validation * (300 + rare)) < 1
    for part in (data.train, data.validation):
        assert part.labels_N.bincount(minlength=3).min() >= 1


def test_a_drawn_test_part_leaves_a_rare_class_an_image_for_each_other_part(tmp_path):
    root = with_counts(tmp_path, 100, 100, 3)
    shutil.rmtree(root / "test")
    data = load_development_data(config(root))
    test = labels_of(config(root), "test")
    for part in (data.train, data.validation, test):
        assert part.labels_N.bincount(minlength=3)[2] == 1


def test_a_class_of_one_image_is_refused_with_remedies_that_work(tmp_path):
    root = with_counts(tmp_path, 20, 20, 1)
    with pytest.raises(DataError, match=r"fox: a single image in a class.*rare_classes: train"):
        load_development_data(config(root))
    data = load_development_data(config(root, rare_classes="train", validation=10))
    assert (len(data.train), len(data.validation)) == (31, 10)
    assert data.train.labels_N.bincount()[2] == 1 and data.validation.labels_N.max() == 1
    assert "10 validation (of 2 classes)" in describe(data.survey)
    shutil.rmtree(root / "test")
    with pytest.raises(DataError, match=r"fox: at most 2 images in a class.*data.test: 0"):
        load_development_data(config(root))
    drawn = load_development_data(config(root, rare_classes="train"))
    assert drawn.train.labels_N.bincount()[2] == 1
    assert labels_of(config(root, rare_classes="train"), "test").labels_N.max() == 1


def test_a_class_that_a_folder_of_one_s_own_lacks_is_refused_or_let_pass(whole):
    fill(whole / "val", 30, 34, NAMES[:2])
    with pytest.raises(DataError, match=r"fox not in both train and val.*rare_classes: train"):
        load_development_data(config(whole))
    data = load_development_data(config(whole, rare_classes="train"))
    assert counts(data.survey) == [60, 8, 30]
    fill(whole / "val", 30, 34, ("bird",))
    with pytest.raises(DataError, match="bird not in both train and val"):
        load_development_data(config(whole, rare_classes="train"))


# Where the data are


@pytest.mark.parametrize(
    "root", ["~/set", "$HOME/set", "${HOME}/set", "$THERE/set", "${THERE}/set"]
)
def test_a_root_may_name_the_home_and_variables(tmp_path, monkeypatch, root):
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("THERE", str(tmp_path))
    fill(tmp_path / "set", 0, 5)
    assert counts(survey(config(Path(root)))) == [9, 3, 3]


def test_a_variable_that_is_not_set_is_named_and_a_dollar_in_a_name_is_none(tmp_path):
    with pytest.raises(DataError, match=r"data.root: .*OKDDIP_NOWHERE, which is not set"):
        survey(config(Path("${OKDDIP_NOWHERE}/set")))
    fill(tmp_path / "a$b", 0, 5)
    assert os.environ.get("b") is None and survey(config(tmp_path / "a$b"))


def test_labels_of_a_part_open_no_image(whole):
    for path in whole.glob("*/*/*.png"):
        path.write_bytes(b"broken")
    assert counts(survey(config(whole))) == [54, 6, 30]
    assert torch.equal(labels_of(config(whole), "test").labels_N.bincount(), torch.full((3,), 10))
