"""The deployed network: alone, it gives what it gave in its group, in every format."""

import json

import pytest
import torch

from trainer.config import TrainConfig
from trainer.data import DevelopmentData, load_development_data
from trainer.engine import Trainer
from trainer.leader import Leader, export_onnx, export_pt2, load_leader
from trainer.run import TrainingRun


def tiny(**changes: object) -> TrainConfig:
    values = {
        "data": {"train_limit": 100, "validation": 150},
        "model": "resnet8", "width": 0.25, "num_peers": 2, "epochs": 2, "ramp_epochs": 1,
        "batch_size": 32, "lr": 0.05, "device": "cpu", "num_threads": 1, "seed": 1,
    }  # fmt: skip
    return TrainConfig(**{**values, **changes})


@pytest.fixture(scope="module")
def data() -> DevelopmentData:
    return load_development_data(tiny().data)


@pytest.fixture(scope="module", params=["network", "branch"])
def trained(request, data, tmp_path_factory) -> tuple[Trainer, Leader]:
    """A finished run, and the leader that it wrote."""
    directory = tmp_path_factory.mktemp("run")
    with TrainingRun(tiny(structure=request.param), data, directory) as run:
        while not run.trainer.finished:
            run.step()
    return run.trainer, load_leader(directory / "leader")


@pytest.fixture
def leader(trained) -> Leader:
    return trained[1]


def images(count: int) -> torch.Tensor:
    return torch.randn(count, 1, 8, 8, generator=torch.Generator().manual_seed(count))


def test_a_saved_leader_computes_what_the_groups_leader_computes(trained):
    trainer, leader = trained
    with torch.inference_mode():
        in_group = trainer.group.eval()(images(9)).logits_NMC[:, -1]
        torch.testing.assert_close(leader.module(images(9)), in_group)
    assert not leader.module.training


def test_its_description_is_enough_to_repeat_the_validation_accuracy(trained, data):
    trainer, leader = trained
    info = leader.info
    assert info.class_names == [str(digit) for digit in range(10)]
    assert info.input_shape == [1, 8, 8] and leader.example_images(3).shape == (3, 1, 8, 8)
    assert TrainConfig(**info.trained_with) == trainer.config
    mean, std = (torch.tensor(v).view(1, -1, 1, 1) for v in (info.mean, info.std))
    pixels = (data.validation.images_NCHW / 255 - mean) / std
    with torch.inference_mode():
        guesses = leader.module(pixels).argmax(dim=1)
    share = (guesses == data.validation.labels_N).sum().item() / 150
    assert share == info.validation_accuracy == trainer.history[-1].leader_accuracy


def test_there_is_no_leader_where_none_was_saved(tmp_path):
    with pytest.raises(FileNotFoundError):
        load_leader(tmp_path)


@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning")
def test_a_pt2_archive_takes_batches_of_any_size(leader, tmp_path):
    export_pt2(leader, tmp_path / "leader.pt2")
    program = torch.export.load(tmp_path / "leader.pt2").module()
    for count in (1, 2, 7):
        with torch.inference_mode():
            torch.testing.assert_close(program(images(count)), leader.module(images(count)))


@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning")
def test_an_onnx_file_takes_batches_of_any_size(leader, tmp_path):
    onnx = pytest.importorskip("onnx", reason="the extra onnx is not installed")
    pytest.importorskip("onnxscript", reason="the extra onnx is not installed")
    path = tmp_path / "leader.onnx"
    export_onnx(leader, path)
    onnx.checker.check_model(str(path), full_check=True)
    try:
        from onnxruntime import InferenceSession as Session

        options = {"providers": ["CPUExecutionProvider"]}
    except ImportError:
        from onnx.reference import ReferenceEvaluator as Session

        options = {}
    session = Session(str(path), **options)
    for count in (1, 2, 7):
        (logits,) = session.run(None, {"images": images(count).numpy()})
        with torch.inference_mode():
            expected = leader.module(images(count))
        torch.testing.assert_close(torch.from_numpy(logits), expected, rtol=1e-4, atol=1e-4)


def test_its_description_is_plain_json(trained, data, tmp_path):
    with TrainingRun(tiny(epochs=1), data, tmp_path) as run:
        run.step()
    info = json.loads((tmp_path / "leader" / "leader.json").read_text())
    assert info["model"] == "resnet8" and info["width"] == 0.25
