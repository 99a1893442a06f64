"""A disk that fills up in mid search: nothing is lost, and it goes on when there is room again."""

import os
import subprocess
import time

import pytest
from search_helpers import (
    COMMAND,
    ENDED,
    epochs_recorded,
    read_study,
    start,
    wait_until,
    write_space,
)

SPACE = """\
name: tiny
data: {name: digits, train_limit: 100, validation: 200}
trainer: {model: resnet8, width: 0.5, num_peers: 2, batch_size: 32, epochs: 8, ramp_epochs: 2,
          executor: eager, precision: fp32, checkpoint_every_s: 0.0}
search:
  lr: {type: float, low: 0.0001, high: 0.1, log: true}
study: {trials: 4, sampler: random, pruner: none}
"""


@pytest.fixture
def small_disk(tmp_path):
    """A file system of its own, of 48 MiB."""
    folder = tmp_path / "disk"
    folder.mkdir()
    done = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=48m", "okddip-test", folder], capture_output=True
    )
    if done.returncode:
        pytest.skip("no tmpfs can be mounted here (it takes root)")
    yield folder
    subprocess.run(["umount", "--lazy", folder], check=True)


def fill(folder):
    """Take all room that is left; return the file that holds it."""
    ballast = folder / "ballast"
    with open(ballast, "wb", buffering=0) as file:
        try:
            while True:
                file.write(bytes(1 << 16))
        except OSError:
            pass
    return ballast


def test_a_full_disk_pauses_the_search_and_freed_room_lets_it_go_on(tmp_path, small_disk, fault):
    row = fault("disk full (study, checkpoints, tracking), freed after 30 s")
    row.tries += 1
    directory = small_disk / "out"
    write_space(tmp_path, SPACE)
    search = start("--space", "tiny.yaml", "--out", directory, cwd=tmp_path)
    wait_until(lambda: epochs_recorded(directory) >= 5, timeout=240)
    ballast = fill(small_disk)
    time.sleep(30)
    assert search.poll() is None, search.communicate()[0]
    before = {t.number: dict(t.intermediate_values) for t in read_study(directory).trials}
    assert sum(map(len, before.values())) < 32  # it stands still
    assert (
        subprocess.run(
            [COMMAND, "report", directory], env={**os.environ}, capture_output=True
        ).returncode
        == 2  # no room for a report: told, not a traceback
    )
    os.unlink(ballast)
    output, _ = search.communicate(timeout=240)
    assert search.returncode == 0, output
    assert "full" in output
    assert "The disk has space again" in output
    assert "Traceback" not in output
    study = read_study(directory)
    assert [t.state in ENDED for t in study.trials] == [True] * 4
    for trial in study.trials:
        assert list(trial.intermediate_values) == list(range(8))
        curve = before.get(trial.number, {})
        row.lost += sum(trial.intermediate_values[step] != curve[step] for step in curve)
    assert not row.lost
    row.survived += 1
