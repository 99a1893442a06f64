"""A configuration is right or it says what is wrong: the field, the value, the range."""

import re
import subprocess
import sys

import pytest
import yaml

from trainer.config.data import DataConfig
from trainer.config.load import load_config
from trainer.config.strict import ConfigError
from trainer.config.train import TrainConfig
from trainer.registry import DATA_SETS, MODELS

# field, a value outside its range, the range as the message words it
OUT_OF_RANGE = [
    ("model", "vgg", "one of " + ", ".join(MODELS)),
    ("width", 0.1, "a number in [0.125, 8]"),
    ("width", 8.5, "a number in [0.125, 8]"),
    ("structure", "tree", "one of network, branch"),
    ("method", "dml2", "one of okddip, single, independent, dml, cl_ilr, one, kd, codistillation"),
    ("method", ["dml"], "one of okddip, single, independent, dml, cl_ilr, one, kd, codistillation"),
    ("num_peers", -1, "a whole number in [0, 15]"),
    ("num_peers", 16, "a whole number in [0, 15]"),
    ("num_peers", 2.0, "a whole number in [0, 15]"),
    ("num_peers", True, "a whole number in [0, 15]"),
    ("temperature", 0, "a number in (0, 100]"),
    ("temperature", 100.5, "a number in (0, 100]"),
    ("temperature", "3", "a number in (0, 100]"),
    ("attention_dim", 0, "a whole number in [1, 4096] or null"),
    ("peer_weight", -0.1, "a number in [0, 100]"),
    ("peer_weight", float("nan"), "a number in [0, 100]"),
    ("leader_weight", -1, "a number in [0, 100]"),
    ("ramp_epochs", -1, "a whole number in [0, inf) or a number in [0, 1]"),
    ("ramp_epochs", 1.5, "a whole number in [0, inf) or a number in [0, 1]"),
    ("aggregate", "mean", "one of logits, probabilities"),
    ("detach_targets", 1, "true or false"),
    ("attention", "none", "one of learned, symmetric, mean, random"),
    ("two_level", 1, "true or false"),
    ("dml_target", "mean", "one of ensemble_first, pairwise"),
    ("stale_steps", 0, "a whole number in [1, 1000000]"),
    ("teacher", 3, "text or a mapping or null"),
    ("epochs", 0, "a whole number in [1, 100000]"),
    ("batch_size", 1, "a whole number in [2, 65536]"),
    ("lr", 0.0, "a number in (0, 100]"),
    ("lr", float("inf"), "a number in (0, 100]"),
    ("lr", None, "a number in (0, 100]"),
    ("momentum", 1.0, "a number in [0, 1)"),
    ("weight_decay", -1e-9, "a number in [0, 1]"),
    ("lr_schedule", "step", "one of multistep, cosine"),
    ("lr_milestones", 0.5, "a list of numbers in (0, 1)"),
    ("lr_decay", 0, "a number in (0, 1]"),
    ("label_smoothing", 1.0, "a number in [0, 1)"),
    ("confidence_penalty", -0.1, "a number in [0, 10]"),
    ("seed", -1, f"a whole number in [0, {2**63})"),
    ("seed", 2**63, f"a whole number in [0, {2**63})"),
    ("device", "gpu", "one of auto, cpu, cuda"),
    ("precision", "fp16", "one of fp32, bf16, auto"),
("executor", "graph", "one of eager, fused, cuda_graph, auto"),
    ("leader_epoch", "first", "one of last, best"),
    ("checkpoint_every_s", -1.0, "a number in [0, 86400]"),
    ("num_threads", 0, "a whole number in [1, 1024] or null"),
    ("data", "digits", "a mapping"),
    ("data.name", "mnits", f"one of {', '.join(DATA_SETS)}"),
    ("data.root", 3, "text or null"),
    ("data.download", "yes", "true or false"),
    ("data.image_size", 7, "a whole number in [8, 512] or null"),
    ("data.image_size", 513, "a whole number in [8, 512] or null"),
    ("data.validation", 0, "a whole number in [1, inf) or a number in (0, 1)"),
    ("data.validation", 1.0, "a whole number in [1, inf) or a number in (0, 1)"),
    ("data.own_validation", 1, "true or false"),
    ("data.test", 1.0, "a whole number in [0, inf) or a number in (0, 1)"),
    ("data.rare_classes", "drop", "one of refuse, train"),
    ("data.train_limit", 0, "a whole number in [1, inf) or null"),
    ("data.split_seed", -1, f"a whole number in [0, {2**63})"),
    ("data.pad", 65, "a whole number in [0, 64] or null"),
    ("data.flip", 0, "true or false or null"),
    ("data.corrupt", "ignore", "one of fatal, skip"),
    ("data.streaming", "yes", "true or false"),
    ("data.workers", -1, "a whole number in [0, 256] or null"),
    ("data.workers", 257, "a whole number in [0, 256] or null"),
]  # fmt: skip


