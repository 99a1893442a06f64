"""Method kd: the teacher is found, or trained once and kept for every run that names it."""

import json

import pytest

from okddip_search.driver.retention import drop_teachers
from trainer.config.data import DataConfig
from trainer.config.strict import ConfigError
from trainer.config.train import TrainConfig
from trainer.data.load import load_development_data
from trainer.engine.run import TrainingRun

DATA = {"name": "digits", "train_limit": 60, "validation": 50}

TEACHER = {"model": "resnet14", "width": 0.25, "method": "single", "epochs": 2, "batch_size": 32}


def tiny_config(**fields):
    return TrainConfig(
        data=DATA, model="resnet8", width=0.25, batch_size=32, epochs=2, device="cpu",
        num_threads=1, **fields,
    )  # fmt: skip


@pytest.fixture(scope="module")
def data():
    return load_development_data(DataConfig(**DATA))


def train(config, data, directory, **options):
    with TrainingRun(config, data, directory, **options) as run:
        while not run.trainer.finished:
            run.step()
        return run.trainer


def test_a_described_teacher_is_trained_once_for_all_runs_that_name_it(tmp_path, data):
    teachers = tmp_path / "teachers"
    train(
        tiny_config(method="kd", teacher=TEACHER, seed=1),
        data,
        tmp_path / "1",
        teachers_dir=teachers,
    )
    (home,) = teachers.iterdir()
    result = json.loads((home / "result.json").read_text())
    assert result["config"]["model"] == "resnet14"
    assert result["epochs_done"] == 2
    before = (home / "state.json").stat().st_mtime_ns

    train(
        tiny_config(method="kd", teacher=TEACHER, seed=2),
        data,
        tmp_path / "2",
        teachers_dir=teachers,
    )
    assert [p.name for p in teachers.iterdir()] == [home.name]
    assert (home / "state.json").stat().st_mtime_ns == before

    other = {**TEACHER, "epochs": 1}
    train(
        tiny_config(method="kd", teacher=other, seed=1), data, tmp_path / "3", teachers_dir=teachers
    )
    assert len(list(teachers.iterdir())) == 2


def test_a_finished_teacher_teaches_on_when_its_checkpoint_is_gone(tmp_path, data):
    teachers = tmp_path / "teachers"
    config = tiny_config(method="kd", teacher=TEACHER)
    train(config, data, tmp_path / "1", teachers_dir=teachers)
    drop_teachers(teachers)
    before = [p.stat().st_mtime_ns for p in sorted(teachers.glob("*/leader/*"))]
    train(config, data, tmp_path / "2", teachers_dir=teachers)
    assert [p.stat().st_mtime_ns for p in sorted(teachers.glob("*/leader/*"))] == before
    assert not list(teachers.glob("*/state-*.safetensors"))


def test_a_folder_and_a_description_of_the_same_teacher_train_the_same_student(tmp_path, data):
    described = train(tiny_config(method="kd", teacher=TEACHER), data, tmp_path / "described")
    (home,) = (tmp_path / "described" / "teachers").iterdir()
    named = train(tiny_config(method="kd", teacher=str(home / "leader")), data, tmp_path / "named")
    assert [r.train for r in named.history] == [r.train for r in described.history]


def test_kd_without_a_teacher_is_refused(tmp_path, data):
    with pytest.raises(ConfigError, match="teacher"):
        train(tiny_config(method="kd"), data, tmp_path)


def test_a_mistake_in_the_teachers_description_names_its_field():
    with pytest.raises(ConfigError, match=r"teacher\.epoch.*did you mean 'epochs'"):
        TrainConfig(method="kd", teacher={"epoch": 3})
