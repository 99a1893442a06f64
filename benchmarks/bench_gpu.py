"""What an epoch takes on one GPU: every executor and precision, alone and packed.

    python benchmarks/bench_gpu.py [--budget 480]

ResNet-32, groups of 4, okddip, 50,000 training and 10,000 validation images of 32 × 32 random
pixels; an epoch includes its evaluation. TF32 is off. Epochs of cuda_graph are run whole. What is
launched operation by operation takes a share of the images and is multiplied: its time is
proportional to them. The reference's evaluation is measured on 512 images.
"""

import subprocess
import time
from collections.abc import Callable
from typing import NamedTuple

import click
import reference
import torch
from side_by_side import MEAN, STD, at_once, random_data, reference_group, take_turns

from trainer.config.strict import ConfigError
from trainer.config.train import TrainConfig
from trainer.data.resident import ResidentData
from trainer.engine.trainer import Trainer
from trainer.group.group import eager

TRAIN, VALIDATION, BATCH, MODEL = 50_000, 10_000, 128, "resnet32"
SHARE = 0.1
"""Of the images, for executors that launch operation by operation."""
REFERENCE_STEPS, REFERENCE_IMAGES = 10, 512
TARGET_ALONE_S, TARGET_PACKED_S, TARGET_RATIO = 1.5, 0.7, 8
PACKED_EPOCHS = 4
PACKED_S = 100.0
"""Needed for a packed row at least; else it is skipped."""


class Row(NamedTuple):
    """A piece of an epoch, and how many of it are one."""

    call: Callable[[], object]
    times: float
    measured: str


def configuration(structure: str, precision: str, executor: str) -> TrainConfig:
    return TrainConfig(
        model=MODEL,
        structure=structure,
        precision=precision,
        executor=executor,
        batch_size=BATCH,
        epochs=10_000,
        ramp_epochs=0,
        lr=0.01,
        device="cuda",
        num_threads=4,
    )


def images(share: float) -> ResidentData:
    torch.manual_seed(0)
    return random_data(int(TRAIN * share), int(VALIDATION * share), 32)


def full_precision() -> None:
    torch.backends.cudnn.allow_tf32 = False
    torch.backends.cuda.matmul.allow_tf32 = False


def reference_rows(structure: str) -> dict[str, Row]:
    """Training through the DataLoader, its steps alone, and the evaluation."""
    data = random_data(REFERENCE_STEPS * BATCH, REFERENCE_IMAGES, 32)
    group = reference_group(MODEL, 1.0, 4, structure).cuda()
    optimizer = reference.make_optimizer(group)
    training = reference.loader(data.train, MEAN, STD, batch=BATCH, train=True)
    checking = reference.loader(data.validation, MEAN, STD, batch=BATCH, train=False)
    held = [(x.cuda(), y.cuda()) for x, y in training]

    def train(batches) -> None:
        group.train()
        for x, y in batches:
            reference.train_step(group, optimizer, x.cuda(), y.cuda())

    def check() -> None:
        reference.evaluate(group, ((x.cuda(), y.cuda()) for x, y in checking))

    steps = TRAIN / (REFERENCE_STEPS * BATCH)
    said = f"{REFERENCE_STEPS} steps, × {steps:.0f}"
    return {
        "reference: training": Row(lambda: train(training), steps, said),
        "reference: its steps alone": Row(lambda: train(held), steps, said),
        "reference: evaluation": Row(
            check, VALIDATION / REFERENCE_IMAGES, f"{REFERENCE_IMAGES} images, × 20"
        ),
    }


def trainer_rows(structure: str) -> dict[str, Row]:
    rows: dict[str, Row] = {}
    data = {share: images(share) for share in (SHARE, 1.0)}
    for precision in ("fp32", "bf16"):
        for executor in ("eager", "fused", "cuda_graph", "cuda_graph, one stream"):
            name, _, one_stream = executor.partition(", ")
            share = 1.0 if name == "cuda_graph" else SHARE
            try:
                trainer = Trainer(configuration(structure, precision, name), data[share])
                if one_stream:
                    trainer.group.execute_with(eager)
                trainer.run_epoch()  # records what is recorded
            except (ConfigError, RuntimeError) as error:
                print(f"skipped {structure} {precision} {executor}: {error}", flush=True)
                continue
            said = "whole epochs" if share == 1 else f"{share:g} of an epoch, × {1 / share:g}"
            rows[f"{precision} {executor}"] = Row(trainer.run_epoch, 1 / share, said)
    return rows


