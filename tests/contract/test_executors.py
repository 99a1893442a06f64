"""Fused members compute, learn and remember what eager ones do, and cannot be told apart."""

import copy
from collections.abc import Callable

import pytest
import torch
from torch import Tensor
from training_helpers import state

from trainer.config.strict import ConfigError
from trainer.config.train import TrainConfig
from trainer.data.base import DevelopmentData
from trainer.data.load import load_development_data
from trainer.engine.evaluation import evaluate
from trainer.engine.trainer import Trainer
from trainer.group.executors import EXECUTORS
from trainer.group.fused import FusedGroup, obstacle
from trainer.group.group import PeerGroup
from trainer.methods import build_method
from trainer.methods.base import Batch
from trainer.models import Architecture, build_architecture
from trainer.models.resnet import cifar_resnet
from trainer.registry import METHODS, MODELS

STEPS = 20
STRUCTURES = ["network", "branch"]
FUSABLE = {
    "resnet8": 0.5,
    "resnet14": 0.25,
    "wrn20_8": 0.125,  # bottlenecks
    "wrn16_2": 0.25,
    "resnet18": 1.0,  # torchvision's
}
NOT_FUSABLE = {
    "vgg16": "dropout",
    "densenet40_12": "DenseLayer",
    "mobilenet_v2": "Conv2dNormActivation",
    "shufflenet_v2": "InvertedResidual",
}


def tiny(**changes: object) -> TrainConfig:
    values = {
        "data": {"train_limit": 100, "validation": 150},
        "model": "resnet8", "width": 0.25, "num_peers": 2, "epochs": 2, "ramp_epochs": 1,
        "batch_size": 32, "lr": 0.05, "device": "cpu", "num_threads": 1, "seed": 1,
    }  # fmt: skip
    return TrainConfig(**{**values, **changes})


@pytest.fixture(autouse=True, scope="module")
def one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def data() -> DevelopmentData:
    return load_development_data(tiny().data)


def build(model: str, width: float) -> Architecture:
    return build_architecture(model, channels=3, num_classes=10, width=width)


class Run:
    """A group of three and its method on images of noise."""

    def __init__(
        self, architecture: Architecture, executor: str, dtype: torch.dtype, **fields: object
    ) -> None:
        torch.manual_seed(0)
        config = TrainConfig(num_peers=2, **fields)
        self.group = PeerGroup(architecture, 3, config.structure).to(dtype)
        self.group.to(memory_format=torch.channels_last)
        self.group.execute_with(EXECUTORS[executor])
        self.method = build_method(config, architecture).to(dtype)
        self.method.prepare(self.group, data=None, teacher_dir=None)
        self.dtype = dtype
        parameters = [*self.group.parameters(), *self.method.parameters()]
        self.optimizer = torch.optim.SGD(
            [p for p in parameters if p.requires_grad],
            lr=0.01, momentum=0.9, nesterov=True, weight_decay=5e-4,
        )  # fmt: skip
        self.start = copy.deepcopy(self.group.state_dict())

    def train(self, steps: int, order: torch.memory_format = torch.channels_last) -> Tensor:
        """Take so many steps and return the last logits."""
        generator = torch.Generator().manual_seed(1)
        for step in range(steps):
            images = torch.randn(8, 3, 8, 8, generator=generator, dtype=self.dtype)
            images = images.contiguous(memory_format=order)
            labels = torch.randint(0, 10, (8,), generator=generator)
            self.optimizer.zero_grad()
            output = self.group.train()(images)
            self.method.losses(output, Batch(images, labels, 1.0))["total"].backward()
            self.optimizer.step()
            self.method.after_step(self.group, step + 1)
        return output.logits_NMC.detach()

    def updates(self) -> dict[str, Tensor]:
        now = self.group.state_dict()
        return {name: now[name] - tensor for name, tensor in self.start.items()}


def distance(actual: Tensor, expected: Tensor) -> float:
    """Compare by the size of the whole tensor: single weights may well have hardly moved."""
    apart = (actual - expected).double().norm() / expected.double().norm().clamp_min(1e-6)
    return apart.item()


def change(run: Run, other: Run) -> float:
    """Compare what two runs have learned, all weights together."""
    mine, others = (torch.cat([u.flatten() for u in r.updates().values()]) for r in (run, other))
    return distance(mine, others)


