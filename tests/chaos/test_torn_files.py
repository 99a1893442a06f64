"""What a power cut does to files: torn, zeros, empty. Mended, or told in a line; no traceback."""

import json
import shutil

import pytest
from chaos_helpers import SPACE, findings, fresh_copy, look_at, openings
from click.testing import CliRunner
from search_helpers import numbers, run, write_space

from okddip_search.cli.main import cli
from okddip_search.errors import UserError
from okddip_search.export import export_run
from okddip_search.space.load import load_space
from okddip_search.study.study import open_study

pytestmark = pytest.mark.timeout(1800)
NAME = "run"


@pytest.fixture(scope="module")
def confirmed(tmp_path_factory):
    """A search with its confirmation, unharmed."""
    folder = tmp_path_factory.mktemp("confirmed")
    space = write_space(folder, SPACE)
    done = run("--space", space, "--out", NAME, "--trials", 3, cwd=folder, timeout=1200)
    assert done.returncode == 0, done.stdout + done.stderr
    return folder / NAME


def torn(content, offset):
    return content[:offset]


def zeros(content, offset):
    """As file systems leave it that have written a file's length before its bytes."""
    return content[:offset] + bytes(len(content) - offset)


@pytest.mark.parametrize("damage", [torn, zeros])
def test_a_study_journal_that_broke_off_at_any_byte_is_cut_to_its_last_record(
    confirmed, tmp_path, fault, caplog, damage
):
    row = fault(f"power loss: study journal {damage.__name__} at every byte of its last records")
    spec, content = load_space(confirmed / "spec.yaml"), (confirmed / "study.journal").read_bytes()
    ends = [i + 1 for i, byte in enumerate(content) if byte == ord("\n")]
    expected = {}
    for offset in range(ends[-4], len(content)):
        row.tries += 1
        whole = max(end for end in ends if end <= offset)
        home = tmp_path / str(offset)
        home.mkdir()
        journal = home / "study.journal"
        if whole not in expected:
            journal.write_bytes(content[:whole])
            expected[whole] = look_at(home)
        journal.write_bytes(damage(content, offset))
        caplog.clear()
        study = open_study(home, spec)
        assert ("half-written" in caplog.text) == (offset != whole or damage is zeros)
        study.set_user_attr("goes on", 1)
        assert open_study(home, spec).user_attrs["goes on"] == 1
        assert look_at(home) == expected[whole]
        row.survived += 1
        shutil.rmtree(home)


def test_a_study_journal_that_is_gone_is_not_begun_anew_on_top_of_its_trials(
    confirmed, tmp_path, fault
):
    row = fault("power loss: study journal empty, or damaged before its end")
    home, spec = fresh_copy(confirmed, tmp_path / NAME), load_space(confirmed / "spec.yaml")
    journal = home / "study.journal"
    content = journal.read_bytes()
    for broken in (b"", bytes(len(content)), content[:300] + b"\0" * 99 + content[399:]):
        row.tries += 1
        journal.write_bytes(broken)
        with pytest.raises(UserError, match="from a copy"):
            open_study(home, spec)
        row.survived += 1
    shutil.rmtree(home / "trials")
    journal.write_bytes(b"")  # it was just begun when the power went
    assert open_study(home, spec).trials


