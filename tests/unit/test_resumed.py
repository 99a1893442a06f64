"""What of a space may change when a search goes on, and how what may not is told."""

import pytest

from okddip_search.errors import UserError
from okddip_search.space.changes import left_as_it_was, require_unchanged
from okddip_search.space.load import load_space


def space(*changes):
    return load_space("digits", changes)


@pytest.mark.parametrize(
    "change",
    ["study.trials=99", "study.timeout=1h", "study.sampler=random", "resources.max_concurrent=1"],
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
