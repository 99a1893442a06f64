"""A search over a streamed folder: its decoding processes neither fail nor outlive a trial."""

import os
import signal

import numpy as np
import pytest
from optuna.trial import TrialState
from PIL import Image
from search_helpers import epochs_recorded, run, start, states, wait_until, write_space
from sklearn.datasets import load_digits

SPACE = """\
name: streamed
data: {name: image_folder, root: images, image_size: 16, validation: 9, streaming: true, workers: 1}
trainer: {model: resnet8, width: 0.25, num_peers: 2, batch_size: 16, epochs: 6, ramp_epochs: 1}
search:
  lr: {type: float, low: 0.01, high: 0.2, log: true}
study: {trials: 3, sampler: random, pruner: none}
resources: {cpus_per_trial: 1}
"""


@pytest.mark.slow
def test_a_signal_to_all_processes_stops_a_streamed_search_cleanly_and_it_goes_on(tmp_path):
    bunch = load_digits(n_class=3)
    for i in range(120):
        folder = tmp_path / "images" / "train" / str(bunch.target[i])
        folder.mkdir(parents=True, exist_ok=True)
        pixels = Image.fromarray((bunch.images[i] * 15.9375).astype(np.uint8))
        pixels.resize((20, 20)).save(folder / f"{i}.png")
    search = start("--space", write_space(tmp_path, SPACE), "--out", "run", cwd=tmp_path)
    wait_until(lambda: epochs_recorded(tmp_path / "run") >= 2)
    os.killpg(search.pid, signal.SIGTERM)
    output, _ = search.communicate(timeout=120)
    assert search.returncode == 130, output
    assert TrialState.FAIL not in states(tmp_path / "run")
    done = run("--resume", "--out", "run", cwd=tmp_path)
    assert done.returncode == 0, done.stdout + done.stderr
    assert states(tmp_path / "run") == [TrialState.COMPLETE] * 3
