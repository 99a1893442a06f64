"""How fast a configuration trains here: executors and precisions, one by one and side by side.

Everything is timed on random images of the data's shape, in epochs of a few steps with evaluation,
through the Trainer itself. ``python -m trainer.tools.timing`` is one of the processes that
``side_by_side`` starts, or answers how long a whole epoch takes.
"""

import itertools
import json
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from contextlib import ExitStack, suppress
from typing import Any, NamedTuple

import torch

from trainer.config.strict import ConfigError
from trainer.config.train import TrainConfig
from trainer.data.images import ImageSet
from trainer.data.resident import ResidentData
from trainer.engine.trainer import NonFiniteLossError, Trainer

STEPS = 4
"""Steps of each timed epoch."""
ROUNDS = 3
ENOUGH_S = 1.5
"""Seconds for which rounds of short epochs are repeated: they are noisy."""
MOST_S = 60.0
"""Seconds after which no further round of long epochs starts."""
SAMPLE_STEPS = 10
"""Steps of the sample that a whole epoch's length is estimated from."""
SAMPLE_S = 4.0
"""Seconds for which such samples are repeated."""


class Shape(NamedTuple):
    """The shape of a data set: its images and classes."""

    channels: int
    height: int
    width: int
    num_classes: int


class Variant(NamedTuple):
    """A way to compute a run."""

    executor: str
    precision: str


def random_images(count: int, shape: Shape) -> ImageSet:
    """Return random pixels with all classes in turn."""
    pixels = torch.randint(0, 256, (count, *shape[:3]), dtype=torch.uint8)
    names = tuple(map(str, range(shape.num_classes)))
    return ImageSet(pixels, torch.arange(count) % shape.num_classes, names)


def random_data(train: int, validation: int, shape: Shape) -> ResidentData:
    """Return random training and validation images, cropped and flipped as those of CIFAR."""
    return ResidentData(
        train=random_images(train, shape),
        validation=random_images(validation, shape),
        mean_C=(0.5,) * shape.channels,
        std_C=(0.25,) * shape.channels,
        pad=shape.height // 8,
        flip=True,
        fingerprint="random",
    )


def short_run(
    config: TrainConfig, shape: Shape, images: tuple[int, int] | None = None, **changes: Any
) -> Trainer:
    """Return a trainer of a few steps an epoch that never ends.

    Args:
        config: Of the run.
        shape: Of the images.
        images: Training and validation images of an epoch; None: those of a few steps.
        changes: Fields of the configuration.

    Raises:
        ConfigError: There is no such executor or precision here, or not for this network.
    """
    of_one = {"method": "single", "teacher": None} if config.method == "kd" else {}
    # Its losses mean nothing: a learning rate that cannot make them infinite.
    settings = {"epochs": 100_000, "lr": 1e-4, **of_one, **changes}
    run = TrainConfig(**{**config.to_dict(), "data": {}, **settings})
    few = STEPS * config.batch_size, max(config.batch_size, shape.num_classes)
    return Trainer(run, random_data(*(images or few), shape))


def epoch_seconds(config: TrainConfig, shape: Shape, train: int, validation: int) -> float:
    """Return how long a whole epoch takes, evaluation included.

    Measured on a sample of the images that has as many validation images for each training image.

    Args:
        config: Of the run.
        shape: Of the images.
        train: Training images of an epoch.
        validation: Validation images.
    """
    sample = min(train, SAMPLE_STEPS * config.batch_size)
    share = sample / train
    run = short_run(config, shape, (sample, max(1, round(validation * share))))
    run.run_epoch()  # warms up
    taken: list[float] = []
    started = time.monotonic()
    while len(taken) < ROUNDS and time.monotonic() - started < SAMPLE_S or not taken:
        taken.append(run.run_epoch().seconds)
    return statistics.median(taken) / share


