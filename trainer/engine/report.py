"""The results of one epoch."""

import dataclasses
from typing import Any


@dataclasses.dataclass(frozen=True)
class EpochReport:
    """The results of one epoch. Accuracies are shares in [0, 1], NLL in nats, on validation images.

    Attributes:
        epoch: From 0.
        lr: Learning rate of the epoch.
        ramp_weight: w(e) of the epoch.
        train: Mean over the epoch's images of each loss part.
        leader_accuracy: Of the group leader, the network that is deployed; a method without one
            deploys the last member, and counts it among the peers.
        leader_nll: Of the leader.
        leader_ece: Expected calibration error of the leader, in [0, 1].
        peer_accuracy: Of each peer.
        peer_nll: Of each peer.
        mean_peer_accuracy: Mean over the peers.
        ensemble_accuracy: Of the peers' ensemble: their mean logits, or the method's own mixture.
        ensemble_nll: Of the same.
        ensemble_gap: Ensemble minus leader accuracy: what is left to distil.
        diversity: Mean Euclidean distance between peers' outputs.
        disagreement: Share of images on which two peers predict different classes, mean over pairs.
        q_statistic: Yule's Q of the peers' mistakes, mean over pairs; 1: they fail together.
        collapsed: Whether the peers agree almost everywhere and have nothing to teach each other.
        attention: Mean attention matrix (P × P), if the method has one.
        attention_entropy: Mean entropy of its rows in nats; log P is a plain mean.
        seconds: Wall time of the epoch, evaluation included.
        images_per_s: Training images a second, evaluation excluded.
        ended_s: When the epoch ended, seconds since 1970; None: an earlier version wrote it.
    """

    epoch: int
    lr: float
    ramp_weight: float
    train: dict[str, float]
    leader_accuracy: float
    leader_nll: float
    leader_ece: float
    peer_accuracy: list[float]
    peer_nll: list[float]
    mean_peer_accuracy: float
    ensemble_accuracy: float
    ensemble_nll: float
    ensemble_gap: float
    diversity: float
    disagreement: float
    q_statistic: float
    collapsed: bool
    attention: list[list[float]] | None
    attention_entropy: float | None
    seconds: float
    images_per_s: float
    ended_s: float | None = None

    def to_dict(self) -> dict[str, Any]:
        """Return plain values for JSON; ``asdict`` copies deeply and costs more than the JSON."""
        return dict(vars(self))
