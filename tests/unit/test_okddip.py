"""Properties of the OKDDip loss; tests/golden holds its values and gradients."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from trainer.config.train import TrainConfig
from trainer.group.group import GroupOutput
from trainer.methods import build_method
from trainer.methods.base import Batch, kl_divergence
from trainer.methods.okddip import attention, okddip_losses, peer_targets
from trainer.models import Architecture

N, P, C, D, d = 6, 3, 5, 8, 2


class Inputs:
    """Random inputs as leaves, and the losses that they give."""

    def __init__(self, peers: int = P, scale: float = 1.0, dtype: torch.dtype = torch.float64):
        generator = torch.Generator().manual_seed(peers)

        def leaf(*shape: int) -> torch.Tensor:
            return torch.randn(*shape, generator=generator, dtype=dtype)

        self.logits = (scale * leaf(N, peers + 1, C)).requires_grad_()
        self.features = leaf(N, peers, D).requires_grad_()
        self.query, self.key = leaf(d, D).requires_grad_(), leaf(d, D).requires_grad_()
        self.labels = torch.randint(0, C, (N,), generator=generator)

    def losses(self, **options: object):
        weights_NPP = attention(self.features, self.query, self.key)
        return okddip_losses(self.logits, weights_NPP, self.labels, **options)


def architecture(feature_dim: int = D) -> Architecture:
    return Architecture(
        nn.Identity, nn.Identity, trunk_channels=1, feature_dim=feature_dim, num_classes=C
    )


def output_of(inputs: Inputs) -> GroupOutput:
    """Return what a group would compute; the leader's features are no use to anybody."""
    leaders = torch.full((N, 1, D), torch.nan, dtype=inputs.features.dtype)
    return GroupOutput(inputs.logits, torch.cat((inputs.features, leaders), 1), torch.empty(N, 1))


def test_attention_shares_sum_to_1_and_include_oneself():
    inputs = Inputs()
    weights_NPP = attention(inputs.features, inputs.query, inputs.key)
    torch.testing.assert_close(weights_NPP.sum(dim=-1), torch.ones(N, P, dtype=torch.float64))
    assert (weights_NPP > 0).all()  # the diagonal too
    for n in range(N):
        scores = [
            (inputs.query @ inputs.features[n, 1]) @ (inputs.key @ inputs.features[n, b])
            for b in range(P)
        ]
        torch.testing.assert_close(weights_NPP[n, 1], torch.stack(scores).softmax(0))


def test_attention_is_not_symmetric():
    weights_NPP = attention(Inputs().features, Inputs().query, Inputs().key)
    assert not torch.allclose(weights_NPP, weights_NPP.transpose(1, 2))


@pytest.mark.parametrize("aggregate", ["logits", "probabilities"])
def test_targets_are_distributions_and_differ_between_peers(aggregate):
    inputs = Inputs()
    weights = attention(inputs.features, inputs.query, inputs.key)
    targets_NPC = peer_targets(inputs.logits[:, :-1], weights, 3.0, aggregate)
    torch.testing.assert_close(targets_NPC.sum(-1), torch.ones(N, P, dtype=torch.float64))
    assert not torch.allclose(targets_NPC[:, 0], targets_NPC[:, 1])


def test_kl_is_0_between_equals_and_carries_the_squared_temperature():
    logits, other = torch.randn(2, N, C, dtype=torch.float64)
    assert kl_divergence((logits / 3).softmax(-1), logits, 3.0).abs() < 1e-12
    target = (other / 3).softmax(-1)
    expected = 9 * F.kl_div((logits / 3).log_softmax(-1), target, reduction="batchmean")
    torch.testing.assert_close(kl_divergence(target, logits, 3.0), expected)


@pytest.mark.parametrize("smoothing", [0.0, 0.2])
def test_cross_entropies_are_sums_over_the_members(smoothing):
    inputs = Inputs()
    losses = inputs.losses(label_smoothing=smoothing)
    q = 1.0 - smoothing
    labels_NC = q * F.one_hot(inputs.labels, C) + smoothing / C
    ce_M = [-(labels_NC * inputs.logits[:, m].log_softmax(-1)).sum() / N for m in range(P + 1)]
    torch.testing.assert_close(losses.ce_peers, sum(ce_M[:-1]))
    torch.testing.assert_close(losses.ce_leader, ce_M[-1])


