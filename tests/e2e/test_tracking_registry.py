"""Confirmed leaders in the Model Registry: of the sqlite store, and of a server."""

import contextlib
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from tracking_helpers import (
    all_runs,
    client_of,
    free_port,
    get,
    mlflow_server,
    open_tracker,
    save_tiny_leader,
    wait_for,
)

from okddip_search.tracking.store import store_uri
from okddip_search.tracking.worker import sync

NAME = "demo"


@pytest.fixture(params=["sqlite", "server"])
def search_dir(tmp_path, request) -> Iterator[Path]:
    """A search directory whose tracking goes to one of the two kinds of store."""
    directory = tmp_path / "search"
    directory.mkdir()
    with contextlib.ExitStack() as stack:
        uri = None
        if request.param == "server":
            uri = f"http://127.0.0.1:{(port := free_port())}"
            stack.enter_context(mlflow_server(tmp_path, port))
            wait_for(lambda: get(f"{uri}/health"))
        (directory / "uri").write_text(uri or store_uri(directory))
        yield directory


def tell(search_dir: Path, leader: str, champion: bool, verdict: str) -> None:
    """Confirm a leader, as a driver of its own."""
    (search_dir / "confirm/confirm.json").unlink(missing_ok=True)  # it says that it is running
    shutil.copytree(search_dir / leader, search_dir / "confirm/leader", dirs_exist_ok=True)
    driver = open_tracker(search_dir, (search_dir / "uri").read_text())
    driver.search_started({}, {})
    driver.confirmed({}, verdict, champion)
    driver.search_ended("FINISHED")
    assert driver.close(60)


def registered(search_dir: Path) -> tuple[dict[str, str], dict[str, str]]:
    """Return alias to version, and version to description."""
    client = client_of((search_dir / "uri").read_text())
    versions = {str(v.version): v.description for v in client.search_model_versions()}
    aliases = client.get_registered_model(NAME).aliases
    return {alias: str(version) for alias, version in aliases.items()}, versions


def test_a_verdict_moves_aliases_and_the_same_weights_stay_one_version(search_dir):
    save_tiny_leader(search_dir / "one", seed=1)
    save_tiny_leader(search_dir / "two", seed=2)
    tell(search_dir, "one", False, "within noise")
    assert registered(search_dir) == ({"candidate": "1"}, {"1": "within noise"})
    tell(search_dir, "one", True, "better")
    assert registered(search_dir) == ({"champion": "1"}, {"1": "better"})
    tell(search_dir, "two", False, "within noise")
    verdicts = {"1": "better", "2": "within noise"}
    assert registered(search_dir) == ({"champion": "1", "candidate": "2"}, verdicts)
    loads_as_saved(search_dir)

    # Somebody decides otherwise; telling all again does not meddle.
    client = client_of((search_dir / "uri").read_text())
    client.set_registered_model_alias(NAME, "champion", "2")
    client.delete_registered_model_alias(NAME, "candidate")
    tell(search_dir, "two", False, "within noise")
    assert sync(search_dir) == 0
    assert registered(search_dir) == ({"champion": "2"}, verdicts)
    experiment = client.get_experiment_by_name("demo")
    models = client.search_logged_models([experiment.experiment_id])
    assert len(models) == 2
    assert all("mlflow.modelVersions" in model.tags for model in models)

    # These weights lost their title by a new verdict, which is about them alone.
    tell(search_dir, "one", True, "better")
    tell(search_dir, "one", False, "within noise after all")
    assert registered(search_dir)[0] == {"candidate": "1"}


def loads_as_saved(search_dir: Path) -> None:
    """The registered model gives the logits of the saved leader, and its files lie beside it."""
    import mlflow

    from trainer.leader.leader import load_leader

    usual = mlflow.get_tracking_uri()
    mlflow.set_tracking_uri((search_dir / "uri").read_text())
    try:
        loaded = mlflow.pytorch.load_model(f"models:/{NAME}@candidate")
        files = mlflow.artifacts.download_artifacts(f"models:/{NAME}@candidate")
    finally:
        mlflow.set_tracking_uri(usual)
    images = torch.randn(3, 1, 8, 8)
    with torch.no_grad():
        expected = load_leader(search_dir / "two").module(images)
        torch.testing.assert_close(loaded(images), expected, rtol=1e-5, atol=1e-6)
        beside = load_leader(Path(files) / "leader_files").module(images)
    torch.testing.assert_close(beside, expected)


def test_a_registration_cut_off_in_the_middle_is_completed(tmp_path):
    save_tiny_leader(tmp_path / "leader")
    (tmp_path / "uri").write_text(store_uri(tmp_path))
    tell(tmp_path, "leader", True, "better")
    client = client_of(store_uri(tmp_path))
    client.delete_registered_model_alias(NAME, "champion")
    client.delete_model_version_tag(NAME, "1", "okddip.told_ms")
    [run] = (run for run in all_runs(store_uri(tmp_path)).values())
    client.delete_tag(run.info.run_id, "okddip.uploads")
    assert sync(tmp_path) > 0
    assert registered(tmp_path) == ({"champion": "1"}, {"1": "better"})


def test_a_leader_that_is_not_there_costs_the_search_nothing(tmp_path):
    troubles: list[str] = []
    driver = open_tracker(tmp_path, troubles=troubles)
    driver.search_started({}, {})
    driver.confirmed({}, "within noise")
    driver.search_ended("FINISHED")
    assert driver.close(30)
    assert troubles == []
