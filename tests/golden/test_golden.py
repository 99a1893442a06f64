"""The authors' formulas in float64: values and gradients to 1e-9, for every case file found.

Case files lie beside this test and in the folder named by the variable OKDDIP_GOLDEN_DIR. A test
whose values a case does not hold is skipped; the case beside this test holds them all.
"""

import os
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from trainer import schedules
from trainer.config.train import TrainConfig
from trainer.engine.evaluation import evaluate
from trainer.group.group import GroupOutput, scale_gradient
from trainer.methods import build_method, dml, okddip
from trainer.methods.base import (
    AUTHORS_EPSILON,
    Batch,
    Method,
    classification_loss,
    distillation,
    kl_divergence,
    mean_of_others,
)
from trainer.models import Architecture

TOLERANCE = 1e-9
OURS = Path(__file__).parent / "data"
FOLDERS = [OURS]
if extra := os.environ.get("OKDDIP_GOLDEN_DIR"):
    FOLDERS.append(Path(extra))


class Case:
    """One file: its inputs as fresh float64 leaves, its outputs to be met."""

    def __init__(self, path):
        self.ours = path.parent == OURS
        with np.load(path, allow_pickle=False) as file:
            self.values = {key: file[key] for key in file.files}

    def require(self, *keys):
        """Skip the test if the file lacks one of the keys or groups of keys."""
        if missing := [key for key in keys if not self.under(key)]:
            assert not self.ours, f"{missing} went missing"
            pytest.skip(f"the case does not hold {', '.join(missing)}")

    def under(self, prefix):
        return [key for key in self.values if key == prefix or key.startswith(f"{prefix}/")]

    def tensor(self, key):
        return torch.from_numpy(np.array(self.values[key]))

    def leaf(self, key):
        return self.tensor(key).requires_grad_()

    def number(self, key):
        return float(self.values[key])

    def meets(self, key, actual):
        """A value equals the file's."""
        torch.testing.assert_close(
            actual.detach(), self.tensor(key), rtol=TOLERANCE, atol=TOLERANCE,
            msg=lambda text: f"{key}: {text}",
        )  # fmt: skip

    def meets_gradients(self, prefix, of, **leaves):
        """Every gradient that the file holds under the prefix is that of one of the leaves."""
        keys = self.under(prefix)
        names = [key.removeprefix(f"{prefix}/") for key in keys]
        grads = torch.autograd.grad(
            of, [leaves[name] for name in names], retain_graph=True, materialize_grads=True
        )
        for key, grad in zip(keys, grads, strict=True):
            self.meets(key, grad)


def files():
    return [path for folder in FOLDERS for path in sorted(folder.glob("*.npz"))]


CASES, SCHEDULES = [], []
for _path in files():
    _case = Case(_path)
    (CASES if "in/logits" in _case.values else SCHEDULES).append(
        pytest.param(_case, id=f"{_path.parent.name}/{_path.stem}")
    )


def test_an_extra_folder_that_was_asked_for_has_cases():
    for folder in FOLDERS:
        assert list(folder.glob("*.npz")), f"{folder} holds no case"


class Run:
    """A method of a run as the trainer builds it, in float64, on the inputs of a case.

    Attributes:
        loss: The parts, by name.
        leaves: The inputs that gradients are held for, by their names in the file.
    """

    def __init__(self, case, name, ramp_weight=1.0, **options):
        self.logits, self.features = case.leaf("in/logits"), case.leaf("in/features")
        pooled = "in/gate_pooled" if "in/gate_pooled" in case.values else "in/logits"
        self.pooled = case.leaf(pooled).flatten(1)
        num_peers = 0 if name == "kd" else self.logits.shape[1] - 1
        config = TrainConfig(
            method=name, num_peers=num_peers, temperature=case.number("in/T"), **options
        )
        architecture = Architecture(
            nn.Identity, nn.Identity,
            trunk_channels=self.pooled.shape[1],
            feature_dim=self.features.shape[2],
            num_classes=self.logits.shape[2],
        )  # fmt: skip
        self.method: Method = build_method(config, architecture).double()
        self.batch = Batch(torch.empty(0), case.tensor("in/labels"), ramp_weight)

    @property
    def output(self):
        return GroupOutput(self.logits, self.features, self.pooled)

    def losses(self):
        return self.method.losses(self.output, self.batch)


