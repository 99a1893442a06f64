"""Whatever a configuration holds: a run that can be built and written down, or a ConfigError."""

import json

import pytest
from fuzz_helpers import case, changed, damaged, keys, nested, values
from hypothesis import given, settings
from hypothesis import strategies as st
from test_space_reader import WHOLE_FILES

from trainer.config.load import load_config
from trainer.config.strict import ConfigError
from trainer.config.train import TrainConfig
from trainer.io.yaml import dump_yaml

PLAIN = TrainConfig(
    data={"name": "image_folder", "root": "x", "image_size": 32, "train_limit": 100},
    teacher={"model": "resnet20"},
    attention_dim=8,
    num_threads=1,
).to_dict()
TEXT = dump_yaml(PLAIN).encode()


def nested_teacher(depth):
    teacher = {"model": "resnet8"}
    for _ in range(depth):
        teacher = {"model": "resnet8", "teacher": teacher}
    return teacher


def require_usable(config):
    """Hold what every configuration promises: it can be written down and read again."""
    assert TrainConfig(**json.loads(json.dumps(config.to_dict()))) == config
    assert config.ramp_length >= 0 and config.num_members >= 1
    config.teacher_config()


@settings(max_examples=3000)
@given(changed(PLAIN))
def test_changed_fields_are_a_run_or_refused(fields):
    with case("TrainConfig, fields changed", ConfigError):
        require_usable(TrainConfig(**fields))


@settings(max_examples=1200)
@given(st.dictionaries(st.one_of(st.sampled_from(sorted(PLAIN)), keys), values, max_size=4))
def test_any_fields_are_a_run_or_refused(fields):
    with case("TrainConfig, any fields", ConfigError):
        require_usable(TrainConfig(**fields))


@pytest.mark.parametrize("depth", [1, 3, 4, 50, 500, 5000])
def test_teachers_of_teachers_are_few(depth):
    with case("TrainConfig, fields changed", ConfigError):
        require_usable(TrainConfig(teacher=nested_teacher(depth)))
    if depth >= 4:
        with pytest.raises(ConfigError, match="teachers of teachers"):
            TrainConfig(teacher=nested_teacher(depth))


@pytest.mark.parametrize("field", ["lr", "data", "teacher", "lr_milestones", "seed", "unknown"])
@pytest.mark.parametrize("depth", [100, 5_000])
def test_deep_values_are_refused(field, depth):
    with case("TrainConfig, fields changed", ConfigError, fatal=True):
        TrainConfig(**{field: nested(depth)})


@pytest.fixture(scope="module")
def path(tmp_path_factory):
    return tmp_path_factory.mktemp("configs") / "c.yaml"


@settings(max_examples=900)
@given(st.one_of(damaged(TEXT), damaged(TEXT), st.binary(max_size=200)))
def test_a_damaged_file_is_a_run_or_refused(path, content):
    path.write_bytes(content)
    with case("load_config", ConfigError):
        load_config(path)


@pytest.mark.parametrize("content", WHOLE_FILES.values(), ids=WHOLE_FILES.keys())
def test_a_file_made_to_hurt_is_refused_with_its_line(path, content):
    path.write_bytes(content)
    refused = False
    with case("load_config", ConfigError):
        try:
            load_config(path)
        except ConfigError as error:
            refused = str(error).startswith(f"{path}:") and str(error).split(":")[1].isdigit()
            raise
    assert refused or not content.replace(b"\xef\xbb\xbf", b"")


def test_a_whole_file_is_read(path):
    path.write_bytes(TEXT)
    with case("load_config", ConfigError):
        assert load_config(path).to_dict() == PLAIN
