"""The Trainer: one group of networks from its first epoch to its last, on one device."""

import copy
import math
import os
import platform
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from trainer.config.strict import ConfigError
from trainer.config.train import TrainConfig
from trainer.data.base import DevelopmentData
from trainer.data.images import abbreviate
from trainer.engine.checkpoint import (
    Checkpoint,
    CheckpointError,
    DamagedCheckpointError,
    load_checkpoint,
    save_checkpoint,
)
from trainer.engine.cuda_graph import CudaGraphSteps
from trainer.engine.evaluation import evaluate
from trainer.engine.hardware import (
    device_name,
    keep_freed_memory,
    resolve_device,
    resolve_precision,
)
from trainer.engine.learner import Learner
from trainer.engine.report import EpochReport
from trainer.engine.steps import EagerSteps, Steps
from trainer.errors import TrainerError
from trainer.group.executors import EXECUTORS, resolve_executor
from trainer.group.group import Network, PeerGroup
from trainer.io.cores import available_cores
from trainer.methods import build_method
from trainer.models import build_architecture, check_size
from trainer.schedules import learning_rate, rampup_weight

EVALUATION_BATCH = {"cpu": 128, "cuda": 512}
"""Images at once by kind of device: more of them fall out of the CPU's cache."""

WHERE_IT_RUNS = {"data", "device", "executor", "num_threads", "checkpoint_every_s"}
"""Fields that may differ when a run is resumed elsewhere; the data's fingerprint may not."""


class NonFiniteLossError(TrainerError, FloatingPointError):
    """The loss became NaN or infinite.

    Attributes:
        epoch: From 0.
        step: Within the epoch, from 0.
        value: The loss.
    """

    exit_code = 1
    remedy = "a lower lr is the usual remedy"

    def __init__(self, epoch: int, step: int, value: float) -> None:
        self.epoch, self.step, self.value = epoch, step, value
        super().__init__(f"loss is {value} at epoch {epoch}, step {step}")

    def __reduce__(self) -> tuple[Any, ...]:
        """Pickle by the arguments (a worker sends it to its driver)."""
        return type(self), (self.epoch, self.step, self.value)


