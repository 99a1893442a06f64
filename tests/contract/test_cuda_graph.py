"""CUDA-graph steps compute what eager ones do; on the CPU all but the recording is tested.

What a GPU alone can show (recording, replays, streams) is in the tests marked so; here a stand-in
for the recording shows that it leaves no trace.
"""

import contextlib
import itertools
import math
from collections.abc import Iterator

import pytest
import torch
from torch import Tensor
from training_helpers import state

from trainer.config.strict import ConfigError
from trainer.config.train import TrainConfig
from trainer.data.base import DevelopmentData
from trainer.data.load import load_development_data
from trainer.engine import cuda_graph as module
from trainer.engine.cuda_graph import CudaGraphSteps
from trainer.engine.run import TrainingRun
from trainer.engine.trainer import NonFiniteLossError, Trainer
from trainer.group import executors
from trainer.group.group import PeerGroup, eager
from trainer.group.streams import capture_obstacle, on_streams
from trainer.models import build_architecture

needs_cuda = pytest.mark.skipif(
    not torch.cuda.is_available(), reason="CUDA graphs and streams need a GPU"
)
DEVICES = ["cpu", pytest.param("cuda", marks=needs_cuda)]
STRUCTURES = ["network", "branch"]
TOLERANCE = 1e-4
RUNS = {
    **{f"okddip {s}": {"structure": s} for s in STRUCTURES},
    **{f"dml {s}": {"method": "dml", "structure": s} for s in STRUCTURES},
    **{f"independent {s}": {"method": "independent", "structure": s} for s in STRUCTURES},
    "one": {"method": "one"},
    "cl_ilr": {"method": "cl_ilr"},
    "single": {"method": "single", "num_peers": 0},
    "smoothed labels": {"label_smoothing": 0.1, "confidence_penalty": 0.1},
    "no momentum": {"momentum": 0.0},
    "no weight decay": {"weight_decay": 0.0},
    "random attention": {"attention": "random"},
    "detached targets": {"detach_targets": True},
    "1 × 1 kernels": {"model": "wrn16_2", "width": 0.125},
}


def tiny(**changes: object) -> TrainConfig:
    """An epoch is 4 full batches and one of 2 images, 5 steps; 4 epochs are 20, 3 of them ramp."""
    values = {
        "data": {"train_limit": 130, "validation": 150},
        "model": "resnet8", "width": 0.25, "num_peers": 2, "epochs": 4, "ramp_epochs": 3,
        "batch_size": 32, "lr": 1e-3, "device": "cpu", "num_threads": 1, "seed": 1,
    }  # fmt: skip
    return TrainConfig(**{**values, **changes})


@pytest.fixture(scope="module")
def data() -> DevelopmentData:
    return load_development_data(tiny().data)


@pytest.fixture(autouse=True)
def exact(monkeypatch):
    """Let the CPU take CUDA-graph steps, and a GPU calculate in full float32."""
    monkeypatch.setattr(executors, "capture_obstacle", lambda group: "")
    monkeypatch.setattr(torch.backends.cudnn, "allow_tf32", False)
    monkeypatch.setattr(torch.backends.cudnn, "deterministic", True)


def make(executor: str, data: DevelopmentData, **fields: object) -> Trainer:
    return Trainer(tiny(executor=executor, **fields), data)


def distance(actual: Tensor, expected: Tensor) -> float:
    """Compare by the size of the whole tensor: single weights may well have hardly moved."""
    apart = (actual - expected).double().norm() / expected.double().norm().clamp_min(1e-6)
    return apart.item()


@torch.no_grad()
def logits(trainer: Trainer) -> Tensor:
    trainer.group.eval()
    return torch.cat([trainer.group(images).logits_NMC for images, _ in trainer._validation])


def learned(trainer: Trainer, start: dict[str, Tensor]) -> Tensor:
    now = trainer.learner.tensors()
    return torch.cat([(now[name] - tensor).double().flatten() for name, tensor in start.items()])


