"""Exact measures over a whole set of predictions, vectorised; no mean of batch means."""

import torch
import torch.nn.functional as F
from torch import Tensor


def accuracy(logits: Tensor, labels_N: Tensor) -> Tensor:
    """Return the share of right answers in [0, 1] over N, for logits (N, C) or (N, M, C)."""
    labels = labels_N.view(-1, *[1] * (logits.dim() - 2))
    return (logits.argmax(dim=-1) == labels).double().mean(dim=0)


def negative_log_likelihood(logits: Tensor, labels_N: Tensor) -> Tensor:
    """Return the mean over N of ``-log p(label)`` in nats, for logits (N, C) or (N, M, C)."""
    labels = labels_N.view(-1, *[1] * (logits.dim() - 1)).expand(*logits.shape[:-1], 1)
    log_p = F.log_softmax(logits.double(), dim=-1)
    return -log_p.gather(-1, labels).squeeze(-1).mean(dim=0)


def pairwise_diversity(logits_NPC: Tensor) -> Tensor:
    """Return the mean over N and peer pairs of the Euclidean distance of softmax outputs.

    In [0, √2]; 0 for a single peer. Deviates: the authors divide by a hard-coded 3, which is
    right for three peers alone; we divide by the number of pairs, P (P - 1) / 2.
    """
    num_peers = logits_NPC.shape[1]
    if num_peers < 2:
        return logits_NPC.new_zeros((), dtype=torch.float64)
    p_NPC = torch.softmax(logits_NPC.double(), dim=-1)
    first, second = torch.triu_indices(num_peers, num_peers, offset=1, device=p_NPC.device)
    distances: Tensor = torch.linalg.vector_norm(p_NPC[:, first] - p_NPC[:, second], dim=-1)
    return distances.mean()