def test_label_smoothing_leaves_the_distillation_alone():
    plain, smooth = Inputs().losses(), Inputs().losses(label_smoothing=0.3)
    assert plain.kd_peers == smooth.kd_peers and plain.kd_leader == smooth.kd_leader
    assert plain.ce_peers != smooth.ce_peers and plain.ce_leader != smooth.ce_leader


@pytest.mark.parametrize(
    ("peer_weight", "leader_weight", "ramp_weight"),
    [(1, 1, 1), (2, 0.5, 1), (0.3, 4, 0.25), (0, 1, 1), (1, 0, 1), (1, 1, 0)],
)
def test_weights_scale_their_own_term_in_the_total_alone(peer_weight, leader_weight, ramp_weight):
    plain = Inputs().losses()
    weighted = Inputs().losses(
        peer_weight=peer_weight, leader_weight=leader_weight, ramp_weight=ramp_weight
    )
    assert weighted[1:] == plain[1:]  # reported without weights
    torch.testing.assert_close(
        weighted.total,
        plain.ce_peers
        + plain.ce_leader
        + ramp_weight * (peer_weight * plain.kd_peers + leader_weight * plain.kd_leader),
    )


@pytest.mark.parametrize("aggregate", ["logits", "probabilities"])
def test_attention_learns_unless_targets_are_detached(aggregate):
    inputs = Inputs()
    inputs.losses(aggregate=aggregate).total.backward()
    assert inputs.query.grad.abs().sum() > 0 and inputs.key.grad.abs().sum() > 0
    assert inputs.features.grad.abs().sum() > 0

    detached = Inputs()
    losses = detached.losses(aggregate=aggregate, detach_targets=True)
    losses.total.backward()
    assert detached.query.grad is None and detached.key.grad is None
    assert detached.features.grad is None
    assert losses == Inputs().losses(aggregate=aggregate)  # values are the same


def test_detached_targets_keep_the_leaders_distillation_off_the_peers():
    for detach, reaches in ((False, True), (True, False)):
        inputs = Inputs()
        inputs.losses(detach_targets=detach).kd_leader.backward()
        assert (inputs.logits.grad[:, :-1].abs().sum() > 0) == reaches
        assert inputs.logits.grad[:, -1].abs().sum() > 0


@pytest.mark.parametrize("aggregate", ["logits", "probabilities"])
def test_gradients_are_finite_where_probabilities_underflow(aggregate):
    inputs = Inputs(scale=1000.0, dtype=torch.float32)
    assert ((inputs.logits / 3).softmax(-1) == 0).any()  # the case is what it says
    losses = inputs.losses(aggregate=aggregate)
    losses.total.backward()
    assert torch.stack(losses).isfinite().all()
    for leaf in (inputs.logits, inputs.features, inputs.query, inputs.key):
        assert leaf.grad.isfinite().all()


@pytest.mark.parametrize("aggregate", ["logits", "probabilities"])
def test_a_single_peer_teaches_the_leader_and_has_nobody_to_learn_from(aggregate):
    inputs = Inputs(peers=1)
    losses = inputs.losses(aggregate=aggregate)
    assert losses.kd_peers.abs() < 1e-5  # its own target, but for the authors' 1e-7
    target_NC = (inputs.logits[:, 0] / 3).softmax(-1)
    expected = kl_divergence(target_NC, inputs.logits[:, 1], 3.0)
    torch.testing.assert_close(losses.kd_leader, expected, rtol=0, atol=1e-4)


def test_the_method_of_a_run_uses_every_field_of_its_configuration():
    fields = {
        "temperature": 2.0,
        "peer_weight": 0.5,
        "leader_weight": 3.0,
        "aggregate": "probabilities",
        "detach_targets": True,
        "label_smoothing": 0.1,
        "confidence_penalty": 0.2,
    }
    method = build_method(TrainConfig(**fields, attention_dim=d), architecture()).double()
    assert method.query.weight.shape == method.key.weight.shape == (d, D)
    inputs = Inputs()
    actual = method.losses(output_of(inputs), Batch(torch.empty(0), inputs.labels, 0.7))
    weights_NPP = attention(inputs.features, method.query.weight, method.key.weight)
    expected = okddip_losses(inputs.logits, weights_NPP, inputs.labels, ramp_weight=0.7, **fields)
    assert actual == expected._asdict()


