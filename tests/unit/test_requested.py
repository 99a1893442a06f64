"""The search that a command asks for: one that begins, one that is resumed, or whichever it is."""

import pytest

from okddip_search.errors import UserError
from okddip_search.layout import JOURNAL, SPEC
from okddip_search.space.resolve import requested_search

SPACE = "name: {}\ndata: {{name: digits}}\nsearch: {{lr: {{type: float, low: 0.1, high: 1}}}}\n"


@pytest.fixture
def ask(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "s.yaml").write_text(SPACE.format("mine"))

    def request(space="s.yaml", **options):
        return requested_search(space, say=lambda line: None, **options)

    return request


def write_search(folder, name="mine"):
    folder.mkdir(parents=True)
    (folder / SPEC).write_text(SPACE.format(name))
    (folder / JOURNAL).touch()


def test_auto_begins_a_search_where_there_is_none_and_resumes_it_later(ask, tmp_path):
    spec, directory, is_resumed = ask(resume="auto")
    assert (spec.name, str(directory), is_resumed) == ("mine", "runs/mine", False)
    write_search(tmp_path / directory)
    spec, again, is_resumed = ask(resume="auto", trials=7)
    assert (again, is_resumed, spec.study.trials) == (directory, True, 7)


def test_auto_begins_where_a_driver_was_stopped_before_its_study_began(ask, tmp_path):
    write_search(tmp_path / "out")
    (tmp_path / "out" / JOURNAL).unlink()
    assert not ask(resume="auto", out=tmp_path / "out")[2]


def test_auto_without_a_space_takes_the_one_in_the_directory(ask, tmp_path):
    write_search(tmp_path / "out", "theirs")
    assert ask(None, resume="auto", out=tmp_path / "out")[0].name == "theirs"
    assert ask(None, resume="auto", out=tmp_path / "other")[0].name == "digits"


def test_a_plain_resume_needs_a_search(ask):
    with pytest.raises(UserError, match="runs/mine holds no search"):
        ask(resume=True)
    assert not ask(resume=False)[2]


def test_a_search_is_not_begun_where_there_is_one(ask, tmp_path):
    write_search(tmp_path / "runs" / "mine")
    with pytest.raises(UserError, match="holds a search already") as refused:
        ask(resume=False)
    assert "--resume" in refused.value.remedy
