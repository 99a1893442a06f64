"""A stopped run goes on as if it had never stopped: on the CPU, to the last bit."""

import json
import logging
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
import yaml
from safetensors.torch import load_file, save_file
from training_helpers import EPOCHS, assert_same_state, state, tiny, train

from trainer.config.train import TrainConfig
from trainer.data.base import DevelopmentData
from trainer.data.load import load_development_data
from trainer.engine import run as run_module
from trainer.engine.checkpoint import CheckpointError
from trainer.engine.run import TrainingRun
from trainer.engine.trainer import Trainer
from trainer.io.files import LockedError

needs_cuda = pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU")
STRUCTURES = ["network", "branch"]

# A worker in a process of its own: run the configuration, say which epochs are done.
WORKER = """
import sys
from pathlib import Path
from trainer.data.load import load_development_data
from trainer.config.load import load_config
from trainer.engine.run import TrainingRun
config = load_config(Path(sys.argv[1]))
with TrainingRun(config, load_development_data(config.data), Path(sys.argv[2])) as run:
    print(run.trainer.epoch, flush=True)
    for _ in range(min(int(sys.argv[3]), config.epochs - run.trainer.epoch)):
        print(run.step().epoch + 1, flush=True)
"""


@pytest.fixture(scope="module")
def data() -> DevelopmentData:
    return load_development_data(tiny().data)


def worker(config: TrainConfig, directory: Path, steps: int = 99) -> "subprocess.Popen[str]":
    directory.mkdir(parents=True, exist_ok=True)
    path = directory / "config.yaml"
    path.write_text(yaml.safe_dump(config.to_dict()))
    command = [sys.executable, "-c", WORKER, str(path), str(directory), str(steps)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, text=True)


@pytest.fixture(scope="module", params=["network", "branch", "network-fused", "branch-fused"])
def straight(request, data, tmp_path_factory) -> tuple[TrainConfig, Path]:
    """A run that was never stopped."""
    structure, _, executor = request.param.partition("-")
    config = tiny(structure=structure, executor=executor or "eager")
    directory = tmp_path_factory.mktemp("straight")
    train(config, data, directory)
    return config, directory


# Going on


@pytest.mark.parametrize("stop", range(EPOCHS + 1))
def test_a_run_resumed_at_any_epoch_equals_the_straight_run_bit_for_bit(
    straight, data, tmp_path, stop
):
    config, directory = straight
    stopped = train(config, data, tmp_path, steps=stop)
    assert stopped.epoch == stop
    torch.rand(5)  # another trial in between
    resumed = train(config, data, tmp_path)
    assert [report.epoch for report in resumed.history] == list(range(EPOCHS))
    assert_same_state(tmp_path, directory)
    leaders = [load_file(d / "leader" / "leader.safetensors") for d in (tmp_path, directory)]
    assert all(torch.equal(tensor, leaders[1][name]) for name, tensor in leaders[0].items())


def test_stopping_after_every_epoch_equals_it_too(straight, data, tmp_path):
    config, directory = straight
    for _ in range(EPOCHS):
        train(config, data, tmp_path, steps=1)
    assert_same_state(tmp_path, directory)


def test_a_fresh_process_goes_on_to_the_same_bits(straight, data, tmp_path):
    config, directory = straight
    train(config, data, tmp_path, steps=2)
    with worker(config, tmp_path) as process:
        assert process.communicate()[0].split() == ["2", "3", "4"]
    assert process.returncode == 0
    assert_same_state(tmp_path, directory)


def test_the_random_generator_goes_on_too(data, tmp_path):
    trainer = Trainer(tiny(), data)
    torch.rand(11)  # as dropout would
    trainer.save(tmp_path)
    expected = torch.rand(3)
    again = Trainer(tiny(), data)
    assert again.load(tmp_path)
    assert torch.equal(torch.rand(3), expected)


def test_a_run_killed_between_saves_trains_again_what_was_not_saved(data, tmp_path):
    config = tiny(epochs=40, checkpoint_every_s=3600.0)
    train(config, data, tmp_path / "straight")
    killed = tmp_path / "killed"
    train(config, data, killed, steps=2)
    with worker(config, killed) as process:
        assert [int(process.stdout.readline()) for _ in range(4)] == [2, 3, 4, 5]
        process.send_signal(signal.SIGKILL)
    final = train(config, data, killed)
    assert [report.epoch for report in final.history] == list(range(40))
    assert_same_state(killed, tmp_path / "straight")


