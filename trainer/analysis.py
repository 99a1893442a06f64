"""How flat the minimum is that a leader lies in: ``python -m trainer.analysis DIR``.

The literature on flat minima (Chaudhari et al. 2017, Entropy-SGD; Zhang et al. 2018, section 3.6 of
DML) perturbs the weights with Gaussian noise of growing standard deviation and watches the
accuracy fall: a network in a wide valley loses less.
"""

import dataclasses
import json
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path

import click
import torch
from torch import Tensor

from trainer.config.data import DataConfig
from trainer.data.base import DevelopmentData
from trainer.data.batches import Batch as LabelledImages
from trainer.data.load import load_development_data
from trainer.engine import metrics
from trainer.errors import TrainerError
from trainer.group.group import Network
from trainer.io.files import write_json
from trainer.leader.leader import load_leader

SIGMAS = (0.0, 0.02, 0.05, 0.1, 0.15, 0.2, 0.3, 0.5)
BATCH = 512


@dataclasses.dataclass(frozen=True)
class NoisePoint:
    """Validation accuracy and NLL under noise of one size.

    Attributes:
        sigma: Standard deviation, as a share of each weight tensor's root mean square, so that
            networks with larger weights are not called flatter for it.
        accuracy: Mean over the draws, in [0, 1].
        accuracy_sd: Standard deviation over the draws.
        nll: Mean over the draws, nats.
    """

    sigma: float
    accuracy: float
    accuracy_sd: float
    nll: float


@torch.inference_mode()
def flatness(
    network: Network,
    data: DevelopmentData,
    *,
    sigmas: Sequence[float] = SIGMAS,
    draws: int = 5,
    seed: int = 0,
) -> list[NoisePoint]:
    """Return the accuracy of a network whose weights are disturbed.

    Convolutions and linear layers are disturbed; batch norm is left alone. The same draws, scaled,
    serve every σ and every network of the same shape, so that curves can be compared.

    Args:
        network: In eval mode, on the CPU; its weights are the same afterwards.
        data: Its validation images are used, never the test set.
        sigmas: Relative standard deviations, each ≥ 0.
        draws: Disturbances for each σ, ≥ 1.
        seed: Of the draws.
    """
    batches = data.validation_batches(BATCH, torch.device("cpu"))
    weights = [p for p in network.parameters() if p.dim() > 1]
    clean = [weight.clone() for weight in weights]
    points = []
    for sigma in sigmas:
        found = []
        for draw in range(draws if sigma > 0 else 1):
            generator = torch.Generator().manual_seed(seed * 1_000_003 + draw)
            for weight, original in zip(weights, clean, strict=True):
                noise = torch.randn(original.shape, generator=generator)
                weight.copy_(original + sigma * original.square().mean().sqrt() * noise)
            found.append(_measure(network, batches))
        accuracy, nll = torch.tensor(found, dtype=torch.float64).unbind(dim=1)
        spread = accuracy.std().item() if len(found) > 1 else 0.0
        points.append(NoisePoint(sigma, accuracy.mean().item(), spread, nll.mean().item()))
    for weight, original in zip(weights, clean, strict=True):
        weight.copy_(original)
    return points


def _measure(network: Network, batches: Iterable[LabelledImages]) -> tuple[float, float]:
    outputs: list[tuple[Tensor, Tensor]] = [(network(x), labels) for x, labels in batches]
    logits_NC, labels_N = (torch.cat(parts) for parts in zip(*outputs, strict=True))
    return (
        metrics.accuracy(logits_NC, labels_N).item(),
        metrics.negative_log_likelihood(logits_NC, labels_N).item(),
    )


@click.command()
@click.argument("directory", metavar="DIR", type=click.Path(path_type=Path, file_okay=False))
@click.option("--draws", type=click.IntRange(1), default=5, show_default=True)
@click.option("--seed", type=click.IntRange(0), default=0, show_default=True)
def main(directory: Path, draws: int, seed: int) -> None:
    """Show how flat the minimum of the leader in DIR is, on its validation images.

    DIR is a run, a trial or a search; flatness.json is written into it.
    """
    try:
        leader = load_leader(directory / "leader")
        data = load_development_data(DataConfig(**leader.info.trained_with["data"]), directory)
    except (OSError, TrainerError, json.JSONDecodeError) as error:
        click.echo(f"Error: {directory}: {error}", err=True)
        sys.exit(2)
    images = "validation images"
    if leader.info.trained_on != "train":
        images += ", which it was trained on"
    points = flatness(leader.module, data, draws=draws, seed=seed)
    click.echo(f"{'sigma':>7}  {'accuracy':>9}  {'± sd':>7}  {'nll':>8}   ({images})")
    for p in points:
        click.echo(f"{p.sigma:7.3f}  {p.accuracy:9.2%}  {p.accuracy_sd:7.2%}  {p.nll:8.3f}")
    write_json(directory / "flatness.json", [dataclasses.asdict(p) for p in points])


if __name__ == "__main__":
    main(prog_name="python -m trainer.analysis")
