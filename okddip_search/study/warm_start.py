"""``enqueue: {from: …}``: the best configurations of earlier searches are tried first."""

import logging
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import optuna
from optuna.storages import BaseStorage, JournalStorage
from optuna.storages.journal import JournalFileBackend
from optuna.study import StudyDirection
from optuna.trial import TrialState

from okddip_search.errors import UserError
from okddip_search.layout import JOURNAL, require_search
from okddip_search.masking import masked
from okddip_search.space.load import load_saved
from okddip_search.space.model import SearchSpec
from okddip_search.space.settings import WarmStart
from okddip_search.study.reading import read_study
from okddip_search.study.trials import ranked
from trainer.config.train import TrainConfig
from trainer.io.files import expanded
from trainer.io.yaml import YamlError, parse_yaml, read_text

logger = logging.getLogger(__name__)

WARM = "okddip:warm_started"
"""Study attribute: the configurations of earlier searches are enqueued."""
FORMS = "from: takes a best.yaml, a search directory, or a journal or storage of Optuna."
Named = tuple[str, Mapping[str, Any]]
"""A configuration, and how to call it in messages."""


def start_warm(study: optuna.Study, spec: SearchSpec) -> None:
    """Enqueue the configurations of earlier searches, once."""
    if not spec.warm_start or WARM in study.user_attrs:
        return
    for params in warm_configurations(spec, logger.info):
        study.enqueue_trial(params, skip_if_exists=True)
    study.set_user_attr(WARM, True)


def warm_configurations(spec: SearchSpec, say: Callable[[str], None]) -> list[dict[str, Any]]:
    """Return the configurations that a space takes from earlier searches: its searched fields.

    Args:
        spec: The space.
        say: Prints a line for each configuration outside of the space; it is left out.

    Raises:
        UserError: A source cannot be read, or none of its configurations lies in the space.
    """
    found: list[dict[str, Any]] = []
    for source in spec.warm_start:
        inside = 0
        for name, values in _read(source):
            entry, problems = _within(spec, values)
            if problems or not entry:
                why = "; ".join(problems) or "it has none of the searched fields"
                say(f"enqueue: {name} is outside of the space and left out: {why}")
                continue
            inside += 1
            if entry not in found and entry not in spec.enqueue:
                found.append(entry)
        if not inside:
            raise UserError(
                f"enqueue: {masked(source.path)} has no configuration in this space",
                "Widen the ranges of search:, or name another source.",
            )
    return found


def _within(spec: SearchSpec, values: Mapping[str, Any]) -> tuple[dict[str, Any], list[str]]:
    """Return the searched fields that apply, and what is wrong with them."""
    entry: dict[str, Any] = {}
    problems = []
    for name, dimension in spec.search.items():
        if name in values and dimension.is_active({**spec.fixed, **entry}):
            try:
                entry[name] = dimension.normal(values[name])
            except ValueError as error:
                problems.append(f"{name}: {error}")
    return entry, problems


def _read(source: WarmStart) -> Iterator[Named]:
    path = expanded(source.path)
    if "://" in source.path:
        yield from _of_optuna(source, source.path)
    elif path.is_dir():
        require_search(path, "Name a search directory, such as runs/digits.")
        spec, (trials, _) = load_saved(path), read_study(path / JOURNAL)
        common = {**TrainConfig().to_dict(), **spec.fixed}
        for trial in ranked(trials)[: source.top]:
            yield f"trial {trial.number} of {path}", {**common, **trial.params}
    elif path.suffix in (".yaml", ".yml"):
        yield str(path), _of_file(path)
    elif path.is_file():
        yield from _of_optuna(source, JournalStorage(JournalFileBackend(str(path))))
    else:
        raise UserError(f"enqueue: {path}: no such file", FORMS)


def _of_file(path: Path) -> Mapping[str, Any]:
    try:
        values = parse_yaml(read_text(path)).values
    except OSError as error:
        raise UserError(f"enqueue: {path}: {error.strerror or error}", FORMS) from None
    except YamlError as error:
        raise UserError(f"enqueue: {path}:{error.line}: {error.text}") from None
    if not isinstance(values, Mapping):
        raise UserError(f"enqueue: {path} is no configuration", FORMS)
    return values


def _of_optuna(source: WarmStart, storage: str | BaseStorage) -> Iterator[Named]:
    """Yield the best complete trials of a study, whatever made it."""
    shown = masked(source.path)
    file = Path(source.path.removeprefix("sqlite:///"))
    if source.path.startswith("sqlite:///") and not file.is_file():  # Optuna would make one
        raise UserError(f"enqueue: {file}: no such file", FORMS)
    try:
        names = optuna.get_all_study_names(storage)
        if source.study is None and len(names) != 1:
            raise UserError(
                f"enqueue: {shown} has {len(names)} studies: {', '.join(names) or 'none'}",
                "Say which with study: NAME.",
            )
        study = optuna.load_study(study_name=source.study or names[0], storage=storage)
        trials = study.get_trials(deepcopy=False, states=(TrialState.COMPLETE,))
        sign = -1 if study.direction is StudyDirection.MAXIMIZE else 1
    except UserError:
        raise
    except Exception as error:  # whatever a storage raises that is none, or of another version
        text = masked(" ".join(str(error).split()) or type(error).__name__)
        raise UserError(f"enqueue: {shown} cannot be read: {text[:300]}", FORMS) from None
    for trial in sorted(trials, key=lambda t: (sign * (t.value or 0.0), t.number))[: source.top]:
        yield f"trial {trial.number} of {shown}", trial.params
