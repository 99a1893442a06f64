"""A confirmation whose processes are killed: repeated until it is done, nothing is lost."""

import itertools

import pytest
from chaos_helpers import SPACE, findings, fresh_copy, openings
from killer import KILLS, Killer, timed
from search_helpers import numbers, write_space

pytestmark = pytest.mark.timeout(3600)


def test_a_confirm_killed_30_times_finds_what_the_unbroken_one_finds(tmp_path, fault):
    timed(
        "--no-confirm", "--space", write_space(tmp_path, SPACE), "--out", "searched",
        "--trials", 2, cwd=tmp_path,
    )  # fmt: skip
    searched = tmp_path / "searched"
    straight = fresh_copy(searched, tmp_path / "straight")
    session_s = timed("confirm", "straight", cwd=tmp_path)
    killer = Killer(fault, "a confirm", session_s)
    for attempt in itertools.count():
        home = fresh_copy(searched, tmp_path / f"broken{attempt}")
        while not killer.breaks(home / "confirm", "confirm", home.name, cwd=tmp_path):
            assert len(openings(home)) <= 1
        assert numbers(findings(home)) == numbers(findings(straight))
        assert len(openings(home)) == 1
        measured = [line["leader"] for line in openings(home, "result")]
        assert len(measured) == len(set(measured)) == len(openings(straight, "result"))
        if killer.kills >= KILLS:
            break
    killer.assert_nothing_lost()
