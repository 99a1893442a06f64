"""What a Trainer promises, on runs of a second: it learns, measures exactly and fails at once."""

import math
import pickle
from dataclasses import fields

import pytest
import torch
import torch.nn.functional as F

from trainer.config.data import DataConfig
from trainer.config.strict import ConfigError
from trainer.config.train import TrainConfig
from trainer.data.base import DevelopmentData
from trainer.data.load import load_development_data
from trainer.data.parts import read_part
from trainer.data.sources.digits import Digits
from trainer.engine import hardware
from trainer.engine import trainer as engine
from trainer.engine.evaluation import evaluate
from trainer.engine.hardware import has_bf16
from trainer.engine.report import EpochReport
from trainer.engine.run import TrainingRun
from trainer.engine.trainer import NonFiniteLossError, Trainer
from trainer.methods.base import Batch

needs_cuda = pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU")
DEVICES = ["cpu", pytest.param("cuda", marks=needs_cuda)]
STRUCTURES = ["network", "branch"]
LEARNING = {"epochs": 15, "batch_size": 16, "lr_schedule": "cosine"}
TIMING = {"seconds", "images_per_s", "ended_s"}


def tiny(**changes: object) -> TrainConfig:
    values = {
        "data": {"train_limit": 100, "validation": 150},
        "model": "resnet8", "width": 0.25, "num_peers": 2, "epochs": 3, "ramp_epochs": 1,
        "batch_size": 32, "lr": 0.05, "device": "cpu", "num_threads": 1, "seed": 1,
    }  # fmt: skip
    return TrainConfig(**{**values, **changes})


@pytest.fixture(scope="module")
def data() -> DevelopmentData:
    return load_development_data(tiny().data)


def measured(trainer: Trainer) -> list[dict[str, object]]:
    """Return the reports without the times, which no two runs share."""
    return [
        {key: value for key, value in report.to_dict().items() if key not in TIMING}
        for report in trainer.history
    ]


def same_weights(a: Trainer, b: Trainer) -> bool:
    mine, other = a.group.state_dict(), b.group.state_dict()
    return all(torch.equal(mine[key], other[key]) for key in mine)


# Learning


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("structure", STRUCTURES)
@pytest.mark.parametrize("aggregate", ["logits", "probabilities"])
def test_it_learns(data, structure, aggregate, device):
    config = tiny(structure=structure, aggregate=aggregate, device=device, **LEARNING)
    first, *_, last = Trainer(config, data).epochs()
    for part in ("ce_peers", "ce_leader"):
        assert last.train[part] < 0.8 * first.train[part]
    assert last.leader_accuracy > 0.3  # of ten classes
    assert last.ensemble_accuracy > 0.3
    assert last.leader_nll < first.leader_nll


def test_the_attention_learns_with_the_group(data):
    trainer = Trainer(tiny(weight_decay=0), data)
    before = [weight.clone() for weight in trainer.method.parameters()]
    trainer.run_epoch()
    assert len(before) == 2
    for old, new in zip(before, trainer.method.parameters(), strict=True):
        assert not torch.equal(old, new)


@pytest.mark.parametrize("structure", STRUCTURES)
@pytest.mark.parametrize("num_peers", [1, 2, 3, 4])
def test_a_report_tells_all_of_every_group_size(data, structure, num_peers):
    config = tiny(structure=structure, num_peers=num_peers, epochs=2, lr_milestones=[0.5])
    first, second = Trainer(config, data).epochs()
    assert (first.epoch, second.epoch) == (0, 1)
    assert (first.lr, second.lr) == (0.05, pytest.approx(0.005))
    assert (first.ramp_weight, second.ramp_weight) == (pytest.approx(math.exp(-5)), 1)
    assert set(second.to_dict()) == {field.name for field in fields(EpochReport)}
    assert len(second.peer_accuracy) == len(second.peer_nll) == num_peers
    assert second.mean_peer_accuracy == pytest.approx(sum(second.peer_accuracy) / num_peers)
    assert (second.diversity > 0) == (num_peers > 1)
    assert second.seconds > 0 and second.images_per_s > 0
    train = second.train
    assert set(train) == {"total", "ce_peers", "ce_leader", "kd_peers", "kd_leader"}
    parts = train["ce_peers"] + train["ce_leader"] + train["kd_peers"] + train["kd_leader"]
    assert train["total"] == pytest.approx(parts, rel=1e-5)


