"""The test set is opened by one function, and no opening goes unrecorded."""

import json
import shutil
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F

from trainer import test_set
from trainer.config.data import DataConfig
from trainer.data import parts
from trainer.data.images import DataError
from trainer.group.group import single_network
from trainer.leader.leader import LeaderInfo, load_leader, save_leader
from trainer.models import build_architecture
from trainer.test_set import OpeningError, open_test, read_openings

DIGITS = DataConfig(name="digits")
needs_cuda = pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU")


def write_leader(folder: Path, seed: int, **info: object) -> Path:
    """Save an untrained network, large of voice: with small logits, all NLL would be log 10."""
    torch.manual_seed(seed)
    architecture = build_architecture("resnet8", channels=1, num_classes=10, width=0.25)
    network = single_network(architecture)
    with torch.no_grad():
        network.classifier.weight *= 5
    values = {
        "model": "resnet8", "width": 0.25, "class_names": [str(digit) for digit in range(10)],
        "input_shape": [1, 8, 8], "mean": [0.3], "std": [0.4],
        "validation_accuracy": 0.5, "trained_with": {},
    }  # fmt: skip
    save_leader(folder, network, LeaderInfo(**{**values, **info}))
    return folder


@pytest.fixture
def log(tmp_path) -> Path:
    return tmp_path / "openings.jsonl"


@pytest.fixture
def leaders(tmp_path) -> list[Path]:
    return [write_leader(tmp_path / "trials" / str(seed) / "leader", seed) for seed in range(3)]


def entries(log: Path) -> list[dict[str, object]]:
    return [json.loads(line) for line in log.read_text().splitlines()]


def events(log: Path) -> list[object]:
    return [entry["event"] for entry in entries(log)]


@pytest.fixture
def seen(log, monkeypatch) -> list[tuple[str, list[object]]]:
    """Whenever images are read: which part, and what the log said at that moment."""
    read, seen = parts.read_part, []

    def watch(config, part, cache_dir=None):
        seen.append((part, events(log)))
        return read(config, part, cache_dir)

    monkeypatch.setattr(test_set, "read_part", watch)
    return seen


class Broken(BaseException):
    """Stands for the moment of a kill: nothing in the code under test catches it."""


@pytest.fixture
def broken(leaders, log, monkeypatch) -> Path:
    """Return the log of an opening that was broken off after its first result."""
    load = test_set.load_leader

    def mortal(folder: Path):
        if folder != leaders[0]:
            raise Broken
        return load(folder)

    with monkeypatch.context() as patch:
        patch.setattr(test_set, "load_leader", mortal)
        with pytest.raises(Broken):
            open_test(leaders, DIGITS, log=log, reason="first")
    return log


# One opening


def test_the_opening_is_written_before_an_image_is_read_and_the_results_after(leaders, log, seen):
    results = open_test(leaders, DIGITS, log=log, reason="a test")
    assert seen == [("test", ["opened"])]  # once, for all leaders
    opened, *closed = entries(log)
    assert opened["reason"] == "a test"
    assert [entry["event"] for entry in closed] == ["result"] * 3
    assert [entry["leader"] for entry in closed] == list(opened["leaders"])
    assert {entry["opening"] for entry in closed} == {opened["time"]}
    assert [entry["accuracy"] for entry in closed] == [result.accuracy for result in results]


def test_the_log_is_read_back_as_it_was_written(leaders, log):
    assert read_openings(log) == []
    results = open_test(leaders, DIGITS, log=log, reason="a test")
    [opening] = read_openings(log)
    assert (opening.reason, opening.finished) == ("a test", True)
    names = [f"trials/{number}/leader" for number in range(3)]
    assert list(opening.leaders) == names and len(set(opening.leaders.values())) == 3
    assert dict(opening.results) == dict(zip(names, results, strict=True))


def test_every_leader_gets_what_it_gets_alone_in_the_order_asked_for(leaders, log, tmp_path):
    together = open_test(leaders[::-1], DIGITS, log=log, reason="")
    alone = [
        open_test([leader], DIGITS, log=tmp_path / "other", reason="")[0] for leader in leaders
    ]
    assert together[::-1] == alone and len({result.nll for result in alone}) == 3


def test_the_numbers_equal_a_recomputation(leaders, log, monkeypatch):
    monkeypatch.setattr(test_set, "BATCH", 100)  # the last batch has 60 images
    [result] = open_test(leaders[:1], DIGITS, log=log, reason="")
    test = parts.read_part(DIGITS, "test")
    network = load_leader(leaders[0]).module
    right, surprise = 0, 0.0
    with torch.inference_mode():
        for image, label in zip(test.images_NCHW, test.labels_N, strict=True):
            logits_NC = network((image[None] / 255 - 0.3) / 0.4)
            right += logits_NC.argmax().item() == label
            surprise += F.cross_entropy(logits_NC.double(), label[None]).item()
    assert result == test_set.TestResult(right / 360, pytest.approx(surprise / 360, rel=1e-5), 360)


def test_leaders_may_normalise_differently(leaders, log, tmp_path, seen):
    other = write_leader(tmp_path / "other", seed=0, mean=[0.0], std=[1.0])  # weights as leader 0's
    first, second = open_test([leaders[0], other], DIGITS, log=log, reason="")
    assert first.nll != second.nll and len(seen) == 1


def test_an_opening_that_fails_is_recorded_all_the_same(leaders, log, tmp_path):
    absent = DataConfig(name="cifar10", root=str(tmp_path))
    with pytest.raises(DataError):
        open_test(leaders, absent, log=log, reason="in vain")
    assert events(log) == ["opened"] and not read_openings(log)[0].finished


