"""Evaluation of a group on the validation images."""

from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor

from trainer.data.batches import Batch as LabelledImages
from trainer.engine import metrics
from trainer.group.group import PeerGroup
from trainer.methods import Method

COLLAPSED_BELOW = 0.01
"""Peers that disagree on fewer images than this, after all, are one network many times over."""


@torch.inference_mode()
def evaluate(group: PeerGroup, method: Method, batches: Iterable[LabelledImages]) -> dict[str, Any]:
    """Measure a group in eval mode and fp32, the precision that the leader is used in.

    Args:
        group: The members.
        method: Says who belongs to the ensemble, and who listens to whom.
        batches: The whole set; normalised images and labels.

    Returns:
        The fields of ``EpochReport`` that describe validation; exact over the set.
    """
    group.eval()
    method.eval()
    logits, ensembles, labels, attention = [], [], [], _Attention()
    for images_NCHW, labels_N in batches:
        output = group(images_NCHW)
        logits.append(output.logits_NMC)
        ensembles.append(method.ensemble_logits(output))
        labels.append(labels_N)
        attention.add(method.attention(output))
    logits_NMC, labels_N = torch.cat(logits), torch.cat(labels)
    ensemble_NC, peers_NPC = torch.cat(ensembles), method.teachers(logits_NMC)
    leader_NC = logits_NMC[:, -1]
    leader_accuracy = metrics.accuracy(leader_NC, labels_N).item()
    ensemble_accuracy = metrics.accuracy(ensemble_NC, labels_N).item()
    peer_accuracy_P = metrics.accuracy(peers_NPC, labels_N)
    disagreement = metrics.disagreement(peers_NPC).item()
    return {
        "leader_accuracy": leader_accuracy,
        "leader_nll": metrics.negative_log_likelihood(leader_NC, labels_N).item(),
        "leader_ece": metrics.expected_calibration_error(leader_NC, labels_N).item(),
        "peer_accuracy": peer_accuracy_P.tolist(),
        "peer_nll": metrics.negative_log_likelihood(peers_NPC, labels_N).tolist(),
        "mean_peer_accuracy": peer_accuracy_P.mean().item(),
        "ensemble_accuracy": ensemble_accuracy,
        "ensemble_nll": metrics.negative_log_likelihood(ensemble_NC, labels_N).item(),
        "ensemble_gap": ensemble_accuracy - leader_accuracy,
        "diversity": metrics.pairwise_diversity(peers_NPC).item(),
        "disagreement": disagreement,
        "q_statistic": metrics.q_statistic(peers_NPC, labels_N).item(),
        "collapsed": peers_NPC.shape[1] > 1 and disagreement < COLLAPSED_BELOW,
        "attention": attention.mean(),
        "attention_entropy": attention.entropy(),
    }


class _Attention:
    """Sums up attention over batches, on the device; methods without it leave it empty."""

    def __init__(self) -> None:
        self._sums_PP: list[Tensor] = []
        self._entropies: list[Tensor] = []
        self._count = 0

    def add(self, attention_NPP: Tensor | None) -> None:
        if attention_NPP is None:
            return
        self._sums_PP.append(attention_NPP.double().sum(dim=0))
        self._entropies.append(len(attention_NPP) * metrics.attention_entropy(attention_NPP))
        self._count += len(attention_NPP)

    def mean(self) -> list[list[float]] | None:
        if not self._count:
            return None
        mean: list[list[float]] = (torch.stack(self._sums_PP).sum(dim=0) / self._count).tolist()
        return mean

    def entropy(self) -> float | None:
        return torch.stack(self._entropies).sum().item() / self._count if self._count else None