class OKDDipRun(Run):
    """OKDDip with the projections of the case."""

    def __init__(self, case, **options):
        alpha = case.number("in/alpha")
        super().__init__(
            case, "okddip", case.number("in/w"), peer_weight=alpha, leader_weight=alpha,
            attention_dim=len(case.tensor("in/WL")), **options,
        )  # fmt: skip
        self.peer_features = case.leaf("in/features")[:, :-1].detach().requires_grad_()
        with torch.no_grad():
            self.method.query.weight.copy_(case.tensor("in/WL"))
            self.method.key.weight.copy_(case.tensor("in/WE"))
        self.leaves = {
            "logits": self.logits, "features": self.peer_features,
            "WL": self.method.query.weight, "WE": self.method.key.weight,
        }  # fmt: skip

    @property
    def output(self):
        leaders = self.features.detach()[:, -1:] + torch.nan  # the leader takes no part
        return GroupOutput(self.logits, torch.cat((self.peer_features, leaders), 1), self.pooled)


@pytest.mark.parametrize("case", CASES)
class TestOKDDip:
    def test_loss_parts(self, case):
        loss = OKDDipRun(case).losses()
        for key, part in [
            ("loss_total", "total"),
            ("loss_ce_peers", "ce_peers"),
            ("loss_ce_leader", "ce_leader"),
            ("loss_dis1", "kd_peers"),
            ("loss_dis2", "kd_leader"),
        ]:
            case.require(f"okddip/{key}")
            case.meets(f"okddip/{key}", loss[part])

    @pytest.mark.parametrize(
        ("prefix", "part"),
        [("grad", "total"), ("grad_dis1", "kd_peers"), ("grad_dis2", "kd_leader")],
    )
    def test_gradients(self, case, prefix, part):
        case.require(f"okddip/{prefix}")
        run = OKDDipRun(case)
        case.meets_gradients(f"okddip/{prefix}", run.losses()[part], **run.leaves)

    def test_attention_and_targets(self, case):
        case.require("okddip/attention", "okddip/targets_logits", "okddip/leader_target_logits")
        run, T = OKDDipRun(case), case.number("in/T")
        attention_NPP = run.method.attention(run.output)
        case.meets("okddip/attention", attention_NPP)
        peers_NPC = run.logits[:, :-1]
        first_NPC = okddip.peer_targets(peers_NPC, attention_NPP, T, "logits")
        assert_softened(first_NPC, case.tensor("okddip/targets_logits"), T)
        second_NC = okddip.leader_target(peers_NPC, T, "logits")
        assert_softened(second_NC, case.tensor("okddip/leader_target_logits"), T)

    def test_without_a_leader_all_members_attend_to_all(self, case):
        case.require("okddip_en/attention", "okddip_en/targets_logits")
        run, T = OKDDipRun(case, two_level=False), case.number("in/T")
        members = run.output._replace(features_NMD=run.features)
        attention_NMM = run.method.attention(members)
        case.meets("okddip_en/attention", attention_NMM)
        targets_NMC = okddip.peer_targets(run.logits, attention_NMM, T, "logits")
        assert_softened(targets_NMC, case.tensor("okddip_en/targets_logits"), T)
        loss = run.method.losses(members, run.batch)
        case.require("ind/loss_total")
        case.meets("ind/loss_total", loss["ce_peers"])
        assert loss["ce_leader"] == loss["kd_leader"] == 0

    def test_aggregating_probabilities(self, case):
        prefix = "variant_paper_eq_prob_space"
        case.require(f"{prefix}/loss_total", f"{prefix}/grad", f"{prefix}/targets_prob")
        run, T = OKDDipRun(case, aggregate="probabilities"), case.number("in/T")
        loss = run.losses()
        case.meets(f"{prefix}/loss_dis1", loss["kd_peers"])
        case.meets(f"{prefix}/loss_dis2", loss["kd_leader"])
        case.meets(f"{prefix}/loss_total", loss["total"])
        case.meets_gradients(f"{prefix}/grad", loss["total"], **run.leaves)
        targets_NPC = okddip.peer_targets(
            run.logits[:, :-1], run.method.attention(run.output), T, "probabilities"
        )
        case.meets(f"{prefix}/targets_prob", targets_NPC)

    def test_detached_targets(self, case):
        case.require("variant_detached_targets/grad", "okddip/loss_total")
        run = OKDDipRun(case, detach_targets=True)
        total = run.losses()["total"]
        case.meets("okddip/loss_total", total)
        case.meets_gradients("variant_detached_targets/grad", total, **run.leaves)


