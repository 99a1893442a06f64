"""The authors' formulas in float64: values and gradients to 1e-9, for every case file found.

Case files lie beside this test and in the folder named by the variable OKDDIP_GOLDEN_DIR.
"""

import os
from pathlib import Path

import numpy as np
import pytest
import torch

from trainer import metrics, schedules
from trainer.methods import okddip

TOLERANCE = 1e-9
FOLDERS = [Path(__file__).parent / "data"]
if extra := os.environ.get("OKDDIP_GOLDEN_DIR"):
    FOLDERS.append(Path(extra))


def golden_files():
    return [path for folder in FOLDERS for path in sorted(folder.glob("*.npz"))]


def load(path):
    with np.load(path, allow_pickle=False) as file:
        return {key: file[key] for key in file.files}


CASES, SCHEDULES = [], []
for _path in golden_files():
    _values = load(_path)
    (CASES if "in/logits" in _values else SCHEDULES).append(
        pytest.param(_values, id=f"{_path.parent.name}/{_path.stem}")
    )


def test_an_extra_folder_that_was_asked_for_has_cases():
    for folder in FOLDERS:
        assert list(folder.glob("*.npz")), f"{folder} holds no case"


def assert_close(actual, case, key):
    torch.testing.assert_close(
        actual.detach(), torch.from_numpy(np.asarray(case[key])), rtol=TOLERANCE, atol=TOLERANCE,
        msg=lambda text: f"{key}: {text}",
    )  # fmt: skip


class Inputs:
    """The case's inputs as float64 leaves, and the loss that they give."""

    def __init__(self, case, **options):
        def leaf(key):
            return torch.from_numpy(case[key].copy()).requires_grad_()

        self.logits, self.features = leaf("in/logits"), leaf("in/features")
        self.WL, self.WE = leaf("in/WL"), leaf("in/WE")
        self.labels = torch.from_numpy(case["in/labels"])
        alpha = float(case["in/alpha"])
        self.losses = okddip.okddip_losses(
            self.logits, self.features[:, :-1], self.WL, self.WE, self.labels,
            temperature=float(case["in/T"]), ramp_weight=float(case["in/w"]),
            peer_weight=alpha, leader_weight=alpha, **options,
        )  # fmt: skip

    def assert_gradients(self, of, case, prefix):
        leaves = [self.logits, self.features, self.WL, self.WE]
        grads = torch.autograd.grad(of, leaves, retain_graph=True, allow_unused=True)
        checked = 0
        for name, leaf, grad in zip(["logits", "features", "WL", "WE"], leaves, grads, strict=True):
            if (key := f"{prefix}/{name}") in case:
                grad = torch.zeros_like(leaf) if grad is None else grad
                assert_close(grad[:, :-1] if name == "features" else grad, case, key)
                checked += 1
        assert checked, f"the case has no {prefix}"


@pytest.mark.parametrize("case", CASES)
class TestOKDDip:
    def test_loss_parts(self, case):
        losses = Inputs(case).losses
        for key, part in [
            ("loss_total", losses.total),
            ("loss_ce_peers", losses.ce_peers),
            ("loss_ce_leader", losses.ce_leader),
            ("loss_dis1", losses.kd_peers),
            ("loss_dis2", losses.kd_leader),
        ]:
            assert_close(part, case, f"okddip/{key}")

    def test_attention_and_targets(self, case):
        inputs = Inputs(case)
        peers, T = inputs.logits[:, :-1], float(case["in/T"])
        weights = okddip.attention(inputs.features[:, :-1], inputs.WL, inputs.WE)
        assert_close(weights, case, "okddip/attention")
        first = okddip.peer_targets(peers, weights, T, "logits")
        expected = torch.from_numpy(case["okddip/targets_logits"])
        torch.testing.assert_close(first, torch.softmax(expected / T, -1), rtol=0, atol=TOLERANCE)
        second = okddip.leader_target(peers, T, "logits")
        expected = torch.from_numpy(case["okddip/leader_target_logits"])
        torch.testing.assert_close(second, torch.softmax(expected / T, -1), rtol=0, atol=TOLERANCE)

    def test_gradients(self, case):
        inputs = Inputs(case)
        inputs.assert_gradients(inputs.losses.total, case, "okddip/grad")
        inputs.assert_gradients(inputs.losses.kd_peers, case, "okddip/grad_dis1")
        inputs.assert_gradients(inputs.losses.kd_leader, case, "okddip/grad_dis2")

    def test_aggregating_probabilities(self, case):
        prefix = "variant_paper_eq_prob_space"
        if f"{prefix}/loss_total" not in case:
            pytest.skip("the case has no such variant")
        inputs = Inputs(case, aggregate="probabilities")
        assert_close(inputs.losses.kd_peers, case, f"{prefix}/loss_dis1")
        assert_close(inputs.losses.kd_leader, case, f"{prefix}/loss_dis2")
        assert_close(inputs.losses.total, case, f"{prefix}/loss_total")
        inputs.assert_gradients(inputs.losses.total, case, f"{prefix}/grad")

    def test_detached_targets(self, case):
        if "variant_detached_targets/grad/logits" not in case:
            pytest.skip("the case has no such variant")
        inputs = Inputs(case, detach_targets=True)
        inputs.assert_gradients(inputs.losses.total, case, "variant_detached_targets/grad")

    def test_kl(self, case):
        logits = torch.from_numpy(case["in/logits"])
        T = float(case["in/T"])
        target = torch.softmax(logits[:, 1] / T, dim=-1)
        plain = okddip.kl_divergence(target, logits[:, 0], T)
        assert_close(plain, case, "kl/plain")
        authors = okddip.kl_divergence(target, logits[:, 0], T, okddip.AUTHORS_EPSILON)
        assert_close(authors, case, "kl/with_1e-7")

    def test_diversity_and_accuracy(self, case):
        logits, labels = (torch.from_numpy(case[f"in/{key}"]) for key in ("logits", "labels"))
        peers = logits[:, :-1]
        diversity = metrics.pairwise_diversity(peers)
        assert_close(diversity, case, "diversity/mean_pairwise_euclidean")
        assert_close(100 * metrics.accuracy(logits[:, -1], labels), case, "eval/leader_top1_pct")
        ensemble = 100 * metrics.accuracy(peers.mean(dim=1), labels)
        assert_close(ensemble, case, "eval/ensemble_top1_pct")
        mean_peer = 100 * metrics.accuracy(peers, labels).mean()
        assert_close(mean_peer, case, "eval/mean_peer_top1_pct")


@pytest.mark.parametrize("case", SCHEDULES)
def test_schedules(case):
    """R = 80 and the paper's 300 epochs; the learning rate drops at epochs 150 and 225."""
    known = 0
    for key, expected in case.items():
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
    assert known, f"nothing known in {sorted(case)}"
