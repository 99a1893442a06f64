"""Words as people type them: still refused, with the right spelling for that very word."""

from pathlib import Path

import pytest

from okddip_search.errors import UserError
from okddip_search.space.load import load_space
from okddip_search.space.model import SearchSpec
from trainer.config.data import DataConfig
from trainer.config.synonyms import SYNONYMS
from trainer.config.train import TrainConfig

LOG = "{type: float, low: 0.0001, high: 0.1, log: true}"
SWEEP = """program: train.py
method: bayes
metric: {name: val_acc, goal: maximize}
parameters:
  learning_rate: {distribution: log_uniform_values, min: 1e-4, max: 1e-1}
  batch_size: {values: [32, 64]}
  epochs: {value: 10}
early_terminate: {type: hyperband, min_iter: 3}
run_cap: 40
"""


def complaints(folder: Path, text: str) -> list[str]:
    (folder / "s.yaml").write_text(text)
    with pytest.raises(UserError) as told:
        load_space(folder / "s.yaml")
    return [line.partition("s.yaml:")[2] for line in str(told.value).splitlines()]


def searching(field: str, written: str) -> str:
    return f"name: t\ndata: {{name: digits}}\nsearch:\n  {field}: {written}\n"


@pytest.mark.parametrize(
    ("typed", "meant"),
    [
        ("learning_rate", "lr"),
        ("learning-rate", "lr"),
        ("bs", "batch_size"),
        ("wd", "weight_decay"),
        ("tau", "temperature"),
        ("arch", "model"),
        ("scheduler", "lr_schedule"),
        ("gamma", "lr_decay"),
        ("n_peers", "num_peers"),
        ("temprature", "temperature"),
    ],
)
def test_a_field_by_another_tools_name(tmp_path, typed, meant):
    written = searching(typed, "{type: float, low: 0.1, high: 1}")
    [found] = complaints(tmp_path, written)
    assert found == f"4: search.{typed}: is no field of the trainer (did you mean '{meant}'?)"


@pytest.mark.parametrize(
    ("line", "meant"),
    [
        ("study: {num_samples: 5}", "trials"),
        ("study: {n_trials: 5}", "trials"),
        ("study: {search_alg: tpe}", "sampler"),
        ("study: {scheduler: asha}", "pruner"),
        ("study: {sampler: bayesian}", "tpe"),
        ("study: {pruner: asha}", "successive_halving"),
        ("resources: {num_gpus: 2}", "gpus_per_trial"),
        ("trainer: {num_epochs: 5}", "epochs"),
        ("trainer: {scheduler: cosine}", "lr_schedule"),
        ("n_trials: 5", "study.trials"),
        ("max_concurrent_trials: 5", "resources.max_concurrent"),
        ("metric: accuracy", "objective"),
    ],
)
def test_a_setting_by_another_tools_name(tmp_path, line, meant):
    found = complaints(tmp_path, searching("lr", "{type: float, low: 0.1, high: 1}") + line)
    assert len(found) == 1 and f"(did you mean '{meant}'?)" in found[0], found


@pytest.mark.parametrize(
    ("field", "typed", "right"),
    [
        ("lr", "{min: 1e-4, max: 1e-1}", LOG),
        ("lr", "{lower: 0.1, upper: 0.5}", "{type: float, low: 0.1, high: 0.5}"),
        ("lr", "{type: float, min: 1e-4, max: 1e-1}", LOG),
        ("lr", "{type: loguniform, low: 1e-4, high: 0.1}", LOG),
        ("lr", "{distribution: log_uniform_values, min: 1e-4, max: 1e-1}", LOG),
        ("lr", "{distribution: log_uniform, min: -9.21034, max: -2.302585}", LOG),
        ("lr", "{_type: loguniform, _value: [1e-4, 0.1]}", LOG),
        ("lr", "{type: range, bounds: [1e-4, 0.1], log_scale: true}", LOG),
        ("lr", "{parameterType: double, feasibleSpace: {min: 1e-4, max: 0.1}}", LOG),
        ("lr", "loguniform(1e-4, 1e-1)", LOG),
        ("lr", "tune.loguniform(1e-4, 1e-1)", LOG),
        ("lr", "trial.suggest_float('lr', 1e-4, 1e-1, log=True)", LOG),
        ("lr", "[0.1, 0.2, 0.4]", "{type: categorical, choices: [0.1, 0.2, 0.4]}"),
        ("lr", "[1e-4, 0.1]", LOG),
        ("momentum", "quniform(0.5, 0.9, 0.1)", "{type: float, low: 0.5, high: 0.9, step: 0.1}"),
        ("num_peers", "randint(1, 4)", "{type: int, low: 1, high: 3}"),
        ("num_peers", "trial.suggest_int('n', 1, 4)", "{type: int, low: 1, high: 4}"),
        ("batch_size", "{min: 16, max: 64}", "{type: int, low: 16, high: 64}"),
        ("batch_size", "{values: [32, 64]}", "{type: categorical, choices: [32, 64]}"),
        ("model", "choice([resnet8, resnet20])", "choices: [resnet8, resnet20]}"),
        ("model", "{grid_search: [resnet8]}", "{type: categorical, choices: [resnet8]}"),
        ("two_level", "[true, false]", "{type: categorical, choices: [true, false]}"),
        ("model", "{value: resnet8}", "trainer: {model: resnet8}"),
    ],
)
def test_a_range_as_another_tool_writes_it(tmp_path, field, typed, right):
    [found] = complaints(tmp_path, searching(field, typed))
    assert found.startswith(f"4: search.{field}: write it as ") and right in found, found


def test_names_and_ranges_are_told_in_one_round(tmp_path):
    [found] = complaints(tmp_path, searching("learning_rate", "{min: 1e-4, max: 1e-1}"))
    assert "did you mean 'lr'" in found and f"write it as {LOG}" in found


def test_a_whole_sweep_file_is_translated_line_by_line(tmp_path):
    found = complaints(tmp_path, SWEEP)
    for hint in (
        "2: method: unknown section (did you mean 'study.sampler'?)",
        "3: metric: unknown section (did you mean 'objective'?)",
        "4: parameters: unknown section (did you mean 'search'?)",
        f"5: parameters.learning_rate: write it as search: {{lr: {LOG}}}",
        "6: parameters.batch_size: write it as "
        "search: {batch_size: {type: categorical, choices: [32, 64]}}",
        "7: parameters.epochs: write it as trainer: {epochs: 10} (it is fixed)",
        "8: early_terminate: unknown section (did you mean 'study.pruner'?)",
        "9: run_cap: unknown section (did you mean 'study.trials'?)",
    ):
        assert hint in found


def test_no_word_of_ours_is_taken_for_another(tmp_path):
    """A field that is there is never unknown, so only words that no field has are translated."""
    for model in (TrainConfig, DataConfig, SearchSpec):
        for name in {*model.model_fields} - {"warm_start"}:  # no field of a file
            others = [field for field, words in SYNONYMS.items() if name in words.split()]
            assert not set(others) & set(model.model_fields), name
