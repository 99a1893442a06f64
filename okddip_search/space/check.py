"""The checks that make a raw document a ``SearchSpec``; all problems are collected."""

import re
from collections.abc import Mapping
from graphlib import CycleError, TopologicalSorter
from typing import Any, TypeVar

from okddip_search.space.baselines import rival_config, rival_spec
from okddip_search.space.dimensions import Dimension, make_dimension
from okddip_search.space.document import Document
from okddip_search.space.model import FORMAT, SearchSpec
from okddip_search.space.settings import (
    ConfirmSettings,
    ObjectiveSettings,
    ResourceSettings,
    StudySettings,
)
from trainer.config.data import DataConfig
from trainer.config.strict import ConfigError, StrictModel, nearest
from trainer.config.train import TrainConfig, unread, unread_fields
from trainer.registry import readers_of

Model = TypeVar("Model", bound=StrictModel)

SECTIONS = (
    "format",
    "name",
    "data",
    "trainer",
    "search",
    "enqueue",
    "objective",
    "study",
    "resources",
    "confirm",
)
NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")

# Not hyperparameters: every trial must see the same images, on the machine as it is.
NEVER_SEARCHED = {
    "data": "every trial uses the same data",
    "seed": "each trial's seed is made from study.seed and its number",
    "device": "it belongs to the machine",
    "precision": "it belongs to the machine",
    "executor": "it belongs to the machine",
    "num_threads": "it belongs to the machine (resources.cpus_per_trial)",
    "leader_epoch": "it follows from objective.reduce",
}
NEVER_FIXED = {
    "data": "it has a section of its own, data:",
    "seed": "set study.seed: each trial's seed is made from it",
    "leader_epoch": "it follows from objective.reduce",
}


def check_space(document: Document, *, is_saved: bool = False) -> SearchSpec:
    """Check a document.

    Args:
        document: Of a space file.
        is_saved: Whether it is the ``spec.yaml`` of a search; an earlier version may have begun it
            with fields that its method does not read, and it can be resumed all the same.

    Raises:
        UserError: With all problems.
    """
    _check_format(document)
    _check_sections(document)
    name = _name(document)
    data = _settings(document, "data", DataConfig) or DataConfig()
    trainer = _fixed(document)
    dimensions = _dimensions(document, trainer)
    search = _ordered(document, dimensions, trainer)
    enqueue = _enqueued(document, search, trainer)
    objective = _settings(document, "objective", ObjectiveSettings) or ObjectiveSettings()
    study = _settings(document, "study", StudySettings) or StudySettings()
    resources = _settings(document, "resources", ResourceSettings) or ResourceSettings()
    confirm = _confirm(document)
    document.check()
    spec = SearchSpec(name, data, trainer, search, enqueue, objective, study, resources, confirm)
    if not is_saved:
        _check_read(document, spec)
        document.check()
    _check_whole(document, spec)
    document.check()
    return spec


def _check_format(document: Document) -> None:
    """Refuse a newer version's file first: what else is strange in it is no mistake of the user."""
    written = document.values.get("format", FORMAT)
    if not isinstance(written, int) or isinstance(written, bool) or written < 1:
        document.complain(("format",), f"{written!r} is not the number of a format")
    elif written > FORMAT:
        document.complain(
            ("format",),
            f"written by a newer version of okddip-search (format {written}, this one reads "
            f"{FORMAT}): install that version, or a later one",
        )
        document.check()


def _check_sections(document: Document) -> None:
    for key in document.values:
        if key not in SECTIONS:
            document.complain((key,), f"unknown section{nearest(key, SECTIONS)}")
    for key in ("name", "data", "search"):
        if key not in document.values:
            document.complain((), f"the section '{key}' is missing")


def _name(document: Document) -> str:
    name = document.values.get("name", "unnamed")
    if not isinstance(name, str) or not NAME.fullmatch(name):
        text = f"{name!r} is not a name of letters, digits, '.', '_' and '-' (at most 64)"
        document.complain(("name",), text)
    return str(name)


def _mapping(document: Document, section: str) -> dict[str, Any]:
    raw = document.values.get(section)
    if raw is None:  # absent, or `trainer:` with nothing below it
        return {}
    if not isinstance(raw, Mapping):
        document.complain((section,), f"{raw!r} is not a mapping")
        return {}
    return dict(raw)


