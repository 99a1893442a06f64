"""The space file: what is accepted, what is refused and where, and the bundled ones."""

import hashlib
import subprocess
import sys
from pathlib import Path
from typing import Any

import optuna
import pytest
from optuna.trial import FixedTrial
from space_helpers import BASE

from okddip_search.algorithms.seeds import trial_seed
from okddip_search.errors import UserError
from okddip_search.space.load import bundled_spaces, load_saved, load_space, summary_of
from okddip_search.space.model import SearchSpec
from trainer.config.train import TrainConfig
from trainer.io.yaml import dump_yaml, parse_yaml
from trainer.models import build_architecture
from trainer.registry import METHODS

PAPER = {
    "lr": 0.1,
    "weight_decay": 5e-4,
    "lr_schedule": "multistep",
    "lr_decay": 0.1,
    "peer_weight": 1.0,
    "leader_weight": 1.0,
    "temperature": 3.0,
    "num_peers": 3,
}


def write(folder: Path, text: str) -> Path:
    path = folder / "t.yaml"
    path.write_text(text)
    return path


@pytest.mark.parametrize(
    "typed",
    [
        "/data/set #2/photos",
        "C: my images",
        "@home/100%",
        "%TEMP%",
        "*all* [new] {x}",
        "[new",
        "& co",
        "- dash",
        "1.5",
        "true",
        "!tag",
        "it's",
    ],
)
def test_a_text_field_gets_the_text_that_was_typed(tmp_path: Path, typed: str) -> None:
    assert load_space(write(tmp_path, BASE), [f"data.root={typed}"]).data.root == typed


@pytest.mark.parametrize(
    ("override", "read"),
    [
        ("data.root=null", lambda spec: spec.data.root is None),
        ("data.root='a b'", lambda spec: spec.data.root == "a b"),
        ("study.timeout=1h30m", lambda spec: spec.study.timeout == 5400),
        ("study.pruner=none", lambda spec: spec.study.pruner.type == "none"),
        ("trainer.width= 0.5 ", lambda spec: spec.trainer["width"] == 0.5),
        ("search.lr={type: float, low: 1e-3, high: 1}", lambda spec: spec.search["lr"].low == 1e-3),
        ("confirm=false", lambda spec: spec.confirm is None),
    ],
)
def test_the_field_says_how_a_value_is_read(tmp_path: Path, override: str, read: Any) -> None:
    assert read(load_space(write(tmp_path, BASE), [override]))


ANCHORS = """
name: t
data: &data {name: digits}
trainer: {epochs: 5}
search:
  lr: &positive {type: float, low: 0.1, high: 0.5, log: true}
  weight_decay: {<<: *positive, low: 0.01}
  peer_weight: {<<: [{high: 2}, *positive], low: 1}
  leader_weight: *positive
"""


def test_anchors_and_merge_keys_are_expanded(tmp_path: Path) -> None:
    spec = load_space(write(tmp_path, ANCHORS))
    ends = {name: (d.low, d.high, d.log) for name, d in spec.search.items()}
    assert ends == {
        "lr": (0.1, 0.5, True),
        "weight_decay": (0.01, 0.5, True),
        "peer_weight": (1, 2, True),
        "leader_weight": (0.1, 0.5, True),
    }


def test_overrides_change_the_space(tmp_path: Path) -> None:
    overrides = [
        "data.root=/images",
        "trainer.epochs=7",
        "search.lr.high=0.2",
        "study.trials=3",
        "study.pruner={type: median, n_warmup_steps: 2}",
        "study.pruner.type=none",
        "objective.reduce=best",
    ]
    text = BASE + "objective: leader_accuracy\n"
    spec = load_space(write(tmp_path, text), overrides, trials=4, timeout="90m", name="other")
    assert spec.data.root == "/images"
    assert spec.trainer == {"epochs": 7}
    assert spec.search["lr"].ends()[("high",)] == 0.2
    assert (spec.name, spec.study.trials, spec.study.timeout) == ("other", 4, 5400)
    assert spec.study.pruner.to_plain() == {"type": "none"}
    assert spec.objective.reduce == "best"
    assert spec.example().leader_epoch == "best"  # so that the network has the trial's value