def alone(structure: str, budget_s: float) -> None:
    rows = {**reference_rows(structure), **trainer_rows(structure)}
    took = take_turns({name: row.call for name, row in rows.items()}, rounds=5, budget_s=budget_s)
    seconds = {name: took[name] * row.times for name, row in rows.items()}
    evaluation = seconds["reference: evaluation"]
    base = seconds["reference: training"] + evaluation
    lean = seconds["reference: its steps alone"] + evaluation
    for name, s in seconds.items():
        line = f"{structure:<8}{name:<28}{s:>9.2f} s"
        if not name.startswith("reference"):
            line += f"{base / s:>9.1f}×{lean / s:>9.1f}×"
            line += f"  {'yes' if s <= TARGET_ALONE_S else 'no':<4}"
            line += f"{'yes' if base / s >= TARGET_RATIO else 'no':<4}"
        print(f"{line}  ({rows[name].measured})", flush=True)


def packed_trial(structure: str, precision: str, executor: str):
    full_precision()
    trainer = Trainer(configuration(structure, precision, executor), images(1.0))
    trainer.run_epoch()

    def epochs() -> tuple[float, float]:
        started = time.time()
        for _ in range(PACKED_EPOCHS):
            trainer.run_epoch()
        return started, time.time()

    return epochs


def packed(structure: str, precision: str, executor: str, count: int, limit_s: float) -> str:
    """Say what a trial-epoch takes where so many processes share the GPU."""
    try:
        spans = at_once(count, limit_s, packed_trial, structure, precision, executor)
    except RuntimeError as error:
        return f"skipped: {error}"
    starts, stops = zip(*spans, strict=True)
    s = (max(stops) - min(starts)) / (count * PACKED_EPOCHS)
    met = "yes" if s <= TARGET_PACKED_S else "no"
    return f"{s:.2f} s a trial-epoch, {1 / s:.2f} trial-epochs a second, target met: {met}"


def driver() -> str:
    command = ["nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader"]
    try:
        return subprocess.run(command, capture_output=True, text=True, timeout=20).stdout.strip()
    except (OSError, subprocess.TimeoutExpired):
        return "unknown"


@click.command()
@click.option("--budget", default=480.0, show_default=True, help="Seconds for all.")
def main(budget: float) -> None:
    """Print one table; rows that there is no time or no way for say why."""
    if not torch.cuda.is_available():
        print("no GPU here: nothing to measure")
        return
    began = time.perf_counter()
    full_precision()
    gpu = torch.cuda.get_device_name()
    print(f"{gpu}, driver {driver()}, torch {torch.__version__}, CUDA {torch.version.cuda}")
    print(
        f"{MODEL}, groups of 4, okddip, batch {BATCH}, TF32 off; medians of turns, with evaluation"
    )
    print("× : times as fast as the reference, and as its steps without the DataLoader")
    targets = f"≤ {TARGET_ALONE_S} s, ≥ {TARGET_RATIO}×"
    print(f"{'':<36}{'epoch':>11}{'×':>10}{'× steps':>10}  targets {targets}", flush=True)
    for structure in ("branch", "network"):
        left = budget - (time.perf_counter() - began)
        if left < budget / 3:
            print(f"{structure}: skipped, {left:.0f} s are left")
            continue
        alone(structure, budget_s=budget / 8)
        torch.cuda.empty_cache()
    print(f"packed: processes on this GPU, whole epochs; target ≤ {TARGET_PACKED_S} s")
    for precision, count in (("bf16", 4), ("bf16", 2), ("fp32", 4), ("fp32", 2)):
        left = budget - (time.perf_counter() - began)
        name = f"branch  {precision} cuda_graph, {count} processes"
        if left < PACKED_S:
            print(f"{name}: skipped, {left:.0f} s are left", flush=True)
            continue
        print(f"{name}: {packed('branch', precision, 'cuda_graph', count, left)}", flush=True)


if __name__ == "__main__":
    main()