@pytest.mark.parametrize(("feature_dim", "expected"), [(64, 8), (256, 32), (4, 1)])
def test_attention_is_an_eighth_as_wide_as_the_features(feature_dim, expected):
    method = build_method(TrainConfig(), architecture(feature_dim))
    assert method.query.weight.shape == method.key.weight.shape == (expected, feature_dim)


# Ablations (the paper's Table 5)


def ablation(**fields: object):
    return build_method(TrainConfig(**fields), architecture()).double()


def test_symmetric_attention_has_one_projection_and_mutual_scores():
    """The scores are symmetric; the rows are normalised each on its own."""
    method, inputs = ablation(attention="symmetric"), Inputs()
    assert [name for name, _ in method.named_parameters()] == ["query.weight"]
    weights_NPP = method.attention(output_of(inputs))
    torch.testing.assert_close(weights_NPP.sum(dim=-1), torch.ones(N, P, dtype=torch.float64))
    projected_NPd = inputs.features @ method.query.weight.T
    for n in range(N):
        for a in range(P):
            scores = [projected_NPd[n, a] @ projected_NPd[n, b] for b in range(P)]
            torch.testing.assert_close(weights_NPP[n, a], torch.stack(scores).softmax(0))


def test_mean_attention_weighs_all_peers_alike_and_learns_nothing():
    method, inputs = ablation(attention="mean"), Inputs()
    assert not list(method.parameters())
    expected = torch.full((N, P, P), 1 / P, dtype=torch.float64)
    assert torch.equal(method.attention(output_of(inputs)), expected)
    loss = method.losses(output_of(inputs), Batch(torch.empty(0), inputs.labels, 1.0))
    mean_NPC = inputs.logits[:, :-1].mean(dim=1, keepdim=True).expand(N, P, C)
    expected = kl_divergence((mean_NPC / 3).softmax(-1), inputs.logits[:, :-1], 3.0, 1e-7)
    torch.testing.assert_close(loss["kd_peers"], expected)


def test_random_attention_is_drawn_anew_for_every_image_and_every_step():
    method, inputs = ablation(attention="random"), Inputs()
    assert not list(method.parameters())
    first_NPP, second_NPP = (method.attention(output_of(inputs)) for _ in range(2))
    for weights_NPP in (first_NPP, second_NPP):
        torch.testing.assert_close(weights_NPP.sum(dim=-1), torch.ones(N, P, dtype=torch.float64))
    assert not torch.allclose(first_NPP, second_NPP)
    assert not torch.allclose(first_NPP[0], first_NPP[1])
    assert not torch.allclose(first_NPP[0, 0], first_NPP[0, 1])


def test_without_two_levels_all_members_are_peers_and_nobody_leads():
    two, one = ablation(), ablation(two_level=False)
    assert two.has_leader and not one.has_leader
    inputs = Inputs()
    output = GroupOutput(inputs.logits, torch.randn(N, P + 1, D).double(), torch.empty(N, 1))
    assert two.attention(output).shape == (N, P, P)
    weights_NMM = one.attention(output)
    assert weights_NMM.shape == (N, P + 1, P + 1)
    loss = one.losses(output, Batch(torch.empty(0), inputs.labels, 0.5))
    assert loss["ce_leader"] == loss["kd_leader"] == 0
    targets_NMC = (weights_NMM @ inputs.logits / 3).softmax(-1)
    kd = kl_divergence(targets_NMC, inputs.logits, 3.0, 1e-7)
    torch.testing.assert_close(loss["kd_peers"], kd)
    torch.testing.assert_close(loss["total"], loss["ce_peers"] + 0.5 * kd)
    torch.testing.assert_close(one.ensemble_logits(output), inputs.logits.mean(dim=1))
    torch.testing.assert_close(two.ensemble_logits(output), inputs.logits[:, :-1].mean(dim=1))
