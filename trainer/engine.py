"""The Trainer: one group of networks from its first epoch to its last, on one device."""

import dataclasses
import math
import os
import platform
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from trainer import metrics
from trainer.augment import EvaluationBatches, TrainingBatches
from trainer.checkpoint import Checkpoint, CheckpointError, load_checkpoint, save_checkpoint
from trainer.config import ConfigError, TrainConfig
from trainer.data import DevelopmentData
from trainer.group import GroupOutput, Network, PeerGroup
from trainer.methods import build_method
from trainer.models import build_architecture
from trainer.schedules import learning_rate, rampup_weight

EVALUATION_BATCH = 512
CUDA_CHECK_STEPS = 32
"""On a GPU the loss is looked at so often (in steps): every look makes the CPU wait."""

_WHERE_IT_RUNS = {"data", "device", "num_threads"}
"""Fields that may differ when a run goes on elsewhere; the fingerprint speaks for the data."""


class NonFiniteLossError(FloatingPointError):
    """The loss became NaN or infinite.

    Attributes:
        epoch: From 0.
        step: Within the epoch, from 0.
        value: The loss.
    """

    def __init__(self, epoch: int, step: int, value: float) -> None:
        self.epoch, self.step, self.value = epoch, step, value
        super().__init__(f"loss is {value} at epoch {epoch}, step {step}")

    def __reduce__(self) -> tuple[Any, ...]:
        """Pickle by the arguments (a worker sends it to its driver)."""
        return type(self), (self.epoch, self.step, self.value)


@dataclasses.dataclass(frozen=True)
class EpochReport:
    """What one epoch came to. Accuracies are shares in [0, 1], NLL in nats, on validation images.

    Attributes:
        epoch: From 0.
        lr: Learning rate of the epoch.
        ramp_weight: w(e) of the epoch.
        train: Mean over the epoch's images of each loss part.
        leader_accuracy: Of the group leader, the network that is deployed.
        leader_nll: Of the leader.
        peer_accuracy: Of each peer.
        peer_nll: Of each peer.
        mean_peer_accuracy: Mean over the peers.
        ensemble_accuracy: Of the mean of the peers' logits, the leader's teacher.
        ensemble_nll: Of the same.
        diversity: Mean Euclidean distance between peers' outputs.
        seconds: Wall time of the epoch, evaluation included.
        images_per_s: Training images a second, evaluation excluded.
    """

    epoch: int
    lr: float
    ramp_weight: float
    train: dict[str, float]
    leader_accuracy: float
    leader_nll: float
    peer_accuracy: list[float]
    peer_nll: list[float]
    mean_peer_accuracy: float
    ensemble_accuracy: float
    ensemble_nll: float
    diversity: float
    seconds: float
    images_per_s: float

    def to_dict(self) -> dict[str, Any]:
        """Return plain values for JSON; ``asdict`` copies deeply and costs more than the JSON."""
        return dict(vars(self))


