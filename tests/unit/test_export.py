"""Exporting the winner: nothing that is there is overwritten unless the user says so."""

import tarfile
from pathlib import Path

import pytest

from okddip_search.errors import UserError
from okddip_search.export import export
from okddip_search.layout import BEST, CONFIRM, LEADER

ARCHIVE = Path(__file__).parents[1] / "data" / "before_rooms.tar.xz"


@pytest.fixture
def search(tmp_path, monkeypatch):
    with tarfile.open(ARCHIVE) as archive:
        archive.extractall(tmp_path, filter="data")
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    return tmp_path / "confirmed"


@pytest.mark.parametrize("output", [None, Path("mine.yaml")], ids=["usual name", "own name"])
def test_a_file_of_the_user_is_kept_unless_forced(search, output):
    target = output or Path(BEST)
    target.write_text("mine")
    with pytest.raises(UserError, match=f"{target.name} is there already") as refused:
        export(search, "yaml", output)
    assert "--force" in refused.value.remedy and target.read_text() == "mine"
    export(search, "yaml", output, force=True)
    assert "method" in target.read_text()


def test_a_folder_of_the_user_is_kept_unless_forced(search):
    Path("weights").mkdir()
    Path("weights", "leader.json").write_text("mine")
    with pytest.raises(UserError, match="weights is there already"):
        export(search, "weights", Path("weights"))
    assert Path("weights", "leader.json").read_text() == "mine"
    export(search, "weights", Path("weights"), force=True)
    assert Path("weights", "leader.safetensors").exists()


def test_a_winner_exported_to_its_own_place_stays_as_it_is(search):
    for form, name in (("yaml", BEST), ("weights", LEADER)):
        path = search / CONFIRM / name
        assert export(search, form, path)[0] == path and path.exists()
