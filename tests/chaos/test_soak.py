"""The soak in short: a whole search of sleeping trials, whose driver is measured."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
from chaos_helpers import assert_over, look_at

SCRIPT = Path(__file__).parents[2] / "benchmarks" / "soak.py"


@pytest.mark.timeout(900)
def test_a_short_soak_ends_with_its_budget_and_a_verdict(tmp_path):
    command = [sys.executable, SCRIPT, "--trials", "40", "--epochs", "6", "--at-once", "4"]
    done = subprocess.run(
        [*map(str, command), "--directory", str(tmp_path / "soak")],
        capture_output=True, text=True, timeout=800,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    assert_over(look_at(tmp_path / "soak"), budget=40)
    assert "40 trials of at most 6 epochs" in done.stdout
    assert "driver MiB" in done.stdout
    samples = (tmp_path / "soak" / "samples.jsonl").read_text().splitlines()
    assert all(json.loads(line)["memory"] > 0 for line in samples)
    assert not list((tmp_path / "soak").glob("trials/*/state-*.safetensors"))
    assert len(list((tmp_path / "soak").glob("trials/*/leader"))) == 3