def time_variants(
    config: TrainConfig, shape: Shape, variants: Sequence[Variant]
) -> dict[Variant, float]:
    """Return the median seconds of a short epoch of each variant that this machine has.

    They take turns, so that other load falls on all alike.

    Args:
        config: Of the run; its executor and precision do not count.
        shape: Of the images.
        variants: To be tried.
    """
    runs: dict[Variant, Trainer] = {}
    for variant in variants:
        try:
            runs[variant] = short_run(config, shape, **variant._asdict())
            runs[variant].run_epoch()  # warms up
        except (ConfigError, NonFiniteLossError, torch.OutOfMemoryError):
            runs.pop(variant, None)
    times: dict[Variant, list[float]] = {variant: [] for variant in runs}
    started = time.monotonic()
    for round_ in itertools.count(1):
        for variant, run in runs.items():
            times[variant].append(run.run_epoch().seconds)
        spent_s = time.monotonic() - started
        if spent_s > MOST_S or (round_ >= ROUNDS and spent_s > ENOUGH_S) or not runs:
            break
    return {variant: statistics.median(seconds) for variant, seconds in times.items()}


class Load(NamedTuple):
    """The throughput of runs at the same time.

    Attributes:
        steps_per_s: Of all of them together.
        memory_gib: Of the device, of each; 0 on the CPU.
    """

    steps_per_s: float
    memory_gib: float


def side_by_side(config: TrainConfig, shape: Shape, runs: int, seconds: float = 3.0) -> Load | None:
    """Train in several processes at once, and return their joint throughput.

    Args:
        config: Of each; its ``num_threads`` is that of one process.
        shape: Of the images.
        runs: Processes.
        seconds: How long they are watched.

    Returns:
        None where one of them failed: they do not fit.
    """
    order = json.dumps({"config": config.to_dict(), "shape": shape, "seconds": seconds}) + "\n"
    with ExitStack() as held:
        children = [held.enter_context(_start()) for _ in range(runs)]
        try:
            if not all(_told(children, order)):  # each answers when it has warmed up
                return None
            answers = _told(children, "go\n")
        finally:
            for child in children:
                child.kill()
    if not all(answers):
        return None
    results = [json.loads(answer) for answer in answers]
    return Load(sum(r["steps_per_s"] for r in results), max(r["memory_gib"] for r in results))


def _start() -> "subprocess.Popen[str]":
    return subprocess.Popen(
        [sys.executable, "-m", "trainer.tools.timing"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
        env=child_environment(),
    )


def child_environment() -> dict[str, str]:
    """Return an environment in which another Python finds the modules that this one does."""
    return {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}


def _told(children: "Sequence[subprocess.Popen[str]]", line: str) -> list[str]:
    """Send a line to all, and return their answers; an empty one of a child that has ended."""
    for child in children:
        assert child.stdin is not None
        with suppress(BrokenPipeError):
            child.stdin.write(line)
            child.stdin.flush()
    return [child.stdout.readline() for child in children if child.stdout is not None]


def _child() -> None:
    order: Mapping[str, Any] = json.loads(sys.stdin.readline())
    if "configs" in order:
        shape, images = Shape(*order["shape"]), order["images"]
        configs = [TrainConfig(**config) for config in order["configs"]]
        print(json.dumps([epoch_seconds(config, shape, *images) for config in configs]), flush=True)
        return
    run = short_run(TrainConfig(**order["config"]), Shape(*order["shape"]))
    run.run_epoch()
    print("ready", flush=True)
    sys.stdin.readline()
    started, steps = time.monotonic(), 0
    while (elapsed := time.monotonic() - started) < order["seconds"]:
        run.run_epoch()
        steps += STEPS
    of_gpu = run.device.type == "cuda"
    memory = torch.cuda.max_memory_reserved(run.device) if of_gpu else 0
    print(json.dumps({"steps_per_s": steps / elapsed, "memory_gib": memory / 2**30}), flush=True)


if __name__ == "__main__":
    _child()