class Trainer:
    """Trains one group. It holds training and validation images and cannot reach the test set.

    Deviates: the OKDDip authors pick their best epoch on the test set and set no seed. Here
    everything is chosen on validation images, and weights, order and augmentation follow the seed.

    The number of CPU threads is set for the whole process (torch has one pool).

    Args:
        config: The run.
        data: Training and validation images.
        teacher_dir: A trained leader's folder, for method ``kd``.

    Raises:
        ConfigError: The configuration asks for a device or precision that is not here, for a
            network or teacher that these images do not fit, or for an executor that the network
            or the device does not fit.
    """

    def __init__(
        self, config: TrainConfig, data: DevelopmentData, teacher_dir: Path | None = None
    ) -> None:
        torch.set_num_threads(config.num_threads or available_cores())
        keep_freed_memory()
        self.device = resolve_device(config)
        self.precision = resolve_precision(config, self.device)
        self.config = config
        self.history: list[EpochReport] = []
        try:
            check_size(config.model, *data.train.size)
        except ValueError as error:
            raise ConfigError([(("model",), str(error))]) from None
        torch.manual_seed(config.seed)
        architecture = build_architecture(
            config.model,
            channels=data.train.channels,
            num_classes=data.train.num_classes,
            width=config.width,
        )
        self.group = PeerGroup(architecture, config.num_members, config.structure)
        self.method = build_method(config, architecture)
        self.group.to(memory_format=torch.channels_last).to(self.device)
        self.executor = resolve_executor(config, self.group)
        self.group.execute_with(EXECUTORS[self.executor])
        self.method.to(self.device)
        self.method.prepare(self.group, data, teacher_dir)
        is_graph = self.executor == "cuda_graph"
        self.learner = Learner(
            config, self.group, self.method, precision=self.precision, on_device=is_graph
        )
        self._data_fingerprint = data.fingerprint
        self._batches = data.training_batches(config.batch_size, self.device)
        make_steps = CudaGraphSteps if is_graph else EagerSteps
        self._steps: Steps = make_steps(self.learner, self._batches, config.seed)
        self._validation = data.validation_batches(EVALUATION_BATCH[self.device.type], self.device)
        # Among images that it was trained on, the best epoch is the one that overfits most.
        self._keeps_best = config.leader_epoch == "best" and not data.has_merged_splits
        self._best: dict[str, Tensor] = {}

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
            **evaluate(self.group, self.method, self._validation),
            seconds=time.perf_counter() - started,
            images_per_s=num_images / train_s,
            ended_s=time.time(),
        )
        if not math.isfinite(report.leader_nll):
            raise NonFiniteLossError(self.epoch, len(self._batches), report.leader_nll)
        self.history.append(report)
        if self._keeps_best and self.selected_epoch is report:
            self._best = {name: t.clone() for name, t in self._leader_tensors().items()}
        return report

    def _train_epoch(self, lr: float, ramp_weight: float) -> tuple[dict[str, float], int]:
        self.learner.model.train()
        names: tuple[str, ...] = ()
        parts: list[Tensor] = []  # stay on the device; read once, at the end
        sizes: list[int] = []
        for losses in self._steps.epoch(self.epoch, lr, ramp_weight):
            self._require_finite(losses.values_SL, first_step=len(sizes))
            names = losses.names
            parts.append(losses.values_SL)
            sizes += losses.sizes
        weights = torch.tensor(sizes, dtype=torch.float64) / sum(sizes)
        means = (torch.cat(parts).double().cpu() * weights[:, None]).sum(dim=0)
        return dict(zip(names, means.tolist(), strict=True)), sum(sizes)

    def _require_finite(self, values_SL: Tensor, first_step: int) -> None:
        """Raise for the first row whose total (the first part) is NaN or infinite."""
        for offset, value in enumerate(values_SL[:, 0].tolist()):
            if not math.isfinite(value):
                raise NonFiniteLossError(self.epoch, first_step + offset, value)

    @property
    def selected_epoch(self) -> EpochReport:
        """The report of the epoch whose leader is deployed (``leader_epoch``)."""
        if self._keeps_best:
            return max(self.history, key=lambda report: report.leader_accuracy)
        return self.history[-1]

    def leader(self) -> Network:
        """Return the network that is deployed, of the epoch ``selected_epoch``.

        That of the last epoch shares the group's weights.
        """
        leader = self.group.leader()
        if self._best:
            leader = copy.deepcopy(leader)
            leader.load_state_dict({k.removeprefix("best."): t for k, t in self._best.items()})
        return leader

    def _leader_tensors(self) -> dict[str, Tensor]:
        return {f"best.{name}": t for name, t in self.group.leader().state_dict().items()}

    def save(self, directory: Path) -> None:
        """Commit the whole state (``load`` restores it)."""
        save_checkpoint(directory, self.checkpoint())

    def checkpoint(self) -> Checkpoint:
        """Return a copy of the whole state: weights, optimiser, RNG, reports.

        The data order needs no state: it is a function of seed and epoch.
        """
        tensors = {**self.learner.tensors(), **self._best, "rng.cpu": torch.get_rng_state()}
        if self.device.type == "cuda":
            tensors["rng.cuda"] = torch.cuda.get_rng_state(self.device)
        meta = {
            "config": self.config.to_dict(),
            "data_fingerprint": self._data_fingerprint,
            "environment": self.environment(),
            "history": [report.to_dict() for report in self.history],
        }
        return Checkpoint({k: t.detach().to("cpu", copy=True) for k, t in tensors.items()}, meta)

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
        history = self._history_of(checkpoint, directory)
        self.learner.load(tensors)
        mine = self._leader_tensors()
        self._best = {name: tensors[name].to(self.device) for name in mine if name in tensors}
        torch.set_rng_state(tensors["rng.cpu"])
        if self.device.type == "cuda" and "rng.cuda" in tensors:
            torch.cuda.set_rng_state(tensors["rng.cuda"], self.device)
        self.history = history
        return True

    def _history_of(self, checkpoint: Checkpoint, directory: Path) -> list[EpochReport]:
        """Return the reports of a state that fits this trainer.

        Raises:
            DamagedCheckpointError: A tensor or a report is not what it must be.
        """
        mine = {**self.learner.tensors(), "rng.cpu": torch.get_rng_state()}
        if self._keeps_best and checkpoint.meta.get("history"):
            mine.update(self._leader_tensors())
        for name, tensor in mine.items():
            saved = checkpoint.tensors.get(name)
            if saved is None and name.startswith("momentum."):
                continue  # nothing was learnt yet
            if saved is None or (saved.shape, saved.dtype) != (tensor.shape, tensor.dtype):
                raise DamagedCheckpointError(f"{directory} holds no usable tensor {name}")
        try:
            reports = [EpochReport(**report) for report in checkpoint.meta["history"]]
        except (KeyError, TypeError) as error:
            raise DamagedCheckpointError(f"{directory} holds no usable reports") from error
        if [report.epoch for report in reports] != list(range(len(reports))):
            raise DamagedCheckpointError(f"{directory} holds reports of other epochs")
        return reports

    def _require_same_run(self, checkpoint: Checkpoint, directory: Path) -> None:
        saved, mine = checkpoint.meta.get("config"), self.config.to_dict()
        if not isinstance(saved, dict):
            raise DamagedCheckpointError(f"{directory} holds a state without a configuration")
        saved = {**TrainConfig().to_dict(), **saved}  # an older version's has fewer fields
        changed = sorted(k for k in {*saved, *mine} - WHERE_IT_RUNS if saved.get(k) != mine.get(k))
        if changed:
            raise CheckpointError(
                f"{directory} holds a run of another configuration: {abbreviate(changed)} differ"
            )
        if checkpoint.meta.get("data_fingerprint") != self._data_fingerprint:
            raise CheckpointError(f"{directory} holds a run on other images")

    def environment(self) -> dict[str, Any]:
        """Say what the numbers depend on beside the configuration."""
        return {
            "device": device_name(self.device),
            "precision": self.precision,
            "executor": self.executor,
            "num_threads": torch.get_num_threads(),
            "torch": torch.__version__,
            "python": platform.python_version(),
            "visible_gpus": os.environ.get("CUDA_VISIBLE_DEVICES"),
        }
