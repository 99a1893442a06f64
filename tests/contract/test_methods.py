"""What every registered training method promises, and the ablations of OKDDip with it."""

import math
import shutil
from pathlib import Path

import pytest
import torch
from training_helpers import assert_same_state, state

from trainer.config.strict import ConfigError
from trainer.config.train import TrainConfig
from trainer.data.base import DevelopmentData
from trainer.data.batches import EvaluationBatches
from trainer.data.load import load_development_data
from trainer.engine import metrics
from trainer.engine.run import TrainingRun
from trainer.engine.trainer import Trainer
from trainer.group.group import single_network
from trainer.leader.leader import LeaderInfo, load_leader, save_leader
from trainer.methods.base import Batch
from trainer.methods.kd import Teacher
from trainer.models import build_architecture
from trainer.registry import METHODS

EPOCHS = 3
EXECUTOR = {"executor": "eager"}  # of all runs; set by the fixture
STALE = {"stale_steps": 3}  # of 4 steps an epoch: copies are of different age at every epoch's end
PLAIN = {
    f"{name}-{structure}": {"method": name, "structure": structure}
    for name, info in METHODS.items()
    for structure in info.structures
}
RUNS = PLAIN | {
    "okddip-symmetric": {"attention": "symmetric"},
    "okddip-mean": {"attention": "mean"},
    "okddip-random": {"attention": "random"},
    "okddip-one-level": {"two_level": False},
    "okddip-probabilities": {"aggregate": "probabilities"},
    "okddip-detached": {"detach_targets": True},
    "dml-ensemble-first": {"method": "dml", "dml_target": "ensemble_first"},
}
GROUPED = [name for name, info in METHODS.items() if info.grouped]
ALONE = [name for name, info in METHODS.items() if not info.grouped]

needs_cuda = pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU")
every_run = pytest.mark.parametrize("fields", RUNS.values(), ids=RUNS)


@pytest.fixture(scope="module", autouse=True, params=["eager", "fused"])
def executor(request):
    """How the members are computed: no method may care."""
    EXECUTOR["executor"] = request.param


def tiny(**changes: object) -> TrainConfig:
    values = {
        "data": {"train_limit": 100, "validation": 150},
        "model": "resnet8", "width": 0.25, "epochs": EPOCHS, "ramp_epochs": 1,
        "batch_size": 32, "lr": 0.1, "device": "cpu", "num_threads": 1, "seed": 1,
        "checkpoint_every_s": 0.0,
    }  # fmt: skip
    if METHODS[changes.get("method", "okddip")].grouped:
        values["num_peers"] = 2
    return TrainConfig(**{**values, **STALE, **EXECUTOR, **changes})


@pytest.fixture(scope="module")
def data() -> DevelopmentData:
    return load_development_data(tiny().data)


@pytest.fixture(scope="module")
def teacher_dir(data, tmp_path_factory, executor) -> Path:
    """A teacher for method kd, twice as wide as its student."""
    directory = tmp_path_factory.mktemp("teacher")
    with TrainingRun(tiny(method="single", width=0.5), data, directory) as run:
        while not run.trainer.finished:
            run.step()
    return directory / "leader"


@pytest.fixture
def configure(teacher_dir):
    """Make a configuration that has a teacher where the method needs one."""

    def configure(fields, **changes) -> TrainConfig:
        if fields.get("method") == "kd":
            changes["teacher"] = str(teacher_dir)
        return tiny(**fields, **changes)

    return configure


def new_trainer(config: TrainConfig, data: DevelopmentData) -> Trainer:
    return Trainer(config, data, Path(config.teacher) if config.teacher else None)


# Learning


@every_run
def test_the_loss_falls(configure, data, fields):
    """Without a ramp-up, so that the same loss is minimised from first to last."""
    learning = {"epochs": 12, "ramp_epochs": 0, "batch_size": 16, "lr_schedule": "cosine"}
    trainer = new_trainer(configure(fields, **learning), data)
    first, *_, last = trainer.epochs()
    assert last.train["total"] < 0.85 * first.train["total"]
    assert last.leader_nll < first.leader_nll
    assert last.leader_accuracy > 0.25  # of ten classes
    assert next(iter(last.train)) == "total"


def parameters_without_gradient(trainer: Trainer) -> set[str]:
    """Return the names of those that a step does not move (weight decay aside)."""
    images, labels = next(trainer._batches.epoch(0, 0))
    trainer.learner.model.train()
    losses = trainer.method.losses(trainer.group(images), Batch(images, labels, 1.0))
    losses["total"].backward()
    return {
        name
        for name, parameter in trainer.learner.model.named_parameters()
        # What is left of a gradient that is exactly 0 is rounding, 3e-7 on some processors.
        if parameter.grad is None or parameter.grad.abs().max() < 1e-6
    }


