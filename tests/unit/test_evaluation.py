"""What an evaluation says of a group whose outputs are known."""

import pytest
import torch
from torch import nn

from trainer.config.train import TrainConfig
from trainer.engine import metrics
from trainer.engine.evaluation import evaluate
from trainer.group.group import GroupOutput
from trainer.methods import build_method
from trainer.models import Architecture

N, M, C, D = 200, 3, 4, 8


class Fixed(nn.Module):
    """A group that gives prepared outputs; its images are their numbers."""

    def __init__(self, logits_NMC: torch.Tensor) -> None:
        super().__init__()
        count, members, _ = logits_NMC.shape
        generator = torch.Generator().manual_seed(1)
        self.all = GroupOutput(
            logits_NMC,
            torch.randn(count, members, D, generator=generator),
            torch.randn(count, 5, generator=generator),
        )

    def forward(self, numbers: torch.Tensor) -> GroupOutput:
        return GroupOutput(*(tensor[numbers] for tensor in self.all))


def method_of(**fields: object):
    torch.manual_seed(0)
    architecture = Architecture(
        nn.Identity, nn.Identity, trunk_channels=5, feature_dim=D, num_classes=C
    )
    return build_method(TrainConfig(**fields, num_peers=M - 1), architecture)


@pytest.fixture
def logits_NMC() -> torch.Tensor:
    return 2 * torch.randn(N, M, C, generator=torch.Generator().manual_seed(0))


LABELS = torch.randint(0, C, (N,), generator=torch.Generator().manual_seed(2))


def measured(logits_NMC: torch.Tensor, batch: int = N, **fields: object) -> dict[str, object]:
    numbers = torch.arange(N)
    batches = list(zip(numbers.split(batch), LABELS.split(batch), strict=True))
    return evaluate(Fixed(logits_NMC), method_of(**fields), batches)


@pytest.mark.parametrize("method", ["okddip", "dml", "one"])
def test_how_images_are_batched_changes_nothing(logits_NMC, method):
    whole = measured(logits_NMC, method=method)
    for batch in (1, 7, 64):
        parts = measured(logits_NMC, batch, method=method)
        assert parts.keys() == whole.keys()
        for name, value in whole.items():
            if name == "attention" and value is not None:
                torch.testing.assert_close(torch.tensor(parts[name]), torch.tensor(value))
            else:
                assert parts[name] == (value if value is None else pytest.approx(value)), name


@pytest.mark.parametrize(("two_level", "peers"), [(True, M - 1), (False, M)])
def test_measures_between_members_are_of_the_peers_alone(logits_NMC, two_level, peers):
    found = measured(logits_NMC, two_level=two_level)
    peers_NPC = logits_NMC[:, :peers]
    assert found["leader_accuracy"] == metrics.accuracy(logits_NMC[:, -1], LABELS).item()
    ece = metrics.expected_calibration_error(logits_NMC[:, -1], LABELS).item()
    assert found["leader_ece"] == pytest.approx(ece)
    assert found["peer_accuracy"] == metrics.accuracy(peers_NPC, LABELS).tolist()
    ensemble = metrics.accuracy(peers_NPC.mean(dim=1), LABELS).item()
    assert found["ensemble_accuracy"] == ensemble
    assert found["ensemble_gap"] == pytest.approx(ensemble - found["leader_accuracy"])
    assert found["diversity"] == metrics.pairwise_diversity(peers_NPC).item()
    assert found["disagreement"] == metrics.disagreement(peers_NPC).item()
    assert found["q_statistic"] == metrics.q_statistic(peers_NPC, LABELS).item()


@pytest.mark.parametrize(
    ("different_images", "collapsed"), [(0, True), (1, True), (2, False), (100, False)]
)
def test_peers_that_disagree_on_less_than_a_hundredth_have_collapsed(different_images, collapsed):
    """Of 200 images; the leader's opinion does not count."""
    classes_MN = torch.zeros(M, N, dtype=torch.int64)
    classes_MN[1, :different_images] = 1
    classes_MN[2] = 2
    logits_NMC = torch.nn.functional.one_hot(classes_MN.T, C).float()
    assert measured(logits_NMC)["collapsed"] is collapsed


def test_a_single_peer_has_not_collapsed(logits_NMC):
    assert measured(logits_NMC[:, :2])["collapsed"] is False


def test_evaluation_draws_nothing_from_the_random_generator_that_training_goes_on_with(logits_NMC):
    torch.manual_seed(3)
    expected = torch.rand(2)
    for fields in ({}, {"method": "dml"}, {"method": "one"}, {"attention": "random"}):
        method = method_of(**fields)
        torch.manual_seed(3)
        evaluate(Fixed(logits_NMC), method, [(torch.arange(N), LABELS)])
        assert torch.equal(torch.rand(2), expected), fields