class Trainer:
    """Trains one group. It holds training and validation images and cannot reach the test set.

    The number of CPU threads is set for the whole process (torch has one pool).

    Args:
        config: The run.
        data: Training and validation images.

    Raises:
        ConfigError: The configuration asks for a device or precision that is not here.
    """

    def __init__(self, config: TrainConfig, data: DevelopmentData) -> None:
        torch.set_num_threads(config.num_threads or available_cores())
        self.device = resolve_device(config)
        self.precision = resolve_precision(config, self.device)
        self.config = config
        self.history: list[EpochReport] = []
        torch.manual_seed(config.seed)
        architecture = build_architecture(
            config.model,
            channels=data.train.channels,
            num_classes=data.train.num_classes,
            width=config.width,
        )
        self.group = PeerGroup(architecture, config.num_members, config.structure)
        self.method = build_method(config, architecture.feature_dim)
        self._model = nn.ModuleDict({"group": self.group, "method": self.method})
        self._model.to(memory_format=torch.channels_last).to(self.device)
        self._optimizer = torch.optim.SGD(
            self._model.parameters(),
            lr=config.lr,
            momentum=config.momentum,
            nesterov=config.momentum > 0,  # torch refuses Nesterov without momentum
            weight_decay=config.weight_decay,
        )
        self._data_fingerprint = data.fingerprint
        self._batches = TrainingBatches(
            data.train,
            data.mean_C,
            data.std_C,
            pad=data.pad,
            flip=data.flip,
            batch_size=config.batch_size,
            device=self.device,
        )
        self._validation = EvaluationBatches(
            data.validation,
            data.mean_C,
            data.std_C,
            batch_size=EVALUATION_BATCH,
            device=self.device,
        )

    @property
    def epoch(self) -> int:
        """The next epoch to run: the number of those done."""
        return len(self.history)

    @property
    def finished(self) -> bool:
        """Whether all epochs are done."""
        return self.epoch >= self.config.epochs

    def epochs(self) -> Iterator[EpochReport]:
        """Run the epochs that are left, one a ``next()``.

        Raises:
            NonFiniteLossError: At once, where the loss is NaN or infinite.
        """
        while not self.finished:
            yield self.run_epoch()

    def run_epoch(self) -> EpochReport:
        """Train one epoch, evaluate on the validation images, and return the report.

        Raises:
            NonFiniteLossError: The loss is NaN or infinite, in training or, after a last bad
                update, on the validation images.
            RuntimeError: All epochs are done.
        """
        if self.finished:
            raise RuntimeError(f"all {self.config.epochs} epochs are done")
        started = time.perf_counter()
        lr = learning_rate(self.config, self.epoch)
        ramp_weight = rampup_weight(self.epoch, self.config.ramp_length)
        train, num_images = self._train_epoch(lr, ramp_weight)
        train_s = time.perf_counter() - started
        report = EpochReport(
            epoch=self.epoch,
            lr=lr,
            ramp_weight=ramp_weight,
            train=train,
            **self._evaluate(),
            seconds=time.perf_counter() - started,
            images_per_s=num_images / train_s,
        )
        if not math.isfinite(report.leader_nll):
            raise NonFiniteLossError(self.epoch, len(self._batches), report.leader_nll)
        self.history.append(report)
        return report

    def _train_epoch(self, lr: float, ramp_weight: float) -> tuple[dict[str, float], int]:
        for parameter_group in self._optimizer.param_groups:
            parameter_group["lr"] = lr
        self._model.train()
        names: list[str] = []
        rows: list[Tensor] = []  # stay on the device; read once, at the end
        sizes: list[int] = []
        check_every = CUDA_CHECK_STEPS if self.device.type == "cuda" else 1
        for step, (images, labels) in enumerate(self._batches.epoch(self.config.seed, self.epoch)):
            losses = self._step(images, labels, ramp_weight)
            names = list(losses)
            rows.append(torch.stack(list(losses.values())).detach())
            sizes.append(len(labels))
            if (step + 1) % check_every == 0:
                self._require_finite(rows[-check_every:], first_step=step + 1 - check_every)
        self._require_finite(rows[-check_every:], first_step=max(0, len(rows) - check_every))
        weights = torch.tensor(sizes, dtype=torch.float64) / sum(sizes)
        means = (torch.stack(rows).double().cpu() * weights[:, None]).sum(dim=0)
        return dict(zip(names, means.tolist(), strict=True)), sum(sizes)

    def _step(self, images: Tensor, labels: Tensor, ramp_weight: float) -> dict[str, Tensor]:
        self._optimizer.zero_grad(set_to_none=True)
        with torch.autocast(self.device.type, torch.bfloat16, enabled=self.precision == "bf16"):
            logits_NMC, features_NMD = self.group(images)
        output = GroupOutput(logits_NMC.float(), features_NMD.float())
        losses = self.method.losses(output, labels, ramp_weight)
        losses["total"].backward()  # type: ignore[no-untyped-call]
        self._optimizer.step()
        return losses

    def _require_finite(self, rows: list[Tensor], first_step: int) -> None:
        """Raise for the first row whose total (the first part) is NaN or infinite."""
        totals = torch.stack(rows)[:, 0].tolist()
        for offset, value in enumerate(totals):
            if not math.isfinite(value):
                raise NonFiniteLossError(self.epoch, first_step + offset, value)

    @torch.inference_mode()
    def _evaluate(self) -> dict[str, Any]:
        """Measure on the validation images, in fp32: the precision that the leader is used in."""
        self._model.eval()
        outputs = [(self.group(images).logits_NMC, labels) for images, labels in self._validation]
        logits, labels = zip(*outputs, strict=True)
        return _validation_measures(torch.cat(logits), torch.cat(labels))

    def leader(self) -> Network:
        """Return the group leader; it shares the group's weights."""
        return self.group.leader()

    def save(self, directory: Path) -> None:
        """Commit the whole state: weights, optimiser, RNG, reports (``load`` restores it).

        The data order needs no state: it is a function of seed and epoch.
        """
        tensors: dict[str, Tensor] = {f"model.{k}": t for k, t in self._model.state_dict().items()}
        for name, parameter in self._model.named_parameters():
            buffer = self._optimizer.state[parameter].get("momentum_buffer")
            if buffer is not None:
                tensors[f"momentum.{name}"] = buffer
        tensors["rng.cpu"] = torch.get_rng_state()
        if self.device.type == "cuda":
            tensors["rng.cuda"] = torch.cuda.get_rng_state(self.device)
        meta = {
            "config": self.config.to_dict(),
            "data_fingerprint": self._data_fingerprint,
            "environment": self.environment(),
            "history": [report.to_dict() for report in self.history],
        }
        save_checkpoint(directory, tensors, meta, tag=self.epoch)

    def load(self, directory: Path) -> bool:
        """Go on from a directory's state; on the CPU bit for bit as if never stopped.

        Returns:
            Whether there was a state.

        Raises:
            CheckpointError: It is of another configuration or of other images.
            DamagedCheckpointError: It cannot be read; the trainer is as it was.
        """
        checkpoint = load_checkpoint(directory)
        if checkpoint is None:
            return False
        self._require_same_run(checkpoint, directory)
        tensors = checkpoint.tensors
        weights = {k.removeprefix("model."): t for k, t in tensors.items() if k[:6] == "model."}
        self._model.load_state_dict(weights)
        for name, parameter in self._model.named_parameters():
            if (buffer := tensors.get(f"momentum.{name}")) is not None:
                # Strides as the parameter's: the same kernels, so the same bits.
                self._optimizer.state[parameter]["momentum_buffer"] = torch.empty_like(
                    parameter, requires_grad=False
                ).copy_(buffer)
        torch.set_rng_state(tensors["rng.cpu"])
        if self.device.type == "cuda" and "rng.cuda" in tensors:
            torch.cuda.set_rng_state(tensors["rng.cuda"], self.device)
        self.history = [EpochReport(**report) for report in checkpoint.meta["history"]]
        return True

    def _require_same_run(self, checkpoint: Checkpoint, directory: Path) -> None:
        saved, mine = checkpoint.meta["config"], self.config.to_dict()
        changed = sorted(k for k in {*saved, *mine} - _WHERE_IT_RUNS if saved.get(k) != mine.get(k))
        if changed:
            raise CheckpointError(
                f"{directory} holds a run of another configuration: {', '.join(changed)} differ"
            )
        if checkpoint.meta["data_fingerprint"] != self._data_fingerprint:
            raise CheckpointError(f"{directory} holds a run on other images")

    def environment(self) -> dict[str, Any]:
        """Say what the numbers depend on beside the configuration."""
        on_gpu = self.device.type == "cuda"
        return {
            "device": torch.cuda.get_device_name(self.device) if on_gpu else cpu_name(),
            "precision": self.precision,
            "num_threads": torch.get_num_threads(),
            "torch": torch.__version__,
            "python": platform.python_version(),
            "visible_gpus": os.environ.get("CUDA_VISIBLE_DEVICES"),
        }


