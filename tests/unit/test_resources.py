"""How a machine is shared out: trials × threads never exceed the cores."""

import pytest

from okddip_search.cluster.resources import Allocation, Node, allocate, count_gpus
from okddip_search.errors import UserError
from okddip_search.space.load import load_space
from okddip_search.space.settings import ResourceSettings


def share(cpus, gpus, asked=None, **settings):
    return allocate(ResourceSettings(**settings), [Node(cpus, gpus)], asked_gpus=asked)


@pytest.mark.parametrize(
    ("cpus", "gpus", "settings", "slots", "threads"),
    [
        pytest.param(2, 0, {}, 2, 1, id="a laptop: one trial a core"),
        pytest.param(16, 0, {"cpus_per_trial": 4.0}, 4, 4, id="four cores a trial"),
        pytest.param(64, 8, {}, 8, 8, id="a whole GPU a trial, the cores divided"),
        pytest.param(64, 8, {"gpus_per_trial": 0.5}, 16, 4, id="two trials a GPU"),
        pytest.param(64, 8, {"gpus_per_trial": 0.3}, 24, 2, id="three, not 3.3, trials a GPU"),
        pytest.param(64, 8, {"gpus_per_trial": 2.0}, 4, 16, id="two GPUs a trial"),
        pytest.param(4, 8, {}, 4, 1, id="fewer cores than GPUs"),
        pytest.param(64, 8, {"max_concurrent": 3}, 3, 8, id="a limit of the user's"),
        pytest.param(8, 1, {"gpus_per_trial": 0.0}, 8, 1, id="trials that leave the GPU alone"),
    ],
)
def test_slots_and_threads(cpus, gpus, settings, slots, threads):
    shared = share(cpus, gpus, **settings)
    assert (shared.slots, shared.threads_per_trial) == (slots, threads)
    assert shared.slots * shared.threads_per_trial <= cpus


def test_gpus_can_be_left_unused():
    shared = share(16, 8, asked=2)
    assert (shared.gpus, shared.slots) == (2, 2)
    on_cpu = share(16, 8, asked=0)
    assert (on_cpu.gpus, on_cpu.gpus_per_trial, on_cpu.slots) == (0, 0.0, 16)


@pytest.mark.parametrize(
    ("nodes", "asked", "settings", "slots", "threads"),
    [
        pytest.param([(8, 4), (8, 4)], None, {}, 8, 2, id="two alike"),
        pytest.param([(8, 4), (8, 4)], 1, {}, 1, 8, id="one GPU of them all"),
        pytest.param([(64, 0), (8, 8)], None, {}, 8, 1, id="the cores of the GPU's own node count"),
        pytest.param([(16, 4), (4, 2)], None, {"gpus_per_trial": 2.0}, 3, 4, id="the least share"),
        pytest.param([(3, 0), (3, 0)], None, {"cpus_per_trial": 2.0}, 2, 2, id="no trial on two"),
    ],
)
def test_every_node_of_a_cluster_is_shared_out_alone(nodes, asked, settings, slots, threads):
    shared = allocate(
        ResourceSettings(**settings), [Node(*node) for node in nodes], asked_gpus=asked
    )
    assert (shared.slots, shared.threads_per_trial) == (slots, threads)


@pytest.mark.parametrize(
    ("cpus", "gpus", "asked", "settings", "words"),
    [
        (4, 2, 8, {}, "only 2 GPUs"),
        (4, 0, 1, {}, "only 0 GPUs"),
        (2, 0, None, {"cpus_per_trial": 3.0}, "no trial fits"),
        (8, 2, None, {"gpus_per_trial": 4.0}, "needs 4 GPUs, there are 2"),
    ],
)
def test_asking_for_more_than_there_is_is_told(cpus, gpus, asked, settings, words):
    with pytest.raises(UserError, match=words):
        share(cpus, gpus, asked, **settings)


@pytest.mark.parametrize(("value", "count"), [("", 0), ("-1", 0), ("0", 1), ("0,3,5", 3)])
def test_hidden_gpus_are_not_counted(monkeypatch, value, count):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", value)
    assert count_gpus() == count


def test_more_decoding_processes_than_a_trial_has_cores_are_refused(tmp_path):
    from okddip_search.driver.prepare import _as_run

    path = tmp_path / "s.yaml"
    path.write_text(
        "name: s\nsearch: {lr: {type: float, low: 0.1, high: 1}}\n"
        "data: {name: image_folder, root: x, image_size: 32, streaming: true, workers: 5}\n"
    )
    spec = load_space(path)
    with pytest.raises(UserError, match="data.workers is 5, but a trial has 4 cores"):
        _as_run(spec, Allocation(8, 0, 4.0, 0.0, 2))
    assert _as_run(spec, Allocation(10, 0, 5.0, 0.0, 2)).fixed["num_threads"] == 5
