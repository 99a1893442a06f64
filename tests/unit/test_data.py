"""What the data of a run promise: a seeded stratified division, no test image, honest errors."""

import warnings

import pytest
import torch
from image_helpers import rows, same

from trainer.config.data import DataConfig
from trainer.data import resident as data
from trainer.data.images import DataError, stratified_draw
from trainer.data.load import development_data_from_arrays, load_development_data
from trainer.data.parts import read_part


def test_division_is_stratified_disjoint_and_seeded():
    config = DataConfig(name="digits", validation=200, train_limit=300, split_seed=3)
    first, again = load_development_data(config), load_development_data(config)
    assert (len(first.train), len(first.validation)) == (300, 200)
    assert not rows(first.train) & rows(first.validation)
    assert same(first.train, again.train) and same(first.validation, again.validation)
    assert first.fingerprint == again.fingerprint

    share = read_part(config, "train").labels_N.bincount() / 1437
    for part in (first.train, first.validation):
        assert (part.labels_N.bincount() - share * len(part)).abs().max() <= 1

    other = load_development_data(config.model_copy(update={"split_seed": 4}))
    assert not same(first.validation, other.validation) and not same(first.train, other.train)
    assert first.fingerprint != other.fingerprint


def test_validation_images_do_not_depend_on_train_limit():
    few = load_development_data(DataConfig(train_limit=50))
    all_ = load_development_data(DataConfig())
    assert same(few.validation, all_.validation)
    assert rows(few.train) < rows(all_.train)


def test_validation_as_fraction_or_count():
    assert len(load_development_data(DataConfig(validation=0.1)).validation) == 144
    assert len(load_development_data(DataConfig(validation=100)).validation) == 100


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"validation": 1437}, "1437 of 1437 images"),
        ({"validation": 0.0001}, "0 of 1437 images"),
        ({"validation": 5}, "no validation image of"),
        ({"validation": 1430}, "no training image of"),
        ({"train_limit": 9}, "no training image of"),
        ({"train_limit": 1294}, r"1294 images wanted, 1293 available \(1437 less 144"),
    ],
)
def test_impossible_divisions_say_so(fields, message):
    with pytest.raises(DataError, match=message):
        load_development_data(DataConfig(**fields))


def test_stratified_draw_keeps_uneven_shares_exactly_when_they_are_whole():
    labels_N = torch.tensor([0] * 60 + [1] * 30 + [2] * 10)[torch.randperm(100)]
    drawn, rest = stratified_draw(labels_N, 20, torch.Generator().manual_seed(0))
    assert labels_N[drawn].bincount().tolist() == [12, 6, 2]
    assert sorted(torch.cat((drawn, rest)).tolist()) == list(range(100))


def test_mean_and_std_are_those_of_the_limited_training_images():
    loaded = load_development_data(DataConfig(train_limit=100))
    pixels = loaded.train.images_NCHW.double() / 255
    assert loaded.mean_C == pytest.approx([pixels.mean().item()], rel=1e-12)
    assert loaded.std_C == pytest.approx([pixels.std(correction=0).item()], rel=1e-12)


def test_std_of_a_constant_channel_is_one_grey_level():
    _, std_C = data._mean_std(torch.full((4, 3, 8, 8), 7, dtype=torch.uint8))
    assert std_C == (1 / 255,) * 3


def test_usual_and_explicit_pad_and_flip():
    usual = load_development_data(DataConfig())
    assert (usual.pad, usual.flip) == (1, False)
    chosen = load_development_data(DataConfig(pad=0, flip=True))
    assert (chosen.pad, chosen.flip) == (0, True)


def test_image_size_resizes_once_on_load():
    assert load_development_data(DataConfig(image_size=16)).train.size == (16, 16)


def test_arrays_survive_the_object_store_without_copy_or_warning():
    loaded = load_development_data(DataConfig(train_limit=50))
    arrays = loaded.to_arrays()
    for part in ("train", "validation"):
        for array in arrays[part]:
            array.flags.writeable = False  # as Ray hands them out
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        back = development_data_from_arrays(arrays)
    assert same(back.train, loaded.train) and same(back.validation, loaded.validation)
    assert back.train.images_NCHW.data_ptr() == arrays["train"][0].ctypes.data
    fields = ("mean_C", "std_C", "pad", "flip", "fingerprint", "has_merged_splits")
    assert [getattr(back, f) for f in fields] == [getattr(loaded, f) for f in fields]


def test_undivided_data_are_all_images_prepared_as_before():
    divided = load_development_data(DataConfig(train_limit=50, flip=True))
    whole = divided.merged_splits()
    assert (len(divided.train), len(divided.validation), len(whole.train)) == (50, 144, 194)
    assert same(whole.train.subset(torch.arange(50)), divided.train)
    assert same(whole.train.subset(torch.arange(50, 194)), divided.validation)
    assert same(whole.validation, divided.validation)
    for name in ("mean_C", "std_C", "pad", "flip"):
        assert getattr(whole, name) == getattr(divided, name)
    assert (divided.has_merged_splits, whole.has_merged_splits) == (False, True)
    assert (divided.trained_on, whole.trained_on) == ("train", "train and validation")
    assert whole.merged_splits() is whole


def test_undivided_data_have_a_fingerprint_of_their_own_that_repeats():
    divided = load_development_data(DataConfig(train_limit=50))
    other = load_development_data(DataConfig(train_limit=51))
    prints = [data.merged_splits().fingerprint for data in (divided, divided, other)]
    assert prints[0] == prints[1] and len({divided.fingerprint, *prints}) == 3
    assert all(len(fingerprint) == 16 for fingerprint in prints)


def test_undivided_data_survive_the_object_store():
    whole = load_development_data(DataConfig(train_limit=50)).merged_splits()
    back = development_data_from_arrays(whole.to_arrays())
    assert back.has_merged_splits and back.fingerprint == whole.fingerprint
    assert same(back.train, whole.train) and same(back.validation, whole.validation)


def test_fingerprint_sees_a_single_pixel_and_a_single_label():
    images = read_part(DataConfig(), "train").subset(torch.arange(20))
    before = data._fingerprint(images)
    images.images_NCHW[3, 0, 1, 1] += 1
    changed = data._fingerprint(images)
    images.labels_N[0] += 1
    assert len({before, changed, data._fingerprint(images)}) == 3
