"""What a user sees of the worst files: the place, status 2, and no traceback."""

import pytest
from search_helpers import SPACE, run
from test_space_reader import WHOLE_FILES

WORST = ["billion laughs", "deep flow", "UTF-16", "NUL", "a Python object", "beyond Unicode",
         "many unknown fields", "terminal escape in a key"]  # fmt: skip


@pytest.mark.parametrize("name", WORST)
def test_the_command_names_file_and_line_exits_2_and_shows_no_traceback(tmp_path, name):
    (tmp_path / "space.yaml").write_bytes(WHOLE_FILES[name])
    done = run("--space", "space.yaml", "--explain", cwd=tmp_path)
    assert done.returncode == 2, done.stdout + done.stderr
    place, line = done.stderr.removeprefix("Error: ").split(":")[:2]
    assert place == "space.yaml" and line.isdigit()
    assert "Traceback" not in done.stdout + done.stderr
    assert "\x1b" not in done.stderr and len(done.stderr) < 20_000


def test_a_billion_trials_are_refused_with_the_range(tmp_path):
    (tmp_path / "space.yaml").write_text(SPACE)
    done = run("--space", "space.yaml", "--trials", 10**9, "--explain", cwd=tmp_path)
    assert done.returncode == 2 and "[1, 1000000]" in done.stderr