def assert_softened(actual, logits, temperature):
    """The target distribution is the softmax of the file's target logits."""
    expected = torch.softmax(logits / temperature, dim=-1)
    torch.testing.assert_close(actual.detach(), expected, rtol=TOLERANCE, atol=TOLERANCE)


def rival_weight(case, total, true, group):
    """Return the weight of a rival's distillation in a case whose alpha or ramp-up is not 1.

    Not all rivals ramp up, so the file's total tells which of the two it carries.
    """
    alpha, ramp_up = case.number("in/alpha"), case.number("in/w")
    choices = [alpha * ramp_up, ramp_up, alpha, 1.0]
    weight = min(choices, key=lambda w: abs((true + w * group - case.tensor(total)).item()))
    assert not case.ours or weight == 1.0
    return weight


@pytest.mark.parametrize("case", CASES)
class TestRivals:
    def test_independent(self, case):
        case.require("ind/loss_total", "ind/grad")
        run = Run(case, "independent")
        total = run.losses()["total"]
        case.meets("ind/loss_total", total)
        case.meets_gradients("ind/grad", total, logits=run.logits)

    @pytest.mark.parametrize("target", ["pairwise", "ensemble_first"])
    def test_dml(self, case, target):
        prefix = f"dml_{target}"
        case.require(f"{prefix}/loss_total", f"{prefix}/grad")
        logits_NMC = case.tensor("in/logits")
        weight = rival_weight(
            case,
            f"{prefix}/loss_total",
            classification_loss(logits_NMC, case.tensor("in/labels")),
            dml.dml_loss(logits_NMC, case.number("in/T"), target),
        )
        run = Run(case, "dml", dml_target=target, peer_weight=weight)
        total = run.losses()["total"]
        case.meets(f"{prefix}/loss_total", total)
        case.meets_gradients(f"{prefix}/grad", total, logits=run.logits)

    def test_collaborative_learning(self, case):
        case.require("cl/loss_total", "cl/loss_true", "cl/loss_group", "cl/targets_logits")
        parts = case.tensor("cl/loss_true"), case.tensor("cl/loss_group")
        run = Run(case, "cl_ilr", peer_weight=rival_weight(case, "cl/loss_total", *parts))
        loss = run.losses()
        case.meets("cl/targets_logits", mean_of_others(run.logits))
        case.meets("cl/loss_true", loss["ce"])
        case.meets("cl/loss_group", loss["kd"])
        case.meets("cl/loss_total", loss["total"])
        case.require("cl/grad")
        case.meets_gradients("cl/grad", loss["total"], logits=run.logits)

    def test_intermediate_level_representation_sharing(self, case):
        """Branches on a shared trunk: the gradient that reaches it, with and without 1/M."""
        case.require("in/ilr_B", "ilr/grad_shared_plain", "ilr/grad_shared_with_ILR")
        heads_MCE = case.tensor("in/ilr_B")
        num_members = len(heads_MCE)
        logits_NMC = torch.einsum("ne,mce->nmc", case.tensor("in/gate_pooled"), heads_MCE)
        true = classification_loss(logits_NMC, case.tensor("in/labels"))
        group = distillation(mean_of_others(logits_NMC), logits_NMC, case.number("in/T"))
        weight = rival_weight(case, "ilr/loss_total", true, group)
        for scale, key in [
            (1.0, "ilr/grad_shared_plain"),
            (1 / num_members, "ilr/grad_shared_with_ILR"),
        ]:
            shared = case.leaf("in/gate_pooled")
            run = Run(case, "cl_ilr", peer_weight=weight)
            run.logits = torch.einsum("ne,mce->nmc", scale_gradient(shared, scale), heads_MCE)
            total = run.losses()["total"]
            case.meets("ilr/loss_total", total)
            case.meets(key, *torch.autograd.grad(total, shared))

    def test_one(self, case):
        case.require(
            "in/gate_pooled", "in/gate_W", "one/loss_total", "one/loss_true", "one/loss_group"
        )
        parts = case.tensor("one/loss_true"), case.tensor("one/loss_group")
        run = Run(case, "one", peer_weight=rival_weight(case, "one/loss_total", *parts))
        gate = run.method.gate.train()
        leaves = {
            "gate_W": gate.fc.weight, "gate_b": gate.fc.bias,
            "gate_bn_gamma": gate.bn.weight, "gate_bn_beta": gate.bn.bias,
        }  # fmt: skip
        with torch.no_grad():
            for name, parameter in leaves.items():
                parameter.copy_(case.tensor(f"in/{name}"))
        loss = run.losses()
        case.meets("one/gate", gate(run.pooled))
        case.meets("one/ensemble_logits", run.method.ensemble_logits(run.output))
        case.meets("one/loss_true", loss["ce_members"] + loss["ce_ensemble"])
        case.meets("one/loss_group", loss["kd"])
        case.meets("one/loss_total", loss["total"])
        case.require("one/grad")
        case.meets_gradients(
            "one/grad", loss["total"], logits=run.logits, gate_pooled=run.pooled, **leaves
        )

    def test_kd(self, case):
        """The student is the first member, the teacher the second."""
        case.require("kd/loss_total", "kd/loss_kl")
        student_NC, teacher_NC = case.leaf("in/logits")[:, 0], case.tensor("in/logits")[:, 1]
        ce = classification_loss(student_NC.unsqueeze(1), case.tensor("in/labels"))
        weight = rival_weight(case, "kd/loss_total", ce, case.tensor("kd/loss_kl"))
        run = Run(case, "kd", peer_weight=weight)
        run.method._teacher = (nn.Identity(),)  # takes logits for images
        run.logits = student_NC.unsqueeze(1)
        run.batch = run.batch._replace(images_NCHW=teacher_NC)
        loss = run.losses()
        case.meets("kd/loss_kl", loss["kd"])
        case.meets("kd/loss_total", loss["total"])
        case.require("kd/grad")
        case.meets_gradients("kd/grad", loss["total"], student_logits=student_NC)


