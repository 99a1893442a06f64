"""Exact measures over a whole set of predictions, vectorised; no mean of batch means."""

import torch
import torch.nn.functional as F
from torch import Tensor


def accuracy(logits: Tensor, labels_N: Tensor) -> Tensor:
    """Return the share of right answers in [0, 1] over N, for logits (N, C) or (N, M, C).

    Deviates: the OKDDip authors average the batches' accuracies, which counts the images of a
    smaller last batch more than the others; ours is exact over the set.
    """
    labels = labels_N.view(-1, *[1] * (logits.dim() - 2))
    return (logits.argmax(dim=-1) == labels).double().mean(dim=0)


def negative_log_likelihood(logits: Tensor, labels_N: Tensor) -> Tensor:
    """Return the mean over N of ``-log p(label)`` in nats, for logits (N, C) or (N, M, C)."""
    labels = labels_N.view(-1, *[1] * (logits.dim() - 1)).expand(*logits.shape[:-1], 1)
    log_p = F.log_softmax(logits.double(), dim=-1)
    return -log_p.gather(-1, labels).squeeze(-1).mean(dim=0)


def disagreement(logits_NPC: Tensor) -> Tensor:
    """Return the mean over pairs of the share of images on which the two predict another class.

    In [0, 1] (Kuncheva & Whitaker 2003 count right and wrong; we compare the classes themselves, so
    that two different mistakes count as disagreement). 0 for a single member.
    """
    predicted_NP = logits_NPC.argmax(dim=-1)
    first, second = _pairs(logits_NPC)
    if len(first) == 0:
        return logits_NPC.new_zeros((), dtype=torch.float64)
    return (predicted_NP[:, first] != predicted_NP[:, second]).double().mean()


def q_statistic(logits_NPC: Tensor, labels_N: Tensor) -> Tensor:
    """Return the mean over pairs of Yule's Q (Kuncheva & Whitaker 2003, eq. 4), in [-1, 1].

    ``Q = (n11 n00 − n01 n10) / (n11 n00 + n01 n10)`` over images that both, none or one of the two
    get right; 0 for independent members, 1 for members that fail together. A pair whose Q is 0/0
    counts as 1: nothing shows that the two differ.
    """
    right_NP = (logits_NPC.argmax(dim=-1) == labels_N[:, None]).double()
    first, second = _pairs(logits_NPC)
    if len(first) == 0:
        return logits_NPC.new_ones((), dtype=torch.float64)
    a, b = right_NP[:, first], right_NP[:, second]
    together = (a * b).sum(dim=0) * ((1 - a) * (1 - b)).sum(dim=0)
    apart = (a * (1 - b)).sum(dim=0) * ((1 - a) * b).sum(dim=0)
    total = together + apart
    return torch.where(total == 0, 1.0, (together - apart) / total).mean()


def expected_calibration_error(logits_NC: Tensor, labels_N: Tensor, bins: int = 15) -> Tensor:
    """Return the ECE in [0, 1]: mean gap of confidence and accuracy (Guo et al. 2017, eq. 3).

    Args:
        logits_NC: Of one network.
        labels_N: Class indices.
        bins: Of equal width over confidence.
    """
    confidence_N, predicted_N = torch.softmax(logits_NC.double(), dim=-1).max(dim=-1)
    right_N = (predicted_N == labels_N).double()
    bin_N = (confidence_N * bins).ceil().long().clamp(1, bins) - 1
    gap = torch.zeros(bins, dtype=torch.float64, device=logits_NC.device)
    gap.index_add_(0, bin_N, confidence_N - right_N)
    return gap.abs().sum() / len(labels_N)


def attention_entropy(attention_NPP: Tensor) -> Tensor:
    """Return the mean entropy of the rows in nats, in [0, log P]; log P is a plain mean."""
    a_NPP = attention_NPP.double()
    return -torch.xlogy(a_NPP, a_NPP).sum(dim=-1).mean()


def _pairs(logits_NPC: Tensor) -> tuple[Tensor, Tensor]:
    num_peers = logits_NPC.shape[1]
    first, second = torch.triu_indices(num_peers, num_peers, offset=1, device=logits_NPC.device)
    return first, second


def pairwise_diversity(logits_NPC: Tensor) -> Tensor:
    """Return the mean over N and peer pairs of the Euclidean distance of softmax outputs.

    In [0, √2]; 0 for a single peer. Deviates: the authors divide by a hard-coded 3, which is
    right for three peers alone; we divide by the number of pairs, P (P - 1) / 2.
    """
    first, second = _pairs(logits_NPC)
    if len(first) == 0:
        return logits_NPC.new_zeros((), dtype=torch.float64)
    p_NPC = torch.softmax(logits_NPC.double(), dim=-1)
    distances: Tensor = torch.linalg.vector_norm(p_NPC[:, first] - p_NPC[:, second], dim=-1)
    return distances.mean()
