"""Networks and groups: sizes as published, one definition for every structure."""

import subprocess
import sys

import pytest
import torch
from torch import nn

from trainer.config.strict import ConfigError
from trainer.config.train import TrainConfig
from trainer.group.group import PeerGroup, single_network
from trainer.leader.export import export_pt2
from trainer.leader.leader import Leader, LeaderInfo
from trainer.methods import build_method
from trainer.models import build_architecture, check_size
from trainer.models.layers import StridedPointwise
from trainer.registry import MODELS

# PAPER: parameters of student, branch-based and network-based group of 4, projections at D/8.
PUBLISHED = {
    ("resnet32", 10): (466_906, 1_530_872, 1_868_648),
    ("resnet32", 100): (472_756, 1_554_272, 1_892_048),
    ("resnet110", 10): (1_147_738, 3_781_496, 4_607_336),
    ("resnet110", 100): (1_170_868, 3_874_016, 4_699_856),
    ("wrn20_8", 10): (6_848_090, 22_519_416, 27_408_744),
    ("wrn20_8", 100): (6_871_220, 22_611_936, 27_501_264),
    ("vgg16", 10): (15_253_578, 38_157_928, 61_079_848),
    ("vgg16", 100): (15_299_748, 38_342_608, 61_264_528),
    ("densenet40_12", 10): (176_122, 361_168, 708_712),
    ("densenet40_12", 100): (188_092, 409_048, 756_592),
    ("resnet34", 1000): (21_797_672, 83_212_512, 87_256_224),
}

# Of one network, from the papers and torchvision's documentation.
PUBLISHED_ELSEWHERE = {
    ("wrn16_2", 10): 691_674,
    ("wrn28_10", 10): 36_479_194,
    ("resnet18", 1000): 11_689_512,
    ("resnet50", 1000): 25_557_032,
    ("mobilenet_v2", 1000): 3_504_872,
    ("shufflenet_v2", 1000): 2_278_604,
}

# Convolutions and linear layers without shortcuts, which Zagoruyko & Komodakis count differently.
DEPTHS = {
    "resnet8": 8, "resnet14": 14, "resnet20": 20, "resnet32": 32, "resnet56": 56,
    "resnet110": 110, "wrn20_8": 20, "vgg16": 16, "densenet40_12": 40,
    "resnet18": 18, "resnet34": 34, "resnet50": 50,
}  # fmt: skip

ONE_OF_EACH_FAMILY = (
    "resnet8", "wrn20_8", "wrn16_2", "vgg16", "densenet40_12",
    "resnet18", "mobilenet_v2", "shufflenet_v2",
)  # fmt: skip


@pytest.fixture(autouse=True)
def fixed_seed():
    torch.manual_seed(0)


def parameters(*modules):
    return sum(p.numel() for module in modules for p in module.parameters())


def smallest(name, *, channels=3, num_classes=5):
    """The network as narrow as it comes."""
    widths = MODELS[name].widths or (0.125,)
    return build_architecture(name, channels=channels, num_classes=num_classes, width=widths[0])


def randomise_statistics(module):
    """Fresh batch norms are the identity in eval mode, and would hide one that is left out."""
    for layer in module.modules():
        if isinstance(layer, nn.BatchNorm2d):
            nn.init.uniform_(layer.running_mean, -0.2, 0.2)
            nn.init.uniform_(layer.running_var, 0.5, 1.5)


@pytest.mark.parametrize(("name", "num_classes"), PUBLISHED)
def test_parameter_counts_equal_the_papers(name, num_classes):
    with torch.device("meta"):
        network = build_architecture(name, channels=3, num_classes=num_classes)
        method = build_method(TrainConfig(model=name), network)
        counts = (
            parameters(single_network(network)),
            parameters(PeerGroup(network, 4, "branch"), method),
            parameters(PeerGroup(network, 4, "network"), method),
        )
    assert counts == PUBLISHED[name, num_classes]


@pytest.mark.parametrize(("name", "num_classes"), PUBLISHED_ELSEWHERE)
def test_parameter_counts_of_the_other_networks(name, num_classes):
    with torch.device("meta"):
        network = single_network(build_architecture(name, channels=3, num_classes=num_classes))
    assert parameters(network) == PUBLISHED_ELSEWHERE[name, num_classes]


@pytest.mark.parametrize("name", DEPTHS)
def test_depth_counts_the_weighted_layers_on_the_main_path(name):
    with torch.device("meta"):
        network = single_network(build_architecture(name, channels=3, num_classes=10))
    layers = [
        n for n, m in network.named_modules()
        if isinstance(m, nn.Conv2d | nn.Linear) and "shortcut" not in n and "downsample" not in n
    ]  # fmt: skip
    assert len(layers) == DEPTHS[name]