def assert_same_training(make: Callable[[str], Run], tolerance: float, steps: int = STEPS) -> None:
    eager, fused = make("eager"), make("fused")
    assert eager.start.keys() == fused.start.keys()
    assert all(torch.equal(eager.start[name], fused.start[name]) for name in fused.start)
    assert distance(fused.train(steps), eager.train(steps)) <= tolerance
    expected = eager.updates()
    for name, update in fused.updates().items():
        assert distance(update, expected[name]) <= tolerance, name


@pytest.mark.parametrize("structure", STRUCTURES)
@pytest.mark.parametrize("model", FUSABLE)
def test_fused_members_learn_the_same_to_a_millionth_of_a_millionth(model, structure):
    """In float64, where rounding cannot hide a mistake; and over fewer steps where they are slow.

    Rounding grows from step to step: a value near 0 falls on the other side of a ReLU.
    """

    def make(executor: str) -> Run:
        return Run(build(model, FUSABLE[model]), executor, torch.float64, structure=structure)

    slow = MODELS[model].native_size > 32
    assert_same_training(make, 1e-9, steps=1 if slow else STEPS)


@pytest.mark.parametrize(
    ("method", "structure"),
    [(name, s) for name, info in METHODS.items() if info.grouped for s in info.structures],
)
def test_every_method_teaches_fused_members_the_same(method, structure):
    def make(executor: str) -> Run:
        fields = {"method": method, "structure": structure, "stale_steps": 3}
        return Run(build("resnet8", 0.25), executor, torch.float64, **fields)

    assert_same_training(make, 1e-9)


@pytest.mark.parametrize("structure", STRUCTURES)
@pytest.mark.parametrize("model", ["resnet8", "wrn16_2"])
def test_in_float32_they_differ_by_rounding_alone(model, structure):
    """Within 1e-4, or as far as eager members drift from themselves in other memory order.

    A rounding error turns a ReLU on or off somewhere, and the next step starts elsewhere.
    """

    def make(executor: str) -> Run:
        run = Run(build(model, FUSABLE[model]), executor, torch.float32, structure=structure)
        run.optimizer.param_groups[0]["lr"] = 1e-3
        return run

    eager, fused, other_order = make("eager"), make("fused"), make("eager")
    other_order.group.to(memory_format=torch.contiguous_format)
    logits = eager.train(STEPS)
    assert distance(fused.train(STEPS), logits) <= max(
        1e-4, 3 * distance(other_order.train(STEPS, torch.contiguous_format), logits)
    )
    assert change(fused, eager) <= max(1e-4, 3 * change(other_order, eager))


def test_in_float32_the_same_weights_give_the_same_logits():
    """After 20 steps, in both modes."""
    fused = Run(build("wrn16_2", 0.25), "fused", torch.float32)
    fused.train(STEPS)
    eager = Run(build("wrn16_2", 0.25), "eager", torch.float32)
    eager.group.load_state_dict(fused.group.state_dict())
    images = torch.randn(32, 3, 16, 16)
    for mode in (False, True):
        outputs = [run.group.train(mode)(images) for run in (eager, fused)]
        for actual, expected in zip(*outputs, strict=True):
            assert distance(actual, expected) <= 1e-4


@pytest.mark.parametrize("structure", STRUCTURES)
def test_fused_members_are_evaluated_alike_and_evaluation_may_come_first(data, structure):
    eager, fused = (
        Trainer(tiny(structure=structure, executor=executor), data)
        for executor in ("eager", "fused")
    )
    fused.group.to("cpu")  # lets go of the executor: the next call makes one
    expected = evaluate(eager.group, eager.method, eager._validation)
    actual = evaluate(fused.group, fused.method, fused._validation)
    for name, value in expected.items():
        if name == "attention":
            torch.testing.assert_close(torch.tensor(actual[name]), torch.tensor(value))
        else:
            assert actual[name] == pytest.approx(value, rel=1e-4, abs=1e-6), name
    fused.run_epoch()  # no tensor is left that only inference may use