def test_missing_file_names_the_nearest_bundled_space(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"digit\.yaml: no such file .*'digits\.yaml'"):
        load_space("digit.yaml")
    with pytest.raises(UserError, match="is a directory"):
        load_space(tmp_path)


def test_existing_file_wins_over_bundled(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "digits.yaml").write_text(BASE)
    monkeypatch.chdir(tmp_path)
    assert load_space("digits.yaml").name == "t"
    assert load_space("digits").name == "digits"  # no such file here, but a bundled name


def test_numbers_and_booleans_read_as_written() -> None:
    text = "{a: 1e-4, b: on, c: 1:30, d: 010, e: true, f: ~, g: '1', h: .5, i: 2024-01-02, j: -3}"
    values = {"a": 1e-4, "b": "on", "c": "1:30", "d": 10, "e": True, "f": None, "g": "1", "h": 0.5}
    values.update(i="2024-01-02", j=-3)
    assert parse_yaml(text).values == values
    assert parse_yaml(dump_yaml(values)).values == values


def test_tricky_texts_survive_a_round_trip() -> None:
    values = {
        "a": ["1e3", "null", "true", "", "a: b", "#c", "é\n\t", "-", "0x1"],
        "b": [1e3, 1e-300],
    }
    assert parse_yaml(dump_yaml(values)).values == values


def test_conditions_decide_what_is_sampled(tmp_path: Path) -> None:
    text = """\
name: t
data: {name: digits}
search:
  temperature: {type: int, low: 1, high: 2, when: {lr_decay: 0.5}}
  lr_decay: {type: categorical, choices: [0.1, 0.5], when: {lr_schedule: [multistep]}}
  lr_schedule: {type: categorical, choices: [multistep, cosine]}
"""
    spec = load_space(write(tmp_path, text))
    assert list(spec.search) == ["lr_schedule", "lr_decay", "temperature"]
    for chosen in (
        {"lr_schedule": "cosine"},
        {"lr_schedule": "multistep", "lr_decay": 0.1},
        {"lr_schedule": "multistep", "lr_decay": 0.5, "temperature": 2},
    ):
        trial = FixedTrial(chosen)  # raises for a parameter that it does not have
        config = spec.suggest(trial)
        assert trial.params == chosen
        assert config.temperature == chosen.get("temperature", 3.0)


def test_suggest_gives_an_adopted_trial_its_own_values_back(tmp_path: Path) -> None:
    spec = load_space(write(tmp_path, BASE))
    study = optuna.create_study()
    trial = study.ask()
    config = spec.suggest(trial)
    again = spec.suggest(optuna.Trial(study, study.trials[0]._trial_id))
    assert again == config
    assert spec.suggest(FixedTrial(study.trials[0].params, number=0)) == config
    assert config.seed == trial_seed(0, 0)


def test_trial_seed_is_what_the_documentation_says() -> None:
    digest = hashlib.sha256(b"trial:5:17").digest()
    assert trial_seed(5, 17) == int.from_bytes(digest[:4], "big") % 2**31
    assert trial_seed(0, 0) == 1240349605  # for ever: old searches are resumed by it
    seeds = {trial_seed(study, number) for study in range(10) for number in range(200)}
    assert len(seeds) == 2000
    assert all(0 <= seed < 2**31 for seed in seeds)


