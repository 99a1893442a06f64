"""Hands over the winner: the best configuration and the leader's weights, in several formats."""

import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml
from safetensors import SafetensorError, safe_open

from okddip_search.errors import UserError
from okddip_search.layout import BEST, CONFIRM, CONFIRMATION, FINAL, LEADER, RESULT, TRIALS
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
        objective: In words, how a trial's value comes from its curve.
    """
    lines = [
        f"Best configuration of the search {directory.resolve().name}.",
        f"Trial {best.number}: leader's validation accuracy {best.value:.4%} ({objective}).",
        "Chosen on validation images, and one run proves no gain: okddip-search confirm.",
    ]
    hand_over(directory / TRIALS / str(best.number), directory, lines)


def hand_over(run_dir: Path, target: Path, lines: Sequence[str]) -> None:
    """Copy a run's leader to ``target/leader`` and write its configuration, ``target/best.yaml``.

    ``best.yaml`` is a configuration that ``okddip-search train`` runs as it is, with precision,
    executor and number of threads as they were: the same accuracy to the last digit on the same
    machine.

    Args:
        run_dir: Of a finished run.
        target: A directory.
        lines: What the run is, for a reader of the file.

    Raises:
        UserError: The run's result is damaged.
    """
    result = _result_of(run_dir)
    environment = result["environment"]
    config = {
        **result["config"],
        "precision": environment["precision"],
        "executor": environment.get("executor", "separate"),
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
            raise ValueError("it is no result of a run")
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
    """What a search has to hand over.

    Attributes:
        home: Holds its ``best.yaml``.
        leader: Folder of its network.
        words: What it is, and how far it can be believed.
    """

    home: Path
    leader: Path
    words: str


def winner_of(directory: Path) -> Winner:
    """Return what was last found out to be best: retrained, else confirmed, else searched.

    Raises:
        UserError: There is no winner yet.
    """
    confirmed = directory / CONFIRM
    later = _has_gone_on(directory)
    if (confirmed / FINAL / BEST).exists():
        words = f"confirmed setting; leader retrained on train + validation images{later}"
        return Winner(confirmed / FINAL, confirmed / FINAL / LEADER, words)
    if (confirmed / BEST).exists():
        words = f"trained over several seeds by a confirmation; its verdict is in the file{later}"
        return Winner(confirmed, confirmed / LEADER, words)
    if (directory / BEST).exists():
        words = "the search's best, one run: not confirmed"
        return Winner(directory, directory / LEADER, words)
    raise UserError(
        f"{directory} has no {BEST}: no trial of a search there is complete",
        "Let the search finish a trial, or name a search directory such as runs/digits.",
    )


def _has_gone_on(directory: Path) -> str:
    """Say so if the search has more trials than when the confirmation chose from them."""
    try:
        found = read_json(directory / CONFIRM / CONFIRMATION)
        if sum(1 for _ in (directory / TRIALS).iterdir()) > found["search_trials"]:
            return "; the search has gone on since"
    except (OSError, ValueError, KeyError, TypeError):
        pass
    return ""


def export(directory: Path, form: str, output: Path | None) -> tuple[Path, str]:
    """Copy or convert the winner of a search.

    Args:
        directory: Of the search.
        form: One of ``FORMATS``: ``yaml`` (the configuration), ``weights`` (a directory with
            safetensors and JSON), ``pt2`` (``torch.export`` archive), ``onnx``.
        output: Where to; None: the format's usual name in the working directory.

    Returns:
        What was written, and what it is.

    Raises:
        UserError: There is no winner yet, or the extra for the format is missing.
    """
    winner = winner_of(directory)
    _require_whole(winner)
    target = output or Path(_DEFAULT_OUTPUT[form])
    target.parent.mkdir(parents=True, exist_ok=True)
    if form == "yaml":
        if target.resolve() != (winner.home / BEST).resolve():
            shutil.copyfile(winner.home / BEST, target)
    elif form == "weights":
        if target.resolve() != winner.leader.resolve():
            shutil.copytree(winner.leader, target, dirs_exist_ok=True)
    else:
        _convert(winner.leader, form, target)
    return target, winner.words


def _require_whole(winner: Winner) -> None:
    """Hand over nothing that a disk has damaged.

    Raises:
        UserError: The configuration or the network cannot be read.
    """
    path = winner.home / BEST
    try:
        if not isinstance(yaml.safe_load(path.read_text(encoding="utf-8")), Mapping):
            raise ValueError("it holds no configuration")
        path = winner.leader / "leader.json"
        read_json(path)
        path = winner.leader / "leader.safetensors"
        with safe_open(path, framework="numpy"):  # checks the header against the file's size
            pass
    except (OSError, ValueError, yaml.YAMLError, SafetensorError) as error:
        raise UserError(
            f"{path} is damaged: {error}",
            "Run the search with --resume, or the confirmation, once more: that writes it anew.",
        ) from None


def _convert(leader_dir: Path, form: str, target: Path) -> None:
    from trainer.leader.export import export_onnx, export_pt2
    from trainer.leader.leader import DamagedLeaderError, load_leader

    try:
        leader = load_leader(leader_dir)
    except DamagedLeaderError as error:
        raise UserError(str(error), "Restore it from a copy of the search.") from None
    if form == "pt2":
        export_pt2(leader, target)
        return
    try:
        export_onnx(leader, target)
    except ImportError as error:
        raise UserError(
            f"exporting to ONNX needs packages that are not installed ({error})",
            "Install them with: pip install 'okddip-search[onnx]'",
        ) from None