def test_training_losses_are_means_over_images_and_not_over_batches(data, monkeypatch):
    trainer, seen = Trainer(tiny(), data), []
    losses = trainer.method.losses

    def record(output, batch):
        parts = losses(output, batch)
        assert batch.ramp_weight == pytest.approx(math.exp(-5))
        seen.append((len(batch.labels_N), parts["total"].item()))
        return parts

    monkeypatch.setattr(trainer.method, "losses", record)
    report = trainer.run_epoch()
    assert [size for size, _ in seen] == [32, 32, 32, 4]
    expected = sum(size * total for size, total in seen) / 100
    assert report.train["total"] == pytest.approx(expected, rel=1e-12)


# Measuring


@pytest.mark.parametrize("structure", STRUCTURES)
def test_measures_equal_a_recomputation_by_hand_image_by_image(data, structure, monkeypatch):
    monkeypatch.setitem(engine.EVALUATION_BATCH, "cpu", 149)  # the last batch is a single image
    trainer = Trainer(tiny(structure=structure), data)
    report = list(trainer.epochs())[-1]
    images = data.validation.images_NCHW.double() / 255
    images = ((images - data.mean_C[0]) / data.std_C[0]).float()
    labels = data.validation.labels_N
    logits_M = []
    with torch.no_grad():
        for index in range(3):
            network = trainer.group.member(index).eval()
            logits_M.append(torch.cat([network(image[None]) for image in images]))

    def share_right(logits_NC):
        pairs = zip(logits_NC.argmax(1).tolist(), labels.tolist(), strict=True)
        return sum(guess == label for guess, label in pairs) / 150

    ensemble = (logits_M[0] + logits_M[1]) / 2
    assert report.leader_accuracy == share_right(logits_M[-1])
    assert report.peer_accuracy == [share_right(logits_M[0]), share_right(logits_M[1])]
    assert report.ensemble_accuracy == share_right(ensemble)
    nll = [F.cross_entropy(logits.double(), labels).item() for logits in (*logits_M, ensemble)]
    assert [*report.peer_nll, report.leader_nll, report.ensemble_nll] == pytest.approx(
        nll, rel=1e-4
    )


def test_evaluation_changes_nothing(data):
    trainer, other = Trainer(tiny(), data), Trainer(tiny(), data)
    trainer.run_epoch()
    evaluate(trainer.group, trainer.method, trainer._validation)
    trainer.run_epoch()
    other.run_epoch()
    other.run_epoch()
    assert same_weights(trainer, other) and measured(trainer) == measured(other)


# Epochs


def test_epochs_is_run_epoch_again_and_again_and_can_be_left_and_taken_up(data):
    stepped, iterated = Trainer(tiny(), data), Trainer(tiny(), data)
    while not stepped.finished:
        stepped.run_epoch()
    for report in iterated.epochs():
        assert iterated.history[-1] is report and iterated.epoch == report.epoch + 1
        break
    assert [report.epoch for report in iterated.epochs()] == [1, 2]
    assert iterated.finished and not list(iterated.epochs())
    assert measured(stepped) == measured(iterated) and same_weights(stepped, iterated)


@pytest.mark.parametrize("structure", STRUCTURES)
def test_equal_seeds_give_equal_bits_and_others_do_not(data, structure):
    runs = [Trainer(tiny(structure=structure, seed=seed, epochs=2), data) for seed in (1, 1, 2)]
    starts = [run.group.classifiers[0].weight.clone() for run in runs]
    for run in runs:
        list(run.epochs())
    assert same_weights(runs[0], runs[1]) and measured(runs[0]) == measured(runs[1])
    assert not torch.equal(starts[0], starts[2]) and not same_weights(runs[0], runs[2])


