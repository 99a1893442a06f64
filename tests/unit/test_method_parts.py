"""The pieces that training methods are made of; tests/golden holds their losses and gradients."""

import copy
import math

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from trainer.config.train import TrainConfig
from trainer.group.group import GroupOutput, PeerGroup, scale_gradient
from trainer.methods import build_method
from trainer.methods.base import Batch, classification_loss, kl_divergence, mean_of_others
from trainer.methods.codistillation import codistillation_loss
from trainer.methods.one import Gate, gated_ensemble
from trainer.models import Architecture, build_architecture

N, M, C = 7, 3, 5


@pytest.fixture
def logits() -> torch.Tensor:
    generator = torch.Generator().manual_seed(0)
    return 2 * torch.randn(N, M, C, generator=generator, dtype=torch.float64)


LABELS = torch.tensor([0, 1, 2, 3, 4, 0, 2])


def softmax(logits: list[float]) -> list[float]:
    exps = [math.exp(value - max(logits)) for value in logits]
    return [value / sum(exps) for value in exps]


# Classification


@pytest.mark.parametrize("beta", [0.0, 0.3, 2.0])
@pytest.mark.parametrize("smoothing", [0.0, 0.2])
def test_confidence_penalty_takes_beta_times_the_entropy_off_the_cross_entropy(
    logits, beta, smoothing
):
    """Pereyra et al. 2017, eq. 4, in plain Python: summed over members, mean over the batch."""
    expected = 0.0
    for row_MC, label in zip(logits.tolist(), LABELS.tolist(), strict=True):
        for row in row_MC:
            p = softmax(row)
            target = [(1 - smoothing) * (c == label) + smoothing / C for c in range(C)]
            cross_entropy = -sum(t * math.log(q) for t, q in zip(target, p, strict=True))
            entropy = -sum(q * math.log(q) for q in p)
            expected += (cross_entropy - beta * entropy) / N
    options = {"label_smoothing": smoothing, "confidence_penalty": beta}
    actual = classification_loss(logits, LABELS, **options).item()
    assert actual == pytest.approx(expected, rel=1e-12)


def test_the_gradient_of_the_confidence_penalty_is_that_of_its_formula(logits):
    """``d(CE − β H)/dz = p − y + β p (log p + H)``, over N."""
    beta, leaf = 0.7, logits.clone().requires_grad_()
    classification_loss(leaf, LABELS, confidence_penalty=beta).backward()
    p = logits.softmax(-1)
    entropy = -(p * p.log()).sum(-1, keepdim=True)
    labels = F.one_hot(LABELS, C).unsqueeze(1)
    expected = (p - labels + beta * p * (p.log() + entropy)) / N
    torch.testing.assert_close(leaf.grad, expected, rtol=1e-10, atol=1e-12)


def test_without_a_penalty_it_is_the_cross_entropy(logits):
    expected = sum(F.cross_entropy(logits[:, m], LABELS) for m in range(M))
    torch.testing.assert_close(classification_loss(logits, LABELS), expected)
    explicit = classification_loss(logits, LABELS, confidence_penalty=0.0)
    assert explicit == classification_loss(logits, LABELS)


def test_a_penalty_on_certain_outputs_has_a_finite_gradient():
    certain = torch.tensor([[[1000.0, 0.0, 0.0]]]).requires_grad_()
    classification_loss(certain, torch.tensor([0]), confidence_penalty=1.0).backward()
    assert certain.grad.isfinite().all()


# Who teaches whom


def test_the_mean_of_the_others_leaves_oneself_out(logits):
    for n in range(N):
        for m in range(M):
            others = [logits[n, other] for other in range(M) if other != m]
            torch.testing.assert_close(mean_of_others(logits)[n, m], sum(others) / (M - 1))


def test_of_two_members_each_has_the_other(logits):
    two = logits[:, :2]
    torch.testing.assert_close(mean_of_others(two), two.flip(1))


RAMPED = {"okddip": True, "cl_ilr": True, "one": True, "dml": False}