@pytest.mark.parametrize("case", CASES)
class TestMeasures:
    def test_kl_with_and_without_the_authors_epsilon(self, case):
        case.require("kl/plain", "kl/with_1e-7")
        student_NC, teacher_NC = case.tensor("in/logits")[:, :2].unbind(dim=1)
        T = case.number("in/T")
        target_NC = torch.softmax(teacher_NC / T, dim=-1)
        case.meets("kl/plain", kl_divergence(target_NC, student_NC, T))
        case.meets("kl/with_1e-7", kl_divergence(target_NC, student_NC, T, AUTHORS_EPSILON))
        case.meets("kl/with_1e-7", distillation(teacher_NC, student_NC, T))

    def test_diversity(self, case):
        key = "diversity/mean_pairwise_euclidean"
        case.require(key)
        case.meets(key, torch.tensor(validation(case)["diversity"], dtype=torch.float64))

    def test_accuracy(self, case):
        case.require("eval")
        names = {
            "eval/leader_top1_pct": "leader_accuracy",
            "eval/ensemble_top1_pct": "ensemble_accuracy",
            "eval/mean_peer_top1_pct": "mean_peer_accuracy",
        }
        measured = validation(case)
        assert names.keys() >= set(case.under("eval"))
        for key in case.under("eval"):
            case.meets(key, torch.tensor(100 * measured[names[key]], dtype=torch.float64))


def validation(case):
    """Measure the case's outputs as the trainer measures its validation images, in two batches."""
    run = OKDDipRun(case)

    class Group(nn.Module):
        def forward(self, rows):
            return GroupOutput(*(tensor[rows] for tensor in run.output))

    rows = torch.arange(len(run.logits)).tensor_split(2)
    return evaluate(Group(), run.method, [(part, run.batch.labels_N[part]) for part in rows])


@pytest.mark.parametrize("case", SCHEDULES)
def test_schedules(case):
    """R = 80 and the paper's 300 epochs; the learning rate drops at epochs 150 and 225."""
    known = 0
    for key, expected in case.values.items():
        if key.startswith("rampup_weight_epoch"):
            actual = [schedules.rampup_weight(e, 80) for e in range(len(expected))]
        elif key.endswith("torch1.0.1"):
            actual = [
                schedules.multistep_lr(e, 300, 0.1, (0.5, 0.75), 0.1) for e in range(len(expected))
            ]
        else:
            continue
        np.testing.assert_allclose(actual, expected, rtol=TOLERANCE, atol=TOLERANCE)
        known += 1
    assert known, f"nothing known in {sorted(case.values)}"