@pytest.mark.parametrize("structure", STRUCTURES)
def test_a_state_moves_between_executors_with_its_momentum(data, tmp_path, structure):
    straight = Trainer(tiny(structure=structure), data)
    list(straight.epochs())
    for first, then in (("eager", "fused"), ("fused", "eager")):
        home = tmp_path / first
        home.mkdir()
        trainer = Trainer(tiny(structure=structure, executor=first), data)
        trainer.run_epoch()
        trainer.save(home)
        saved, _ = state(home)
        again = Trainer(tiny(structure=structure, executor=then), data)
        assert again.load(home)
        again.save(tmp_path)
        loaded, _ = state(tmp_path)
        assert saved.keys() == loaded.keys()
        assert all(torch.equal(saved[name], loaded[name]) for name in saved)
        assert any(name.startswith("momentum.group.branches.2.") for name in saved)
        report = again.run_epoch()
        for part, value in straight.history[-1].train.items():
            assert report.train[part] == pytest.approx(value, rel=1e-2)


def tied(group: PeerGroup) -> bool:
    """Return whether the members' weights lie in one piece of memory."""
    heads = [head.weight.untyped_storage().data_ptr() for head in group.classifiers]
    return len(set(heads)) == 1


def test_what_moves_the_weights_makes_the_group_tie_them_again():
    group = PeerGroup(build("resnet8", 0.25), 3, "branch")
    group.execute_with(FusedGroup)
    assert tied(group)
    images = torch.randn(4, 3, 8, 8)
    for changed in (copy.deepcopy(group), group.double()):
        assert not tied(changed)
        dtype = changed.classifiers[0].weight.dtype
        changed.eval()(images.to(dtype))
        assert tied(changed)
        with torch.no_grad():
            changed.classifiers[1].weight.zero_()
            changed.classifiers[1].bias.zero_()
        assert not changed(images.to(dtype)).logits_NMC[:, 1].any()
    group.train()
    group(images.double()).logits_NMC.sum().backward()
    assert all(parameter.grad is not None for parameter in group.parameters())


def test_gradients_add_up_until_they_are_cleared():
    group = PeerGroup(build("resnet8", 0.25), 2, "network")
    group.execute_with(FusedGroup)
    images = torch.randn(4, 3, 8, 8)
    group.eval()(images).logits_NMC.square().sum().backward()
    once = {name: parameter.grad.clone() for name, parameter in group.named_parameters()}
    group(images).logits_NMC.square().sum().backward()
    for name, parameter in group.named_parameters():
        torch.testing.assert_close(parameter.grad, 2 * once[name])


@pytest.mark.parametrize("model", MODELS)
def test_what_can_be_fused_is_and_what_cannot_says_why(model):
    width = (MODELS[model].widths or (0.125,))[0]
    with torch.device("meta"):
        group = PeerGroup(build(model, width), 2, "network")
    if model in NOT_FUSABLE:
        assert NOT_FUSABLE[model] in obstacle(group)
    else:
        assert obstacle(group) == ""


def test_a_network_that_cannot_be_fused_is_refused_or_falls_back(data):
    with pytest.raises(ConfigError, match="'fused' was asked for, but densenet40_12 .*DenseLayer"):
        Trainer(tiny(model="densenet40_12", executor="fused"), data)
    assert Trainer(tiny(model="densenet40_12", executor="auto"), data).executor == "eager"


def test_a_padding_that_mirrors_is_an_obstacle():
    group = PeerGroup(build("resnet8", 0.25), 2, "branch")
    group.branches[1][0][0].residual[0][0].padding_mode = "reflect"
    assert obstacle(group) == "its padding is reflect"


def test_the_bottlenecks_of_resnet110():
    """ResNet-110's own blocks in a network of 11 layers: deeper ones are chaotic, see above."""
    architecture = cifar_resnet(
        depth=11, bottleneck=True, channels=3, num_classes=10, width=0.25
    )  # fmt: skip
    for structure in STRUCTURES:
        assert_same_training(
            lambda executor, structure=structure: Run(
                architecture, executor, torch.float64, structure=structure
            ),
            1e-9,
        )


@pytest.mark.parametrize(
    ("fields", "expected"),
    [
        ({}, "fused"),
        ({"width": 0.5}, "fused"),
        ({"width": 1.0}, "eager"),  # too many channels
        ({"method": "single"}, "eager"),  # nothing to fuse
    ],
)
def test_auto_chooses_and_the_environment_says_what(data, fields, expected):
    peers = {} if "method" in fields else {"num_peers": 2}
    values = {**tiny().to_dict(), **fields, "executor": "auto"}
    del values["num_peers"]
    trainer = Trainer(TrainConfig(**values, **peers), data)
    assert trainer.executor == trainer.environment()["executor"] == expected


def test_members_are_separate_unless_asked_for(data):
    assert Trainer(tiny(), data).executor == "eager"