def test_runs_killed_at_random_moments_end_in_the_same_bits(data, tmp_path):
    config = tiny(epochs=40, seed=5)
    train(config, data, tmp_path / "straight")
    killed, random_ = tmp_path / "killed", random.Random()
    reported, kills = 0, 0
    for _ in range(3):
        with worker(config, killed) as process:
            first = int(process.stdout.readline())
            assert first >= reported  # nothing that was reported is lost
            time.sleep(random_.uniform(0, 0.2))
            process.send_signal(signal.SIGKILL)
            rest = process.communicate()[0].split()
        kills += process.returncode == -signal.SIGKILL
        reported = int(rest[-1]) if rest else first
    assert kills >= 2  # a slow machine may let one finish
    final = train(config, data, killed)
    assert final.finished
    assert_same_state(killed, tmp_path / "straight")
    assert json.loads((killed / "result.json").read_text())["epochs_done"] == 40


class Killed(BaseException):
    """Stands for the moment of a SIGKILL: nothing in the code under test catches it."""


@pytest.mark.parametrize("moment", range(10))
def test_a_death_at_any_write_leaves_a_usable_state(straight, data, tmp_path, monkeypatch, moment):
    """Die at the n-th file operation of the third save.

    It writes the tensors and then gives three files their names: the tensors, the state before,
    the state. That is three operations each: sync the file, rename it, sync the folder.
    """
    config, directory = straight
    train(config, data, tmp_path, steps=2)
    operations = 0

    def mortal(function):
        def call(*args, **kwargs):
            nonlocal operations
            operations += 1
            if operations == moment + 1:
                raise Killed
            return function(*args, **kwargs)

        return call

    with monkeypatch.context() as patch:
        patch.setattr("trainer.io.tensors.save_file", mortal(save_file))
        patch.setattr(os, "fsync", mortal(os.fsync))
        patch.setattr(os, "replace", mortal(os.replace))
        with pytest.raises(Killed):
            train(config, data, tmp_path, steps=1)
    assert operations == moment + 1
    assert len(state(tmp_path)[1]) == (2 if moment < 9 else 3)  # a whole one, always
    train(config, data, tmp_path)
    assert_same_state(tmp_path, directory)


def test_a_run_killed_between_its_last_epoch_and_its_result_is_finished_on_opening(
    straight, data, tmp_path, monkeypatch
):
    config, _ = straight
    with monkeypatch.context() as patch:
        patch.setattr(run_module, "save_leader", lambda *args: (_ for _ in ()).throw(Killed))
        with pytest.raises(Killed):
            train(config, data, tmp_path)
    assert not (tmp_path / "result.json").exists() and not (tmp_path / "leader").exists()
    assert train(config, data, tmp_path).finished
    result = json.loads((tmp_path / "result.json").read_text())
    assert result["epochs_done"] == EPOCHS
    assert (tmp_path / "leader" / "leader.safetensors").exists()


def test_opening_a_finished_run_changes_nothing(straight, data):
    config, directory = straight
    before = {path: path.read_bytes() for path in directory.rglob("*.json")}
    assert train(config, data, directory).finished
    assert {path: path.read_bytes() for path in directory.rglob("*.json")} == before


# Where there is nothing to go on from


def damage_tensors(directory: Path, commit: dict) -> None:
    path = directory / commit["tensors"]
    path.write_bytes(path.read_bytes()[:-7])


def damage_header(directory: Path, commit: dict) -> None:
    path = directory / commit["tensors"]
    path.write_bytes(b"\xff" * path.stat().st_size)


def remove_tensors(directory: Path, commit: dict) -> None:
    (directory / commit["tensors"]).unlink()


def replace_commit(content: bytes):
    return lambda directory, commit: (directory / "state.json").write_bytes(content)


DAMAGES = [
    pytest.param(damage_tensors, id="tensors cut short"),
    pytest.param(damage_header, id="tensors overwritten"),
    pytest.param(remove_tensors, id="tensors gone"),
    pytest.param(replace_commit(b""), id="empty"),
    pytest.param(replace_commit(b"{}"), id="no field"),
    pytest.param(replace_commit(b"[]"), id="no mapping"),
    pytest.param(replace_commit(b'{"format": 1, "tensors": "x'), id="cut short"),
    pytest.param(replace_commit(b"\xff\x00\xfe"), id="no text"),
]


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_state_is_started_over_with_a_warning(data, tmp_path, caplog, damage):
    config = tiny(epochs=1)
    train(config, data, tmp_path)
    shutil.copytree(tmp_path, directory := tmp_path / "as it was")
    damage(tmp_path, json.loads((tmp_path / "state.json").read_text()))
    with caplog.at_level(logging.WARNING), TrainingRun(config, data, tmp_path) as run:
        assert run.trainer.epoch == 0
        assert not (tmp_path / "result.json").exists()  # it spoke of the run that is lost
    assert "starts over" in caplog.text
    train(config, data, tmp_path)
    assert_same_state(tmp_path, directory)


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_state_costs_the_epochs_since_the_one_before(
    straight, data, tmp_path, caplog, damage
):
    config, directory = straight
    train(config, data, tmp_path, steps=3)
    damage(tmp_path, json.loads((tmp_path / "state.json").read_text()))
    with caplog.at_level(logging.WARNING), TrainingRun(config, data, tmp_path) as run:
        assert run.trainer.epoch == 2
    assert "going on from the state before it" in caplog.text
    train(config, data, tmp_path, steps=1)
    damage(tmp_path, json.loads((tmp_path / "state.json").read_text()))  # and once more
    train(config, data, tmp_path)
    assert_same_state(tmp_path, directory)