def with_field(path: str, value: object) -> dict[str, object]:
    section, dot, name = path.rpartition(".")
    return {section: {name: value}} if dot else {name: value}


@pytest.mark.parametrize(("path", "value", "range_"), OUT_OF_RANGE)
def test_a_value_outside_its_range_is_named_with_field_and_range(path, value, range_):
    with pytest.raises(ValueError) as caught:
        TrainConfig(**with_field(path, value))
    assert re.match(re.escape(f"{path}: {value!r} is not {range_}") + r"( \(did you.*)?$",
                    str(caught.value))  # fmt: skip
    assert [problem for problem, _ in caught.value.problems] == [tuple(path.split("."))]


def test_every_field_has_a_value_out_of_range_above():
    fields = {*TrainConfig.model_fields} | {f"data.{name}" for name in DataConfig.model_fields}
    assert {path for path, _, _ in OUT_OF_RANGE} == fields


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"temprature": 3}, "temprature: unknown field (did you mean 'temperature'?)"),
        ({"xyzzy": 3}, "xyzzy: unknown field"),
        ({"data": {"rot": "x"}}, "data.rot: unknown field (did you mean 'root'?)"),
        ({"data": {"epochs": 3}}, "data.epochs: unknown field"),
        ({"lr_milestones": [0.5, 1.0]}, "lr_milestones: 1.0 is not a list of numbers in (0, 1)"),
        ({"lr_milestones": [0.7, 0.5]}, "lr_milestones: [0.7, 0.5] is not strictly ascending"),
        ({"lr_milestones": [0.5, 0.5]}, "lr_milestones: [0.5, 0.5] is not strictly ascending"),
        ({"num_peers": 0}, "num_peers: 0, but okddip trains a group: 1 or more"),
        (
            {"method": "kd", "teacher": {"lr": 0, "epoch": 3}},
            "teacher.lr: 0 is not a number in (0, 100]; "
            "teacher.epoch: unknown field (did you mean 'epochs'?)",
        ),
        ({"data": {"name": "image_folder", "root": "x"}}, "data.image_size: image_folder needs it"),
        ({"data": {"name": "image_folder", "image_size": 8}}, "data.root: image_folder needs it"),
        (
            {"data": {"name": "cifar10", "streaming": True}},
            "data.streaming: cifar10 is held in memory; only image files can be streamed",
        ),
        (
            {"data": {"name": "image_folder", "streaming": True, "pad": 4}},
            "data.pad: streaming crops at random sizes and pads nothing; leave it out",
        ),
        (
            {"data": {"workers": 2}},
            "data.workers: only streaming decodes in processes of its own; leave it out",
        ),
    ],
)
def test_other_mistakes(values, message):
    with pytest.raises(ConfigError) as caught:
        TrainConfig(**values)
    assert str(caught.value) == message


@pytest.mark.parametrize(
    ("path", "value", "nearest"),
    [
        ("model", "resnet-32", "resnet32"),
        ("data.name", "cifar", "cifar10"),
        ("device", "cud", "cuda"),
        ("method", "codistilation", "codistillation"),
    ],
)
def test_a_misspelt_choice_suggests_the_nearest(path, value, nearest):
    with pytest.raises(ConfigError, match=re.escape(f"(did you mean '{nearest}'?)")):
        TrainConfig(**with_field(path, value))


def test_all_mistakes_are_told_at_once():
    with pytest.raises(ConfigError) as caught:
        TrainConfig(lr=0, epoch=3, data={"validation": 1.5, "pad": -1})
    paths = {path for path, _ in caught.value.problems}
    assert paths == {("lr",), ("epoch",), ("data", "validation"), ("data", "pad")}


@pytest.mark.parametrize(
    "values",
    [
        {"num_peers": 1, "width": 0.125, "batch_size": 2, "momentum": 0, "weight_decay": 0},
        {"num_peers": 15, "width": 8, "temperature": 100, "lr": 100, "lr_decay": 1},
        {"peer_weight": 0, "leader_weight": 0, "ramp_epochs": 0, "label_smoothing": 0},
        {"seed": 2**63 - 1, "lr_milestones": []},
        {"data": {"validation": 1, "train_limit": 1, "pad": 0, "image_size": 512}},
        {"data": DataConfig(name="cifar10")},
    ],
)
def test_the_ends_of_the_ranges_are_inside(values):
    TrainConfig(**values)


