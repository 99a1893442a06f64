"""Exports the winner: the best configuration and the leader's weights, in several formats."""

import os
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml
from safetensors import SafetensorError, safe_open

from okddip_search.errors import UserError
from okddip_search.layout import BEST, CONFIRM, CONFIRMATION, FINAL, LEADER, RESULT, TRIALS, run_dir
from okddip_search.study.events import Listener, TrialEnd
from trainer.io.files import read_json, write_atomically

FORMATS = ("yaml", "weights", "pt2", "onnx")
_DEFAULT_OUTPUT = {
    "yaml": BEST,
    "weights": LEADER,
    "pt2": "leader.pt2",
    "onnx": "leader.onnx",
}


def keep_best(directory: Path, best: TrialEnd, objective: str) -> None:
    """Make a complete trial the search's winner.

    Args:
        directory: Of the search.
        best: The trial.
        objective: How a trial's value is computed from its curve, in words.
    """
    lines = [
        f"Best configuration of the search {directory.resolve().name}.",
        f"Trial {best.number}: leader's validation accuracy {best.value:.4%} ({objective}).",
        "Chosen on validation images, and one run proves no gain: okddip-search confirm.",
    ]
    export_run(run_dir(directory, best.number), directory, lines)


def export_run(run_dir: Path, target: Path, lines: Sequence[str]) -> None:
    """Copy a run's leader to ``target/leader`` and write its configuration, ``target/best.yaml``.

    ``okddip-search train`` runs ``best.yaml`` without changes. It fixes precision, executor and
    number of threads, so that the same machine reproduces the accuracy to the last digit.

    Args:
        run_dir: Of a finished run.
        target: A directory.
        lines: Description of the run, written to the top of the file.

    Raises:
        UserError: The run's result is damaged.
    """
    result = _result_of(run_dir)
    environment = result["environment"]
    config = {
        **result["config"],
        "precision": environment["precision"],
        "executor": environment.get("executor", "eager"),
        "num_threads": environment["num_threads"],
    }
    header = [
        *lines,
        f"Trained on {environment['device']} with torch {environment['torch']}.",
        "Train it again: okddip-search train best.yaml --out DIR",
    ]
    _replace_folder(run_dir / LEADER, target / LEADER)
    body = yaml.safe_dump(config, sort_keys=False, allow_unicode=True)
    write_atomically(target / BEST, "".join(f"# {line}\n" for line in header) + body)


def _result_of(run_dir: Path) -> dict[str, Any]:
    path = run_dir / RESULT
    try:
        result = read_json(path)
        if not isinstance(result, dict) or not {"config", "environment"} <= result.keys():
            raise ValueError("it is not the result of a run")
        return result
    except (OSError, ValueError) as error:
        raise UserError(f"{path} is damaged: {error}", "Restore it from a copy.") from None


def _replace_folder(source: Path, target: Path) -> None:
    fresh = target.with_name(f".{target.name}.tmp")
    shutil.rmtree(fresh, ignore_errors=True)
    shutil.copytree(source, fresh)
    shutil.rmtree(target, ignore_errors=True)
    fresh.rename(target)


class BestKeeper(Listener):
    """Keeps ``best.yaml`` and ``leader/`` up to date while a search runs."""

    def __init__(self, directory: Path, objective: str) -> None:
        self._directory = directory
        self._objective = objective

    def trial_ended(self, end: TrialEnd, best: TrialEnd | None) -> None:
        """Keep the trial if it is the best now."""
        if best is not None and best.number == end.number:
            keep_best(self._directory, best, self._objective)


@dataclass(frozen=True)
class Winner:
    """The best result of a search.

    Attributes:
        directory: Contains its ``best.yaml``.
        leader: Folder of its network.
        description: Its origin, and how far it can be trusted.
    """

    directory: Path
    leader: Path
    description: str