def assert_same_training(graphed: Trainer, eager: Trainer) -> None:
    start = {k: t.clone() for k, t in eager.learner.tensors().items() if t.is_floating_point()}
    start = {name: tensor for name, tensor in start.items() if name.startswith("model.")}
    mine = graphed.learner.tensors()
    assert all(torch.equal(mine[name], tensor) for name, tensor in start.items())
    for trainer in (graphed, eager):  # as if alone: they share a random generator
        torch.manual_seed(0)
        list(trainer.epochs())
    for report, expected in zip(graphed.history, eager.history, strict=True):
        assert (report.lr, report.ramp_weight) == (expected.lr, expected.ramp_weight)
        assert list(report.train) == list(expected.train)
        for part, value in expected.train.items():
            assert report.train[part] == pytest.approx(value, rel=TOLERANCE, abs=1e-6), part
    assert distance(logits(graphed), logits(eager)) <= TOLERANCE
    assert distance(learned(graphed, start), learned(eager, start)) <= TOLERANCE


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("fields", RUNS.values(), ids=RUNS)
def test_twenty_steps_learn_the_same(data, fields, device):
    graphed, eager = (make(e, data, device=device, **fields) for e in ("cuda_graph", "eager"))
    assert isinstance(graphed._steps, CudaGraphSteps)
    assert graphed.environment()["executor"] == "cuda_graph"
    assert_same_training(graphed, eager)


@pytest.mark.parametrize("device", DEVICES)
def test_a_teacher_teaches_the_same(data, tmp_path, device):
    with TrainingRun(tiny(method="single", num_peers=0, epochs=1), data, tmp_path) as run:
        run.step()
    fields = {"method": "kd", "num_peers": 0, "device": device}
    assert_same_training(
        *(
            Trainer(tiny(executor=executor, **fields), data, tmp_path / "leader")
            for executor in ("cuda_graph", "eager")
        )
    )


@needs_cuda
@pytest.mark.parametrize("structure", STRUCTURES)
def test_bf16_learns_about_the_same(data, structure):
    fields = {"device": "cuda", "precision": "bf16", "structure": structure}
    graphed, eager = (make(e, data, **fields) for e in ("cuda_graph", "eager"))
    for report, expected in zip(graphed.epochs(), eager.epochs(), strict=True):
        assert report.train["total"] == pytest.approx(expected.train["total"], rel=1e-2)


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize(
    ("first", "then"), [("eager", "cuda_graph"), ("cuda_graph", "eager"), ("cuda_graph", "fused")]
)
def test_a_state_moves_between_executors_with_its_momentum(data, tmp_path, first, then, device):
    straight = make("eager", data, device=device)
    list(straight.epochs())
    trainer = make(first, data, device=device)
    for _ in range(2):
        trainer.run_epoch()
    trainer.save(tmp_path)
    saved, _ = state(tmp_path)
    again = make(then, data, device=device)
    assert again.load(tmp_path)
    (tmp_path / "again").mkdir()
    again.save(tmp_path / "again")
    loaded, _ = state(tmp_path / "again")
    assert saved.keys() == loaded.keys()
    assert all(torch.equal(saved[name], loaded[name]) for name in saved)
    assert any(name.startswith("momentum.group.branches.2.") for name in saved)
    list(again.epochs())
    tolerance = 10 * TOLERANCE if then == "fused" else TOLERANCE
    assert distance(logits(again), logits(straight)) <= tolerance


@pytest.mark.parametrize("device", DEVICES)
def test_a_trainer_that_has_trained_can_take_over_a_state(data, tmp_path, device):
    """The state goes where the graph looks for it."""
    first, second = (make("cuda_graph", data, device=device, epochs=3) for _ in range(2))
    first.run_epoch()
    first.save(tmp_path)
    for _ in range(2):
        second.run_epoch()
    assert second.load(tmp_path) and second.epoch == 1
    for trainer in (first, second):
        list(trainer.epochs())
    assert distance(logits(second), logits(first)) <= 1e-6