@pytest.mark.parametrize("name", RAMPED)
def test_the_weights_scale_the_distillation_alone_and_the_ramp_up_where_there_is_one(logits, name):
    architecture = Architecture(
        nn.Identity, nn.Identity, trunk_channels=4, feature_dim=8, num_classes=C
    )
    output = GroupOutput(logits, torch.randn(N, M, 8).double(), torch.randn(N, 4).double())
    plain = build_method(TrainConfig(method=name, num_peers=M - 1), architecture).double().eval()
    weighted = copy.deepcopy(plain)
    lighter = {"peer_weight": 0.3, "leader_weight": 0.3}
    weighted.config = TrainConfig(**{**plain.config.to_dict(), **lighter})

    def parts(method, ramp_weight):
        loss = method.losses(output, Batch(torch.empty(0), LABELS, ramp_weight))
        distillation = sum(value for part, value in loss.items() if part.startswith("kd"))
        return loss["total"], sum(loss.values()) - loss["total"] - distillation, distillation

    total, classification, distillation = parts(plain, 1.0)
    assert distillation > 0
    torch.testing.assert_close(total, classification + distillation)
    total, *same = parts(weighted, 0.5)
    torch.testing.assert_close(same, [classification, distillation])  # reported without weights
    factor = 0.3 * (0.5 if RAMPED[name] else 1.0)
    torch.testing.assert_close(total, classification + factor * distillation)


# ONE


def test_the_gates_shares_sum_to_1():
    torch.manual_seed(0)
    gate, hidden_NE = Gate(12, M), torch.randn(N, 12)
    for mode in (True, False):
        shares_NM = gate.train(mode)(hidden_NE)
        assert shares_NM.shape == (N, M) and (shares_NM > 0).all()
        torch.testing.assert_close(shares_NM.sum(dim=1), torch.ones(N))
        assert not torch.allclose(shares_NM[0], shares_NM[1])


def test_the_gate_mixes_the_members_logits(logits):
    shares_NM = torch.rand(N, M, dtype=torch.float64).softmax(dim=1)
    mixed_NC = gated_ensemble(shares_NM, logits)
    for n in range(N):
        expected = sum(shares_NM[n, m] * logits[n, m] for m in range(M))
        torch.testing.assert_close(mixed_NC[n], expected)


# The trunk's gradient (CL-ILR)


@pytest.mark.parametrize("factor", [1.0, 0.25, 0.0, -2.0])
def test_scale_gradient_changes_the_gradient_and_not_the_value(factor):
    leaf = torch.randn(3, 4, requires_grad=True)
    weights = torch.randn(3, 4)
    scaled = scale_gradient(leaf, factor)
    assert torch.equal(scaled, leaf)
    (scaled * weights).sum().backward()
    torch.testing.assert_close(leaf.grad, factor * weights)


def test_scale_gradient_lets_pass_what_needs_no_gradient():
    images = torch.randn(2, 3)
    assert scale_gradient(images, 0.5) is images


def gradients(group: PeerGroup, method, images: torch.Tensor) -> dict[str, torch.Tensor]:
    group.zero_grad()
    batch = Batch(images, torch.tensor([0, 1, 2, 3]), 1.0)
    method.losses(group(images), batch)["total"].backward()
    return {name: parameter.grad.clone() for name, parameter in group.named_parameters()}


@pytest.mark.parametrize("num_peers", [1, 3])
def test_the_trunk_of_cl_ilr_gets_the_branches_gradient_over_their_number(num_peers):
    torch.manual_seed(0)
    architecture = build_architecture("resnet8", channels=1, num_classes=C, width=0.25)
    group = PeerGroup(architecture, num_peers + 1, "branch").double()
    method = build_method(TrainConfig(method="cl_ilr", num_peers=num_peers), architecture)
    images = torch.randn(4, 1, 8, 8, dtype=torch.float64)
    plain = gradients(group, method, images)
    method.prepare(group, data=None, teacher_dir=None)
    scaled = gradients(group, method, images)
    assert {name.partition(".")[0] for name in plain} == {"trunks", "branches", "classifiers"}
    for name, gradient in plain.items():
        factor = 1 / (num_peers + 1) if name.startswith("trunks") else 1.0
        torch.testing.assert_close(scaled[name], factor * gradient, rtol=1e-9, atol=1e-12)


def test_cl_ilr_alone_scales_the_trunks_gradient():
    architecture = build_architecture("resnet8", channels=1, num_classes=C, width=0.25)
    for name in ("okddip", "independent", "dml", "one"):
        group = PeerGroup(architecture, 3, "branch")
        method = build_method(TrainConfig(method=name, num_peers=2), architecture)
        method.prepare(group, data=None, teacher_dir=None)
        assert group.trunk_gradient_scale == 1.0


# Codistillation


