"""What the tests of resumed runs share."""

import json
from pathlib import Path

import torch
from safetensors.torch import load_file

TIMING = {"seconds", "images_per_s"}


def state(directory: Path) -> tuple[dict[str, torch.Tensor], list[dict[str, object]]]:
    """Return tensors (weights, momentum, RNG) and history without times."""
    meta = json.loads((directory / "state.json").read_text())
    history = [{k: v for k, v in entry.items() if k not in TIMING} for entry in meta["history"]]
    return load_file(directory / meta["tensors"]), history


def assert_same_state(directory: Path, other: Path) -> None:
    (tensors, history), (other_tensors, other_history) = state(directory), state(other)
    assert history == other_history
    assert tensors.keys() == other_tensors.keys()
    assert {"model", "momentum", "rng"} <= {name.partition(".")[0] for name in tensors}
    different = [name for name in tensors if not torch.equal(tensors[name], other_tensors[name])]
    assert not different