@every_run
def test_every_parameter_that_should_get_a_gradient_does(configure, data, fields):
    trainer = new_trainer(configure(fields), data)
    expected = set()
    if "detach_targets" in fields:  # targets are the only way in which attention learns
        expected = {"method.query.weight", "method.key.weight"}
    if fields.get("method") == "one":  # batch norm takes away what a bias adds
        expected = {"method.gate.fc.bias"}
    if fields.get("method") == "codistillation":
        expected = {f"method.stale.{name}" for name, _ in trainer.group.named_parameters()}
    assert parameters_without_gradient(trainer) == expected


def test_a_single_peer_attends_to_itself_and_has_no_attention_to_learn(data):
    trainer = Trainer(tiny(num_peers=1), data)
    assert parameters_without_gradient(trainer) == {"method.query.weight", "method.key.weight"}


@every_run
def test_what_is_trained_are_the_members_and_the_methods_own_weights(configure, data, fields):
    trainer = new_trainer(configure(fields), data)
    optimised = {id(p) for group in trainer.learner.optimizer.param_groups for p in group["params"]}
    own = {name for name, p in trainer.method.named_parameters() if id(p) in optimised}
    members = {id(p) for p in trainer.group.parameters()}
    assert members <= optimised and len(optimised) == len(members) + len(own)
    learned = {"query.weight", "key.weight"}
    if fields.get("method", "okddip") == "okddip":
        by_attention = {"symmetric": {"query.weight"}, "mean": set(), "random": set()}
        assert own == by_attention.get(fields.get("attention"), learned)
    elif fields["method"] == "one":
        assert own == {"gate.fc.weight", "gate.fc.bias", "gate.bn.weight", "gate.bn.bias"}
    else:
        assert own == set()


# Stopping and going on


@pytest.fixture(scope="module")
def finished(data, teacher_dir, tmp_path_factory, executor):
    """Return a finished run of some fields, with its directory as it was after every epoch."""
    runs: dict[str, tuple[TrainConfig, list[Path]]] = {}

    def finished(fields) -> tuple[TrainConfig, list[Path]]:
        if str(fields) not in runs:
            teacher = {"teacher": str(teacher_dir)} if fields.get("method") == "kd" else {}
            config = tiny(**fields, **teacher)
            home, copies = tmp_path_factory.mktemp("run"), []
            with TrainingRun(config, data, home / "last") as run:
                while not run.trainer.finished:
                    run.step()
                    copies.append(home / str(run.trainer.epoch))
                    shutil.copytree(home / "last", copies[-1])
            runs[str(fields)] = config, copies
        return runs[str(fields)]

    return finished


@every_run
def test_a_run_resumed_after_any_epoch_ends_in_the_same_bits(finished, data, fields, tmp_path):
    config, copies = finished(fields)
    *stopped, last = copies
    assert len(stopped) == EPOCHS - 1
    for copy in stopped:
        torch.rand(7)  # another trial in between
        home = tmp_path / copy.name
        shutil.copytree(copy, home)
        with TrainingRun(config, data, home) as run:
            assert run.trainer.epoch == int(copy.name)
            while not run.trainer.finished:
                run.step()
        assert_same_state(home, last)


@pytest.mark.parametrize(
    ("method", "prefix"),
    [("codistillation", "model.method.stale."), ("one", "model.method.gate.bn.running_mean")],
)
def test_what_a_method_remembers_between_steps_is_part_of_the_state(finished, method, prefix):
    structure = METHODS[method].structures[0]
    _, copies = finished(PLAIN[f"{method}-{structure}"])
    tensors, _ = state(copies[0])
    later, _ = state(copies[1])
    remembered = [name for name in tensors if name.startswith(prefix)]
    assert any(not torch.equal(tensors[name], later[name]) for name in remembered)


@every_run
def test_the_leader_alone_reproduces_its_validation_accuracy(finished, data, fields):
    _, copies = finished(fields)
    leader = load_leader(copies[-1] / "leader")
    batches = EvaluationBatches(
        data.validation, tuple(leader.info.mean), tuple(leader.info.std), batch_size=64
    )
    with torch.inference_mode():
        parts = [(leader.module(images), labels) for images, labels in batches]
    logits_NC, labels_N = (torch.cat(column) for column in zip(*parts, strict=True))
    _, history = state(copies[-1])
    share = metrics.accuracy(logits_NC, labels_N).item()
    assert share == leader.info.validation_accuracy == history[-1]["leader_accuracy"]


# Who belongs to the group


