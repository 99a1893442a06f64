"""The test set is opened by one function, and no opening goes unrecorded."""

import json
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F

from trainer import sealed_test, sources
from trainer.config import DataConfig
from trainer.data import DataError
from trainer.group import single_network
from trainer.leader import LeaderInfo, load_leader, save_leader
from trainer.models import build_architecture

DIGITS = DataConfig(name="digits")


@pytest.fixture
def leader_dir(tmp_path) -> Path:
    torch.manual_seed(0)
    architecture = build_architecture("resnet8", channels=1, num_classes=10, width=0.25)
    names = [str(digit) for digit in range(10)]
    info = LeaderInfo("resnet8", 0.25, names, [1, 8, 8], [0.3], [0.4], 0.5, {})
    save_leader(tmp_path / "leader", single_network(architecture), info)
    return tmp_path / "leader"


def entries(log: Path) -> list[dict[str, object]]:
    return [json.loads(line) for line in log.read_text().splitlines()]


def test_the_opening_is_written_before_an_image_is_read_and_the_result_after(
    leader_dir, tmp_path, monkeypatch
):
    log, read, seen = tmp_path / "openings.jsonl", sources.read_part, []

    def watch(config, part, cache_dir=None):
        seen.append((part, [entry["event"] for entry in entries(log)]))
        return read(config, part, cache_dir)

    monkeypatch.setattr(sealed_test, "read_part", watch)
    result = sealed_test.evaluate_test(leader_dir, DIGITS, log=log, reason="a test")
    assert seen == [("test", ["opened"])]
    opened, closed = entries(log)
    assert (opened["reason"], opened["leader"]) == ("a test", str(leader_dir))
    assert closed["event"] == "result" and closed["time"] == opened["time"]
    assert (closed["accuracy"], closed["num_images"]) == (result.accuracy, 360)


def test_an_opening_that_fails_is_recorded_all_the_same(leader_dir, tmp_path):
    log = tmp_path / "openings.jsonl"
    absent = DataConfig(name="cifar10", root=str(tmp_path))
    with pytest.raises(DataError):
        sealed_test.evaluate_test(leader_dir, absent, log=log, reason="in vain")
    assert [entry["event"] for entry in entries(log)] == ["opened"]


def test_openings_add_up(leader_dir, tmp_path):
    log = tmp_path / "openings.jsonl"
    for reason in ("one", "two"):
        sealed_test.evaluate_test(leader_dir, DIGITS, log=log, reason=reason)
    assert [entry["reason"] for entry in entries(log)] == ["one", "one", "two", "two"]


def test_the_numbers_equal_a_recomputation(leader_dir, tmp_path, monkeypatch):
    monkeypatch.setattr(sealed_test, "BATCH", 100)  # the last batch has 60 images
    result = sealed_test.evaluate_test(leader_dir, DIGITS, log=tmp_path / "log", reason="")
    test = sources.read_part(DIGITS, "test")
    network = load_leader(leader_dir).module
    right, surprise = 0, 0.0
    with torch.inference_mode():
        for image, label in zip(test.images_NCHW, test.labels_N, strict=True):
            logits_NC = network((image[None] / 255 - 0.3) / 0.4)
            right += logits_NC.argmax().item() == label
            surprise += F.cross_entropy(logits_NC.double(), label[None]).item()
    assert result.num_images == 360
    assert result.accuracy == right / 360
    assert result.nll == pytest.approx(surprise / 360, rel=1e-5)
