"""``python -m trainer config.yaml --out DIR`` as a person types it."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import yaml
from click.testing import CliRunner

from trainer.__main__ import main
from trainer.leader.leader import load_leader

CONFIG = {
    "data": {"name": "digits", "train_limit": 100, "validation": 150},
    "model": "resnet8", "width": 0.25, "num_peers": 2, "epochs": 2, "ramp_epochs": 1,
    "batch_size": 32, "lr": 0.05, "device": "cpu", "num_threads": 1,
}  # fmt: skip


def start(folder: Path, *options: str) -> "subprocess.Popen[str]":
    command = [sys.executable, "-m", "trainer", "config.yaml", "--out", "run", *options]
    environment = {**os.environ, "COLUMNS": "200"}
    return subprocess.Popen(
        command, cwd=folder, env=environment, text=True,
        stdout=subprocess.PIPE, stderr=subprocess.PIPE,
    )  # fmt: skip


def command(folder: Path, *options: str) -> tuple[int, str, str]:
    with start(folder, *options) as process:
        out, err = process.communicate(timeout=120)
    return process.returncode, out, err


def write_config(folder: Path, **changes: object) -> None:
    (folder / "config.yaml").write_text(yaml.safe_dump({**CONFIG, **changes}))


def measured(result: dict) -> list[dict]:
    return [
        {k: v for k, v in entry.items() if k not in {"seconds", "images_per_s", "ended_s"}}
        for entry in result["history"]
    ]


def test_one_configuration_one_run(tmp_path):
    write_config(tmp_path)
    code, out, err = command(tmp_path)
    assert (code, err) == (0, "")
    result = json.loads((tmp_path / "run" / "result.json").read_text())
    assert result["config"]["model"] == "resnet8" and result["config"]["temperature"] == 3.0
    assert result["epochs_done"] == len(result["history"]) == 2
    assert result["final"] == result["history"][-1]
    assert result["seconds"] == sum(entry["seconds"] for entry in result["history"])
    assert result["environment"]["num_threads"] == 1
    assert f"{result['final']['leader_accuracy']:.4%}" in out
    leader = load_leader(tmp_path / "run" / "leader")
    assert leader.info.validation_accuracy == result["final"]["leader_accuracy"]
    assert not (tmp_path / "run" / "test_openings.jsonl").exists()


def test_a_killed_run_goes_on_with_the_same_command(tmp_path):
    folder = tmp_path / "killed"
    folder.mkdir()
    for place in (tmp_path, folder):
        write_config(place, epochs=20, checkpoint_every_s=0)
    assert command(tmp_path)[0] == 0
    with start(folder) as process:
        while not (folder / "run" / "state.json").exists():
            assert process.poll() is None
            time.sleep(0.01)
        process.send_signal(signal.SIGKILL)
        process.communicate()
    assert process.returncode == -signal.SIGKILL
    done = len(json.loads((folder / "run" / "state.json").read_text())["history"])
    assert 0 < done < 20
    assert command(folder)[0] == 0
    killed, straight = (
        json.loads((place / "run" / "result.json").read_text()) for place in (folder, tmp_path)
    )
    assert measured(killed) == measured(straight)


def test_the_test_set_is_opened_on_request_alone_and_that_is_logged(tmp_path):
    write_config(tmp_path)
    code, out, err = command(tmp_path, "--open-test")
    assert code == 0 and "(360 images)" in out
    log = (tmp_path / "run" / "test_openings.jsonl").read_text().splitlines()
    opened, result = map(json.loads, log)
    assert opened["event"] == "opened" and "--open-test" in opened["reason"]
    assert f"test accuracy {result['accuracy']:.4%}" in out


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (yaml.safe_dump({**CONFIG, "lr": 0}), "lr: 0 is not a number in (0, 100]"),
        (yaml.safe_dump({**CONFIG, "epoch": 3}), "epoch: unknown field (did you mean 'epochs'?)"),
        ("- a", "not a mapping"),
        ("a: [", "config.yaml:1: not valid YAML"),
        (None, "No such file"),
        (yaml.safe_dump({"data": {"name": "cifar10", "root": "x"}}), "data.download: true"),
    ],
)
def test_a_mistake_is_one_line_and_status_2(tmp_path, monkeypatch, text, message):
    monkeypatch.chdir(tmp_path)
    if text is not None:
        (tmp_path / "config.yaml").write_text(text)
    result = CliRunner().invoke(main, ["config.yaml", "--out", "run"])  # in this process: quicker
    assert result.exit_code == 2 and isinstance(result.exception, SystemExit)
    assert result.output.startswith("Error: config.yaml:") and message in result.output


def test_a_directory_of_another_run_is_refused_and_kept(tmp_path):
    write_config(tmp_path, epochs=1)
    assert command(tmp_path)[0] == 0
    before = (tmp_path / "run" / "result.json").read_bytes()
    write_config(tmp_path, epochs=1, lr=0.2)
    code, _, err = command(tmp_path)
    assert code == 2 and "another configuration: lr differ" in err and "Traceback" not in err
    assert (tmp_path / "run" / "result.json").read_bytes() == before
