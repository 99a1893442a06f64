"""What of a space may change when a search goes on, and how what may not is told."""

import pytest
import yaml
from PIL import Image

from okddip_search.errors import UserError
from okddip_search.space.changes import left_as_it_was, require_unchanged
from okddip_search.space.load import load_saved, load_space
from trainer.data.load import load_development_data

FINGERPRINTS = {False: "48d74f1d0b50f665", True: "1e19351ed3a16cf2"}


def space(*changes):
    return load_space("digits", changes)


@pytest.mark.parametrize(
    "change",
    ["study.trials=99", "study.timeout=1h", "study.searcher=null", "resources.max_concurrent=1"],
)
def test_budget_sampler_and_resources_may_change(tmp_path, change):
    require_unchanged(space(), space(change), tmp_path)


@pytest.mark.parametrize(
    ("change", "field"),
    [
        ("trainer.epochs=99", "trainer.epochs was"),
        ("data.validation=99", "data.validation was"),
        ("study.seed=99", "study.seed was 0, is 99 now"),
        ("objective.reduce=best", "objective.reduce was"),
        ("search.lr.low=0.02", "search.lr.low was"),
    ],
)
def test_what_ranks_the_trials_may_not_and_is_named(tmp_path, change, field):
    with pytest.raises(UserError, match=field):
        require_unchanged(space(), space(change), tmp_path)


def test_where_the_images_lie_may_change(tmp_path):
    began = space()
    moved = began.model_copy(update={"data": began.data.model_copy(update={"root": "/elsewhere"})})
    require_unchanged(began, moved, tmp_path)


def test_a_search_can_be_resumed_on_another_machine(tmp_path):
    began = space().model_copy(update={"machine": {"device": "cuda", "num_threads": 8}})
    require_unchanged(began, space(), tmp_path)
    assert left_as_it_was(began, space()) == []


def test_what_a_space_file_asks_for_and_does_not_get_is_said():
    kept, asked = space("study.trials=7"), space("study.trials=9", "trainer.epochs=1")
    [line] = left_as_it_was(kept, asked)
    assert line == "study.trials stays 7; the space file has 9 (--set study.trials=… changes it)"
    assert left_as_it_was(kept, kept) == []


def saved_by_an_earlier_version(folder, **data):
    """Write ``spec.yaml`` as before data sets could be divided into three parts."""
    text = {"name": "image_folder", "root": str(folder), "image_size": 16, **data}
    spec = load_space("digits").to_plain() | {"data": text}
    (folder / "spec.yaml").write_text(yaml.safe_dump(spec))
    return load_saved(folder)


@pytest.mark.parametrize("streaming", [False, True], ids=["in memory", "streamed"])
@pytest.mark.parametrize(
    "parts", [("train", "test"), ("train", "test", "val"), ("train",)], ids=str
)
def test_an_older_search_of_a_folder_keeps_its_images_in_the_parts_they_were_in(
    tmp_path, parts, streaming
):
    """The fingerprints are those of version 0.1.0, which looked into train/ alone."""
    for first, part in zip((0, 20, 30), parts, strict=False):
        for label in range(3):
            (tmp_path / part / f"{label}").mkdir(parents=True)
            for number in range(first, first + 20):
                path = tmp_path / part / f"{label}" / f"{number:03}.png"
                Image.new("RGB", (16, 16), (label * 100, number, 7)).save(path)
                path.write_bytes(path.read_bytes().ljust(1000, b"\0"))  # whatever compressed it
    began = saved_by_an_earlier_version(tmp_path, validation=0.2, streaming=streaming)
    data = load_development_data(began.data)
    assert (len(data.train), len(data.validation)) == (48, 12)
    assert data.fingerprint == FINGERPRINTS[streaming]
    asked = began.data.model_copy(update={"test": 0.2, "own_validation": True})
    require_unchanged(began, began.model_copy(update={"data": asked}), tmp_path)


def test_a_saved_space_keeps_the_division_that_it_names(tmp_path):
    began = load_space("digits", ["data.test=0.3", "data.own_validation=false"])
    (tmp_path / "spec.yaml").write_text(began.to_yaml())
    assert load_saved(tmp_path).data == began.data