@pytest.mark.parametrize("train_limit", [96, 97, 20], ids=["no rest", "rest of one", "rest alone"])
def test_every_image_of_the_launched_steps_is_used_and_no_other(train_limit):
    fields = {"data": {"train_limit": train_limit, "validation": 150}, "epochs": 1}
    data = load_development_data(tiny(**fields).data)
    trainers = [Trainer(tiny(executor=e, **fields), data) for e in ("cuda_graph", "eager")]
    assert_same_training(*trainers)
    counts = [trainer._train_epoch(0.001, 1.0)[1] for trainer in trainers]
    assert counts == [train_limit - (train_limit == 97)] * 2


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("bad_step", [1, 4])
def test_the_error_names_the_first_bad_step(data, monkeypatch, bad_step, device):
    """It is found after the epoch; the last step is the small batch."""
    trainer = make("cuda_graph", data, device=device)
    trainer.run_epoch()
    draw = trainer._batches.draw

    def with_a_poisoned_image(seed, epoch):
        drawn = draw(seed, epoch)
        drawn.labels_N[32 * bad_step] = -1
        return drawn

    losses = trainer.method.losses

    def poison(output, batch):
        parts = losses(output, batch._replace(labels_N=batch.labels_N.clamp_min(0)))
        bad = (batch.labels_N < 0).any()
        return {**parts, "total": torch.where(bad, math.nan, 1.0) * parts["total"]}

    monkeypatch.setattr(trainer._batches, "draw", with_a_poisoned_image)
    monkeypatch.setattr(trainer.method, "losses", poison)
    trainer._steps._recorded_at = []  # the losses are others now
    with pytest.raises(NonFiniteLossError) as caught:
        trainer.run_epoch()
    assert (caught.value.epoch, caught.value.step) == (1, bad_step)


# Recording


class FakeStream:
    def wait_stream(self, other: object) -> None:
        pass


class FakeGraph:
    """Stands for a CUDA graph: what is "recorded" on the CPU is also run, a trace more to erase."""

    def __init__(self) -> None:
        self.replays = 0

    def replay(self) -> None:
        self.replays += 1
        self.step()


@pytest.fixture
def fake_recording(monkeypatch) -> Iterator[list[FakeGraph]]:
    made: list[FakeGraph] = []

    def make_graph() -> FakeGraph:
        made.append(FakeGraph())
        return made[-1]

    monkeypatch.setattr(module, "new_stream", lambda device: FakeStream())
    fakes = {
        "current_stream": lambda device: FakeStream(),
        "stream": lambda stream: contextlib.nullcontext(),
        "graph": lambda graph, stream: contextlib.nullcontext(),
        "CUDAGraph": make_graph,
        "get_rng_state": lambda device: torch.get_rng_state(),
        "set_rng_state": lambda state, device: torch.set_rng_state(state),
    }
    for name, fake in fakes.items():
        monkeypatch.setattr(torch.cuda, name, fake)
    return made


def recorded(trainer: Trainer, monkeypatch: pytest.MonkeyPatch) -> Trainer:
    monkeypatch.setattr(FakeGraph, "step", lambda self: trainer._steps._full_step(), raising=False)
    trainer._steps.records = True
    return trainer


@pytest.mark.parametrize("fields", [{}, {"attention": "random"}, {"method": "one"}])
def test_recording_leaves_no_trace(data, fields, fake_recording, monkeypatch):
    """Weights, momentum, batch statistics, random numbers, losses: bit for bit as without it."""
    plain = make("cuda_graph", data, **fields)
    list(plain.epochs())
    trainer = recorded(make("cuda_graph", data, **fields), monkeypatch)
    list(trainer.epochs())
    assert [graph.replays for graph in fake_recording] == [16]
    expected = plain.learner.tensors()
    for name, tensor in trainer.learner.tensors().items():
        assert torch.equal(tensor, expected[name]), name
    assert [r.train for r in trainer.history] == [r.train for r in plain.history]


