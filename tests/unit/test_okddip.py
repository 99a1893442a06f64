"""Properties of the OKDDip loss; tests/golden holds its values and gradients."""

import pytest
import torch
import torch.nn.functional as F

from trainer.config import TrainConfig
from trainer.group import GroupOutput
from trainer.methods import build_method
from trainer.methods.okddip import attention, kl_divergence, okddip_losses, peer_targets

N, P, C, D, d = 6, 3, 5, 8, 2


class Batch:
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
        return okddip_losses(
            self.logits, self.features, self.query, self.key, self.labels, **options
        )


def test_attention_shares_sum_to_1_and_include_oneself():
    batch = Batch()
    weights_NPP = attention(batch.features, batch.query, batch.key)
    torch.testing.assert_close(weights_NPP.sum(dim=-1), torch.ones(N, P, dtype=torch.float64))
    assert (weights_NPP > 0).all()  # the diagonal too
    for n in range(N):
        scores = [
            (batch.query @ batch.features[n, 1]) @ (batch.key @ batch.features[n, b])
            for b in range(P)
        ]
        torch.testing.assert_close(weights_NPP[n, 1], torch.stack(scores).softmax(0))


def test_attention_is_not_symmetric():
    weights_NPP = attention(Batch().features, Batch().query, Batch().key)
    assert not torch.allclose(weights_NPP, weights_NPP.transpose(1, 2))


@pytest.mark.parametrize("aggregate", ["logits", "probabilities"])
def test_targets_are_distributions_and_differ_between_peers(aggregate):
    batch = Batch()
    weights = attention(batch.features, batch.query, batch.key)
    targets_NPC = peer_targets(batch.logits[:, :-1], weights, 3.0, aggregate)
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
    batch = Batch()
    losses = batch.losses(label_smoothing=smoothing)
    q = 1.0 - smoothing
    labels_NC = q * F.one_hot(batch.labels, C) + smoothing / C
    ce_M = [-(labels_NC * batch.logits[:, m].log_softmax(-1)).sum() / N for m in range(P + 1)]
    torch.testing.assert_close(losses.ce_peers, sum(ce_M[:-1]))
    torch.testing.assert_close(losses.ce_leader, ce_M[-1])


def test_label_smoothing_leaves_the_distillation_alone():
    plain, smooth = Batch().losses(), Batch().losses(label_smoothing=0.3)
    assert plain.kd_peers == smooth.kd_peers and plain.kd_leader == smooth.kd_leader
    assert plain.ce_peers != smooth.ce_peers and plain.ce_leader != smooth.ce_leader


@pytest.mark.parametrize(
    ("peer_weight", "leader_weight", "ramp_weight"),
    [(1, 1, 1), (2, 0.5, 1), (0.3, 4, 0.25), (0, 1, 1), (1, 0, 1), (1, 1, 0)],
)
def test_weights_scale_their_own_term_in_the_total_alone(peer_weight, leader_weight, ramp_weight):
    plain = Batch().losses()
    weighted = Batch().losses(
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
    batch = Batch()
    batch.losses(aggregate=aggregate).total.backward()
    assert batch.query.grad.abs().sum() > 0 and batch.key.grad.abs().sum() > 0
    assert batch.features.grad.abs().sum() > 0

    detached = Batch()
    losses = detached.losses(aggregate=aggregate, detach_targets=True)
    losses.total.backward()
    assert detached.query.grad is None and detached.key.grad is None
    assert detached.features.grad is None
    assert losses == Batch().losses(aggregate=aggregate)  # values are the same


def test_detached_targets_keep_the_leaders_distillation_off_the_peers():
    for detach, reaches in ((False, True), (True, False)):
        batch = Batch()
        batch.losses(detach_targets=detach).kd_leader.backward()
        assert (batch.logits.grad[:, :-1].abs().sum() > 0) == reaches
        assert batch.logits.grad[:, -1].abs().sum() > 0


@pytest.mark.parametrize("aggregate", ["logits", "probabilities"])
def test_gradients_are_finite_where_probabilities_underflow(aggregate):
    batch = Batch(scale=1000.0, dtype=torch.float32)
    assert ((batch.logits / 3).softmax(-1) == 0).any()  # the case is what it says
    losses = batch.losses(aggregate=aggregate)
    losses.total.backward()
    assert torch.stack(losses).isfinite().all()
    for leaf in (batch.logits, batch.features, batch.query, batch.key):
        assert leaf.grad.isfinite().all()


@pytest.mark.parametrize("aggregate", ["logits", "probabilities"])
def test_a_single_peer_teaches_the_leader_and_has_nobody_to_learn_from(aggregate):
    batch = Batch(peers=1)
    losses = batch.losses(aggregate=aggregate)
    assert losses.kd_peers.abs() < 1e-5  # its own target, but for the authors' 1e-7
    target_NC = (batch.logits[:, 0] / 3).softmax(-1)
    expected = kl_divergence(target_NC, batch.logits[:, 1], 3.0)
    torch.testing.assert_close(losses.kd_leader, expected, rtol=0, atol=1e-4)


def test_the_method_of_a_run_uses_every_field_of_its_configuration():
    fields = {
        "temperature": 2.0,
        "peer_weight": 0.5,
        "leader_weight": 3.0,
        "aggregate": "probabilities",
        "detach_targets": True,
        "label_smoothing": 0.1,
    }
    method = build_method(TrainConfig(**fields, attention_dim=d), D).double()
    assert method.query.weight.shape == method.key.weight.shape == (d, D)
    batch = Batch()
    features_NMD = torch.cat((batch.features, torch.randn(N, 1, D)), dim=1)
    actual = method.losses(GroupOutput(batch.logits, features_NMD), batch.labels, 0.7)
    expected = okddip_losses(
        batch.logits, batch.features, method.query.weight, method.key.weight, batch.labels,
        ramp_weight=0.7, **fields,
    )  # fmt: skip
    assert actual == expected._asdict()


@pytest.mark.parametrize(("feature_dim", "expected"), [(64, 8), (256, 32), (4, 1)])
def test_attention_is_an_eighth_as_wide_as_the_features(feature_dim, expected):
    assert build_method(TrainConfig(), feature_dim).query.weight.shape == (expected, feature_dim)
