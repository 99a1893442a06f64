"""Online Knowledge Distillation with Diverse Peers (Chen et al., AAAI 2020).

Two levels: every auxiliary peer learns from its own attention-weighted mix of all peers, and the
group leader learns from the mean of the peers. Attention makes the targets differ, so that the
peers stay diverse. The functions are pure; shapes: N batch, P peers, C classes, D feature width,
d attention width.
"""

from typing import Literal, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from trainer.config import TrainConfig
from trainer.group import GroupOutput
from trainer.methods.base import Method

AUTHORS_EPSILON = 1e-7
"""Added to the target probabilities, as the authors' code does. The paper's equation, which
aggregates probabilities and is not in that code, goes without."""

Aggregate = Literal["logits", "probabilities"]


class OKDDipLosses(NamedTuple):
    """The parts of the loss, scalars; the distillation terms are still without λ and w(e).

    Attributes:
        total: ``ce_peers + ce_leader + w(e) (λ₁ kd_peers + λ₂ kd_leader)``.
        ce_peers: Cross-entropy, summed over the peers.
        ce_leader: Cross-entropy of the leader.
        kd_peers: First-level distillation, summed over the peers, with T² inside.
        kd_leader: Second-level distillation, with T² inside.
    """

    total: Tensor
    ce_peers: Tensor
    ce_leader: Tensor
    kd_peers: Tensor
    kd_leader: Tensor


def attention(features_NPD: Tensor, query_dD: Tensor, key_dD: Tensor) -> Tensor:
    """Return who listens to whom: ``A[n,a,b] = softmax_b((W_L h_a)ᵀ (W_E h_b))``, (N, P, P).

    Rows sum to 1, a peer's own share included; there is no 1/√d (paper, eq. 5).
    """
    query_NPd = features_NPD @ query_dD.T
    key_NPd = features_NPD @ key_dD.T
    return torch.softmax(query_NPd @ key_NPd.transpose(1, 2), dim=-1)


def kl_divergence(
    target_probabilities: Tensor, logits: Tensor, temperature: float, epsilon: float = 0.0
) -> Tensor:
    """Return ``T² · mean_n Σ_c p (log p − log q)``, q the softmax of ``logits / T``.

    Args:
        target_probabilities: p, (N, ..., C), already softened by T.
        logits: Of the student, same shape. Dimensions between N and C are summed over.
        temperature: T > 0.
        epsilon: Added to p; the authors add 1e-7.
    """
    # A probability that underflowed to 0 would have an infinite gradient of p log p.
    p = (target_probabilities + epsilon).clamp_min(torch.finfo(logits.dtype).tiny)
    log_q = F.log_softmax(logits / temperature, dim=-1)
    return temperature**2 * (p * (p.log() - log_q)).sum() / logits.shape[0]


def peer_targets(
    peer_logits_NPC: Tensor, attention_NPP: Tensor, temperature: float, aggregate: Aggregate
) -> Tensor:
    """Return each peer's own target distribution (N, P, C), softened by T (paper, eq. 6)."""
    if aggregate == "probabilities":
        return attention_NPP @ torch.softmax(peer_logits_NPC / temperature, dim=-1)
    return torch.softmax(attention_NPP @ peer_logits_NPC / temperature, dim=-1)


def leader_target(peer_logits_NPC: Tensor, temperature: float, aggregate: Aggregate) -> Tensor:
    """Return the leader's target distribution (N, C): the mean of the peers (paper, eq. 9)."""
    if aggregate == "probabilities":
        return torch.softmax(peer_logits_NPC / temperature, dim=-1).mean(dim=1)
    return torch.softmax(peer_logits_NPC.mean(dim=1) / temperature, dim=-1)


