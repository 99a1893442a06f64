"""The best leader as an MLflow model: a ``pt2`` archive without any pickle in it."""

import importlib.metadata
import shutil
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from trainer.leader.files import INFO, WEIGHTS, weights_sha256

BEST, CONFIRMED = "leader", "confirmed_leader"  # names of models
FILES = "leader_files"  # the folder in a model that holds the leader as it was saved

_DIGEST_TAG = "okddip.leader_digest"


def digest_of(leader_dir: Path) -> str | None:
    """Return what identifies a saved leader's weights, or None if there are none."""
    try:
        return weights_sha256(leader_dir)
    except FileNotFoundError:
        return None


def log_leader(
    client: Any, run_id: str, experiment_id: str, leader_dir: Path, name: str = BEST
) -> str:
    """Log a saved leader as a model, with its files in the model's folder.

    A leader logged before (known by the digest of its weights) is not logged again, also under
    another name.

    Args:
        client: ``MlflowClient``.
        run_id: The search's run.
        experiment_id: Its experiment.
        leader_dir: What ``trainer.leader.leader.save_leader`` wrote.
        name: Of the model.

    Returns:
        The model's id.

    Raises:
        FileNotFoundError: There is no leader in the directory.
    """
    digest = digest_of(leader_dir)
    if digest is None:
        raise FileNotFoundError(leader_dir / WEIGHTS)
    known = _find_model(client, run_id, experiment_id, digest)
    if known is not None and str(known.status) == "READY":
        return str(known.model_id)
    from trainer.leader.leader import load_leader

    leader = load_leader(leader_dir)
    info = leader.info
    params = {
        "model": info.model,
        "width": f"{info.width:g}",
        "classes": str(len(info.class_names)),
        "trained_on": info.trained_on,
    }
    if info.validation_accuracy is not None:  # None: trained on the validation images, too
        params["validation_accuracy"] = f"{info.validation_accuracy:.6g}"
    return log_model(
        client,
        run_id,
        experiment_id,
        leader.module,
        info.input_shape,
        digest,
        name=name,
        params=params,
        files=[leader_dir / WEIGHTS, leader_dir / INFO],
    )


def log_model(
    client: Any,
    run_id: str,
    experiment_id: str,
    module: Any,
    input_shape: Sequence[int],
    digest: str,
    *,
    name: str = BEST,
    params: Mapping[str, str] | None = None,
    files: Sequence[Path] = (),
) -> str:
    """Log a network as MLflow model and return the model's id.

    Through the client alone: ``mlflow.pytorch.log_model`` works on process-wide settings (tracking
    URI, active run), which belong to whoever runs the driver.

    Args:
        client: ``MlflowClient``.
        run_id: Run that the model came from.
        experiment_id: Its experiment.
        module: ``torch.nn.Module`` in eval mode on the CPU: images (N, C, H, W) → logits (N, K).
        input_shape: (C, H, W).
        digest: Identifies the weights; a model that has it is completed, not doubled.
        name: Of the model, if it is new.
        params: What the model's page shows of it.
        files: To be kept in the model's folder, beside the network.
    """
    model = _find_model(client, run_id, experiment_id, digest)
    if model is None:
        model = client.create_logged_model(
            experiment_id,
            name,
            source_run_id=run_id,
            tags={_DIGEST_TAG: digest},
            params=dict(params or {}),
        )
    _list_in_run(client, run_id, model.model_id)
    if str(model.status) != "READY":
        with tempfile.TemporaryDirectory() as temporary:
            folder = Path(temporary) / "model"
            save_model(folder, module, input_shape, model, run_id)
            (folder / FILES).mkdir()
            for file in files:
                shutil.copy(file, folder / FILES)
            client.log_model_artifacts(model.model_id, str(folder))
        client.finalize_logged_model(model.model_id, "READY")
    return str(model.model_id)


def _list_in_run(client: Any, run_id: str, model_id: str) -> None:
    from mlflow.entities import LoggedModelOutput

    outputs = client.get_run(run_id).outputs
    known = outputs.model_outputs if outputs else []
    if model_id not in {output.model_id for output in known}:
        client.log_outputs(run_id, [LoggedModelOutput(model_id, step=0)])


def save_model(
    path: Path, module: Any, input_shape: Sequence[int], logged_model: Any, run_id: str
) -> None:
    """Write the model folder: signature, requirements, and the network for any batch size."""
    import mlflow.pytorch
    import numpy as np
    import torch
    from mlflow.models import Model, ModelSignature
    from mlflow.types import Schema, TensorSpec

    # torch.export freezes a batch of one.
    example = np.zeros((2, *input_shape), dtype=np.float32)
    with torch.no_grad():
        num_classes = module(torch.from_numpy(example)).shape[1]
    float32 = np.dtype(np.float32)
    mlflow.pytorch.save_model(
        module,
        str(path),
        mlflow_model=Model(
            artifact_path=logged_model.artifact_location,
            model_uuid=logged_model.model_id,
            model_id=logged_model.model_id,
            run_id=run_id,
        ),
        signature=ModelSignature(
            Schema([TensorSpec(float32, (-1, *input_shape))]),
            Schema([TensorSpec(float32, (-1, num_classes))]),
        ),
        input_example=example,
        serialization_format="pt2",
        # Given: mlflow would otherwise load the model in a new process to find out.
        pip_requirements=[_pinned(package) for package in ("mlflow", "torch", "numpy")],
    )
    _drop_pickled_example(path / "data" / "model.pt2")


def _drop_pickled_example(archive: Path) -> None:
    """Save the archive without example inputs, the only part that torch pickles."""
    import torch

    program = torch.export.load(archive)
    program.example_inputs = None
    torch.export.save(program, archive)


def _find_model(client: Any, run_id: str, experiment_id: str, digest: str) -> Any:
    models = client.search_logged_models([experiment_id], f"source_run_id = '{run_id}'")
    return next((model for model in models if model.tags.get(_DIGEST_TAG) == digest), None)


def _pinned(package: str) -> str:
    return f"{package}=={importlib.metadata.version(package).partition('+')[0]}"
