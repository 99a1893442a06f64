"""A warm start: the best configurations of earlier searches are tried first."""

import tarfile
from pathlib import Path

import optuna
import pytest
from optuna.storages import JournalStorage
from optuna.storages.journal import JournalFileBackend

from okddip_search.errors import UserError
from okddip_search.space.load import load_saved, load_space
from okddip_search.study.study import open_study
from okddip_search.study.trials import PAPER_KEY
from okddip_search.study.warm_start import start_warm, warm_configurations

ARCHIVE = Path(__file__).parents[1] / "data" / "before_rooms.tar.xz"
SPACE = """name: warm
data: {{name: digits}}
search:
  lr: {{type: float, low: {low}, high: 1.0, log: true}}
  temperature: {{type: float, low: 1, high: 6}}
enqueue: {enqueue}
"""


@pytest.fixture
def space(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)

    def load(enqueue, low=0.0001):
        (tmp_path / "s.yaml").write_text(SPACE.format(enqueue=enqueue, low=low))
        return load_space(tmp_path / "s.yaml")

    return load


@pytest.fixture
def earlier(tmp_path):
    """Lay an earlier search beside the space, and return its best trials."""
    with tarfile.open(ARCHIVE) as archive:
        archive.extractall(tmp_path, filter="data")
    study = open_study(tmp_path / "confirmed", load_saved(tmp_path / "confirmed"))
    complete = [t for t in study.trials if t.state.name == "COMPLETE"]
    return sorted(complete, key=lambda t: (-t.value, t.number))


def write_study(storage, name, values):
    study = optuna.create_study(storage=storage, study_name=name, direction="minimize")
    for lr, value in values.items():
        study.enqueue_trial({"lr": lr})
        trial = study.ask({"lr": optuna.distributions.FloatDistribution(0.0001, 10)})
        study.tell(trial, value)


def no_word(line):
    raise AssertionError(line)


def test_the_best_trials_of_a_search_directory(space, earlier):
    found = warm_configurations(space("{from: confirmed, top: 2}"), no_word)
    assert [entry["lr"] for entry in found] == [trial.params["lr"] for trial in earlier[:2]]
    assert all(set(entry) == {"lr", "temperature"} for entry in found)


@pytest.mark.parametrize("enqueue", ["confirmed/best.yaml", "[{from: confirmed/best.yaml}]"])
def test_a_best_yaml(space, earlier, enqueue):
    [found] = warm_configurations(space(enqueue), no_word)
    assert found["lr"] == earlier[0].params["lr"]


@pytest.mark.parametrize("kind", ["sqlite", "journal"])
def test_a_storage_of_optuna_in_its_own_direction(space, tmp_path, kind):
    path = tmp_path / "old.db"
    uri = f"sqlite:///{path}"
    storage = uri if kind == "sqlite" else JournalStorage(JournalFileBackend(str(path)))
    write_study(storage, "theirs", {0.3: 0.2, 0.1: 0.1, 0.5: 0.9})
    place = uri if kind == "sqlite" else "old.db"
    found = warm_configurations(space(f"{{from: {place!r}, top: 2}}"), no_word)
    assert found == [{"lr": 0.1}, {"lr": 0.3}]


def test_a_storage_with_several_studies_needs_a_name(space, tmp_path):
    uri = f"sqlite:///{tmp_path / 'old.db'}"
    write_study(uri, "one", {0.1: 1})
    write_study(uri, "two", {0.2: 1})
    with pytest.raises(UserError, match="has 2 studies: one, two"):
        warm_configurations(space(f"{{from: {uri!r}}}"), no_word)
    found = warm_configurations(space(f"{{from: {uri!r}, study: two}}"), no_word)
    assert found == [{"lr": 0.2}]


def test_a_configuration_outside_of_the_space_is_named_and_left_out(space, tmp_path):
    uri = f"sqlite:///{tmp_path / 'old.db'}"
    write_study(uri, "theirs", {5.0: 0.1, 0.1: 0.2})
    said = []
    found = warm_configurations(space(f"{{from: {uri!r}, top: 5}}"), said.append)
    assert found == [{"lr": 0.1}]
    [line] = said
    assert "trial 0 of sqlite:" in line and "lr: 5.0 is not in the range" in line
    with pytest.raises(UserError, match="no configuration in this space"):
        warm_configurations(space(f"{{from: {uri!r}}}"), said.append)


@pytest.mark.parametrize(
    ("enqueue", "words"),
    [
        ("missing.yaml", "missing.yaml: No such file"),
        ("missing", "missing: no such file"),
        ("sqlite:///missing.db", "missing.db: no such file"),
        ("s.yaml", "no configuration in this space"),
        (".", "holds no search"),
    ],
)
def test_what_is_no_source_is_refused(space, tmp_path, enqueue, words):
    with pytest.raises(UserError, match=words):
        warm_configurations(space(enqueue), lambda line: None)
    assert not (tmp_path / "missing.db").exists()


def test_a_wrong_field_has_its_line(space):
    with pytest.raises(UserError, match=r"s.yaml:6: enqueue.tops: unknown field .*'top'"):
        space("{from: x, tops: 3}")


def test_they_are_enqueued_once_behind_the_spaces_own_and_are_not_the_papers(
    space, earlier, tmp_path
):
    spec = space("[{from: confirmed, top: 2}, {lr: 0.1}]")
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "spec.yaml").write_text(spec.to_yaml())
    study = open_study(tmp_path / "out", spec)
    start_warm(study, spec)
    assert [bool(t.user_attrs.get(PAPER_KEY)) for t in study.trials] == [True, False, False]
    again = open_study(tmp_path / "out", load_saved(tmp_path / "out"))
    start_warm(again, load_saved(tmp_path / "out"))
    assert len(again.trials) == 3
    assert load_saved(tmp_path / "out").warm_start == spec.warm_start
