"""Online Knowledge Distillation with Diverse Peers (Chen et al., AAAI 2020).

Two levels: every auxiliary peer learns from its own attention-weighted mix of all peers, and the
group leader learns from the mean of the peers. Attention makes the targets differ, so that the
peers stay diverse. The functions are pure; shapes: N batch, P peers, C classes, D feature width,
d attention width.
"""

from functools import partial
from typing import Literal, NamedTuple

import torch
from torch import Tensor, nn

from trainer.config.train import TrainConfig
from trainer.group.group import GroupOutput
from trainer.methods.base import (
    AUTHORS_EPSILON,
    Batch,
    Method,
    classification_loss,
    kl_divergence,
)
from trainer.models import Architecture

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
    attention_NPP: Tensor,
    labels_N: Tensor,
    *,
    temperature: float = 3.0,
    ramp_weight: float | Tensor = 1.0,
    peer_weight: float = 1.0,
    leader_weight: float = 1.0,
    aggregate: Aggregate = "logits",
    detach_targets: bool = False,
    two_level: bool = True,
    label_smoothing: float = 0.0,
    confidence_penalty: float = 0.0,
) -> OKDDipLosses:
    """Return the loss of a batch and its parts (paper, eq. 10: sums over members, not means).

    Args:
        logits_NMC: Of all members; with two levels the last is the leader, M = P + 1, else M = P.
        attention_NPP: Who listens to whom; rows sum to 1. The leader takes no part.
        labels_N: Class indices, int64.
        temperature: T > 0, of both levels.
        ramp_weight: w(e) in [0, 1].
        peer_weight: λ₁ ≥ 0.
        leader_weight: λ₂ ≥ 0.
        aggregate: Mix logits (authors' code, Figure 1) or probabilities (the paper's equation).
        detach_targets: Stop the gradient at the targets. The authors do not: it is the only way
            in which W_L and W_E learn.
        two_level: Whether there is a leader; without one its two terms are 0.
        label_smoothing: Of the cross-entropy, in [0, 1).
        confidence_penalty: β ≥ 0 on the members' entropy.
    """
    peers_NPC = logits_NMC[:, :-1] if two_level else logits_NMC
    classify = partial(
        classification_loss,
        labels_N=labels_N,
        label_smoothing=label_smoothing,
        confidence_penalty=confidence_penalty,
    )
    distil = partial(
        _distil,
        temperature=temperature,
        # The paper's equation, which mixes probabilities and is not in the code, has no epsilon.
        epsilon=AUTHORS_EPSILON if aggregate == "logits" else 0.0,
        detach=detach_targets,
    )
    ce_peers = classify(peers_NPC)
    kd_peers = distil(
        peer_targets(peers_NPC, attention_NPP, temperature, aggregate), logits=peers_NPC
    )
    ce_leader = kd_leader = torch.zeros_like(ce_peers)
    if two_level:
        ce_leader = classify(logits_NMC[:, -1:])
        second_NC = leader_target(peers_NPC, temperature, aggregate)
        kd_leader = distil(second_NC, logits=logits_NMC[:, -1])
    distilled = peer_weight * kd_peers + leader_weight * kd_leader
    total = ce_peers + ce_leader + ramp_weight * distilled
    return OKDDipLosses(total, ce_peers, ce_leader, kd_peers, kd_leader)


def _distil(
    target: Tensor, *, logits: Tensor, temperature: float, epsilon: float, detach: bool
) -> Tensor:
    return kl_divergence(target.detach() if detach else target, logits, temperature, epsilon)


class OKDDip(Method):
    """OKDDip with its two learned projections W_L and W_E (bias-free, D → d).

    ``attention`` and ``two_level`` are the ablations of the paper's Table 5: ``symmetric`` shares
    one projection, ``mean`` weighs all peers alike, ``random`` draws new weights for every
    image; without the second level there is no leader, and all members attend to all.
    """

    def __init__(self, config: TrainConfig, architecture: Architecture) -> None:
        super().__init__(config, architecture)
        self.has_leader = config.two_level
        width = config.attention_dim or max(1, architecture.feature_dim // 8)
        if config.attention in ("learned", "symmetric"):
            self.query = nn.Linear(architecture.feature_dim, width, bias=False)
        if config.attention == "learned":
            self.key = nn.Linear(architecture.feature_dim, width, bias=False)

    def attention(self, output: GroupOutput) -> Tensor:
        """Return who listens to whom, (N, P, P)."""
        features_NPD = self.teachers(output.features_NMD)
        num_images, num_peers, _ = features_NPD.shape
        if self.config.attention == "mean":
            return features_NPD.new_full((num_images, num_peers, num_peers), 1.0 / num_peers)
        if self.config.attention == "random":
            # An evaluation must not draw from the generator that training uses.
            own = None if self.training else torch.Generator(features_NPD.device).manual_seed(0)
            scores_NPP = features_NPD.new_empty(num_images, num_peers, num_peers)
            scores_NPP.normal_(generator=own)
            return torch.softmax(scores_NPP, dim=-1)
        key = self.query if self.config.attention == "symmetric" else self.key
        return attention(features_NPD, self.query.weight, key.weight)

    def losses(self, output: GroupOutput, batch: Batch) -> dict[str, Tensor]:
        """Return ``total, ce_peers, ce_leader, kd_peers, kd_leader`` (see ``OKDDipLosses``)."""
        config = self.config
        return okddip_losses(
            output.logits_NMC,
            self.attention(output),
            batch.labels_N,
            temperature=config.temperature,
            ramp_weight=batch.ramp_weight,
            peer_weight=config.peer_weight,
            leader_weight=config.leader_weight,
            aggregate=config.aggregate,
            detach_targets=config.detach_targets,
            two_level=config.two_level,
            label_smoothing=config.label_smoothing,
            confidence_penalty=config.confidence_penalty,
        )._asdict()
