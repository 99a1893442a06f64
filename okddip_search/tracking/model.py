"""The best leader as an MLflow model, and a confirmed one in the Model Registry.

A model is a ``pt2`` archive without any pickle in it. In the registry, the same weights are one
version, whose alias follows the verdict.
"""

import importlib.metadata
import json
import shutil
import tempfile
from pathlib import Path
from typing import Any

from okddip_search.tracking.desired import Upload
from trainer.leader.files import INFO, WEIGHTS

FILES = "leader_files"  # the folder in a model that holds the leader as it was saved
_DIGEST_TAG = "okddip.leader_digest"
_ALIAS_TAG = "okddip.alias"  # the alias that we gave last; somebody may have moved it since
_DECIDED_TAG = "okddip.told_ms"  # time of the verdict: an older one changes nothing
_VERSIONS_TAG = "mlflow.modelVersions"  # by which MLflow's pages lead from a model to its versions


def log_leader(client: Any, run_id: str, experiment: Any, upload: Upload) -> Any:
    """Log a saved leader as a model with its files, and register it if it is confirmed.

    It may be called again at any time: a leader that was logged before is not logged again, not
    even under another name, and an incomplete model is completed. Through the client alone:
    ``mlflow.pytorch.log_model`` works on process-wide settings (tracking URI, active run), which
    belong to whoever runs the driver.

    Args:
        client: ``MlflowClient``.
        run_id: The search's run.
        experiment: Its ``Experiment``, whose name the registered model gets.
        upload: The leader.

    Returns:
        The ``LoggedModel``.
    """
    model = _logged_model(client, run_id, experiment.experiment_id, upload)
    if upload.alias:
        _register(client, model, experiment.name, upload)
    return model


def _logged_model(client: Any, run_id: str, experiment_id: str, upload: Upload) -> Any:
    models = client.search_logged_models([experiment_id], f"source_run_id = '{run_id}'")
    model = next((known for known in models if known.tags.get(_DIGEST_TAG) == upload.digest), None)
    if model is not None and str(model.status) == "READY":
        return model
    from mlflow.entities import LoggedModelOutput

    from trainer.leader.leader import load_leader

    leader = load_leader(upload.path)
    info = leader.info
    if model is None:
        params = {
            "model": info.model,
            "width": f"{info.width:g}",
            "classes": str(len(info.class_names)),
            "trained_on": info.trained_on,
        }
        if info.validation_accuracy is not None:  # None: it was trained on those images
            params["validation_accuracy"] = f"{info.validation_accuracy:.6g}"
        name, tags = "confirmed_leader" if upload.alias else "leader", {_DIGEST_TAG: upload.digest}
        model = client.create_logged_model(experiment_id, name, run_id, tags, params)
    outputs = client.get_run(run_id).outputs
    if model.model_id not in {o.model_id for o in (outputs.model_outputs if outputs else ())}:
        client.log_outputs(run_id, [LoggedModelOutput(model.model_id, step=0)])
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary, "model")
        _save_model(folder, leader, model, run_id)
        (folder / FILES).mkdir()
        for file in (WEIGHTS, INFO):
            shutil.copy(upload.path / file, folder / FILES)
        client.log_model_artifacts(model.model_id, str(folder))
    return client.finalize_logged_model(model.model_id, "READY")


def _save_model(folder: Path, leader: Any, logged_model: Any, run_id: str) -> None:
    """Write the model folder: signature, requirements, and the network for any batch size."""
    import mlflow.pytorch
    import numpy as np
    import torch
    from mlflow.models import Model

    mlflow.pytorch.save_model(
        leader.module,
        str(folder),
        mlflow_model=Model(
            artifact_path=logged_model.artifact_location,
            model_uuid=logged_model.model_id,
            model_id=logged_model.model_id,
            run_id=run_id,
        ),
        # torch.export freezes a batch of one.
        input_example=np.zeros((2, *leader.info.input_shape), dtype=np.float32),
        serialization_format="pt2",
        # Given: mlflow would otherwise load the model in a new process to find out.
        pip_requirements=[_pinned(package) for package in ("mlflow", "torch", "numpy")],
    )
    # Save the archive without example inputs, the only part that torch pickles.
    archive = folder / "data" / "model.pt2"
    program = torch.export.load(archive)
    program.example_inputs = None
    torch.export.save(program, archive)


def _pinned(package: str) -> str:
    return f"{package}=={importlib.metadata.version(package).partition('+')[0]}"


def _register(client: Any, model: Any, name: str, upload: Upload) -> None:
    """Make a confirmed leader's model a version of a registered one, with an alias.

    A version is found by the digest of its weights. A verdict that it has already changes nothing,
    whatever people have done to the version since. ``candidate`` also takes back the ``champion``
    that an earlier verdict gave to these weights; it never touches another version's.
    """
    found = client.search_model_versions(f"tags.`{_DIGEST_TAG}` = '{upload.digest}'")
    version = next((known for known in found if known.name == name), None)
    version = version or _new_version(client, model, name, upload.digest)
    if int(version.tags.get(_DECIDED_TAG, -1)) >= upload.decided_ms:
        return
    number, alias = str(version.version), upload.alias
    client.update_model_version(name, number, upload.words)
    client.set_registered_model_alias(name, alias, number)
    other = "candidate" if alias == "champion" else "champion"
    is_ours = other == "candidate" or version.tags.get(_ALIAS_TAG) == other
    if is_ours and str(client.get_registered_model(name).aliases.get(other)) == number:
        client.delete_registered_model_alias(name, other)
    client.set_model_version_tag(name, number, _ALIAS_TAG, alias)
    client.set_model_version_tag(name, number, _DECIDED_TAG, str(upload.decided_ms))


def _new_version(client: Any, model: Any, name: str, digest: str) -> Any:
    from mlflow.exceptions import MlflowException

    try:
        client.create_registered_model(name)
    except MlflowException as error:
        if error.error_code != "RESOURCE_ALREADY_EXISTS":
            raise
    # Not ``models:/ID``: a store without a server would look for it in the process-wide one.
    source, tags = model.artifact_location, {_DIGEST_TAG: digest}
    version = client.create_model_version(
        name, source, model.source_run_id, tags, model_id=model.model_id
    )
    # A server lists the version with its model; a store without a server does not.
    listed = json.loads(model.tags.get(_VERSIONS_TAG, "[]"))
    listed.append({"name": name, "version": version.version})
    client.set_logged_model_tags(model.model_id, {_VERSIONS_TAG: json.dumps(listed)})
    return version
