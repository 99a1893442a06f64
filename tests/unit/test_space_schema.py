"""The JSON schema of a space file takes what the reader takes, and points out a typo."""

import json
import subprocess
import sys

import pytest
from jsonschema import Draft202012Validator
from space_helpers import BASE

from okddip_search.space.load import bundled_spaces, load_space
from okddip_search.space.schema import space_schema
from trainer.io.yaml import parse_yaml

SCHEMA = space_schema()
VALIDATOR = Draft202012Validator(SCHEMA)


def mistakes(text: str) -> list[str]:
    return [error.message for error in VALIDATOR.iter_errors(parse_yaml(text).values)]


def test_it_is_a_schema() -> None:
    Draft202012Validator.check_schema(SCHEMA)


@pytest.mark.parametrize("path", bundled_spaces().values(), ids=bundled_spaces())
def test_every_bundled_space_is_valid_as_written_and_as_saved(path) -> None:
    assert mistakes(path.read_text()) == []
    assert mistakes(load_space(path).to_yaml()) == []


SHORT = [
    "objective: leader_accuracy\n",
    "objective: {reduce: best}\n",
    "confirm: false\n",
    "confirm:\n",
    "confirm: {baselines: tuned}\n",
    "study: {timeout: 8h}\n",
    "study: {timeout: 90}\n",
    "study: {sampler: random}\n",
    "study: {pruner: {type: patient, patience: 3, wrapped: median}}\n",
    "resources: {stall_timeout: 20m, cpus_per_trial: auto}\n",
    "enqueue: [{lr: 0.1}]\n",
]


@pytest.mark.parametrize("text", SHORT)
def test_what_the_reader_takes_is_valid(tmp_path, text) -> None:
    (tmp_path / "t.yaml").write_text(BASE + text)
    load_space(tmp_path / "t.yaml")
    assert mistakes(BASE + text) == []


TYPOS = [
    BASE.replace("trainer:", "trianer:"),
    BASE.replace("name: digits", "name: digit"),
    BASE.replace("epochs: 5", "epoch: 5"),
    BASE.replace("epochs: 5", "epochs: 0"),
    BASE.replace("epochs: 5", "method: dlm"),
    BASE.replace("epochs: 5", "seed: 5"),
    BASE.replace("num_peers:", "num_peer:"),
    BASE.replace("{type: int, ", "{type: itn, "),
    BASE.replace("log: true", "lgo: true"),
    BASE + "study: {trails: 5}\n",
    BASE + "study: {sampler: tep}\n",
    BASE + "study: {sampler: {type: tpe, n_startup_trial: 3}}\n",
    BASE + "study: {pruner: {type: median, n_warmup_steps: x}}\n",
    BASE + "enqueue: [{rl: 0.1}]\n",
    BASE + "confirm: {methods: [dlm]}\n",
    BASE + "confirm: true\n",
    BASE + "resources: {gpus_per_trail: 1}\n",
]


@pytest.mark.parametrize("text", TYPOS)
def test_a_typo_is_pointed_out(text) -> None:
    assert mistakes(text)


def test_fields_of_the_trainer_have_their_range_and_a_description() -> None:
    [fields, _] = SCHEMA["properties"]["trainer"]["anyOf"]
    assert fields["properties"]["momentum"]["exclusiveMaximum"] == 1
    assert "Nesterov" in fields["properties"]["momentum"]["description"]
    assert all("description" in field for field in fields["properties"].values())


def test_the_command_prints_it() -> None:
    command = [sys.executable, "-m", "okddip_search.cli.main", "schema"]
    printed = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    assert json.loads(printed) == SCHEMA
