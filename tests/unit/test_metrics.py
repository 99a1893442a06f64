"""Each measure against the same thing in slow plain Python."""

import itertools
import math

import pytest
import torch

from trainer.engine import metrics

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


# How peers differ in what they get wrong


def predicted(logits_NMC: torch.Tensor) -> list[list[int]]:
    """Return each member's classes."""
    rows = logits_NMC.tolist()
    return [[row[m].index(max(row[m])) for row in rows] for m in range(len(rows[0]))]


def one_hot(classes_MN: list[list[int]]) -> torch.Tensor:
    """Return logits (N, M, C) of members that predict these classes."""
    return torch.nn.functional.one_hot(torch.tensor(classes_MN).T, C).double()


def test_disagreement_is_the_share_of_images_on_which_a_pair_differs(predictions):
    pairs = list(itertools.combinations(predicted(predictions[0]), 2))
    shares = [sum(x != y for x, y in zip(a, b, strict=True)) / N for a, b in pairs]
    actual = metrics.disagreement(predictions[0]).item()
    assert 0 < actual < 1
    assert actual == pytest.approx(sum(shares) / len(shares), rel=1e-12)


def test_two_different_mistakes_are_a_disagreement():
    assert metrics.disagreement(one_hot([[0, 1, 2], [0, 2, 2]])).item() == pytest.approx(1 / 3)
    assert metrics.disagreement(one_hot([[0, 1, 2], [1, 2, 0]])).item() == 1


@pytest.mark.parametrize("seed", range(5))
def test_q_is_yules_over_the_images_that_both_one_or_none_get_right(seed):
    generator = torch.Generator().manual_seed(seed)
    logits_NPC = torch.randn(N, 4, C, generator=generator)
    labels = torch.randint(0, C, (N,), generator=generator)
    for n in range(0, N, 2):  # half the images are easy for somebody
        logits_NPC[n, n % 4, labels[n]] += 9
    values = []
    for a, b in itertools.combinations(predicted(logits_NPC), 2):
        n11 = n10 = n01 = n00 = 0
        for x, y, label in zip(a, b, labels.tolist(), strict=True):
            n11 += x == label and y == label
            n10 += x == label and y != label
            n01 += x != label and y == label
            n00 += x != label and y != label
        divisor = n11 * n00 + n01 * n10
        values.append((n11 * n00 - n01 * n10) / divisor if divisor else 1.0)
    actual = metrics.q_statistic(logits_NPC, labels).item()
    assert actual == pytest.approx(sum(values) / len(values), rel=1e-12)


def test_q_is_minus_1_where_no_image_fools_both_and_0_where_they_are_independent():
    labels = torch.zeros(4, dtype=torch.int64)
    assert metrics.q_statistic(one_hot([[0, 0, 1, 0], [1, 0, 0, 0]]), labels).item() == -1
    assert metrics.q_statistic(one_hot([[0, 0, 1, 1], [0, 1, 0, 1]]), labels).item() == 0
    assert metrics.q_statistic(one_hot([[0, 0, 1, 1], [0, 0, 2, 2]]), labels).item() == 1


@pytest.mark.parametrize(
    "classes_MN",
    [
        pytest.param([[0, 1, 2]], id="one member"),
        pytest.param([[0, 1, 1], [0, 1, 1], [0, 1, 1]], id="identical members"),
        pytest.param([[0, 1, 2], [0, 1, 2]], id="all right"),
        pytest.param([[1, 2, 0], [1, 2, 0]], id="all wrong"),
    ],
)
def test_members_that_cannot_be_told_apart_neither_disagree_nor_differ(classes_MN):
    logits_NPC, labels_N = one_hot(classes_MN), torch.tensor([0, 1, 2])
    assert metrics.disagreement(logits_NPC).item() == 0
    assert metrics.q_statistic(logits_NPC, labels_N).item() == 1
    assert metrics.pairwise_diversity(logits_NPC).item() == 0


# Calibration


@pytest.mark.parametrize("bins", [1, 5, 15])
def test_ece_is_the_mean_gap_between_confidence_and_accuracy_over_the_bins(bins):
    """From nearly uniform to nearly certain, so that no bin is empty; the least certain are wrong,
    so that neighbouring bins err in opposite directions."""
    generator = torch.Generator().manual_seed(0)
    logits_NC = torch.randn(300, 30, generator=generator) * torch.linspace(0, 9, 300)[:, None]
    labels_N = logits_NC.argmax(dim=1)
    labels_N[logits_NC.softmax(dim=1).amax(dim=1) < 0.2] += 1
    labels_N %= 30
    gap, counts = 0.0, []
    for b in range(bins):
        held = []
        for row, label in zip(logits_NC.tolist(), labels_N.tolist(), strict=True):
            p = softmax(row)
            if b / bins < max(p) <= (b + 1) / bins:
                held.append((max(p), p.index(max(p)) == label))
        counts.append(len(held))
        if held:
            confidence = sum(c for c, _ in held) / len(held)
            accuracy = sum(right for _, right in held) / len(held)
            gap += len(held) / 300 * abs(confidence - accuracy)
    assert all(counts)
    actual = metrics.expected_calibration_error(logits_NC, labels_N, bins).item()
    assert actual == pytest.approx(gap, rel=1e-12)


def test_ece_is_0_of_the_certain_and_right_and_1_of_the_certain_and_wrong():
    certain, labels_N = 1000 * torch.eye(3), torch.arange(3)
    assert metrics.expected_calibration_error(certain, labels_N).item() == 0
    wrong_N = torch.tensor([1, 2, 0])
    assert metrics.expected_calibration_error(certain, wrong_N).item() == pytest.approx(1)


def test_ece_of_a_coin_that_is_right_half_of_the_time_is_0():
    logits_NC = torch.tensor([[1e-9, 0.0], [1e-9, 0.0]])
    assert metrics.expected_calibration_error(logits_NC, torch.tensor([0, 1])).item() < 1e-8


# Attention


def test_attention_entropy_is_the_mean_over_all_rows():
    rows_NPP = torch.rand(5, 3, 3, generator=torch.Generator().manual_seed(0)).softmax(-1)
    entropies = [
        -sum(share * math.log(share) for share in row)
        for image in rows_NPP.tolist()
        for row in image
    ]
    expected = sum(entropies) / len(entropies)
    assert metrics.attention_entropy(rows_NPP).item() == pytest.approx(expected, rel=1e-9)


def test_attention_entropy_ends_at_0_and_at_log_p():
    assert metrics.attention_entropy(torch.eye(4).expand(2, 4, 4)).item() == 0
    uniform = torch.full((2, 4, 4), 0.25)
    assert metrics.attention_entropy(uniform).item() == pytest.approx(math.log(4))
    assert metrics.attention_entropy(torch.ones(2, 1, 1)).item() == 0
