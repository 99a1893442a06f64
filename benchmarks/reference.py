"""The textbook reference that the benchmarks compare with: what one writes first, and it is right.

Members one after the other in fp32 and NCHW; images through PIL transforms in a DataLoader; metrics
batch by batch, the diversity with a Python loop over images. Same networks, loss and optimiser as
the trainer's, so that the ratio is that of how they are computed. Nothing in here is slow on
purpose, and nothing is tuned.
"""

import itertools
from collections.abc import Iterable

import torch
import torch.nn.functional as F
import torchvision.transforms as T
from PIL import Image
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset

from trainer.data.images import ImageSet
from trainer.models import Architecture

TEMPERATURE = 3.0


class Group(nn.Module):
    """M networks, or M branches on one trunk, and OKDDip's two projections."""

    def __init__(self, architecture: Architecture, num_members: int, structure: str) -> None:
        super().__init__()
        trunks = num_members if structure == "network" else 1
        self.trunks = nn.ModuleList(architecture.trunk() for _ in range(trunks))
        self.branches = nn.ModuleList(architecture.branch() for _ in range(num_members))
        self.heads = nn.ModuleList(architecture.classifier() for _ in range(num_members))
        width = architecture.feature_dim
        self.query = nn.Linear(width, max(1, width // 8), bias=False)
        self.key = nn.Linear(width, max(1, width // 8), bias=False)

    def forward(self, images: Tensor) -> tuple[list[Tensor], Tensor]:
        """Return every member's logits, and who of the peers listens to whom."""
        hidden = [trunk(images) for trunk in self.trunks]
        features, logits = [], []
        for index, branch in enumerate(self.branches):
            feature = branch(hidden[index % len(hidden)])
            features.append(feature)
            logits.append(self.heads[index](feature))
        peers = torch.stack(features[:-1], dim=1)
        attention = torch.softmax(self.query(peers) @ self.key(peers).transpose(1, 2), dim=-1)
        return logits, attention


def kl(target_logits: Tensor, logits: Tensor) -> Tensor:
    target = F.softmax(target_logits / TEMPERATURE, dim=1)
    log_q = F.log_softmax(logits / TEMPERATURE, dim=1)
    return F.kl_div(log_q, target, reduction="batchmean") * TEMPERATURE**2


def loss_of(logits: list[Tensor], attention: Tensor, labels: Tensor) -> Tensor:
    """OKDDip's loss (paper, eq. 10) with all weights 1."""
    loss = sum(F.cross_entropy(member, labels) for member in logits)
    peers = torch.stack(logits[:-1], dim=1)
    for index, target in enumerate((attention @ peers).unbind(1)):
        loss = loss + kl(target, logits[index])
    return loss + kl(peers.mean(dim=1), logits[-1])


def train_step(
    group: Group, optimizer: torch.optim.Optimizer, images: Tensor, labels: Tensor
) -> float:
    optimizer.zero_grad()
    logits, attention = group(images)
    loss = loss_of(logits, attention, labels)
    loss.backward()
    optimizer.step()
    return loss.item()


def make_optimizer(group: Group) -> torch.optim.Optimizer:
    return torch.optim.SGD(
        group.parameters(), lr=0.1, momentum=0.9, nesterov=True, weight_decay=5e-4
    )


class Pictures(Dataset):
    """An image set as torchvision's data sets hold it: PIL images, transformed when asked for."""

    def __init__(self, images: ImageSet, transform: T.Compose) -> None:
        pixels = images.images_NCHW.permute(0, 2, 3, 1).numpy()
        self.pictures = [Image.fromarray(picture) for picture in pixels]
        self.labels = images.labels_N.tolist()
        self.transform = transform

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        return self.transform(self.pictures[index]), self.labels[index]


def loader(
    images: ImageSet, mean: tuple[float, ...], std: tuple[float, ...], *, batch: int, train: bool
) -> DataLoader:
    """Make a DataLoader without worker processes: the cores are taken by the training."""
    augment = [T.RandomCrop(images.size, padding=4), T.RandomHorizontalFlip()] if train else []
    transform = T.Compose([*augment, T.ToTensor(), T.Normalize(mean, std)])
    return DataLoader(Pictures(images, transform), batch_size=batch, shuffle=train)


@torch.no_grad()
def evaluate(group: Group, batches: Iterable[tuple[Tensor, Tensor]]) -> dict[str, float]:
    """Leader, peers' and ensemble accuracy and NLL, and the diversity of the peers."""
    group.eval()
    seen, distance = 0, 0.0
    right = [0] * (len(group.branches) + 1)
    nll = [0.0] * len(right)
    for images, labels in batches:
        logits, _ = group(images)
        peers = logits[:-1]
        ensemble = sum(peers) / len(peers)
        for index, one in enumerate([*logits, ensemble]):
            right[index] += (one.argmax(dim=1) == labels).sum().item()
            nll[index] += F.cross_entropy(one, labels, reduction="sum").item()
        distance += diversity_sum([F.softmax(peer, dim=1) for peer in peers])
        seen += len(labels)
    return {
        "leader_accuracy": right[-2] / seen,
        "ensemble_accuracy": right[-1] / seen,
        "leader_nll": nll[-2] / seen,
        "ensemble_nll": nll[-1] / seen,
        "diversity": distance / seen,
    }


def diversity_sum(probabilities: list[Tensor]) -> float:
    """Sum, over the images, of the mean Euclidean distance between two peers' outputs."""
    pairs = list(itertools.combinations(range(len(probabilities)), 2))
    total = 0.0
    for image in range(len(probabilities[0])):
        distances = [
            torch.dist(probabilities[a][image], probabilities[b][image]).item() for a, b in pairs
        ]
        total += sum(distances) / len(distances)
    return total
