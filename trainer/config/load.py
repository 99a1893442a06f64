"""A run's configuration from its YAML file."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from trainer.config.strict import ConfigError
from trainer.config.train import HYPERPARAMETERS, TrainConfig, unread_fields
from trainer.io.yaml import KeyPath, Parsed, YamlError, parse_yaml, read_text


def load_config(path: Path) -> TrainConfig:
    """Read a run's configuration from YAML (what ``best.yaml`` holds).

    Raises:
        ConfigError: It is not a valid configuration; each problem with its line.
        OSError: It cannot be read.
    """
    try:
        parsed = parse_yaml(read_text(path))
    except YamlError as error:
        raise ConfigError([((), f"{path}:{error.line}: {error.text}")]) from None
    if parsed.problems:
        raise ConfigError([((), f"{path}:{line}: {text}") for line, text in parsed.problems])
    if not isinstance(parsed.values, Mapping):
        raise ConfigError([((), f"{path}:1: not a mapping of fields to values")])
    try:
        config = TrainConfig(**parsed.values)
        _require_read(parsed.values, config.method)
        return config
    except ConfigError as error:
        raise ConfigError(
            [
                ((), f"{path}:{_line(parsed, p)}: {'.'.join(map(str, p))}: {text}")
                for p, text in error.problems
            ]
        ) from None


def _require_read(values: Mapping[str, Any], method: str) -> None:
    """Refuse what the method never reads, as it would have no effect.

    A file with the hyperparameters of all methods was not written by hand: ``best.yaml`` holds
    every field, and those that are not read may come from a space that searched the method.
    """
    defaults = TrainConfig.model_fields
    given = {k: v for k, v in values.items() if v != defaults[k].default}
    problems = unread_fields(given, [method])
    if problems and not values.keys() >= HYPERPARAMETERS:
        raise ConfigError(problems)


def _line(parsed: Parsed, problem: KeyPath) -> int:
    """Return the line of the innermost value that a problem is about and that is in the file."""
    while problem and problem not in parsed.lines:
        problem = problem[:-1]
    return parsed.lines[problem]