FILES = [
    "spec.yaml",
    "best.yaml",
    "leader/leader.json",
    "leader/leader.safetensors",
    "trials/0/result.json",
    "trials/0/state.json",
    "confirm/plan.yaml",
    "confirm/confirm.json",
    "confirm/best.yaml",
    "confirm/leader/leader.json",
    "confirm/leader/leader.safetensors",
    "confirm/study.journal",
    "test_openings.jsonl",
    "sessions.jsonl",
    "speed.json",
]
DAMAGES = {
    "empty": lambda content: b"",
    "half": lambda content: content[: len(content) // 2],
    "cut by a byte": lambda content: content[:-1],
    "zeros": lambda content: bytes(len(content)),
    "zeros at the end": lambda content: content[: len(content) // 2] + bytes(len(content) // 2),
}


@pytest.mark.parametrize("name", FILES)
def test_report_and_export_of_a_damaged_search_work_or_say_what_is_damaged(
    confirmed, tmp_path, fault, monkeypatch, name
):
    row = fault(f"power loss: {name} empty, half, zeros; then report and export")
    home = fresh_copy(confirmed, tmp_path / NAME)
    monkeypatch.chdir(tmp_path)
    content = (home / name).read_bytes() if (home / name).exists() else b'{"chosen": {"a": 1}}\n'
    commands = (["report", NAME], ["export", NAME], ["export", NAME, "--format", "weights"])
    for damage in DAMAGES.values():
        for command in commands:
            row.tries += 1
            (home / name).write_bytes(damage(content))
            done = CliRunner().invoke(cli, command, standalone_mode=False)
            told = done.exception is None or isinstance(done.exception, UserError)
            assert told, (command, done.exc_info)
            row.survived += 1


def test_a_damaged_result_is_not_handed_over_and_the_winner_kept_before_stays(
    confirmed, tmp_path, fault
):
    row = fault("power loss: result.json of the run to be handed over")
    home = fresh_copy(confirmed, tmp_path / NAME)
    before = (home / "best.yaml").read_bytes()
    content = (home / "trials" / "0" / "result.json").read_bytes()
    for damage in DAMAGES.values():
        row.tries += 1
        (home / "trials" / "0" / "result.json").write_bytes(damage(content.rstrip()))
        with pytest.raises(UserError, match="result.json is damaged"):
            export_run(home / "trials" / "0", home, [])
        assert (home / "best.yaml").read_bytes() == before
        row.survived += 1


def test_a_search_with_many_torn_files_is_resumed_and_confirmed_again(confirmed, tmp_path, fault):
    row = fault("power loss: many files at once; then --resume and confirm")
    home = fresh_copy(confirmed, tmp_path / NAME)
    before = look_at(home)
    for name in ("study.journal", "confirm/study.journal", "sessions.jsonl"):
        with open(home / name, "ab") as file:
            file.write(b'{"op_code": 6, "trial_id": 1, "st')
    with open(home / "test_openings.jsonl", "ab") as file:
        file.write(b'{"event": "opened", "time": "20')
    for name in ("best.yaml", "leader/leader.safetensors", "report.json", "confirm/confirm.json"):
        (home / name).write_bytes(b"")
    for state in home.glob("trials/*/state.json"):
        state.write_bytes(bytes(state.stat().st_size))

    row.tries += 1
    done = run("--resume", "--out", NAME, "--no-confirm", "--trials", 4, cwd=tmp_path, timeout=900)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "half-written" in done.stdout
    assert "Traceback" not in done.stdout + done.stderr
    after = look_at(home)
    assert {number: after[number] for number in before} == before and len(after) == 4
    assert "lr:" in (home / "best.yaml").read_text()

    done = run("confirm", NAME, cwd=tmp_path, timeout=900)
    assert done.returncode == 0, done.stdout + done.stderr
    assert numbers(findings(home)) == numbers(findings(confirmed))
    assert len(openings(home)) == 1
    row.survived += 1


def test_a_lost_record_of_test_openings_is_no_leave_to_open_the_test_set_again(
    confirmed, tmp_path, fault
):
    row = fault("power loss: the record of test openings is lost; then confirm")
    home = fresh_copy(confirmed, tmp_path / NAME)
    (home / "test_openings.jsonl").write_bytes(b"")
    row.tries += 1
    done = run("confirm", NAME, cwd=tmp_path, timeout=900)
    assert done.returncode == 2
    assert "openings of the sealed test set" in done.stderr
    assert json.loads((home / "confirm" / "confirm.json").read_text())["openings"]
    assert not openings(home)
    row.survived += 1
