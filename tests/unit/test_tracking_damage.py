"""A tracking journal that a power cut, a full disk or a person has damaged: nothing is lost."""

import errno
import json
from pathlib import Path

import optuna
import pytest
from optuna.distributions import FloatDistribution
from optuna.storages import JournalStorage
from optuna.storages.journal import JournalFileBackend
from optuna.trial import TrialState, create_trial
from tracking_helpers import fill, small_disk

from okddip_search.tracking.courier import usual_uri
from okddip_search.tracking.journal import AGAIN, Journal, Position, Story, read
from okddip_search.tracking.record import Record
from okddip_search.tracking.restore import IDENTITY, restore
from okddip_search.tracking.search_stage import SearchStage

EPOCHS = 3
SPACE = """\
name: demo
data: {name: digits}
trainer: {model: resnet8, epochs: 3}
search:
  lr: {type: float, low: 0.001, high: 0.3, log: true}
study: {trials: 3}
"""


def operations(path: Path) -> list[dict]:
    return [operation for operation, _ in read(path)]


def report(epoch: int, accuracy: float) -> dict:
    return {"epoch": epoch, "leader_accuracy": accuracy, "leader_nll": 0.5, "lr": 0.1}


def accuracy(number: int, step: int) -> float:
    return round(0.5 + number / 10 + step / 100, 3)


@pytest.fixture
def search_dir(tmp_path) -> Path:
    """A search of three trials, told as a driver tells it, and its study; the last is pruned."""
    directory = tmp_path / "demo"
    directory.mkdir()
    (directory / "spec.yaml").write_text(SPACE)
    record, _ = open_record(directory)
    search = SearchStage(record, "http://h")
    search.search_started({"trials": 3}, {"git": "1"}, [directory / "spec.yaml"])
    backend = JournalFileBackend(str(directory / "study.journal"))
    study = optuna.create_study(
        storage=JournalStorage(backend), study_name="demo", direction="maximize"
    )
    study.set_user_attr(IDENTITY, search.identity)
    best = None
    for number in range(3):
        steps = range(EPOCHS - (number == 2))
        pruned = number == 2
        study.add_trial(
            create_trial(
                state=TrialState.PRUNED if pruned else TrialState.COMPLETE,
                value=accuracy(number, steps[-1]),
                params={"lr": 0.1},
                distributions={"lr": FloatDistribution(0.001, 0.3, log=True)},
                intermediate_values={step: accuracy(number, step) for step in steps},
            )
        )
        history = [report(step, accuracy(number, step)) for step in steps]
        trial_dir = directory / "trials" / str(number)
        trial_dir.mkdir(parents=True)
        (trial_dir / "state.json").write_text(json.dumps({"history": history}))
        search.trial_started(number, {"lr": 0.1}, False)
        for epoch in history:
            search.epoch_reported(number, epoch["epoch"], epoch)
        end = ended(study, number)
        best = end if not pruned else best
        search.trial_ended(end, best)
    search.search_ended("FINISHED", {}, [])
    return directory


def ended(study, number):
    from okddip_search.study.trials import end_of

    return end_of(study.trials[number])


def open_record(directory: Path) -> tuple[Record, list[str]]:
    said: list[str] = []
    return Record(directory, "demo", said.append), said


def substance(path: Path) -> dict[str, dict]:
    """Return what a journal says of each trial and epoch, whenever and however often it says it."""
    told = {}
    for operation in operations(path):
        if operation["op"] in ("trial", "epoch", "end", "search"):
            key = f"{operation['op']} {operation.get('trial')} {operation.get('step')}"
            assert key not in told, f"{key} is told twice"
            left_out = ("t", AGAIN, "columns", "common", "best")
            told[key] = {k: v for k, v in operation.items() if k not in left_out}
            # Whose it is, is named as it is in the end.
            told[key]["best"] = (operation.get("best") or {}).get("accuracy")
    return told