def test_resolved_space_reads_back_equal(tmp_path: Path) -> None:
    text = BASE + (
        "  batch_size: {type: int, low: 16, high: 64, step: 16}\n"
        "  momentum: {type: float, low: 0, high: 0.9, step: 0.3}\n"
        "enqueue: [{lr: 0.1, num_peers: 3}, {lr_schedule: multistep, lr_decay: 0.2}]\n"
        "study:\n  timeout: 1h30m5.5s\n  seed: 7\n"
        "  pruner: {type: patient, patience: 2, wrapped: {type: percentile, percentile: 25}}\n"
        "resources: {gpus_per_trial: 0.25}\n"
        "confirm: {top: 2, methods: [single, dml], single: seconds}\n"
    )
    spec = load_space(write(tmp_path, text))
    assert load_space(write(tmp_path, spec.to_yaml())) == spec
    assert spec.study.timeout == 5405.5


def test_grid_lists_all_values(tmp_path: Path) -> None:
    text = (
        "name: t\ndata: {name: digits}\nstudy: {trials: 24, sampler: grid}\nsearch:\n"
        "  lr: {type: float, low: 0.1, high: 0.4, step: 0.1}\n"
        "  batch_size: {type: int, low: 16, high: 48, step: 16}\n"
        "  lr_schedule: {type: categorical, choices: [multistep, cosine]}\n"
    )
    assert load_space(write(tmp_path, text)).grid() == {
        "lr": [0.1, 0.2, 0.3, 0.4],  # no 0.30000000000000004
        "batch_size": [16, 32, 48],
        "lr_schedule": ["multistep", "cosine"],
    }


BUNDLED = [
    "cifar10.yaml",
    "cifar100.yaml",
    "cifar10_small.yaml",
    "digits.yaml",
    "fashion_mnist.yaml",
    "imagenet.yaml",
    "kd.yaml",
    "methods_cifar10.yaml",
    "methods_cifar100.yaml",
]
OF_METHODS = {"methods_cifar10", "methods_cifar100"}
OTHER_RECIPES = {  # where the usual setting of a data set is not the paper's of CIFAR
    "imagenet": {"weight_decay": 1e-4, "lr_milestones": (0.3333, 0.6667)},
    "kd": {"lr_schedule": "cosine", "num_peers": 0},
}


def test_bundled_spaces_are_all_there() -> None:
    assert list(bundled_spaces()) == BUNDLED
    assert all(10 < len(summary_of(path)) < 100 for path in bundled_spaces().values())


@pytest.fixture(params=BUNDLED)
def bundled(request: pytest.FixtureRequest) -> SearchSpec:
    return load_space(request.param)


def test_bundled_space_tries_the_papers_setting_first(bundled: SearchSpec) -> None:
    if bundled.name in OF_METHODS:
        pytest.skip("it has a setting for each method")
    first = bundled.enqueue[0]
    setting = {**PAPER, "lr_milestones": (0.5, 0.75), **OTHER_RECIPES.get(bundled.name, {})}
    example = bundled.example()
    network = build_architecture(example.model, channels=3, num_classes=10, width=example.width)
    usual_dim = network.feature_dim // 8 if example.method == "okddip" else None
    setting["attention_dim"] = usual_dim
    assert first == {name: setting[name] for name in bundled.search}
    assert ("attention_dim" in bundled.search) == (example.method == "okddip")
    config = bundled.suggest(FixedTrial(dict(first)))
    for name, value in setting.items():
        assert getattr(config, name) == value
    assert config.ramp_length / config.epochs == pytest.approx(80 / 300, abs=0.02)
    assert config == bundled.example()


@pytest.mark.parametrize("name", sorted(OF_METHODS))
def test_a_space_of_methods_tries_every_method_as_published(name: str) -> None:
    spec = load_space(name)
    study = optuna.create_study(sampler=optuna.samplers.RandomSampler(seed=0))
    for params in spec.enqueue:
        study.enqueue_trial(dict(params))
    tried = [spec.suggest(study.ask()) for _ in spec.enqueue]
    assert {config.method for config in tried} == set(METHODS)
    assert spec.study.pruner.arguments["n_startup_trials"] >= len(tried)
    for config in tried:
        assert config.temperature == METHODS[config.method].temperature
        assert (config.lr, config.weight_decay, config.peer_weight) == (0.1, 5e-4, 1.0)
        assert config.num_peers == (3 if METHODS[config.method].grouped else 0)