class Codistilled:
    """A group of three, its method, and a batch."""

    def __init__(self, **fields: object) -> None:
        torch.manual_seed(0)
        architecture = build_architecture("resnet8", channels=1, num_classes=C, width=0.25)
        config = TrainConfig(method="codistillation", num_peers=2, **fields)
        self.group = PeerGroup(architecture, 3, "network")
        self.method = build_method(config, architecture)
        self.method.prepare(self.group, data=None, teacher_dir=None)
        self.images, self.labels = torch.randn(4, 1, 8, 8), torch.tensor([0, 1, 2, 3])

    def losses(self, ramp_weight: float) -> dict[str, torch.Tensor]:
        self.method.train()
        output = self.group.train()(self.images)
        return self.method.losses(output, Batch(self.images, self.labels, ramp_weight))

    def move(self) -> None:
        """Stand for a step: all weights and statistics become others."""
        with torch.no_grad():
            for tensor in self.group.state_dict().values():
                tensor.add_(1)

    def copies_are_fresh(self) -> bool:
        mine, stale = self.group.state_dict(), self.method.stale.state_dict()
        assert mine.keys() == stale.keys()
        return all(torch.equal(mine[name], stale[name]) for name in mine)


def test_stale_probabilities_of_the_others_are_averaged_and_not_their_logits(logits):
    student, T = logits.flip(2), 2.0
    expected = 0.0
    for n in range(N):
        for m in range(M):
            softened = [softmax((logits[n, o] / T).tolist()) for o in range(M) if o != m]
            target = [sum(column) / (M - 1) + 1e-7 for column in zip(*softened, strict=True)]
            q = softmax((student[n, m] / T).tolist())
            expected += sum(t * math.log(t / s) for t, s in zip(target, q, strict=True))
    actual = codistillation_loss(logits, student, T).item()
    assert actual == pytest.approx(T**2 * expected / N, rel=1e-12)


def test_no_gradient_reaches_the_others(logits):
    stale, student = logits.clone().requires_grad_(), logits.flip(2).requires_grad_()
    codistillation_loss(stale, student, 1.0).backward()
    assert stale.grad is None and student.grad.abs().sum() > 0
    setup = Codistilled()
    setup.losses(1.0)["kd"].backward()
    assert all(parameter.grad is not None for parameter in setup.group.parameters())
    assert all(parameter.grad is None for parameter in setup.method.stale.parameters())


def test_burning_in_there_is_no_distillation_and_then_all_of_it_at_once():
    setup = Codistilled(peer_weight=0.3)
    for ramp_weight in (0.0, math.exp(-5), 0.999):
        loss = setup.losses(ramp_weight)
        assert loss["kd"] == 0 and loss["total"] == loss["ce"]
    loss = setup.losses(1.0)
    assert loss["kd"] > 0
    torch.testing.assert_close(loss["total"], loss["ce"] + 0.3 * loss["kd"])


def test_copies_are_refreshed_every_k_steps_and_else_stay_stale():
    setup = Codistilled(stale_steps=3)
    assert setup.copies_are_fresh()
    fresh = []
    for steps_done in range(1, 8):
        setup.move()
        setup.method.after_step(setup.group, steps_done)
        fresh.append(setup.copies_are_fresh())
    assert fresh == [False, False, True, False, False, True, False]


def test_members_learn_from_the_copies_and_not_from_the_members_as_they_are():
    """The copies answer in eval mode, whatever mode the group trains in."""
    setup = Codistilled()
    with torch.no_grad():
        stale_NMC = setup.method.stale.eval()(setup.images).logits_NMC
    setup.move()
    loss = setup.losses(1.0)
    setup.method.train()
    assert not any(module.training for module in setup.method.stale.modules())
    logits_NMC = setup.group(setup.images).logits_NMC
    torch.testing.assert_close(loss["kd"], codistillation_loss(stale_NMC, logits_NMC, 1.0))


# The divergence


def test_a_uniform_target_costs_what_the_formula_says():
    """``T² Σ 1/C log(1/C / q)`` by hand, for two images of two classes."""
    logits = torch.tensor([[0.0, math.log(3)], [0.0, 0.0]], dtype=torch.float64)
    target = torch.full((2, 2), 0.5, dtype=torch.float64)
    one = 0.5 * math.log(0.5 / 0.25) + 0.5 * math.log(0.5 / 0.75)
    assert kl_divergence(target, logits, 1.0).item() == pytest.approx((one + 0) / 2)
    assert kl_divergence(target, 2 * logits, 2.0).item() == pytest.approx(4 * one / 2)