def winner_of(directory: Path) -> Winner:
    """Return the best result available: retrained, else confirmed, else from the search.

    Raises:
        UserError: There is no winner yet.
    """
    confirmed = directory / CONFIRM
    later = _continued_since(directory)
    if (confirmed / FINAL / BEST).exists():
        description = f"confirmed setting; leader retrained on train + validation images{later}"
        return Winner(confirmed / FINAL, confirmed / FINAL / LEADER, description)
    if (confirmed / BEST).exists():
        description = f"from a confirmation over several seeds; its verdict is in the file{later}"
        return Winner(confirmed, confirmed / LEADER, description)
    if (directory / BEST).exists():
        description = "the search's best, one run: not confirmed"
        return Winner(directory, directory / LEADER, description)
    raise UserError(
        f"{directory} has no {BEST}: no trial of a search there is complete",
        "Let the search finish a trial, or name a search directory such as runs/digits.",
    )


def _continued_since(directory: Path) -> str:
    """Return a note if the search has more trials than when the confirmation chose from them."""
    try:
        found = read_json(directory / CONFIRM / CONFIRMATION)
        if sum(1 for _ in (directory / TRIALS).iterdir()) > found["search_trials"]:
            return "; the search has continued since"
    except (OSError, ValueError, KeyError, TypeError):
        pass
    return ""


def export(
    directory: Path, form: str, output: Path | None, *, force: bool = False
) -> tuple[Path, str]:
    """Copy or convert the winner of a search.

    Args:
        directory: Of the search.
        form: One of ``FORMATS``: ``yaml`` (the configuration), ``weights`` (a directory with
            safetensors and JSON), ``pt2`` (``torch.export`` archive), ``onnx``.
        output: Path to write; None: the format's usual name in the working directory.
        force: Whether to overwrite what is there.

    Returns:
        The path that was written, and a description of the result.

    Raises:
        UserError: There is no winner yet, the extra for the format is missing, or there is
            something at the path.
    """
    winner = winner_of(directory)
    _require_whole(winner)
    target = output or Path(_DEFAULT_OUTPUT[form])
    own = {"yaml": winner.directory / BEST, "weights": winner.leader}.get(form)
    if own is not None and target.resolve() == own.resolve():
        return target, winner.description
    if not force and os.path.lexists(target):
        raise UserError(f"{target} is there already", "Choose another --output, or add --force.")
    target.parent.mkdir(parents=True, exist_ok=True)
    if form == "yaml":
        shutil.copyfile(winner.directory / BEST, target)
    elif form == "weights":
        shutil.copytree(winner.leader, target, dirs_exist_ok=True)
    else:
        _convert(winner.leader, form, target)
    return target, winner.description


def _require_whole(winner: Winner) -> None:
    """Refuse to export damaged files.

    Raises:
        UserError: The configuration or the network cannot be read.
    """
    path = winner.directory / BEST
    try:
        if not isinstance(yaml.safe_load(path.read_text(encoding="utf-8")), Mapping):
            raise ValueError("it contains no configuration")
        path = winner.leader / "leader.json"
        read_json(path)
        path = winner.leader / "leader.safetensors"
        with safe_open(path, framework="numpy"):  # checks the header against the file's size
            pass
    except (OSError, ValueError, yaml.YAMLError, SafetensorError) as error:
        raise UserError(
            f"{path} is damaged: {error}",
            "Run the search with --resume, or the confirmation, again: that rewrites it.",
        ) from None


def _convert(leader_dir: Path, form: str, target: Path) -> None:
    from trainer.leader.export import export_onnx, export_pt2
    from trainer.leader.leader import DamagedLeaderError, load_leader

    try:
        leader = load_leader(leader_dir)
    except DamagedLeaderError as error:
        raise UserError(str(error), "Restore it from a copy of the search.") from None
    writers = {"pt2": export_pt2, "onnx": export_onnx}
    try:
        writers[form](leader, target)
    except ImportError as error:
        raise UserError(
            f"exporting to {form} needs packages that are not installed ({error})",
            "Install them with: pip install 'okddip-search[onnx]'",
        ) from None