@pytest.mark.parametrize("num_peers", range(1, 9))
@pytest.mark.parametrize("run", [run for run in PLAIN if PLAIN[run]["method"] in GROUPED])
def test_groups_of_every_size_train(few, run, num_peers):
    config = tiny(**PLAIN[run], num_peers=num_peers, epochs=1, ramp_epochs=0, data=few[0])
    report = Trainer(config, few[1]).run_epoch()
    led = config.method == "okddip"
    assert len(report.peer_accuracy) == len(report.peer_nll) == num_peers + (not led)
    assert all(math.isfinite(value) for value in report.train.values())


@pytest.fixture(scope="module")
def few():
    config = tiny(data={"train_limit": 40, "validation": 60}).data
    return config, load_development_data(config)


@pytest.mark.parametrize("num_peers", range(1, 9))
@pytest.mark.parametrize("method", ALONE)
def test_one_network_has_no_peers(method, num_peers):
    assert TrainConfig(method=method).num_members == 1
    with pytest.raises(ConfigError, match="trains one network") as caught:
        TrainConfig(method=method, num_peers=num_peers)
    assert [path for path, _ in caught.value.problems] == [("num_peers",)]


@pytest.mark.parametrize("method", GROUPED)
def test_a_group_has_peers(method):
    with pytest.raises(ConfigError, match=f"{method} trains a group: 1 or more") as caught:
        TrainConfig(method=method, num_peers=0)
    assert [path for path, _ in caught.value.problems] == [("num_peers",)]


@pytest.mark.parametrize(
    ("method", "structure"),
    [("one", "network"), ("cl_ilr", "network"), ("codistillation", "branch")],
)
def test_a_method_that_needs_a_structure_takes_it_and_refuses_the_other(method, structure):
    (needed,) = {"network", "branch"} - {structure}
    assert TrainConfig(method=method).structure == needed
    with pytest.raises(ConfigError, match=f"{method} needs {needed}") as caught:
        TrainConfig(method=method, structure=structure)
    assert [path for path, _ in caught.value.problems] == [("structure",)]


@every_run
def test_the_report_tells_who_is_a_peer(finished, fields):
    """With a leader the peers are the others; without one all members are, the deployed too."""
    config, copies = finished(fields)
    for report in state(copies[-1])[1]:
        method, num_members = config.method, config.num_members
        led = method == "okddip" and config.two_level
        num_peers = num_members - led
        assert len(report["peer_accuracy"]) == len(report["peer_nll"]) == num_peers
        assert led or report["peer_accuracy"][-1] == report["leader_accuracy"]
        assert led or report["peer_nll"][-1] == pytest.approx(report["leader_nll"])
        mean = sum(report["peer_accuracy"]) / num_peers
        assert report["mean_peer_accuracy"] == pytest.approx(mean)
        gap = report["ensemble_accuracy"] - report["leader_accuracy"]
        assert report["ensemble_gap"] == pytest.approx(gap)
        if method == "okddip":
            rows = torch.tensor(report["attention"])
            assert rows.shape == (num_peers, num_peers)
            torch.testing.assert_close(rows.sum(dim=1), torch.ones(num_peers))
            assert 0 <= report["attention_entropy"] <= math.log(num_peers) + 1e-6
        else:
            assert report["attention"] is report["attention_entropy"] is None
        if num_members == 1:
            assert (report["ensemble_gap"], report["diversity"]) == (0, 0)
            assert (report["disagreement"], report["collapsed"]) == (0, False)
        else:
            assert report["diversity"] > 0


@every_run
def test_the_ensemble_is_made_of_the_peers(configure, data, fields):
    config = configure(fields, epochs=1)
    trainer = new_trainer(config, data)
    report = trainer.run_epoch()
    batches = list(trainer._validation)
    with torch.no_grad():
        output = trainer.group.eval()(torch.cat([images for images, _ in batches]))
        weights_NM = torch.full(output.logits_NMC.shape[:2], 1 / config.num_members)
        if config.method == "one":
            weights_NM = trainer.method.gate.eval()(output.hidden_NE)
        elif config.method == "okddip" and config.two_level:
            weights_NM = torch.tensor([0.5, 0.5, 0.0]).expand_as(weights_NM)
        ensemble_NC = torch.einsum("nm,nmc->nc", weights_NM, output.logits_NMC)
    nll = metrics.negative_log_likelihood(ensemble_NC, data.validation.labels_N).item()
    assert report.ensemble_nll == pytest.approx(nll, rel=1e-6)


# The teacher of kd


def fresh_leader(directory: Path, channels: int, classes: list[str], **info: object) -> Path:
    """Save an untrained leader."""
    network = build_architecture("resnet8", channels=channels, num_classes=len(classes), width=0.25)
    values = {
        "model": "resnet8", "width": 0.25, "class_names": classes,
        "input_shape": [channels, 8, 8], "mean": [0.5] * channels, "std": [0.5] * channels,
        "validation_accuracy": 0.1, "trained_with": {},
    }  # fmt: skip
    save_leader(directory, single_network(network), LeaderInfo(**{**values, **info}))
    return directory


