"""A run's configuration from its YAML file."""

from collections.abc import Mapping
from pathlib import Path

from trainer.config.strict import ConfigError
from trainer.config.train import TrainConfig
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
        return TrainConfig(**parsed.values)
    except ConfigError as error:
        raise ConfigError(
            [
                ((), f"{path}:{_line(parsed, p)}: {'.'.join(p)}: {text}")
                for p, text in error.problems
            ]
        ) from None


def _line(parsed: Parsed, problem: KeyPath) -> int:
    """Return the line of the innermost value that a problem is about and that is in the file."""
    while problem and problem not in parsed.lines:
        problem = problem[:-1]
    return parsed.lines[problem]
