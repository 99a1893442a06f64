"""A search whose processes are killed: resumed until it is done, nothing is lost."""

import itertools

import pytest
from chaos_helpers import SPACE, assert_over, look_at
from killer import KILLS, Killer, timed
from search_helpers import write_space

ALONE = ("--set", "resources.max_concurrent=1")
pytestmark = pytest.mark.timeout(3600)


@pytest.mark.parametrize("searcher", ["null", "screen"])
def test_a_search_killed_30_times_ends_as_the_unbroken_one(tmp_path, fault, searcher):
    space = write_space(tmp_path, SPACE)
    options = ("--no-confirm", "--space", space, *ALONE, "--set", f"study.searcher={searcher}")
    session_s = timed(*options, "--out", "straight", cwd=tmp_path)
    straight = look_at(tmp_path / "straight")
    assert_over(straight, budget=5)
    killer = Killer(fault, "a search", session_s)
    for attempt in itertools.count():
        home = tmp_path / f"broken{attempt}"
        over = False
        while not over:
            begun = (home / "study.journal").exists() and (home / "spec.yaml").exists()
            how = ("--resume", "--no-confirm") if begun else options
            over = killer.breaks(home, *how, "--out", home.name, cwd=tmp_path)
        assert look_at(home) == straight
        if killer.kills >= KILLS:
            break
    killer.assert_nothing_lost()
