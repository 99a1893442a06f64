"""The estimate of a search's disk: weights as they are saved, for the largest group of a space."""

import pytest

import trainer.engine.checkpoint
from okddip_search.cli import disk
from okddip_search.cli.images import Images, count_images
from okddip_search.space.load import load_space
from trainer.config.data import DataConfig
from trainer.config.train import TrainConfig
from trainer.data.load import load_development_data
from trainer.engine.run import TrainingRun
from trainer.tools.footprint import footprint

DIGITS = Images("", 1293, 144, 360, channels=1, classes=10, side=8)
DATA = {"name": "digits", "train_limit": 60, "validation": 50}
SPACE = """\
name: sizes
data: {name: digits}
trainer: {epochs: 10}
search:
  model: {type: categorical, choices: [resnet8, resnet20]}
  method: {type: categorical, choices: [okddip, cl_ilr, single]}
  structure: {type: categorical, choices: [branch, network], when: {method: [okddip, single]}}
  num_peers: {type: int, low: 1, high: 4, when: {method: [okddip, cl_ilr]}}
  lr: {type: float, low: 0.01, high: 1, log: true}
study: {trials: 30}
"""


@pytest.fixture(scope="module")
def data():
    return load_development_data(DataConfig(**DATA))


@pytest.mark.parametrize(
    "fields",
    [
        {},
        {"structure": "network", "num_peers": 1},
        {"method": "one"},
        {"leader_epoch": "best"},
        {"method": "codistillation", "structure": "network"},
        {"method": "single", "model": "densenet40_12", "width": 1.0},
    ],
    ids=str,
)
def test_weights_are_counted_as_they_are_saved(tmp_path, data, fields):
    common = {"model": "resnet8", "width": 0.25, "batch_size": 32, "epochs": 1, "device": "cpu"}
    config = TrainConfig(**{**common, "num_threads": 1, "data": DATA, **fields})
    with TrainingRun(config, data, tmp_path) as run:
        run.step()
    (state,) = tmp_path.glob("state-*.safetensors")
    weights = tmp_path / "leader" / "leader.safetensors"
    counted = footprint(config, channels=1, num_classes=10)
    assert counted.state == pytest.approx(state.stat().st_size, rel=0.05)
    assert counted.leader == pytest.approx(weights.stat().st_size, rel=0.05)


def test_the_number_of_states_at_once_is_the_trainers():
    assert disk.STATES_AT_ONCE == trainer.engine.checkpoint.STATES_AT_ONCE


def test_the_largest_group_is_looked_for_among_all_networks_methods_and_structures(tmp_path):
    (tmp_path / "sizes.yaml").write_text(SPACE)
    configs = disk.largest_configs(load_space(tmp_path / "sizes.yaml"))
    found = {(c.model, c.method, c.structure) for c in configs}
    assert ("resnet20", "okddip", "network") in found
    assert ("resnet20", "cl_ilr", "network") not in found  # there is no such group
    assert {c.num_peers for c in configs if c.method == "okddip"} == {4}


def test_the_estimate_grows_with_slots_trials_and_what_is_kept(tmp_path):
    (tmp_path / "sizes.yaml").write_text(SPACE)
    spec = load_space(tmp_path / "sizes.yaml")
    state, leader = footprint(
        TrainConfig(model="resnet20", structure="network", num_peers=4, data={"name": "digits"}),
        channels=1,
        num_classes=10,
    )

    def total(spec=spec, slots=2, own_store=True):
        estimate = disk.estimate_disk(spec, slots, DIGITS, own_store=own_store)
        assert estimate is not None
        return estimate.total

    def studying(**settings):
        return spec.model_copy(update={"study": spec.study.model_copy(update=settings)})

    assert total(slots=4) - total() == 2 * disk.STATES_AT_ONCE * state
    assert total(studying(keep_leaders=5)) - total() == 2 * leader
    assert total(studying(trials=60)) > total() > total(own_store=False)


def test_a_space_whose_networks_cannot_be_counted_is_not_guessed(monkeypatch):
    monkeypatch.setattr(disk.sys, "executable", "/nowhere/python")
    assert disk.estimate_disk(load_space("digits"), 2, DIGITS, own_store=True) is None


@pytest.mark.parametrize(("streaming", "confirm", "images"), [(0, 0, 7), (0, 1, 9), (1, 1, 0)])
def test_decoded_images_count_where_they_are_kept(tmp_path, streaming, confirm, images):
    names = [f"train/cat/{n}" for n in range(4)] + [f"train/dog/{n}" for n in range(3)]
    for name in (*names, "test/cat/0", "test/dog/0"):
        (tmp_path / f"{name}.png").parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / f"{name}.png").touch()
    data = {"name": "image_folder", "root": str(tmp_path), "image_size": 32}
    text = SPACE.replace("{name: digits}", str({**data, "streaming": bool(streaming)}))
    (tmp_path / "sizes.yaml").write_text(text + "confirm: {top: 1}\n" * confirm)
    spec = load_space(tmp_path / "sizes.yaml")
    estimate = disk.estimate_disk(spec, 2, count_images(spec.data), own_store=True)
    assert estimate.parts.get("decoded images", 0) == images * 3 * 32 * 32