def test_nothing_is_opened_for_a_leader_that_is_not_there(leaders, log, tmp_path, seen):
    with pytest.raises(FileNotFoundError):
        open_test([*leaders, tmp_path / "none"], DIGITS, log=log, reason="")
    with pytest.raises(ValueError, match="at least one leader"):
        open_test([], DIGITS, log=log, reason="")
    assert not log.exists() and not seen


@pytest.mark.parametrize(
    ("info", "message"),
    [
        ({"input_shape": [1, 9, 9]}, r"images of \[1, 9, 9\]"),
        ({"class_names": list("abcdefghij")}, "in 10 classes; .* in 10 others"),
    ],
)
def test_a_leader_for_other_images_is_refused_by_name(tmp_path, log, info, message):
    leader = write_leader(tmp_path / "stranger", seed=0, **info)
    with pytest.raises(DataError, match=f"stranger was trained for .*{message}"):
        open_test([leader], DIGITS, log=log, reason="")


@needs_cuda
def test_a_gpu_gives_what_the_cpu_gives(leaders, log):
    here = open_test(leaders, DIGITS, log=log, reason="")
    there = open_test(leaders, DIGITS, log=log, reason="", device="cuda")
    for result, other in zip(here, there, strict=True):
        assert other.nll == pytest.approx(result.nll, rel=1e-5)
        assert abs(other.accuracy - result.accuracy) <= 1 / 360  # two logits may be that close


# More openings


def test_openings_add_up(leaders, log):
    for reason in ("one", "two"):
        open_test(leaders[:2], DIGITS, log=log, reason=reason)
    assert [opening.reason for opening in read_openings(log)] == ["one", "two"]
    assert all(opening.finished for opening in read_openings(log))


def test_a_broken_opening_shows_which_results_were_seen(broken):
    [opening] = read_openings(broken)
    assert not opening.finished and len(opening.leaders) == 3
    assert list(opening.results) == ["trials/0/leader"]


def test_a_broken_opening_is_completed_and_is_still_one_opening(leaders, broken, tmp_path, seen):
    [opening] = read_openings(broken)
    results = open_test(leaders, DIGITS, log=broken, reason="second", resume=opening)
    assert results == open_test(leaders, DIGITS, log=tmp_path / "straight", reason="")
    assert events(broken) == ["opened", "result", "resumed", "result", "result"]
    assert entries(broken)[2]["reason"] == "second" and seen[0] == ("test", events(broken)[:3])
    [completed] = read_openings(broken)
    assert completed.finished and (completed.time, completed.reason) == (opening.time, "first")


def test_results_that_are_known_are_given_again_without_a_look(leaders, broken, seen):
    before = broken.read_bytes()
    [opening] = read_openings(broken)
    [result] = open_test(leaders[:1], DIGITS, log=broken, reason="again", resume=opening)
    assert result == opening.results["trials/0/leader"]
    assert broken.read_bytes() == before and not seen


def test_an_opening_serves_no_leader_that_it_was_not_made_for(leaders, broken, tmp_path, seen):
    """Neither another one nor one that was trained again, perhaps because of what was seen."""
    [opening], before = read_openings(broken), broken.read_bytes()
    stranger = write_leader(tmp_path / "trials" / "3" / "leader", seed=3)
    with pytest.raises(OpeningError, match=r"for other leaders, .*: trials/3/leader$"):
        open_test([*leaders, stranger], DIGITS, log=broken, reason="", resume=opening)
    write_leader(leaders[0], seed=4)
    with pytest.raises(OpeningError, match=r"weights have changed since: trials/0/leader$"):
        open_test(leaders, DIGITS, log=broken, reason="", resume=opening)
    assert broken.read_bytes() == before and not seen


def test_a_folder_of_runs_may_be_moved_with_its_log(leaders, broken, tmp_path, monkeypatch):
    assert str(tmp_path) not in broken.read_text()
    shutil.copytree(tmp_path, moved := tmp_path / "moved")
    monkeypatch.chdir(moved)  # and be named in another way
    [opening] = read_openings(Path(broken.name))
    there = [Path("trials", str(number), "leader") for number in range(3)]
    open_test(there, DIGITS, log=Path(broken.name), reason="", resume=opening)
    assert events(Path(broken.name))[2:] == ["resumed", "result", "result"]


def test_a_leader_from_elsewhere_is_named_in_full(leaders, tmp_path):
    (tmp_path / "logs").mkdir()
    log = tmp_path / "logs" / "log"
    open_test(leaders[:1], DIGITS, log=log, reason="")
    assert list(read_openings(log)[0].leaders) == [str(leaders[0])]


@pytest.mark.parametrize("lost", [1, 20])
def test_a_line_cut_off_by_a_crash_is_passed_over_and_not_glued_to(leaders, log, lost):
    open_test(leaders[:2], DIGITS, log=log, reason="first")
    whole, text = read_openings(log)[0], log.read_bytes()
    log.write_bytes(text[:-lost])
    [torn] = read_openings(log)
    assert torn.finished == (lost == 1)  # without its end of line, the last line is whole
    open_test(leaders[:2], DIGITS, log=log, reason="", resume=torn)
    open_test(leaders[:1], DIGITS, log=log, reason="second")
    completed, second = read_openings(log)
    assert completed == whole and second.reason == "second" and second.finished
    assert log.read_bytes().startswith(text[:-lost])  # nothing is ever taken away