def offsets_of_every_class(content: bytes) -> list[int]:
    """Return where a file may end: at some lines' start, first byte, middle, and last byte."""
    ends = [i + 1 for i, byte in enumerate(content) if byte == ord("\n")]
    cuts = [0, 1]
    for begin, end in list(zip([0, *ends], ends, strict=False))[::3]:
        cuts += [begin + 1, (begin + end) // 2, end - 1, end]
    return sorted(set(cuts))


def test_a_journal_cut_at_any_byte_class_is_told_again_from_the_study(search_dir):
    journal = search_dir / "tracking.jsonl"
    content = journal.read_bytes()
    whole = substance(journal)
    search_id = Story.from_journal(journal).search_id
    for cut in offsets_of_every_class(content):
        journal.write_bytes(content[:cut])
        record, said = open_record(search_dir)
        restore(record)
        assert substance(journal) == whole, cut
        assert record.story.search_id == search_id
        assert not record.story.is_going_on
        torn = cut and content[cut - 1 : cut] != b"\n"
        assert len(said) == bool(torn), said
        size = journal.stat().st_size
        restore(open_record(search_dir)[0])
        assert journal.stat().st_size == size, "a second time adds nothing"


def test_a_deleted_journal_is_told_again_from_the_study(search_dir):
    journal = search_dir / "tracking.jsonl"
    whole, story = substance(journal), Story.from_journal(journal)
    journal.unlink()
    assert usual_uri(search_dir) == "http://h"
    record, said = open_record(search_dir)
    restore(record)
    assert substance(journal) == whole
    assert (record.story.search_id, record.story.tags) == (story.search_id, story.tags)
    assert said == []


@pytest.mark.parametrize(
    "rubbish",
    [
        bytes(512),
        b"\xff\xfe{garbage}",
        b"null",
        b"5",
        b"[]",
        b"{}",
        b'{"op":5}',
        b'{"op":"epoch"}',
        b'{"op":"epoch","trial":"0","step":-4,"metrics":{}}',
        b'{"op":"epoch","trial":"0","step":1e300,"metrics":[]}',
        b'{"op":"search_end","open":5}',
        b"[" * 100_000,
    ],
    ids=lambda rubbish: repr(rubbish[:20]),
)
def test_any_line_may_be_rubbish(search_dir, rubbish):
    """A power cut leaves blocks of zeros; each line in turn is overwritten."""
    journal = search_dir / "tracking.jsonl"
    lines = journal.read_bytes().splitlines(keepends=True)
    whole = substance(journal)
    for index in range(0, len(lines), 6):
        journal.write_bytes(b"".join([*lines[:index], rubbish + b"\n", *lines[index + 1 :]]))
        record, said = open_record(search_dir)
        restore(record)
        left = substance_of_ours(journal)
        assert {key: left[key] for key in whole} == whole, index
        assert len(said) == 1 and "1 damaged" in said[0]


def substance_of_ours(journal: Path) -> dict[str, dict]:
    """Return the substance without lines that only look like ours."""
    lines = journal.read_bytes().splitlines(keepends=True)
    kept = [line for line in lines if b'"t":' in line]
    journal.write_bytes(b"".join(kept))
    return substance(journal)


def test_an_epoch_that_only_the_study_has_is_told_by_its_accuracy(search_dir):
    journal = search_dir / "tracking.jsonl"
    lines = journal.read_bytes().splitlines(keepends=True)
    kept = [line for line in lines if b'"epoch"' not in line]
    journal.write_bytes(b"".join(kept))
    (search_dir / "trials/1/state.json").write_bytes(b"")
    record, _ = open_record(search_dir)
    restore(record)
    metrics = {o["step"]: o["metrics"] for o in operations(journal)
               if o["op"] == "epoch" and o["trial"] == "1"}  # fmt: skip
    known = {step: accuracy(1, step) for step in range(EPOCHS)}
    assert metrics == {
        step: {"val/leader_accuracy": value, "best_leader_accuracy": value}
        for step, value in known.items()
    }


def test_a_position_is_of_the_journal_that_it_was_saved_for(tmp_path):
    """A journal cut back to before it grows beyond it again, with other lines."""
    path = tmp_path / "j"
    journal = Journal(path)
    for number in range(9):
        journal.append({"op": "x", "number": number})
    position = Position(tmp_path / "p", path, "local")
    size = path.stat().st_size
    position.save(size)
    assert position.load() == size
    path.write_bytes(path.read_bytes()[: size // 2])
    assert position.load() == 0
    other = Journal(path)
    for number in range(9):
        other.append({"op": "y", "number": number})
    assert path.stat().st_size > size
    assert position.load() == 0


@pytest.mark.parametrize(
    "torn",
    [b"", b"{torn", bytes(64), b"[]", b'{"local": 10}', b'{"local": null}', b'{"local": {}}',
     b'{"local": {"offset": "x", "mark": ""}}', b'{"local": {"offset": 1e9, "mark": ""}}'],
)  # fmt: skip
def test_a_torn_position_means_that_all_is_delivered_again(tmp_path, torn):
    (tmp_path / "j").write_bytes(b"0123456789")
    (tmp_path / "p").write_bytes(torn)
    position = Position(tmp_path / "p", tmp_path / "j", "local")
    assert position.load() == 0
    position.save(10)
    assert position.load() == 10


def test_what_a_full_disk_does_not_take_is_written_first_when_there_is_room(tmp_path):
    with small_disk(tmp_path / "disk") as disk:
        said: list[str] = []
        record = Record(disk, "demo", said.append)
        ballast = fill(disk)
        for number in range(200):  # the first fill the last page, one is torn there
            record.append({"op": "x", "number": number, "text": "y" * 100})
        assert 0 < record.num_waiting < 200
        assert record._journal.append({"op": "last"}).errno == errno.ENOSPC
        content = (disk / "tracking.jsonl").read_bytes()
        assert content.endswith(b"\n"), "half a line was left"
        assert len(said) == 1 and "waits in memory" in said[0]
        ballast.unlink()
        record.append({"op": "x", "number": 200})
        assert record.num_waiting == 0
        told = operations(disk / "tracking.jsonl")
        numbers = [operation["number"] for operation in told if operation["op"] == "x"]
        assert numbers == list(range(201))
        assert [line.split(" ", 1)[1] for line in said[1:]] == ["is written again"]


def test_what_a_killed_driver_could_not_write_on_a_full_disk_is_told_by_the_next(
    search_dir, tmp_path
):
    """Nothing of it is on the disk: the study tells it again."""
    with small_disk(tmp_path / "disk", "256k") as disk:
        for path in search_dir.rglob("*"):
            target = disk / path.relative_to(search_dir)
            if path.is_file() and path.name != "tracking.jsonl":
                target.parent.mkdir(parents=True, exist_ok=True)
                target.write_bytes(path.read_bytes())
        (disk / "tracking.jsonl").touch()
        ballast = fill(disk)
        full, said = open_record(disk)
        restore(full)
        assert full.num_waiting > 0 and len(said) == 1
        del full  # killed
        ballast.unlink()
        record, _ = open_record(disk)
        restore(record)
        assert substance(disk / "tracking.jsonl") == substance(search_dir / "tracking.jsonl")