@pytest.mark.parametrize("structure", ["network", "branch"])
@pytest.mark.parametrize(("channels", "size"), [(1, 8), (1, 28), (3, 32), (3, 40)])
def test_a_group_gives_logits_and_features_of_every_member(structure, channels, size):
    network = build_architecture("resnet8", channels=channels, num_classes=7, width=0.5)
    group = PeerGroup(network, 3, structure)
    output = group(torch.randn(2, channels, size, size))
    assert output.logits_NMC.shape == (2, 3, 7)
    assert output.features_NMD.shape == (2, 3, network.feature_dim) == (2, 3, 32)
    assert output.hidden_NE.shape == (2, network.trunk_channels) == (2, 16)


def test_the_pooled_trunk_carries_its_gradient():
    group = PeerGroup(build_architecture("resnet8", channels=1, num_classes=10), 2, "branch")
    images = torch.randn(4, 1, 8, 8)
    hidden_NE = group(images).hidden_NE
    torch.testing.assert_close(hidden_NE, group.trunks[0](images).mean(dim=(2, 3)))
    hidden_NE.square().sum().backward()
    assert all(parameter.grad.abs().sum() > 0 for parameter in group.trunks.parameters())


@pytest.mark.parametrize("name", MODELS)
def test_every_network_trains_at_its_smallest_size_and_is_refused_below(name):
    size = MODELS[name].min_size
    check_size(name, size, size)
    architecture = smallest(name, channels=1, num_classes=2)
    network = single_network(architecture).train()
    map_NCHW = network.trunk(torch.randn(2, 1, size, size))
    features_ND = network.branch(map_NCHW)
    logits_NC = network.classifier(features_ND)
    assert map_NCHW.shape[1] == architecture.trunk_channels
    assert features_ND.shape == (2, architecture.feature_dim)
    assert logits_NC.shape == (2, 2)
    logits_NC.square().sum().backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in network.parameters())
    for height, width in ((size - 1, size), (size, size - 1)):
        with pytest.raises(ValueError, match=f"{name} .*{height}×{width} .*{size}×{size}"):
            check_size(name, height, width)


def test_vgg16_really_cannot_be_fed_less():
    with pytest.raises(RuntimeError):
        single_network(smallest("vgg16"))(torch.randn(2, 3, 31, 31))


@pytest.mark.parametrize("name", MODELS)
def test_every_network_takes_sizes_up_to_224_and_sides_that_differ(name):
    with torch.device("meta"), torch.no_grad():
        network = single_network(build_architecture(name, channels=3, num_classes=11)).eval()
        for height, width in ((33, 45), (64, 64), (100, 32), (224, 224)):
            assert network(torch.empty(1, 3, height, width)).shape == (1, 11)


@pytest.mark.parametrize("structure", ["network", "branch"])
@pytest.mark.parametrize("name", MODELS)
def test_the_leader_alone_computes_what_it_computes_in_the_group(name, structure):
    group = PeerGroup(smallest(name), 2, structure).eval()
    randomise_statistics(group)
    images = torch.randn(2, 3, 32, 32)
    with torch.no_grad():
        torch.testing.assert_close(group.leader()(images), group(images).logits_NMC[:, -1])


@pytest.mark.parametrize("name", ONE_OF_EACH_FAMILY)
def test_branches_share_nothing_but_the_trunk(name):
    group = PeerGroup(smallest(name), 3, "branch")
    ids = [id(p) for p in group.parameters()]
    assert len(ids) == len(set(ids))
    whole, trunk = parameters(group.leader()), parameters(group.trunks)
    assert parameters(group) == trunk + 3 * (whole - trunk)


@pytest.mark.parametrize("name", ONE_OF_EACH_FAMILY)
def test_members_start_from_different_weights(name):
    group = PeerGroup(smallest(name, channels=1), 3, "branch")
    logits_NMC = group(torch.randn(4, 1, 32, 32)).logits_NMC
    assert not torch.allclose(logits_NMC[:, 0], logits_NMC[:, 1])


@pytest.mark.parametrize("name", ONE_OF_EACH_FAMILY)
def test_a_leader_is_exported_with_a_free_batch_size(name, tmp_path):
    size = MODELS[name].min_size
    network = single_network(smallest(name, channels=1)).eval()
    info = LeaderInfo(name, 1.0, list("abcde"), [1, size, size], [0.5], [0.2], 0.9, {})
    export_pt2(Leader(network, info), tmp_path / "leader.pt2")
    program = torch.export.load(tmp_path / "leader.pt2").module()
    images = torch.randn(3, 1, size, size)
    with torch.no_grad():
        torch.testing.assert_close(program(images), network(images))


@pytest.mark.parametrize(
    ("name", "width", "feature_dim"),
    [("resnet8", 0.5, 32), ("resnet110", 0.5, 128), ("wrn20_8", 0.25, 64), ("wrn16_2", 2, 256),
     ("vgg16", 0.25, 128), ("densenet40_12", 0.5, 66), ("mobilenet_v2", 1.5, 1920),
     ("shufflenet_v2", 2, 2048)],
)  # fmt: skip
def test_width_scales_the_channels(name, width, feature_dim):
    with torch.device("meta"):
        network = build_architecture(name, channels=1, num_classes=10, width=width)
        counts = [parameters(single_network(n)) for n in (smallest(name), network)]
    assert network.feature_dim == feature_dim
    assert counts == sorted(counts)