def test_it_is_recorded_anew_where_the_weights_have_moved(data, fake_recording, monkeypatch):
    trainer = recorded(make("cuda_graph", data), monkeypatch)
    trainer.run_epoch()
    weight = trainer.group.classifiers[0].weight
    weight.data = weight.data.clone()
    trainer.run_epoch()
    trainer.run_epoch()
    assert [graph.replays for graph in fake_recording] == [4, 8]


@needs_cuda
@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_no_replay_makes_the_cpu_wait_for_the_gpu(data, precision):
    trainer = make("cuda_graph", data, device="cuda", precision=precision)
    trainer.run_epoch()
    steps = trainer._steps
    steps._done_1.zero_()
    trainer.learner.model.train()
    torch.cuda.set_sync_debug_mode("error")
    try:
        for _ in range(4):
            steps._recorded_step()()
        steps._step(steps._drawn.slice(128, 130))
    finally:
        torch.cuda.set_sync_debug_mode("default")


# Streams


class Lane:
    """Stands for a stream; writes down who waits for whom, and where modules run."""

    def __init__(self, name: str, log: list[str]) -> None:
        self.name, self.log = name, log

    def wait_stream(self, other: "Lane") -> None:
        self.log.append(f"{self.name} waits for {other.name}")


@pytest.mark.parametrize("structure", STRUCTURES)
@pytest.mark.parametrize("members", [1, 3])
def test_members_on_streams_of_their_own_compute_the_same(structure, members, monkeypatch):
    log: list[str] = []
    architecture = build_architecture("resnet8", channels=3, num_classes=10, width=0.25)
    group = PeerGroup(architecture, members, structure).train(False)
    peers, home = [Lane(f"peer {i}", log) for i in range(members - 1)], Lane("home", log)

    @contextlib.contextmanager
    def on(lane: Lane) -> Iterator[None]:
        log.append(f"work on {lane.name}")
        yield

    monkeypatch.setattr(torch.cuda, "current_stream", lambda device: home)
    monkeypatch.setattr(torch.cuda, "stream", on)
    images = torch.randn(4, 3, 8, 8)
    actual = on_streams(group, peers)(images)
    for mine, expected in zip(actual, eager(group)(images), strict=True):
        assert torch.equal(mine, expected)
    forks = [log.index(f"{peer.name} waits for home") for peer in peers]
    joins = [log.index(f"home waits for {peer.name}") for peer in peers]
    for peer, fork, join in zip(peers, forks, joins, strict=True):
        work = [i for i, line in enumerate(log) if line == f"work on {peer.name}"]
        assert len(work) == (3 if structure == "network" else 2)
        assert fork < work[0] and work[-1] < join
    if structure == "branch" and peers:
        assert log.index("work on home") < min(forks)  # the shared trunk comes first
    assert log.count("work on home") == 3


# Refusals


def test_without_a_gpu_it_is_refused(data, monkeypatch):
    monkeypatch.setattr(executors, "capture_obstacle", capture_obstacle)
    with pytest.raises(
        ConfigError, match="executor: 'cuda_graph' was asked for, but .* not on cpu"
    ):
        make("cuda_graph", data)


@pytest.mark.parametrize(
    ("fields", "reason"),
    [
        (
            {"method": "codistillation", "structure": "network"},
            "those of codistillation are not alike",
        ),
        (
            {"data": {"name": "image_folder", "root": "/", "image_size": 32, "streaming": True}},
            "streamed images are decoded outside of it",
        ),
    ],
)
def test_what_cannot_be_repeated_is_refused_by_the_configuration(fields, reason):
    with pytest.raises(ConfigError, match=f"executor: 'cuda_graph' repeats .*{reason}; use 'eager"):
        tiny(executor="cuda_graph", **fields)


def test_only_its_own_executor_has_it(data):
    for executor, learning in itertools.product(("eager", "fused", "auto"), (False, True)):
        trainer = make(executor, data)
        if learning:
            trainer.run_epoch()
        assert not isinstance(trainer._steps, CudaGraphSteps)
        assert isinstance(trainer.learner.optimizer.param_groups[0]["lr"], float)