def test_the_defaults_are_the_papers_setting():
    config = TrainConfig()
    assert (config.model, config.num_members, config.temperature) == ("resnet32", 4, 3.0)
    assert (config.peer_weight, config.leader_weight) == (1.0, 1.0)
    assert (config.epochs, config.batch_size, config.ramp_length) == (300, 128, 80)
    assert (config.lr, config.momentum, config.weight_decay) == (0.1, 0.9, 5e-4)
    assert [milestone * config.epochs for milestone in config.lr_milestones] == [150, 225]
    assert (config.lr_decay, config.aggregate, config.detach_targets) == (0.1, "logits", False)


@pytest.mark.parametrize(
    ("ramp_epochs", "length"),
    [(0, 0), (1, 1), (7, 7), (200, 200), (0.0, 0), (0.25, 10), (1.0, 40), (0.26, 10), (0.27, 11)],
)
def test_ramp_up_is_a_whole_number_of_epochs_or_a_fraction_of_the_run(ramp_epochs, length):
    assert TrainConfig(epochs=40, ramp_epochs=ramp_epochs).ramp_length == length


UNUSUAL = TrainConfig(
    data=DataConfig(name="image_folder", root="x", image_size=32, validation=0.2, flip=False),
    ramp_epochs=1.0,  # the whole run, and not one epoch
    lr_milestones=(0.3, 0.6, 0.9),
    attention_dim=5,
    seed=2**63 - 1,
    lr=1e-5,
    detach_targets=True,
    attention="symmetric",
    teacher={"model": "resnet20", "lr_milestones": [0.25]},
)


@pytest.mark.parametrize("config", [TrainConfig(), UNUSUAL])
def test_plain_values_and_yaml_restore_the_configuration(config, tmp_path):
    values = config.to_dict()
    assert TrainConfig(**values) == config
    path = tmp_path / "best.yaml"
    path.write_text(yaml.safe_dump(values))
    restored = load_config(path)
    assert restored == config and restored.ramp_length == config.ramp_length


def test_a_configuration_is_frozen():
    with pytest.raises(ValueError, match="frozen"):
        TrainConfig().lr = 1.0
    with pytest.raises(ValueError, match="frozen"):
        TrainConfig().data.pad = 1


@pytest.mark.parametrize("text", ["a: [", "- lr", "3", "", "1: 2", "\x00"])
def test_a_file_that_is_no_mapping_is_refused_by_name(text, tmp_path):
    path = tmp_path / "config.yaml"
    path.write_text(text)
    with pytest.raises(ConfigError, match=r"config\.yaml:1: "):
        load_config(path)


@pytest.mark.parametrize(
    "statement",
    ["import trainer", "import trainer.config.train", "from trainer import TrainConfig"],
)
def test_reading_a_configuration_does_not_import_torch(statement):
    code = f"{statement}; import sys; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("method: single\nleader_weight: 9.0\n", ":2: leader_weight: is not read by single, only"),
        ("leader_weight: 2.0\nmethod: dml\n",
         ":1: leader_weight: is not read by dml, only by okddip (did you mean 'peer_weight'?)"),
        ("method: kd\nteacher: {method: one, attention_dim: 8}\n",
         ":2: teacher.attention_dim: is not read by one, only by okddip"),
    ],
)  # fmt: skip
def test_a_file_with_a_field_that_its_method_never_reads_is_refused(text, message, tmp_path):
    (tmp_path / "config.yaml").write_text(text)
    with pytest.raises(ConfigError, match=re.escape(message)):
        load_config(tmp_path / "config.yaml")


def test_a_saved_configuration_may_hold_fields_of_other_methods(tmp_path):
    """The space that searched the method had them for the others."""
    config = TrainConfig(method="dml", ramp_epochs=2, leader_weight=2.0)
    (tmp_path / "best.yaml").write_text(yaml.safe_dump(config.to_dict()))
    assert load_config(tmp_path / "best.yaml") == config


def test_a_field_that_is_not_read_may_have_its_default(tmp_path):
    (tmp_path / "config.yaml").write_text("method: dml\nleader_weight: 1.0\n")
    assert load_config(tmp_path / "config.yaml").method == "dml"