def _validation_measures(logits_NMC: Tensor, labels_N: Tensor) -> dict[str, Any]:
    peers_NPC = logits_NMC[:, :-1]
    ensemble_NC = peers_NPC.mean(dim=1)
    accuracy_M = metrics.accuracy(logits_NMC, labels_N).tolist()
    nll_M = metrics.negative_log_likelihood(logits_NMC, labels_N).tolist()
    return {
        "leader_accuracy": accuracy_M[-1],
        "leader_nll": nll_M[-1],
        "peer_accuracy": accuracy_M[:-1],
        "peer_nll": nll_M[:-1],
        "mean_peer_accuracy": sum(accuracy_M[:-1]) / len(accuracy_M[:-1]),
        "ensemble_accuracy": metrics.accuracy(ensemble_NC, labels_N).item(),
        "ensemble_nll": metrics.negative_log_likelihood(ensemble_NC, labels_N).item(),
        "diversity": metrics.pairwise_diversity(peers_NPC).item(),
    }


def available_cores() -> int:
    """Return how many cores this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def resolve_device(config: TrainConfig) -> torch.device:
    """Return the device of a run.

    Raises:
        ConfigError: CUDA was asked for and there is none.
    """
    if config.device == "cuda" and not torch.cuda.is_available():
        raise ConfigError([(("device",), "'cuda' was asked for, but torch sees no CUDA device")])
    if config.device == "cpu" or not torch.cuda.is_available():
        return torch.device("cpu")
    return torch.device("cuda", torch.cuda.current_device())


def resolve_precision(config: TrainConfig, device: torch.device) -> str:
    """Return ``fp32`` or ``bf16``.

    Raises:
        ConfigError: bf16 was asked for where it is emulated: it would be several times slower.
    """
    if config.precision == "fp32":
        return "fp32"
    if has_bf16(device):
        return "bf16"
    if config.precision == "bf16":
        text = f"'bf16' was asked for, but {device.type} here has no bf16 instructions; use 'auto'"
        raise ConfigError([(("precision",), text)])
    return "fp32"


def has_bf16(device: torch.device) -> bool:
    """Return whether the hardware multiplies bf16 matrices itself."""
    if device.type == "cuda":
        return bool(torch.cuda.is_bf16_supported(including_emulation=False))
    return bool({"avx512_bf16", "amx_bf16", "bf16"} & set(_cpuinfo("flags", "Features").split()))


def cpu_name() -> str:
    """Return the processor's name as the system gives it."""
    return _cpuinfo("model name") or platform.processor() or platform.machine()


def _cpuinfo(*keys: str) -> str:
    """Return the first such value of Linux's /proc/cpuinfo, or an empty string elsewhere."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return ""
    pairs = (line.partition(":") for line in lines)
    return next((value.strip() for key, _, value in pairs if key.strip() in keys), "")
