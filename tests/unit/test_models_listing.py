"""``okddip-search models`` and ``methods``: everything registered, with its published size."""

import json
import subprocess
import sys

import pytest
from click.testing import CliRunner
from test_models import PUBLISHED

from okddip_search.cli.main import cli
from trainer.registry import METHODS, MODELS

# Millions of multiply-adds at native size, as published or as torchvision documents them.
PUBLISHED_MEGA_MACS = {
    "resnet18": 1_814, "resnet34": 3_664, "resnet50": 4_089, "mobilenet_v2": 301,
    "shufflenet_v2": 145, "vgg16": 314, "wrn28_10": 5_243, "resnet20": 41,
}  # fmt: skip


@pytest.fixture(scope="module")
def listed():
    done = CliRunner().invoke(cli, ["models", "--json"], catch_exceptions=False)
    return {(entry["name"], entry["num_classes"]): entry for entry in json.loads(done.stdout)}


def test_every_network_is_listed_with_its_numbers_of_classes(listed):
    assert list(listed) == [(name, c) for name, info in MODELS.items() for c in info.class_counts]
    for (name, _), entry in listed.items():
        assert entry["input_size"] == MODELS[name].native_size
        assert set(entry["parameters"]) == {"single", "branch_group", "network_group"}


def test_listed_parameters_equal_the_papers(listed):
    assert {key: tuple(listed[key]["parameters"].values()) for key in PUBLISHED} == PUBLISHED


def test_listed_multiply_adds_equal_the_published_ones(listed):
    for name, expected in PUBLISHED_MEGA_MACS.items():
        entry = listed[name, MODELS[name].class_counts[0]]
        assert entry["macs"] / 1e6 == pytest.approx(expected, abs=0.6)


def test_multiply_adds_of_resnet8_by_hand(listed):
    convs = 3 * 16 * 9 * 32**2  # stem
    convs += 2 * 16 * 16 * 9 * 32**2
    convs += (16 * 32 * 9 + 32 * 32 * 9 + 16 * 32) * 16**2
    convs += (32 * 64 * 9 + 64 * 64 * 9 + 32 * 64) * 8**2
    assert listed["resnet8", 10]["macs"] == convs + 64 * 10


def test_the_table_shows_the_same_numbers(listed):
    done = CliRunner().invoke(cli, ["models"], catch_exceptions=False)
    rows = [line.split() for line in done.stdout.splitlines()[1:]]
    assert [row[0] for row in rows] == [name for name, _ in listed]
    assert ["resnet32", "100", "32", "472,756", "1,554,272", "1,892,048"] in [r[:6] for r in rows]


def test_methods_are_listed_without_importing_torch():
    probe = (
        "import sys\nfrom okddip_search.cli.main import cli\n"
        "cli(['methods', '--json'], standalone_mode=False)\nassert 'torch' not in sys.modules\n"
    )
    done = subprocess.run([sys.executable, "-c", probe], check=True, capture_output=True, text=True)
    assert json.loads(done.stdout) == [
        {"name": name, "summary": info.summary, "source": info.source,
         "structures": list(info.structures)}
        for name, info in METHODS.items()
    ]  # fmt: skip
    table = CliRunner().invoke(cli, ["methods"], catch_exceptions=False).stdout
    assert all(name in table for name in METHODS)
