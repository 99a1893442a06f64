"""Whether an executor computes here what the plain one does.

Asked in a process of its own, ``python -m trainer.tools.verify``: a CUDA graph that was recorded
wrongly may hang, end its process, or leave the device unusable to it.
"""

import json
import subprocess
import sys

import torch
from torch import Tensor

from trainer.config.strict import ConfigError
from trainer.config.train import TrainConfig
from trainer.engine.trainer import Trainer
from trainer.io.text import truncate
from trainer.tools.timing import Shape, Variant, child_environment, short_run

EPOCHS = 3
"""The first two with a ramp-up weight of their own."""
TOLERANCE = {"fp32": 0.05, "bf16": 0.3}
"""Relative tolerance on losses and weight updates. Rounding (TF32 included) stays well below it; a
skipped step or a wrong batch exceeds it in both precisions, a learning rate that is 10 % off or a
wrong ramp-up only in fp32, in which every variant is tried as well."""
LIMIT_S = 180.0


def verify_executor(
    config: TrainConfig, shape: Shape, variant: Variant, limit_s: float = LIMIT_S
) -> str:
    """Return why a variant is not to be used here, or an empty string.

    Args:
        config: Of the run; its executor and precision do not count.
        shape: Of the images.
        variant: The variant in doubt.
        limit_s: A process that is not done by then hangs.
    """
    try:
        done = subprocess.run(
            [sys.executable, "-m", "trainer.tools.verify"],
            input=json.dumps([config.to_dict(), shape, variant]),
            capture_output=True,
            text=True,
            timeout=limit_s,
            env=child_environment(),
        )
    except subprocess.TimeoutExpired:
        return f"it was not done after {limit_s:g} s"
    if done.returncode != 0:
        last = (done.stderr.strip().splitlines() or [""])[-1]
        return f"its process ended with {done.returncode} {truncate(last, 200)}".rstrip()
    answer: str = json.loads(done.stdout.splitlines()[-1])
    return answer


def disagreement(config: TrainConfig, shape: Shape, variant: Variant) -> str:
    """Train a few steps on the same images with a variant and with the plain executor.

    Returns:
        In what they differ; empty: but for rounding in nothing.
    """
    for precision in dict.fromkeys(("fp32", variant.precision)):
        plain = _trained(config, shape, Variant("eager", precision))
        doubted = _trained(config, shape, Variant(variant.executor, precision))
        for what, expected in plain.items():
            apart = ((doubted[what] - expected).norm() / expected.norm().clamp_min(1e-12)).item()
            if not apart <= TOLERANCE[precision]:  # a NaN is not
                return f"its {what} differ by {100 * apart:.0f} % from those of 'eager'"
    return ""


def _trained(config: TrainConfig, shape: Shape, variant: Variant) -> dict[str, Tensor]:
    """Return losses and changes of the weights, as vectors of float64 on the CPU."""
    torch.manual_seed(0)  # of the images
    fields = {**variant._asdict(), "ramp_epochs": EPOCHS - 1, "lr": 1e-3}
    trainer = short_run(config, shape, **fields)
    before = _weights(trainer)
    losses = [list(trainer.run_epoch().train.values()) for _ in range(EPOCHS)]
    return {
        "losses": torch.tensor(losses, dtype=torch.float64),
        "updates": _weights(trainer) - before,
    }


def _weights(trainer: Trainer) -> Tensor:
    weights = [weight.detach().double().flatten() for weight in trainer.group.parameters()]
    return torch.cat(weights).cpu()


def _answer() -> str:
    config, shape, variant = json.load(sys.stdin)
    try:
        return disagreement(TrainConfig(**config), Shape(*shape), Variant(*variant))
    except ConfigError as error:
        return str(error)


if __name__ == "__main__":
    print(json.dumps(_answer()))
