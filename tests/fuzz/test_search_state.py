"""Whatever is left of a search's own files: what they say is used, or the file is named."""

import json

import pytest
from fuzz_helpers import case, changed, damaged, values
from hypothesis import given, settings
from hypothesis import strategies as st

from okddip_search.confirm.openings import opened_so_far
from okddip_search.confirm.plan import Configuration, Plan, prepared_data
from okddip_search.driver.autotune import Speed, load_speed
from okddip_search.errors import UserError
from okddip_search.layout import JOURNAL, SPEED
from okddip_search.space.load import load_space
from okddip_search.space.settings import ConfirmSettings
from okddip_search.study.reading import read_findings, read_run, read_study
from okddip_search.study.study import open_study
from okddip_search.study.trials import trials_in

SPEC = load_space("digits")
SPEED_VALUES = vars(
    Speed({"executor": "fused", "cpus_per_trial": 1.0}, {"fused fp32": 0.5},
          {"cuda_graph fp32": "r"}, [{"trials": 1, "steps_per_s": 3.0, "memory_gib": 0.0}], "CPU")
)  # fmt: skip
OPENINGS = [
    {"event": "opened", "time": "t", "reason": "r", "leaders": {"a": "1", "b": "2"}},
    {"event": "result", "opening": "t", "leader": "a", "accuracy": 0.5, "nll": 1.0,
     "num_images": 9},
    {"event": "resumed", "time": "u", "reason": "r", "opening": "t"},
]  # fmt: skip


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    return tmp_path_factory.mktemp("state")


@pytest.fixture(scope="module")
def journal(tmp_path_factory):
    """Return the journal of a study of a few trials."""
    home = tmp_path_factory.mktemp("study")
    study = open_study(home, SPEC)
    for value in (0.5, 0.6):
        trial = study.ask()
        SPEC.suggest(trial)
        trial.report(value, 0)
        study.tell(trial, value)
    study.ask()
    return (home / JOURNAL).read_bytes()


def written(original: object) -> st.SearchStrategy[bytes]:
    """Return JSON that was damaged, changed, or is something else."""
    content = json.dumps(original).encode()
    as_json = st.one_of(changed(original), changed(original), values).map(
        lambda value: json.dumps(value).encode()
    )
    return st.one_of(as_json, damaged(content), st.sampled_from([b"[" * 100_000, b"", content]))


@settings(max_examples=400)
@given(content=written(SPEED_VALUES))
def test_speed_json_is_used_or_named(home, content):
    (home / SPEED).write_bytes(content)
    with case("speed.json", UserError):
        speed = load_speed(home)
        speed.applied_to(SPEC), speed.share(SPEC.resources), speed.describe()


@settings(max_examples=400)
@given(st.data())
def test_the_log_of_test_openings_is_used_or_named(home, data):
    lines = [json.dumps(line).encode() for line in OPENINGS]
    index = data.draw(st.integers(0, 2))
    lines[index] = data.draw(written(OPENINGS[index]))
    log = home / "test_openings.jsonl"
    log.write_bytes(b"\n".join(lines) + data.draw(st.sampled_from([b"\n", b"", b"\n{"])))
    with case("test_openings.jsonl", UserError):
        opened_so_far(log)


@settings(max_examples=250)
@given(st.data())
def test_the_plan_of_a_confirmation_is_used_or_named(home, data):
    configuration = Configuration(
        "trial 1", "candidate", "number 1", {"method": "okddip"}, 1, 0.5, True
    )
    Plan(ConfirmSettings(), 0, prepared_data(SPEC), (configuration,), 3).save(home)
    content = (home / "plan.yaml").read_bytes()
    with case("plan.yaml", UserError):
        assert Plan.load(home) is not None
    (home / "plan.yaml").write_bytes(data.draw(damaged(content)))
    with case("plan.yaml", UserError):
        Plan.load(home)


@settings(max_examples=250)
@given(content=written({"format": 1, "verdict": None, "history": [{"epoch": 0}]}))
def test_confirm_json_and_results_are_used_or_told(home, content):
    run = home / "trials" / "0"
    run.mkdir(parents=True, exist_ok=True)
    (run / "result.json").write_bytes(content)
    (home / "confirm.json").write_bytes(content)
    with case("confirm.json and result.json", UserError):
        found, problem = read_findings(home / "confirm.json")
        assert (found is None) == bool(problem)
        read_run(home, 0)
        if problem:
            raise UserError(problem)


@settings(max_examples=200)
@given(st.data())
def test_the_study_journal_is_read_or_named(home, journal, data):
    content = data.draw(damaged(journal))
    if data.draw(st.booleans()):  # a whole line that says something else
        lines = journal.splitlines()
        index = data.draw(st.integers(0, len(lines) - 1))
        lines[index] = json.dumps(data.draw(changed(json.loads(lines[index])))).encode()
        content = b"\n".join(lines) + b"\n"
    (home / JOURNAL).write_bytes(content)
    with case("study.journal", UserError):
        read_study(home / JOURNAL)
    with case("study.journal", UserError):
        trials_in(open_study(home, SPEC))