def _settings(document: Document, section: str, model: type[Model]) -> Model | None:
    if section == "objective" and isinstance(document.values.get(section), str):
        values = {"metric": document.values[section]}
    else:
        values = _mapping(document, section)
    try:
        return model(**values)
    except ConfigError as error:
        for path, text in error.problems:
            document.complain((section, *path), text)
        return None


def _confirm(document: Document) -> ConfirmSettings | None:
    """Read ``confirm:``; a space without it, or with ``confirm: false``, confirms nothing."""
    if document.values.get("confirm", False) is False:
        return None
    return _settings(document, "confirm", ConfirmSettings)


def _fixed(document: Document) -> dict[str, Any]:
    values = _mapping(document, "trainer")
    for name in NEVER_FIXED.keys() & values.keys():
        document.complain(("trainer", name), f"cannot be set here: {NEVER_FIXED[name]}")
        del values[name]
    try:
        TrainConfig(**values)
    except ConfigError as error:
        for path, text in error.problems:
            document.complain(("trainer", *path), text)
    return values


def _dimensions(document: Document, trainer: Mapping[str, Any]) -> dict[str, Dimension]:
    found = {}
    section = _mapping(document, "search")
    if not section and "search" in document.values:
        document.complain(("search",), "is empty: name at least one field to search")
    for name, raw in section.items():
        if name in trainer:
            place = "trainer" if document.is_overridden(("trainer", name)) else "search"
            document.complain((place, name), "is both fixed in trainer and searched: keep one")
            continue
        problem = _name_problem(name)
        if problem:
            document.complain(("search", name), problem)
            continue
        try:
            found[name] = make_dimension(raw)
        except ConfigError as error:
            for path, text in error.problems:
                document.complain(("search", name, *path), text)
            continue
        _check_range(document, name, found[name])
    return found


def _name_problem(name: str) -> str:
    known = TrainConfig.model_fields.keys() - NEVER_SEARCHED.keys()
    if name in NEVER_SEARCHED:
        return f"cannot be searched: {NEVER_SEARCHED[name]}"
    if name not in known:
        return f"is no field of the trainer{nearest(name, known)}"
    return ""


def _check_range(document: Document, name: str, dimension: Dimension) -> None:
    """Try every end and choice on the trainer's field alone."""
    for place, value in dimension.ends().items():
        try:
            TrainConfig(**{name: value})
        except ConfigError as error:
            document.complain(("search", name, *place), error.problems[0][1])


def _ordered(
    document: Document, dimensions: Mapping[str, Dimension], trainer: Mapping[str, Any]
) -> dict[str, Dimension]:
    """Check the conditions, and put every dimension behind those it depends on."""
    for name, dimension in dimensions.items():
        for parent, wanted in dimension.when.items():
            problem = _condition_problem(parent, wanted, dimensions, document, trainer)
            if problem:
                document.complain(("search", name, "when", parent), problem)
    graph = {name: [p for p in d.when if p in dimensions] for name, d in dimensions.items()}
    try:
        order = list(TopologicalSorter(graph).static_order())
    except CycleError as error:
        circle = error.args[1][::-1]
        text = f"the conditions go round in a circle: {' needs '.join(circle)}"
        document.complain(("search", circle[0], "when"), text)
        return dict(dimensions)
    return {name: dimensions[name] for name in order}


def _condition_problem(
    parent: str,
    wanted: tuple[Any, ...],
    dimensions: Mapping[str, Dimension],
    document: Document,
    trainer: Mapping[str, Any],
) -> str:
    if parent in _mapping(document, "search") and parent not in dimensions:
        return ""  # that dimension has a complaint of its own
    if parent in trainer:
        return f"is not searched but fixed in trainer to {trainer[parent]!r}"
    if parent not in dimensions:
        return f"is not a searched field{nearest(parent, dimensions)}"
    if dimensions[parent].count() is None:
        return "a condition needs a field with countable values: categorical, int or stepped float"
    for value in wanted:
        try:
            dimensions[parent].normal(value)
        except ValueError as error:
            return f"can never hold: {error}"
    return ""