@pytest.mark.parametrize(
    ("name", "width", "words"),
    [("resnet18", 0.5, "resnet18 has no width"),
     ("shufflenet_v2", 0.75, "shufflenet_v2 comes in 0.5, 1, 1.5, 2")],
)  # fmt: skip
def test_a_width_that_a_network_does_not_come_in_is_refused(name, width, words):
    with pytest.raises(ValueError, match=words):
        build_architecture(name, channels=3, num_classes=10, width=width)
    with pytest.raises(ConfigError, match=f"width: .*{words}"):
        TrainConfig(model=name, width=width)


@pytest.mark.parametrize("name", ["resnet18", "mobilenet_v2", "shufflenet_v2"])
def test_what_is_taken_apart_computes_what_torchvision_computes(name):
    import torchvision

    builder = "shufflenet_v2_x1_0" if name == "shufflenet_v2" else name
    whole = torchvision.models.get_model(builder, num_classes=6).eval()
    randomise_statistics(whole)
    parts = single_network(build_architecture(name, channels=3, num_classes=6)).eval()
    state = dict(zip(parts.state_dict(), whole.state_dict().values(), strict=True))
    parts.load_state_dict(state)
    images = torch.randn(2, 3, 64, 64)
    with torch.no_grad():
        torch.testing.assert_close(parts(images), whole(images))


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("name", ONE_OF_EACH_FAMILY)
def test_the_first_convolution_starts_with_the_published_spread(name, channels):
    network = single_network(build_architecture(name, channels=channels, num_classes=10))
    first = next(m for m in network.modules() if isinstance(m, nn.Conv2d))
    fan_in = channels * first.kernel_size[0] ** 2
    fan_out = first.out_channels * first.kernel_size[0] ** 2
    variance = {"densenet40_12": 2 / fan_in, "shufflenet_v2": 1 / (3 * fan_in)}
    expected = variance.get(name, 2 / fan_out) ** 0.5
    assert first.weight.std().item() == pytest.approx(expected, rel=0.25)


def test_vgg_linear_layers_start_as_torchvisions():
    classifier = build_architecture("vgg16", channels=3, num_classes=10).classifier()
    for layer in classifier:
        if isinstance(layer, nn.Linear):
            assert layer.weight.std().item() == pytest.approx(0.01, rel=0.05)
            assert not layer.bias.any()


def test_naming_a_network_needs_no_torch():
    probe = (
        "import sys; from trainer import TrainConfig; TrainConfig(model='mobilenet_v2')\n"
        "assert 'torch' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", probe], check=True)


# A convolution that torch's CPU library gets wrong (oneDNN issue 6035)


def test_a_strided_pointwise_convolution_computes_what_torchs_does():
    torch.manual_seed(0)
    ours = StridedPointwise(4, 8, 1, 2, bias=False).double()
    plain = nn.Conv2d(4, 8, 1, 2, bias=False).double()
    plain.load_state_dict(ours.state_dict())
    inputs = [torch.randn(5, 4, 7, 8, dtype=torch.float64).requires_grad_() for _ in range(2)]
    inputs[1].data.copy_(inputs[0])
    outputs = [layer(x) for layer, x in zip((ours, plain), inputs, strict=True)]
    torch.testing.assert_close(*outputs)
    for output in outputs:
        (output**2).sum().backward()
    torch.testing.assert_close(ours.weight.grad, plain.weight.grad)
    torch.testing.assert_close(inputs[0].grad, inputs[1].grad)


@pytest.mark.parametrize("model", ["resnet8", "resnet20", "wrn16_2", "wrn20_8", "densenet40_12"])
def test_narrow_networks_have_no_other_strided_pointwise_convolution(model):
    network = single_network(build_architecture(model, channels=1, num_classes=10, width=0.25))
    plain = [m for m in network.modules() if type(m) is nn.Conv2d and m.kernel_size == (1, 1)]
    assert all(m.stride == (1, 1) or m.in_channels >= 16 for m in plain)


@pytest.mark.parametrize("executor", ["eager", "fused"])
def test_a_narrow_group_trains_without_damaging_its_memory(executor):
    code = (
        "from trainer import TrainConfig; from trainer.tools.timing import Shape, short_run\n"
        "config = TrainConfig(model='resnet8', width=0.25, num_peers=2, batch_size=32, "
        f"num_threads=1, device='cpu', precision='fp32', executor={executor!r})\n"
        "run = short_run(config, Shape(1, 8, 8, 10))\n"
        "for _ in range(25): run.run_epoch()"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
