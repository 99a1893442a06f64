"""Which fields of the trainer a space may fix, search and enqueue, and under which conditions."""

from collections.abc import Mapping
from graphlib import CycleError, TopologicalSorter
from typing import Any

from okddip_search.space.dimensions import Dimension
from okddip_search.space.foreign import respelled
from trainer.config.strict import ConfigError, nearest
from trainer.config.train import TrainConfig
from trainer.io.yaml import KeyPath

Problem = tuple[KeyPath, str]

# Not hyperparameters: every trial must see the same images, on the given machine.
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


def fixed_problems(fixed: Mapping[str, Any]) -> list[Problem]:
    """Say what is wrong with the section ``trainer``, one field for itself."""
    never = NEVER_FIXED.keys() & fixed.keys()
    problems: list[Problem] = [((k,), f"cannot be set here: {NEVER_FIXED[k]}") for k in never]
    try:
        TrainConfig(**{k: v for k, v in fixed.items() if k not in never})
    except ConfigError as error:
        problems += error.problems
    return problems


def spelling_problems(search: Mapping[str, Any]) -> list[Problem]:
    """Say how ranges that are written as in another tool are written here.

    Names are looked at as well, so that such a space is mended in one round.
    """
    right = {name: respelled(name, raw) for name, raw in search.items()}
    if not any(right.values()):
        return []
    problems: list[Problem] = []
    for name, text in right.items():
        hints = [_name_problem(name), f"write it as {text}" if text else ""]
        problems += [((name,), "; ".join(filter(None, hints)))] if any(hints) else []
    return problems


def search_problems(search: Mapping[str, Dimension], fixed: Mapping[str, Any]) -> list[Problem]:
    """Say which fields cannot be searched, over which ranges, or under which conditions."""
    if not search:
        return [((), "is empty: name at least one field to search")]
    problems: list[Problem] = []
    for name, dimension in search.items():
        problem = _name_problem(name)
        problems += [((name,), problem)] if problem else _range_problems(name, dimension)
        for parent, wanted in dimension.when.items():
            problem = _condition_problem(parent, wanted, search, fixed)
            problems += [((name, "when", parent), problem)] if problem else []
    return problems


def _name_problem(name: str) -> str:
    known = TrainConfig.model_fields.keys() - NEVER_SEARCHED.keys()
    if name in NEVER_SEARCHED:
        return f"cannot be searched: {NEVER_SEARCHED[name]}"
    return "" if name in known else f"is no field of the trainer{nearest(name, known)}"


def _range_problems(name: str, dimension: Dimension) -> list[Problem]:
    """Try every end and choice on the trainer's field alone."""
    problems: list[Problem] = []
    for place, value in dimension.ends().items():
        try:
            TrainConfig(**{name: value})
        except ConfigError as error:
            problems.append(((name, *place), error.problems[0][1]))
    return problems


def _condition_problem(
    parent: str, wanted: tuple[Any, ...], search: Mapping[str, Dimension], fixed: Mapping[str, Any]
) -> str:
    if parent in fixed:
        return f"is not searched but fixed in trainer to {fixed[parent]!r}"
    if parent not in search:
        return f"is not a searched field{nearest(parent, search)}"
    if search[parent].count() is None:
        return "a condition needs a field with countable values: categorical, int or stepped float"
    for value in wanted:
        try:
            search[parent].normal(value)
        except ValueError as error:
            return f"can never hold: {error}"
    return ""


def ordered(search: Mapping[str, Dimension]) -> dict[str, Dimension]:
    """Put every dimension behind those that it depends on.

    Raises:
        ConfigError: The conditions go round in a circle.
    """
    graph = {name: [p for p in d.when if p in search] for name, d in search.items()}
    try:
        return {name: search[name] for name in TopologicalSorter(graph).static_order()}
    except CycleError as error:
        circle = error.args[1][::-1]
        text = f"the conditions go round in a circle: {' needs '.join(circle)}"
        raise ConfigError([((circle[0], "when"), text)]) from None


def enqueued(
    raw: Any, search: Mapping[str, Dimension], fixed: Mapping[str, Any]
) -> tuple[dict[str, Any], ...]:
    """Return the configurations to try first, each value in its dimension's own type.

    Raises:
        ConfigError: Optuna would drop a misspelt or inapplicable field without a word.
    """
    if not isinstance(raw, (list, tuple)):
        raise ConfigError([((), f"{raw!r} is not a list of configurations")])
    problems: list[Problem] = []
    entries: list[dict[str, Any]] = []
    for index, item in enumerate(raw):
        if not isinstance(item, Mapping) or not item:
            problems.append(((index,), f"{item!r} is not a mapping of field: value"))
            continue
        entry, wrong = _entry(item, search, fixed)
        problems += [((index, key), text) for key, text in wrong.items()]
        if entry in entries:
            problems.append(((index,), "is the same configuration as an earlier one"))
        entries.append(entry)
    if problems:
        raise ConfigError(problems)
    return tuple(entries)


def _entry(
    item: Mapping[str, Any], search: Mapping[str, Dimension], fixed: Mapping[str, Any]
) -> tuple[dict[str, Any], dict[str, str]]:
    """Return the values of a configuration, and by field what is wrong with it."""
    entry, wrong = {}, {}
    for key, value in item.items():
        if key in fixed:
            wrong[key] = f"is fixed in trainer to {fixed[key]!r}; only searched fields are enqueued"
        elif key not in search:
            wrong[key] = f"is not searched{nearest(key, search)}"
        else:
            try:
                entry[key] = search[key].normal(value)
            except ValueError as error:
                wrong[key] = str(error)
    for key in entry:
        if not search[key].is_active(entry):
            needs = " and ".join(f"{k}: {_either(v)}" for k, v in search[key].when.items())
            wrong[key] = f"applies only with {needs}"
    return entry, wrong


def _either(values: tuple[Any, ...]) -> str:
    return " or ".join(str(value) for value in values)