def _enqueued(
    document: Document, search: Mapping[str, Dimension], trainer: Mapping[str, Any]
) -> tuple[dict[str, Any], ...]:
    raw = document.values.get("enqueue")
    if raw is None:
        return ()
    if not isinstance(raw, list):
        document.complain(("enqueue",), f"{raw!r} is not a list of configurations")
        return ()
    entries: list[dict[str, Any]] = []
    for index, item in enumerate(raw):
        if not isinstance(item, Mapping) or not item:
            document.complain(("enqueue", index), f"{item!r} is not a mapping of field: value")
            continue
        entry = _entry(document, index, item, search, trainer)
        if entry in entries:
            document.complain(("enqueue", index), "is the same configuration as an earlier one")
        entries.append(entry)
    return tuple(entries)


def _entry(
    document: Document,
    index: int,
    item: Mapping[str, Any],
    search: Mapping[str, Dimension],
    trainer: Mapping[str, Any],
) -> dict[str, Any]:
    # Optuna drops a misspelt or inapplicable key of an enqueued trial without a word.
    entry = {}
    for key, value in item.items():
        if key in trainer:
            text = f"is fixed in trainer to {trainer[key]!r}; only searched fields are enqueued"
            document.complain(("enqueue", index, key), text)
        elif key in search:
            try:
                entry[key] = search[key].normal(value)
            except ValueError as error:
                document.complain(("enqueue", index, key), str(error))
        elif key not in _mapping(document, "search"):
            document.complain(("enqueue", index, key), f"is not searched{nearest(key, search)}")
    for key in entry:
        if not search[key].is_active(entry):
            needs = " and ".join(f"{k}: {_either(v)}" for k, v in search[key].when.items())
            document.complain(("enqueue", index, key), f"applies only with {needs}")
    return entry


def _either(values: tuple[Any, ...]) -> str:
    return " or ".join(str(value) for value in values)


def _check_read(document: Document, spec: SearchSpec) -> None:
    """Refuse a field that no method reads, or that is sampled for one that does not read it."""
    confirmed = spec.confirm.methods if spec.confirm else ()
    tuned = confirmed if spec.confirm and spec.confirm.rivals == "tuned" else ()
    for path, text in unread_fields(spec.trainer, [*spec.methods, *tuned]):
        is_lent = path == ("teacher",) and set(readers_of("teacher")) & set(confirmed)
        if not is_lent:
            document.complain(("trainer", *path), text)
    trained: dict[str, set[str]] = {}  # field to the methods with which it is sampled
    for name, dimension in spec.search.items():
        trained[name] = set(spec.methods)
        for parent, wanted in dimension.when.items():
            trained[name] &= set(wanted) if parent == "method" else trained[parent]
        readers = readers_of(name)
        without = [method for method in spec.methods if method in trained[name] - set(readers)]
        if without:
            limit = f"; limit it with when: {{method: [{', '.join(readers)}]}}"
            text = unread(name, without) + limit * ("method" in spec.search)
            document.complain(("search", name), text)


def _check_whole(document: Document, spec: SearchSpec) -> None:
    """Build what a search will build, so that nothing is refused in mid search."""
    try:
        spec.make_sampler(0)
    except ValueError as error:
        document.complain(("study", "sampler"), str(error))
    try:
        spec.make_pruner()
    except ValueError as error:
        document.complain(("study", "pruner"), str(error))
    try:
        for method in spec.methods:
            spec.example(**{"method": method} if "method" in spec.search else {})
    except ConfigError as error:
        for path, text in error.problems:
            section = "data" if path[0] == "data" else "search" if path[0] in spec.search else ""
            place = path if section == "data" else (section or "trainer", *path)
            document.complain(place, text)
        return
    _check_rivals(document, spec)


def _check_rivals(document: Document, spec: SearchSpec) -> None:
    """Build every rival of the confirmation, so that a night's search does not end with a no."""
    if spec.confirm is None:
        return
    for index, method in enumerate(spec.confirm.methods):
        try:
            rival_config(method, spec.example().to_dict())
            if spec.confirm.rivals == "tuned":
                own = rival_spec(spec, method)
                own.example()
                own.make_sampler(0)
        except ValueError as error:  # ConfigError is one, and says more
            place = ("confirm", "methods", index)
            document.complain(place, f"{method} cannot be trained: {error}")
