"""The Python API: a search from a script, and reading one from its directory."""

import json
import tarfile
from pathlib import Path

import pytest
import yaml
from search_helpers import ENDED, states, write_space

import okddip_search

ARCHIVE = Path(__file__).parents[1] / "data" / "before_rooms.tar.xz"


@pytest.fixture(scope="module")
def confirmed(tmp_path_factory):
    folder = tmp_path_factory.mktemp("confirmed")
    with tarfile.open(ARCHIVE) as archive:
        archive.extractall(folder, filter="data")
    return okddip_search.load_search(folder / "confirmed")


def test_a_search_runs_twice_in_one_process_and_is_resumed(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    space = write_space(tmp_path)
    first = okddip_search.search(space, out="first", gpus=0, trials=2)
    assert [trial.number for trial in first.trials] == [0, 1]
    assert first.best.state == "complete" and 0 < first.best.value <= 1
    assert first.best.params["temperature"] == 3.0 or first.best.number == 1
    assert yaml.safe_load(first.export().read_text())["model"] == "resnet8"
    assert first.leader().module.training is False
    again = okddip_search.search(space, out="first", gpus=0, trials=3, resume=True)
    assert again.trials[:2] == first.trials[:2]
    assert len(again.trials) == 3 and set(states(tmp_path / "first")) <= set(ENDED)


def test_a_mistake_is_an_error_with_its_place(tmp_path):
    path = write_space(tmp_path, "name: x\nserch: {}\n")
    with pytest.raises(okddip_search.UserError, match=r"tiny.yaml:2: .*'search'"):
        okddip_search.search(path, out=tmp_path / "out")
    with pytest.raises(okddip_search.UserError, match="holds no search"):
        okddip_search.load_search(tmp_path)


def test_trials_are_plain_records_and_rows_of_a_table(confirmed):
    assert [trial.number for trial in confirmed.trials] == list(range(6))
    assert confirmed.best.number == 4
    frame = confirmed.to_dataframe()
    assert list(frame["number"]) == list(range(6))
    assert frame.loc[4, "params_lr"] == confirmed.best.params["lr"]


def test_the_verdict_is_that_of_the_confirmation(confirmed):
    found = json.loads((confirmed.directory / "confirm" / "confirm.json").read_text())
    assert confirmed.confirmation.winner == "trial 4"
    assert confirmed.confirmation.sentence == found["verdict"]["sentence"]
    assert confirmed.confirmation.details == found


def test_the_page_is_written_where_the_search_is(confirmed):
    assert confirmed.report() == confirmed.directory / "report.html"
