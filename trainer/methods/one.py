"""On-the-fly native ensemble (Lan et al. 2018): a gate mixes the branches into their teacher."""

import torch
from torch import Tensor, nn

from trainer.config.train import TrainConfig
from trainer.group.group import GroupOutput
from trainer.methods.base import Batch, Method, distillation
from trainer.models import Architecture


class Gate(nn.Module):
    """``g = softmax(relu(bn(fc(pooled trunk))))``: the share of every branch, (N, E) → (N, M)."""

    def __init__(self, trunk_channels: int, num_members: int) -> None:
        super().__init__()
        self.fc = nn.Linear(trunk_channels, num_members)
        self.bn = nn.BatchNorm1d(num_members)

    def forward(self, hidden_NE: Tensor) -> Tensor:
        """Return rows that sum to 1."""
        return torch.softmax(torch.relu(self.bn(self.fc(hidden_NE))), dim=-1)


def gated_ensemble(gate_NM: Tensor, logits_NMC: Tensor) -> Tensor:
    """Return ``e = Σ_i g_i z_i``, (N, C)."""
    return (gate_NM.unsqueeze(-1) * logits_NMC).sum(dim=1)


class ONE(Method):
    """``Σ CE(z_i) + CE(e) + w(e) λ₁ Σ KL(e, z_i)``; gradients flow through the teacher."""

    def __init__(self, config: TrainConfig, architecture: Architecture) -> None:
        super().__init__(config, architecture)
        self.gate = Gate(architecture.trunk_channels, config.num_members)

    def losses(self, output: GroupOutput, batch: Batch) -> dict[str, Tensor]:
        """Return ``total, ce_members, ce_ensemble, kd``."""
        logits_NMC = output.logits_NMC
        ensemble_NC = self.ensemble_logits(output)
        ce_members = self.classification(logits_NMC, batch.labels_N)
        ce_ensemble = self.classification(ensemble_NC.unsqueeze(1), batch.labels_N)
        target_NMC = ensemble_NC.unsqueeze(1).expand_as(logits_NMC)
        kd = distillation(target_NMC, logits_NMC, self.config.temperature)
        total = ce_members + ce_ensemble + batch.ramp_weight * self.config.peer_weight * kd
        return {"total": total, "ce_members": ce_members, "ce_ensemble": ce_ensemble, "kd": kd}

    def ensemble_logits(self, output: GroupOutput) -> Tensor:
        """Return the gated ensemble's logits (N, C)."""
        return gated_ensemble(self.gate(output.hidden_NE), output.logits_NMC)
