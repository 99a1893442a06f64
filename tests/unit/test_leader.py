"""The deployed network: alone, it gives what it gave in its group, in every format."""

import copy
import json
import time
from pathlib import Path

import pytest
import torch
from click.testing import CliRunner

from trainer.analysis import main as analysis
from trainer.config.train import TrainConfig
from trainer.data.base import DevelopmentData
from trainer.data.load import load_development_data
from trainer.engine.checkpoint import CheckpointError
from trainer.engine.run import TrainingRun
from trainer.engine.trainer import Trainer
from trainer.leader.cost import measure_cost
from trainer.leader.export import export_onnx, export_pt2
from trainer.leader.leader import Leader, load_leader


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


# What it was trained on


@pytest.fixture(scope="module")
def retrained(data, tmp_path_factory) -> Path:
    """The directory of a run on all images."""
    directory = tmp_path_factory.mktemp("retrained")
    with TrainingRun(tiny(epochs=1), data.merged_splits(), directory) as run:
        run.step()
    return directory


def test_a_leader_trained_on_all_images_says_so_and_claims_no_accuracy(retrained, trained):
    info = load_leader(retrained / "leader").info
    assert (info.trained_on, info.validation_accuracy) == ("train and validation", None)
    assert json.loads((retrained / "result.json").read_text())["trained_on"] == info.trained_on
    assert trained[1].info.trained_on == "train"


def test_a_leader_that_was_saved_before_there_was_a_choice_still_loads(retrained):
    path = retrained / "leader" / "leader.json"
    info = json.loads(path.read_text())
    del info["trained_on"]
    path.write_text(json.dumps(info))
    assert load_leader(retrained / "leader").info.trained_on == "train"


def test_a_run_on_all_images_and_one_on_divided_ones_do_not_go_on_in_each_other(data, tmp_path):
    with TrainingRun(tiny(), data, tmp_path) as run:
        run.step()
    with pytest.raises(CheckpointError, match="on other images"):
        TrainingRun(tiny(), data.merged_splits(), tmp_path)


def test_flatness_says_where_its_images_were_trained_on(data, tmp_path):
    for name, images in (("divided", data), ("all", data.merged_splits())):
        with TrainingRun(tiny(epochs=1), images, tmp_path / name) as run:
            run.step()
    said = {
        name: CliRunner().invoke(analysis, [str(tmp_path / name), "--draws", "1"]).output
        for name in ("divided", "all")
    }
    assert "(validation images)" in said["divided"]
    assert "(validation images, which it was trained on)" in said["all"]


# What it costs


def test_cost_is_counted_at_the_leaders_own_size(leader):
    cost = measure_cost(leader, budget_s=0.05)
    assert cost.parameters == sum(weights.numel() for weights in leader.module.parameters())
    macs = 1 * 4 * 9 * 8**2  # stem; a quarter of ResNet-8's width, on 8 × 8 pixels
    macs += 2 * 4 * 4 * 9 * 8**2
    macs += (4 * 8 * 9 + 8 * 8 * 9 + 4 * 8) * 4**2
    macs += (8 * 16 * 9 + 16 * 16 * 9 + 8 * 16) * 2**2
    assert cost.macs == macs + 16 * 10
    assert 0.01 < cost.latency_ms < 100


def test_a_leader_costs_the_same_however_many_peers_it_had(data, trained, tmp_path):
    with TrainingRun(tiny(num_peers=4, epochs=1), data, tmp_path) as run:
        run.step()
    costs = [
        measure_cost(leader, budget_s=0)
        for leader in (trained[1], load_leader(tmp_path / "leader"))
    ]
    assert len({(cost.parameters, cost.macs) for cost in costs}) == 1


def test_measuring_takes_its_time_and_leaves_everything_as_it_was(leader):
    before, threads = copy.deepcopy(leader.module.state_dict()), torch.get_num_threads()
    seen = []
    hook = leader.module.register_forward_hook(lambda *_: seen.append(torch.get_num_threads()))
    try:
        torch.set_num_threads(2)
        started = time.perf_counter()
        measure_cost(leader, budget_s=0.2)
        assert time.perf_counter() - started > 0.2
        assert torch.get_num_threads() == 2
    finally:
        hook.remove()
        torch.set_num_threads(threads)
    assert seen[-1] == 1 and len(seen) > 10  # the hook was copied with the module
    after = leader.module.state_dict()
    assert all(torch.equal(tensor, after[name]) for name, tensor in before.items())


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU")
def test_cost_on_a_gpu(leader):
    here, there = (measure_cost(leader, device=device) for device in ("cpu", "cuda"))
    assert (here.parameters, here.macs) == (there.parameters, there.macs)
    assert 0.01 < there.latency_ms < 100
    assert next(leader.module.parameters()).device.type == "cpu"


def test_its_description_is_plain_json(trained, data, tmp_path):
    with TrainingRun(tiny(epochs=1), data, tmp_path) as run:
        run.step()
    info = json.loads((tmp_path / "leader" / "leader.json").read_text())
    assert info["model"] == "resnet8" and info["width"] == 0.25
