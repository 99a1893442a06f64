"""Networks and groups: sizes as published, one definition for every structure."""

import pytest
import torch

from trainer.config import TrainConfig
from trainer.group import PeerGroup, single_network
from trainer.methods import build_method
from trainer.models import build_architecture

# PAPER: parameters of student, branch-based and network-based group of 4, projections at D/8.
PUBLISHED = {
    ("resnet32", 10): (466_906, 1_530_872, 1_868_648),
    ("resnet32", 100): (472_756, 1_554_272, 1_892_048),
    ("resnet110", 10): (1_147_738, 3_781_496, 4_607_336),
    ("resnet110", 100): (1_170_868, 3_874_016, 4_699_856),
}


def parameters(*modules):
    return sum(p.numel() for module in modules for p in module.parameters())


@pytest.mark.parametrize(("name", "num_classes"), PUBLISHED)
def test_parameter_counts_equal_the_papers(name, num_classes):
    network = build_architecture(name, channels=3, num_classes=num_classes)
    method = build_method(TrainConfig(model=name), network.feature_dim)
    counts = (
        parameters(single_network(network)),
        parameters(PeerGroup(network, 4, "branch"), method),
        parameters(PeerGroup(network, 4, "network"), method),
    )
    assert counts == PUBLISHED[name, num_classes]


@pytest.mark.parametrize("name", ["resnet8", "resnet14", "resnet20", "resnet32", "resnet56"])
def test_depth_counts_the_weighted_layers_on_the_main_path(name):
    network = single_network(build_architecture(name, channels=3, num_classes=10))
    layers = [
        n for n, m in network.named_modules()
        if isinstance(m, torch.nn.Conv2d | torch.nn.Linear) and "shortcut" not in n
    ]  # fmt: skip
    assert len(layers) == int(name.removeprefix("resnet"))


@pytest.mark.parametrize("structure", ["network", "branch"])
@pytest.mark.parametrize(("channels", "size"), [(1, 8), (1, 28), (3, 32), (3, 40)])
def test_a_group_gives_logits_and_features_of_every_member(structure, channels, size):
    network = build_architecture("resnet8", channels=channels, num_classes=7, width=0.5)
    group = PeerGroup(network, 3, structure)
    logits_NMC, features_NMD = group(torch.randn(2, channels, size, size))
    assert logits_NMC.shape == (2, 3, 7)
    assert features_NMD.shape == (2, 3, 32)


@pytest.mark.parametrize("structure", ["network", "branch"])
def test_the_leader_alone_computes_what_it_computes_in_the_group(structure):
    group = PeerGroup(build_architecture("resnet8", channels=3, num_classes=10), 4, structure)
    images = torch.randn(5, 3, 32, 32)
    group.eval()
    torch.testing.assert_close(group.leader()(images), group(images).logits_NMC[:, -1])


def test_members_start_from_different_weights():
    group = PeerGroup(build_architecture("resnet8", channels=1, num_classes=10), 3, "branch")
    logits_NMC, _ = group(torch.randn(4, 1, 8, 8))
    assert not torch.allclose(logits_NMC[:, 0], logits_NMC[:, 1])


def test_width_scales_the_channels():
    half = build_architecture("resnet8", channels=1, num_classes=10, width=0.5)
    assert half.feature_dim == 32