DIGITS = [str(digit) for digit in range(10)]


@pytest.mark.parametrize(
    ("channels", "classes", "problem"),
    [
        (1, DIGITS[:7], "other classes"),
        (1, DIGITS[::-1], "other classes"),  # their order is the logits' order
        (3, DIGITS, "images of 3 channels"),
    ],
)
def test_a_teacher_of_other_images_is_refused(data, tmp_path, channels, classes, problem):
    teacher = fresh_leader(tmp_path / "leader", channels, classes)
    with pytest.raises(ConfigError, match=problem) as caught:
        Trainer(tiny(method="kd", teacher=str(teacher)), data, teacher)
    assert [path for path, _ in caught.value.problems] == [("teacher",)]


def test_kd_without_a_teacher_says_so(data, tmp_path):
    with pytest.raises(ConfigError, match="teacher: method kd needs one"):
        Trainer(tiny(method="kd"), data)
    with pytest.raises(ConfigError, match="teacher: .*nowhere holds no leader"):
        Trainer(tiny(method="kd"), data, tmp_path / "nowhere")


def test_a_teacher_stays_as_it_is_and_out_of_the_state(teacher_dir, data, tmp_path):
    config = tiny(method="kd", teacher=str(teacher_dir))
    trainer, alone = Trainer(config, data, teacher_dir), Trainer(tiny(method="single"), data)
    (teacher,) = trainer.method._teacher
    before = {name: tensor.clone() for name, tensor in teacher.state_dict().items()}
    modes = set()
    teacher.network.register_forward_hook(
        lambda network, *_: modes.add(any(module.training for module in network.modules()))
    )
    trainer.run_epoch()
    assert modes == {False}
    teacher.train()
    assert not any(module.training for module in teacher.modules())
    after = teacher.state_dict()
    assert all(torch.equal(tensor, after[name]) for name, tensor in before.items())
    assert all(p.grad is None and not p.requires_grad for p in teacher.parameters())
    alone.run_epoch()
    for each, name in [(trainer, "kd"), (alone, "single")]:
        (tmp_path / name).mkdir()
        each.save(tmp_path / name)
    assert state(tmp_path / "kd")[0].keys() == state(tmp_path / "single")[0].keys()
    students, lone = (
        [p.shape for group in t.learner.optimizer.param_groups for p in group["params"]]
        for t in (trainer, alone)
    )
    assert students == lone


def test_a_teacher_sees_images_normalised_as_it_was_trained_on_them(data, tmp_path):
    mean, std = [0.25], [0.125]
    directory = fresh_leader(tmp_path, 1, DIGITS, mean=mean, std=std)
    assert (data.mean_C[0], data.std_C[0]) != (0.25, 0.125)
    pixels = data.validation.images_NCHW[:9].float() / 255
    teacher = Teacher(directory, data)
    with torch.no_grad():
        expected = load_leader(directory).module((pixels - mean[0]) / std[0])
    actual = teacher((pixels - data.mean_C[0]) / data.std_C[0])
    torch.testing.assert_close(actual, expected, rtol=1e-4, atol=1e-4)
    assert not actual.requires_grad


def test_the_teacher_and_nothing_else_sets_kd_apart(teacher_dir, data):
    """The same student from the same seed: with λ₁ = 0 it is ``single``, else it is not."""
    alone = Trainer(tiny(method="single"), data)
    deaf = Trainer(tiny(method="kd", peer_weight=0), data, teacher_dir)
    taught = Trainer(tiny(method="kd"), data, teacher_dir)
    for trainer in (alone, deaf, taught):
        trainer.run_epoch()
    weights = [trainer.group.classifiers[0].weight for trainer in (alone, deaf, taught)]
    assert torch.equal(weights[0], weights[1]) and not torch.equal(weights[0], weights[2])


# On a GPU


@needs_cuda
@every_run
def test_no_step_makes_the_cpu_wait_for_the_gpu(configure, data, fields):
    trainer = new_trainer(configure(fields, device="cuda", ramp_epochs=0), data)
    trainer.run_epoch()  # all that is set up once
    batches = trainer._batches.epoch(seed=1, epoch=1)
    trainer.learner.step(Batch(*next(batches), 1.0))  # the draw of the epoch is copied here, once
    torch.cuda.set_sync_debug_mode("error")
    try:
        for images, labels in batches:
            trainer.learner.step(Batch(images, labels, 1.0))
            trainer.method.after_step(trainer.group, trainer.config.stale_steps)
    finally:
        torch.cuda.set_sync_debug_mode("default")