def okddip_losses(
    logits_NMC: Tensor,
    peer_features_NPD: Tensor,
    query_dD: Tensor,
    key_dD: Tensor,
    labels_N: Tensor,
    *,
    temperature: float = 3.0,
    ramp_weight: float = 1.0,
    peer_weight: float = 1.0,
    leader_weight: float = 1.0,
    aggregate: Aggregate = "logits",
    detach_targets: bool = False,
    label_smoothing: float = 0.0,
) -> OKDDipLosses:
    """Return the loss of a batch and its parts (paper, eq. 10: sums over members, not means).

    Args:
        logits_NMC: Of all members; the last is the leader, M = P + 1.
        peer_features_NPD: Pooled features of the peers; the leader takes no part in attention.
        query_dD: W_L, shared by all peers.
        key_dD: W_E, shared by all peers.
        labels_N: Class indices, int64.
        temperature: T > 0, of both levels.
        ramp_weight: w(e) in [0, 1].
        peer_weight: λ₁ ≥ 0.
        leader_weight: λ₂ ≥ 0.
        aggregate: Mix logits (authors' code, Figure 1) or probabilities (the paper's equation).
        detach_targets: Stop the gradient at the targets. The authors do not: it is the only way
            in which W_L and W_E learn.
        label_smoothing: Of the cross-entropy, in [0, 1).
    """
    peers_NPC, leader_NC = logits_NMC[:, :-1], logits_NMC[:, -1]
    num_peers = peers_NPC.shape[1]
    ce_peers = num_peers * F.cross_entropy(
        peers_NPC.flatten(0, 1),
        labels_N.repeat_interleave(num_peers),
        label_smoothing=label_smoothing,
    )
    ce_leader = F.cross_entropy(leader_NC, labels_N, label_smoothing=label_smoothing)

    attention_NPP = attention(peer_features_NPD, query_dD, key_dD)
    first_NPC = peer_targets(peers_NPC, attention_NPP, temperature, aggregate)
    second_NC = leader_target(peers_NPC, temperature, aggregate)
    if detach_targets:
        first_NPC, second_NC = first_NPC.detach(), second_NC.detach()
    epsilon = AUTHORS_EPSILON if aggregate == "logits" else 0.0
    kd_peers = kl_divergence(first_NPC, peers_NPC, temperature, epsilon)
    kd_leader = kl_divergence(second_NC, leader_NC, temperature, epsilon)

    distillation = peer_weight * kd_peers + leader_weight * kd_leader
    total = ce_peers + ce_leader + ramp_weight * distillation
    return OKDDipLosses(total, ce_peers, ce_leader, kd_peers, kd_leader)


class OKDDip(Method):
    """OKDDip with its two learned projections W_L and W_E (bias-free, D → d)."""

    def __init__(
        self,
        feature_dim: int,
        attention_dim: int,
        *,
        temperature: float,
        peer_weight: float,
        leader_weight: float,
        aggregate: Aggregate,
        detach_targets: bool,
        label_smoothing: float,
    ) -> None:
        super().__init__()
        self.query = nn.Linear(feature_dim, attention_dim, bias=False)
        self.key = nn.Linear(feature_dim, attention_dim, bias=False)
        self.temperature = temperature
        self.peer_weight = peer_weight
        self.leader_weight = leader_weight
        self.aggregate = aggregate
        self.detach_targets = detach_targets
        self.label_smoothing = label_smoothing

    @classmethod
    def from_config(cls, config: TrainConfig, feature_dim: int) -> "OKDDip":
        """Make the method of a run; ``attention_dim: null`` is the paper's D/8, at least 1."""
        return cls(
            feature_dim,
            config.attention_dim or max(1, feature_dim // 8),
            temperature=config.temperature,
            peer_weight=config.peer_weight,
            leader_weight=config.leader_weight,
            aggregate=config.aggregate,
            detach_targets=config.detach_targets,
            label_smoothing=config.label_smoothing,
        )

    def losses(
        self, output: GroupOutput, labels_N: Tensor, ramp_weight: float
    ) -> dict[str, Tensor]:
        """Return ``total, ce_peers, ce_leader, kd_peers, kd_leader`` (see ``OKDDipLosses``)."""
        parts = okddip_losses(
            output.logits_NMC,
            output.features_NMD[:, :-1],
            self.query.weight,
            self.key.weight,
            labels_N,
            temperature=self.temperature,
            ramp_weight=ramp_weight,
            peer_weight=self.peer_weight,
            leader_weight=self.leader_weight,
            aggregate=self.aggregate,
            detach_targets=self.detach_targets,
            label_smoothing=self.label_smoothing,
        )
        return parts._asdict()