def test_a_seed_does_not_depend_on_what_the_process_drew_before(data):
    trainer = Trainer(tiny(), data)
    torch.rand(17)
    assert same_weights(trainer, Trainer(tiny(), data))


def test_every_epoch_draws_its_own_batches_by_seed_and_number(data, monkeypatch):
    trainer, drawn = Trainer(tiny(seed=7), data), []
    draw = trainer._batches.epoch
    monkeypatch.setattr(
        trainer._batches, "epoch", lambda *which: drawn.append(which) or draw(*which)
    )
    list(trainer.epochs())
    assert drawn == [(7, 0), (7, 1), (7, 2)]


def test_a_last_batch_of_one_image_is_left_out():
    config = tiny(data={"train_limit": 33, "validation": 150})
    trainer = Trainer(config, load_development_data(config.data))
    _, images = trainer._train_epoch(0.05, 1.0)
    assert images == 32


# Failing


def test_a_poisoned_weight_raises_at_once(data):
    trainer = Trainer(tiny(), data)
    trainer.run_epoch()
    with torch.no_grad():
        trainer.group.classifiers[0].weight[0, 0] = math.nan
    with pytest.raises(NonFiniteLossError, match="loss is nan at epoch 1, step 0"):
        trainer.run_epoch()
    assert trainer.epoch == 1  # the failed epoch leaves no report


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("bad_step", [0, 2, 3])
def test_the_error_names_the_first_bad_step(data, monkeypatch, bad_step, device):
    trainer, calls = Trainer(tiny(device=device), data), []
    losses = trainer.method.losses

    def fail_later(output, batch):
        parts = losses(output, batch)
        calls.append(len(batch.labels_N))
        factor = math.inf if len(calls) > bad_step else 1
        return {**parts, "total": factor * parts["total"]}

    monkeypatch.setattr(trainer.method, "losses", fail_later)
    with pytest.raises(NonFiniteLossError) as caught:
        list(trainer.epochs())
    assert (caught.value.epoch, caught.value.step) == (0, bad_step)
    if device == "cpu":
        assert len(calls) == bad_step + 1  # no step more
    copy = pickle.loads(pickle.dumps(caught.value))  # a worker sends it to its driver
    assert str(copy) == str(caught.value) and copy.step == bad_step


def test_a_look_back_over_many_steps_finds_the_first_bad_one(data):
    """As on a GPU, where the loss is looked at every 32 steps; the total is the first part."""
    trainer = Trainer(tiny(), data)
    rows = torch.tensor([[total, math.nan] for total in (1.0, 2.0, math.inf, math.nan)])
    trainer._require_finite(rows[:2], first_step=32)
    with pytest.raises(NonFiniteLossError, match="loss is inf at epoch 0, step 34"):
        trainer._require_finite(rows, first_step=32)


def test_an_absurd_learning_rate_ends_in_that_error(data):
    with pytest.raises(NonFiniteLossError):
        list(Trainer(tiny(lr=100, epochs=20, weight_decay=1), data).epochs())


# Hardware


@pytest.mark.parametrize("structure", STRUCTURES)
def test_networks_and_batches_are_channels_last(data, structure):
    trainer = Trainer(tiny(structure=structure), data)
    trainer.run_epoch()
    convolutions = [m for m in trainer.group.modules() if isinstance(m, torch.nn.Conv2d)]
    for convolution in convolutions:
        assert convolution.weight.is_contiguous(memory_format=torch.channels_last)
    images, _ = next(trainer._batches.epoch(0, 0))
    assert images.is_contiguous(memory_format=torch.channels_last)


