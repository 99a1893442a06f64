"""The leader as an MLflow model: no pickle, the same logits."""

import io
import zipfile
from pathlib import Path

import numpy as np
import torch
from tracking_helpers import all_runs, client_of, open_tracker, save_tiny_leader

from okddip_search.tracking.desired import Upload
from okddip_search.tracking.model import FILES, log_leader
from okddip_search.tracking.store import store_uri
from okddip_search.tracking.worker import sync


def pickles_in(path: Path) -> list[str]:
    """Name everything in a folder, and in archives in it, that looks like a pickle."""

    def look(name: str, data: bytes) -> list[str]:
        if zipfile.is_zipfile(io.BytesIO(data)):
            with zipfile.ZipFile(io.BytesIO(data)) as archive:
                return [
                    found
                    for member in archive.namelist()
                    for found in look(f"{name}!{member}", archive.read(member))
                ]
        is_pickle = name.endswith((".pkl", ".pickle")) or data[:1] == b"\x80" and data[-1:] == b"."
        return [name] if is_pickle else []

    return [
        found
        for file in path.rglob("*")
        if file.is_file()
        for found in look(file.name, file.read_bytes())
    ]


def test_a_model_is_logged_without_pickle_and_gives_the_same_logits(tmp_path):
    import mlflow.pytorch

    from trainer.leader.files import weights_sha256
    from trainer.leader.leader import load_leader

    leader_dir = tmp_path / "leader"
    save_tiny_leader(leader_dir)
    network, digest = load_leader(leader_dir).module, weights_sha256(leader_dir)
    client = client_of(store_uri(tmp_path))
    location = (tmp_path / "mlartifacts").as_uri()
    experiment_id = client.create_experiment("demo", location)
    run_id = client.create_run(experiment_id).info.run_id
    experiment = client.get_experiment(experiment_id)
    model, again = (
        log_leader(client, run_id, experiment, Upload(leader_dir, "", digest, alias))
        for alias in (None, "candidate")
    )
    assert (again.model_id, again.name) == (model.model_id, "leader")

    folder = next((tmp_path / "mlartifacts").rglob("MLmodel")).parent
    assert (folder / "data" / "model.pt2").exists()
    assert pickles_in(tmp_path / "mlartifacts") == []
    loaded = mlflow.pytorch.load_model(str(folder))
    for batch_size in (1, 2, 7):
        images = torch.randn(batch_size, 1, 8, 8)
        with torch.no_grad():
            torch.testing.assert_close(loaded(images), network(images), rtol=1e-5, atol=1e-6)
    served = mlflow.pyfunc.load_model(str(folder)).predict(np.zeros((3, 1, 8, 8), np.float32))
    assert served.shape == (3, 4)
    assert len(client.search_logged_models([experiment_id])) == 1
    assert [m.model_id for m in client.get_run(run_id).outputs.model_outputs] == [model.model_id]


def test_the_leader_of_a_search_is_logged_once(tmp_path):
    save_tiny_leader(tmp_path / "leader")
    driver = open_tracker(tmp_path)
    driver.search_started({}, {})
    driver.search_ended("FINISHED")
    assert driver.close(60)
    assert sync(tmp_path) == 0
    client = client_of(store_uri(tmp_path))
    parent = all_runs(store_uri(tmp_path))["demo"]
    (model,) = client.search_logged_models([parent.info.experiment_id])
    files = {file.path for file in client.list_logged_model_artifacts(model.model_id, FILES)}
    assert files == {f"{FILES}/leader.json", f"{FILES}/leader.safetensors"}
    assert pickles_in(tmp_path / "mlartifacts") == []
