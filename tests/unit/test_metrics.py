"""Each measure against the same thing in slow plain Python."""

import itertools
import math

import pytest
import torch

from trainer import metrics

N, M, C = 23, 3, 5


@pytest.fixture
def predictions() -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    logits_NMC = 3 * torch.randn(N, M, C, generator=generator)
    return logits_NMC, torch.randint(0, C, (N,), generator=generator)


def softmax(logits: list[float]) -> list[float]:
    exps = [math.exp(value - max(logits)) for value in logits]
    return [value / sum(exps) for value in exps]


def test_accuracy_is_the_share_of_right_answers(predictions):
    logits_NMC, labels_N = predictions
    right = [0] * M
    for row, label in zip(logits_NMC.tolist(), labels_N.tolist(), strict=True):
        for m in range(M):
            right[m] += row[m].index(max(row[m])) == label
    expected = [count / N for count in right]
    assert metrics.accuracy(logits_NMC, labels_N).tolist() == expected
    assert metrics.accuracy(logits_NMC[:, 1], labels_N).item() == expected[1]


def test_accuracy_of_a_third_is_a_third_to_the_last_bit():
    labels_N = torch.zeros(3, dtype=torch.int64)
    logits_NC = torch.tensor([[1.0, 0.0], [0.0, 1.0], [0.0, 1.0]])
    assert metrics.accuracy(logits_NC, labels_N).item() == 1 / 3


def test_nll_is_the_mean_surprise_at_the_label(predictions):
    logits_NMC, labels_N = predictions
    expected = [
        sum(-math.log(softmax(logits_NMC[n, m].tolist())[labels_N[n]]) for n in range(N)) / N
        for m in range(M)
    ]
    actual = metrics.negative_log_likelihood(logits_NMC, labels_N)
    assert actual.tolist() == pytest.approx(expected, rel=1e-12)
    assert metrics.negative_log_likelihood(logits_NMC[:, 0], labels_N).item() == pytest.approx(
        expected[0], rel=1e-12
    )


def test_nll_stays_finite_where_the_probability_of_the_label_is_0_in_floats():
    logits_NC = torch.tensor([[0.0, 5000.0]])
    assert metrics.negative_log_likelihood(logits_NC, torch.tensor([0])).item() == 5000


def test_diversity_is_the_mean_distance_over_images_and_pairs(predictions):
    logits_NPC, _ = predictions
    distances = [
        math.dist(softmax(row[a]), softmax(row[b]))
        for row in logits_NPC.tolist()
        for a, b in itertools.combinations(range(M), 2)
    ]
    expected = sum(distances) / len(distances)
    assert metrics.pairwise_diversity(logits_NPC).item() == pytest.approx(expected, rel=1e-12)


@pytest.mark.parametrize("peers", [2, 3, 5])
def test_diversity_ends_at_0_and_at_root_2_whatever_the_number_of_peers(peers):
    same = torch.ones(4, peers, 6)
    assert metrics.pairwise_diversity(same).item() == 0
    opposed = 1000 * torch.eye(6)[:peers].expand(4, peers, 6)
    assert metrics.pairwise_diversity(opposed).item() == pytest.approx(math.sqrt(2))


def test_a_single_peer_has_no_diversity():
    assert metrics.pairwise_diversity(torch.randn(4, 1, 6)).item() == 0