@pytest.mark.parametrize("device", DEVICES)
def test_bf16_trains_in_bf16_and_is_evaluated_in_fp32(data, device):
    if not has_bf16(torch.device(device)):
        pytest.skip("no bf16 instructions here")
    trainer, used = Trainer(tiny(precision="bf16", device=device, **LEARNING), data), set()
    convolution = next(m for m in trainer.group.modules() if isinstance(m, torch.nn.Conv2d))
    convolution.register_forward_hook(lambda m, _, out: used.add((m.training, out.dtype)))
    first, *_, last = trainer.epochs()
    assert used == {(True, torch.bfloat16), (False, torch.float32)}
    assert last.train["ce_leader"] < 0.8 * first.train["ce_leader"]
    assert {parameter.dtype for parameter in trainer.group.parameters()} == {torch.float32}
    assert Trainer(tiny(precision="auto", device=device), data).precision == "bf16"


def test_without_bf16_instructions_bf16_is_refused_and_auto_is_fp32(data, monkeypatch):
    monkeypatch.setattr(hardware, "has_bf16", lambda device: False)
    with pytest.raises(ConfigError, match="precision: 'bf16' was asked for, but cpu here has no"):
        Trainer(tiny(precision="bf16"), data)
    assert Trainer(tiny(precision="auto"), data).precision == "fp32"


def test_without_a_gpu_cuda_is_refused_and_auto_is_the_cpu(data, monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(ConfigError, match="device: 'cuda' was asked for, but torch sees no CUDA"):
        Trainer(tiny(device="cuda"), data)
    assert Trainer(tiny(device="auto"), data).device == torch.device("cpu")


def test_threads_are_as_many_as_asked_for_or_as_there_are_cores(data, monkeypatch):
    monkeypatch.setattr(engine, "available_cores", lambda: 2)
    Trainer(tiny(num_threads=None), data)
    assert torch.get_num_threads() == 2
    assert Trainer(tiny(num_threads=1), data).environment()["num_threads"] == 1
    assert torch.get_num_threads() == 1


@needs_cuda
@pytest.mark.parametrize("structure", STRUCTURES)
def test_cpu_and_cuda_agree_over_the_first_epoch(data, structure):
    cpu, cuda = (
        Trainer(tiny(structure=structure, lr=0.01, device=device), data).run_epoch()
        for device in ("cpu", "cuda")
    )
    for part, value in cpu.train.items():
        assert cuda.train[part] == pytest.approx(value, rel=1e-3, abs=1e-3)


@needs_cuda
@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_no_step_makes_the_cpu_wait_for_the_gpu(data, precision):
    trainer = Trainer(tiny(device="cuda", precision=precision), data)
    trainer.run_epoch()  # all that is set up once
    batches = trainer._batches.epoch(seed=1, epoch=1)
    trainer.learner.step(Batch(*next(batches), 1.0))  # the draw of the epoch is copied here, once
    torch.cuda.set_sync_debug_mode("error")
    try:
        for images, labels in batches:
            trainer.learner.step(Batch(images, labels, 1.0))
    finally:
        torch.cuda.set_sync_debug_mode("default")


# The seal


def test_a_whole_run_never_asks_for_the_test_part(monkeypatch, tmp_path):
    read, asked = Digits.read, []

    def sealed(self, part):
        asked.append(part)
        assert part != "test", "the test set was opened"
        return read(self, part)

    monkeypatch.setattr(Digits, "read", sealed)
    config = tiny(epochs=1)
    with TrainingRun(config, load_development_data(config.data), tmp_path) as run:
        run.step()
    assert asked == ["train"] and run.trainer.finished


def test_no_image_within_reach_of_a_trainer_is_a_test_image(data):
    trainer = Trainer(tiny(), data)
    test = read_part(DataConfig(name="digits"), "test")
    forbidden = {image.numpy().tobytes() for image in test.images_NCHW}
    evaluated = trainer._validation._images_NHWC
    padded = trainer._batches._lines.untyped_storage()
    trained = torch.tensor(padded, dtype=torch.uint8).view(100, 10, 10)[:, 1:-1, 1:-1]
    held = [image.contiguous().numpy().tobytes() for image in (*evaluated, *trained)]
    assert len(held) == 250 and len({len(image) for image in held}) == 1
    assert not forbidden & set(held)
