"""The best leader as an MLflow model: a ``pt2`` archive without any pickle in it."""

import hashlib
import importlib.metadata
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

MODEL_NAME = "leader"
ARTIFACT_FOLDER = "leader_files"  # MLflow mixes up a folder and a model of one name

_DIGEST_TAG = "okddip.leader_digest"


def log_leader(client: Any, run_id: str, experiment_id: str, leader_dir: Path) -> None:
    """Log a saved leader to a run: its files as artifacts and the network as a model.

    A leader logged before (known by the digest of its weights) is not logged again.

    Args:
        client: ``MlflowClient``.
        run_id: The search's run.
        experiment_id: Its experiment.
        leader_dir: What ``trainer.leader.save_leader`` wrote.
    """
    weights = leader_dir / "leader.safetensors"
    digest = hashlib.sha256(weights.read_bytes()).hexdigest()
    if client.get_run(run_id).data.tags.get(_DIGEST_TAG) == digest:
        return
    from trainer.leader import load_leader

    leader = load_leader(leader_dir)
    for path in (weights, leader_dir / "leader.json"):
        client.log_artifact(run_id, str(path), ARTIFACT_FOLDER)
    info = leader.info
    params = {
        "model": info.model,
        "width": f"{info.width:g}",
        "classes": str(len(info.class_names)),
        "validation_accuracy": f"{info.validation_accuracy:.6g}",
    }
    log_model(client, run_id, experiment_id, leader.module, info.input_shape, digest, params)
    client.set_tag(run_id, _DIGEST_TAG, digest)


def log_model(
    client: Any,
    run_id: str,
    experiment_id: str,
    module: Any,
    input_shape: Sequence[int],
    digest: str,
    params: Mapping[str, str] | None = None,
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
        digest: Name of the weights; a model that has it already is completed, not doubled.
        params: What the model's page shows of it.
    """
    from mlflow.entities import LoggedModelOutput

    model = _find_model(client, run_id, experiment_id, digest)
    if model is None:
        model = client.create_logged_model(
            experiment_id,
            MODEL_NAME,
            source_run_id=run_id,
            tags={_DIGEST_TAG: digest},
            params=dict(params or {}),
        )
    outputs = client.get_run(run_id).outputs
    known = outputs.model_outputs if outputs else []
    if model.model_id not in {output.model_id for output in known}:
        client.log_outputs(run_id, [LoggedModelOutput(model.model_id, step=0)])
    if str(model.status) != "READY":
        with tempfile.TemporaryDirectory() as folder:
            save_model(Path(folder) / "model", module, input_shape, model, run_id)
            client.log_model_artifacts(model.model_id, str(Path(folder) / "model"))
        client.finalize_logged_model(model.model_id, "READY")
    return str(model.model_id)


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