def test_a_state_of_another_configuration_is_refused_by_the_fields_that_differ(data, tmp_path):
    train(tiny(), data, tmp_path, steps=1)
    before = (tmp_path / "state.json").read_bytes()
    with pytest.raises(CheckpointError, match=r"another configuration: lr, seed differ$"):
        TrainingRun(tiny(lr=0.1, seed=2), data, tmp_path)
    assert (tmp_path / "state.json").read_bytes() == before
    with TrainingRun(tiny(num_threads=2), data, tmp_path) as run:  # where it runs may change
        assert run.trainer.epoch == 1


def test_a_state_on_other_images_is_refused(data, tmp_path):
    train(tiny(), data, tmp_path, steps=1)
    other = tiny(data={"train_limit": 100, "validation": 150, "split_seed": 1})
    with pytest.raises(CheckpointError, match="on other images"):
        TrainingRun(other, load_development_data(other.data), tmp_path)


def test_a_state_of_another_version_is_refused(data, tmp_path):
    train(tiny(), data, tmp_path, steps=1)
    commit = json.loads((tmp_path / "state.json").read_text())
    (tmp_path / "state.json").write_text(json.dumps({**commit, "format": 99}))
    with pytest.raises(CheckpointError, match="another version"):
        TrainingRun(tiny(), data, tmp_path)


# One writer


def test_a_second_run_in_one_directory_waits_and_is_then_refused(data, tmp_path):
    with TrainingRun(tiny(), data, tmp_path):
        started = time.monotonic()
        with pytest.raises(LockedError, match=f"held by process {os.getpid()}"):
            TrainingRun(tiny(), data, tmp_path, lock_wait_s=0.5)
        assert 0.5 <= time.monotonic() - started < 5
    TrainingRun(tiny(), data, tmp_path).close()


def test_a_second_run_goes_on_where_the_first_ends_meanwhile(data, tmp_path):
    with worker(tiny(epochs=30), tmp_path, steps=3) as process:
        assert process.stdout.readline() == "0\n"
        with TrainingRun(tiny(epochs=30), data, tmp_path) as run:
            assert run.trainer.epoch == 3
    assert process.returncode == 0


# What is on the disk


def test_no_file_of_a_run_is_a_pickle_or_an_archive(straight):
    _, directory = straight
    files = [path for path in directory.rglob("*") if path.is_file()]
    assert {path.suffix for path in files} == {"", ".json", ".safetensors"}
    for path in files:
        start = path.read_bytes()[:4]
        assert start[:2] != b"PK" and not (start[:1] == b"\x80" and start[1:2] in b"\2\3\4\5"), path


def test_a_directory_holds_one_state_and_no_left_overs(straight):
    _, directory = straight
    assert sorted(path.name for path in directory.iterdir()) == [
        "leader", "lock", "result.json", f"state-{EPOCHS:06d}.safetensors", "state.json",
    ]  # fmt: skip


# On a GPU


@needs_cuda
@pytest.mark.parametrize("structure", STRUCTURES)
@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_a_run_on_cuda_goes_on(data, tmp_path, structure, precision):
    config = tiny(structure=structure, precision=precision, device="cuda", epochs=8)
    first = train(config, data, tmp_path, steps=4)
    resumed = train(config, data, tmp_path)
    assert resumed.history[:4] == first.history and resumed.finished
    assert resumed.history[-1].train["ce_leader"] < first.history[0].train["ce_leader"]
    straight = train(config, data, tmp_path / "straight")
    last, expected = resumed.history[-1].train, straight.history[-1].train
    assert last["ce_leader"] == pytest.approx(expected["ce_leader"], rel=0.1)


@needs_cuda
def test_a_run_begun_on_cuda_goes_on_on_the_cpu(data, tmp_path):
    train(tiny(device="cuda"), data, tmp_path, steps=2)
    assert train(tiny(device="cpu"), data, tmp_path).finished