def test_bundled_space_suggests_valid_configurations(bundled: SearchSpec) -> None:
    study = optuna.create_study(sampler=optuna.samplers.RandomSampler(seed=0))
    for _ in range(50):
        config = bundled.suggest(study.ask())
        assert TrainConfig(**config.to_dict()) == config


def test_bundled_space_reads_back_equal(bundled: SearchSpec, tmp_path: Path) -> None:
    assert load_space(write(tmp_path, bundled.to_yaml())) == bundled


def test_reading_a_space_needs_no_torch_ray_or_mlflow() -> None:
    code = (
        "import sys; from okddip_search.space.load import load_space; load_space('digits');"
        "print(sorted({'torch', 'ray', 'mlflow', 'scipy'} & sys.modules.keys()))"
    )
    result = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True
    )
    assert result.stdout.strip() == "[]"


@pytest.mark.parametrize(
    ("text", "seeds"),
    [("", None), ("confirm: false\n", None), ("confirm:\n", 5), ("confirm: {seeds: 9}\n", 9)],
)
def test_a_space_confirms_only_what_it_asks_for(tmp_path, text, seeds):
    path = tmp_path / "t.yaml"
    path.write_text(BASE + text)
    confirm = load_space(path).confirm
    assert (confirm and confirm.seeds) == seeds


def test_what_the_machine_decided_is_in_the_saved_space_and_part_of_every_trial(
    tmp_path: Path,
) -> None:
    spec = load_space(write(tmp_path, BASE))
    ran = spec.model_copy(update={"machine": {"device": "cpu", "executor": "fused"}})
    (tmp_path / "spec.yaml").write_text(ran.to_yaml())
    assert load_saved(tmp_path) == ran
    assert (ran.example().executor, ran.example().device) == ("fused", "cpu")


def test_a_saved_space_begins_another_search_without_the_machine_of_the_first(
    tmp_path: Path,
) -> None:
    spec = load_space(write(tmp_path, BASE))
    ran = spec.model_copy(update={"machine": {"device": "cuda"}})
    assert load_space(write(tmp_path, ran.to_yaml())) == spec


OLD_NAME = BASE + "confirm:\n  rivals: tuned\n  seeds: 3\n"


def test_an_old_name_is_read_and_said_once_with_its_line(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path = write(tmp_path, OLD_NAME)
    confirm = load_space(path).confirm
    assert confirm is not None and confirm.baselines == "tuned"
    [line] = caplog.messages
    assert line.startswith(f"{path}:11: confirm.rivals is called confirm.baselines now")


def test_an_old_name_on_the_command_line_is_read_and_said(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path = write(tmp_path, BASE + "confirm: {baselines: searched}\n")
    confirm = load_space(path, ["confirm.rivals=tuned"]).confirm
    assert confirm is not None and confirm.baselines == "tuned"
    [line] = caplog.messages
    assert line.startswith("--set confirm.rivals: confirm.rivals is called confirm.baselines now")


def test_an_executor_s_old_name_is_read_and_said(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path = write(tmp_path, BASE.replace("epochs: 5", "executor: separate\n  epochs: 5"))
    assert load_space(path).trainer["executor"] == "eager"
    assert load_space(path, ["trainer.executor=graphed"]).trainer["executor"] == "cuda_graph"
    assert [line.partition(" now;")[0] for line in caplog.messages] == [
        f"{path}:4: the executor separate is called eager",
        "--set trainer.executor: the executor graphed is called cuda_graph",
    ]
    assert TrainConfig(executor="separate").executor == "eager"  # type: ignore[arg-type]


def test_a_search_of_an_earlier_version_has_old_names_without_a_word(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "spec.yaml").write_text("format: 1\n" + OLD_NAME)
    confirm = load_saved(tmp_path).confirm
    assert confirm is not None and confirm.baselines == "tuned"
    assert not caplog.messages
    assert "format: 2\n" in load_saved(tmp_path).to_yaml()
