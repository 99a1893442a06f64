"""The searched parameters: what each may be, and when it applies."""

import math
from collections.abc import Iterator, Mapping, Sequence
from fractions import Fraction
from itertools import islice
from typing import Annotated, Any, Literal, Self

from optuna.trial import BaseTrial
from pydantic import BeforeValidator, Field, field_validator, model_validator

from trainer.config.strict import ConfigError, StrictModel, nearest

Scalar = str | int | float | bool | None

MOST_STEPS = 10**9
"""Optuna computes with 28 digits, and a step that nobody can tell from none is a mistake."""


def _exact(number: float) -> Fraction:
    """Return a number as its decimal notation reads: 0.1 is a tenth."""
    return Fraction(repr(number))


class _Dimension(StrictModel):
    when: dict[str, tuple[Any, ...]] = Field(
        default_factory=dict, description="searched field → values for which this one applies"
    )

    @field_validator("when", mode="before", json_schema_input_type=dict[str, Any])
    @classmethod
    def _values_as_tuples(cls, value: Any) -> dict[str, tuple[Any, ...]]:
        if not isinstance(value, Mapping) or not value:
            raise ConfigError([((), f"{value!r} is not a mapping of field: value(s)")])
        when = {}
        for name, wanted in value.items():
            wanted = tuple(wanted) if isinstance(wanted, (list, tuple)) else (wanted,)
            if not wanted or not all(_is_scalar(one) for one in wanted):
                raise ConfigError([((name,), "needs a value or a list of values")])
            when[name] = wanted
        return when

    def is_active(self, chosen: Mapping[str, Any]) -> bool:
        """Say whether the parameter applies, given the values chosen so far."""
        return all(name in chosen and chosen[name] in wanted for name, wanted in self.when.items())

    def count(self) -> int | None:
        """Return the number of values; None: endless."""
        raise NotImplementedError

    def values(self) -> Sequence[Any]:
        """Return all values, where there is a number of them."""
        raise NotImplementedError


class _Interval(_Dimension):
    """The common part of float and int; both ends belong to the range."""

    low: float
    high: float
    log: bool = False
    step: Annotated[float, Field(gt=0)] | None = None

    @model_validator(mode="after")
    def _is_usable(self) -> Self:
        problems: list[tuple[tuple[str, ...], str]] = []
        if self.low >= self.high:
            problems.append(((), f"empty range: high {self.high} is not above low {self.low}"))
        if self.log and self.low <= 0:
            problems.append((("low",), f"a log range starts above 0, not at {self.low}"))
        problems += [(("step",), text) for text in self._step_problems()]
        if problems:
            raise ConfigError(problems)
        return self

    def _step_problems(self) -> list[str]:
        step, width = self.step, _exact(self.high) - _exact(self.low)
        is_every = step == 1 and isinstance(step, int)
        if step is None or width <= 0 or is_every:
            return []
        exact = _exact(step)
        if self.log:
            return ["a log range takes no step"]
        if exact > width:
            return [f"{step} is larger than the range [{self.low}, {self.high}]"]
        if width / exact > MOST_STEPS:
            return [f"{step} makes more than {MOST_STEPS:,} values; leave it out"]
        if width % exact:
            fits = float(_exact(self.low) + width // exact * exact)
            return [f"{step} does not divide the range; high: {fits:g} would fit"]
        return []

    def count(self) -> int | None:
        """Return the number of values, or None for a continuous range."""
        if self.step is None:
            return None
        return int((_exact(self.high) - _exact(self.low)) / _exact(self.step)) + 1

    def normal(self, value: Any) -> Any:
        """Return the value in the dimension's own type.

        Raises:
            ValueError: It lies outside the range or between two steps.
        """
        if isinstance(value, bool) or not isinstance(value, (int, float)):
            raise ValueError(f"{value!r} is not a number in [{self.low}, {self.high}]")
        if not self.low <= value <= self.high:
            raise ValueError(f"{value!r} is not in the range [{self.low}, {self.high}]")
        if self.step is not None and (_exact(value) - _exact(self.low)) % _exact(self.step):
            raise ValueError(f"{value!r} is not a multiple of step {self.step} above {self.low}")
        return value

    def ends(self) -> dict[tuple[str | int, ...], Any]:
        """Return the outermost values by the place where each is written."""
        return {("low",): self.low, ("high",): self.high}


class FloatDimension(_Interval):
    """A real number in [low, high]."""

    type: Literal["float"]

    def normal(self, value: Any) -> float:
        """Return the value as a float, or raise ValueError."""
        return float(super().normal(value))

    def values(self) -> Sequence[float]:
        """Return the values of a stepped range, each as its decimal notation reads."""
        return [self._value(index) for index in range(self.count() or 0)]

    def _value(self, index: int) -> float:
        return float(_exact(self.low) + index * _exact(self.step or 0.0))

    def middle(self) -> float:
        """Return a value from the middle of the range."""
        if self.step is not None:
            return self._value((self.count() or 0) // 2)
        middle = self.low + (self.high - self.low) / 2
        if self.log:  # roots one by one: the product of two small numbers may be 0
            middle = math.sqrt(self.low) * math.sqrt(self.high)
        return min(max(middle, self.low), self.high)

    def suggest(self, name: str, trial: BaseTrial) -> float:
        """Ask a trial for a value."""
        return trial.suggest_float(name, self.low, self.high, step=self.step, log=self.log)


class IntDimension(_Interval):
    """A whole number in [low, high]."""

    type: Literal["int"]
    low: int
    high: int
    step: Annotated[int, Field(ge=1)] = 1

    def normal(self, value: Any) -> int:
        """Return the value as an int, or raise ValueError."""
        number = super().normal(value)
        if not isinstance(number, int):
            raise ValueError(f"{value!r} is not a whole number")
        return number

    def values(self) -> Sequence[int]:
        """Return all values."""
        return range(self.low, self.high + 1, self.step)

    def middle(self) -> int:
        """Return a value from the middle of the range."""
        return self.values()[len(self.values()) // 2]

    def suggest(self, name: str, trial: BaseTrial) -> int:
        """Ask a trial for a value."""
        return trial.suggest_int(name, self.low, self.high, step=self.step, log=self.log)


class CategoricalDimension(_Dimension):
    """One of a list of values without order."""

    type: Literal["categorical"]
    choices: tuple[Any, ...] = Field(min_length=1)

    @field_validator("choices", mode="before")
    @classmethod
    def _are_distinct_scalars(cls, value: Any) -> tuple[Scalar, ...]:
        if not isinstance(value, (list, tuple)) or not value:
            raise ConfigError([((), f"{value!r} is not a list of at least one value")])
        for index, choice in enumerate(value):
            if not _is_scalar(choice):
                text = f"{choice!r} is not a number, text, true, false or null"
                raise ConfigError([((), text)])
            if choice in value[:index]:  # by ==, as Optuna looks choices up: 1 is 1.0 is true
                raise ConfigError([((), f"duplicate choice {choice!r}")])
        return tuple(value)

    def count(self) -> int:
        """Return the number of choices."""
        return len(self.choices)

    def normal(self, value: Any) -> Any:
        """Return the choice that equals the value.

        Raises:
            ValueError: There is none.
        """
        for choice in self.choices:
            if choice == value and isinstance(choice, bool) == isinstance(value, bool):
                return choice
        known = ", ".join(str(choice) for choice in self.choices)
        hint = nearest(value, map(str, self.choices)) if isinstance(value, str) else ""
        raise ValueError(f"{value!r} is not one of {known}{hint}")

    def ends(self) -> dict[tuple[str | int, ...], Any]:
        """Return every choice by the place where it is written."""
        return {("choices", index): choice for index, choice in enumerate(self.choices)}

    def values(self) -> Sequence[Any]:
        """Return all choices."""
        return self.choices

    def middle(self) -> Any:
        """Return the first choice: there is no middle without order."""
        return self.choices[0]

    def suggest(self, name: str, trial: BaseTrial) -> Any:
        """Ask a trial for a value."""
        return trial.suggest_categorical(name, self.choices)


def points_of(
    search: Mapping[str, "_Dimension"], fixed: Mapping[str, Any], most: int
) -> list[dict[str, Any]] | None:
    """Return all configurations of a space; None: there are more, or endlessly many.

    Args:
        search: Its dimensions, each behind those that it depends on.
        fixed: Values of other fields.
        most: How many there may be.
    """
    if any(dimension.count() is None for dimension in search.values()):
        return None
    found = list(islice(_points(list(search.items()), dict(fixed), {}), most + 1))
    return found if len(found) <= most else None


def _points(
    left: Sequence[tuple[str, "_Dimension"]], fixed: Mapping[str, Any], chosen: dict[str, Any]
) -> Iterator[dict[str, Any]]:
    if not left:
        yield chosen
        return
    (name, dimension), *others = left
    if not dimension.is_active({**fixed, **chosen}):
        yield from _points(others, fixed, chosen)
        return
    for value in dimension.values():
        yield from _points(others, fixed, {**chosen, name: value})


KINDS = ("float", "int", "categorical")


def _has_a_type(raw: Any) -> Any:
    """Refuse what is no dimension of any type, in words that help."""
    if isinstance(raw, _Dimension):
        return raw
    if not isinstance(raw, Mapping):
        text = f"{raw!r} is no range; write {{type: …, …}}, or move it to trainer: if it is fixed"
        raise ConfigError([((), text)])
    kind, kinds = raw.get("type"), ", ".join(KINDS)
    if "type" not in raw:
        raise ConfigError([(("type",), f"is required: one of {kinds}")])
    if kind not in KINDS:
        text = f"{kind!r} is not one of {kinds}{nearest(str(kind), KINDS)}"
        raise ConfigError([(("type",), text)])
    return raw


Dimension = Annotated[
    FloatDimension | IntDimension | CategoricalDimension,
    Field(discriminator="type"),
    BeforeValidator(_has_a_type),
]


def _is_scalar(value: Any) -> bool:
    return value is None or isinstance(value, (str, int, float, bool))
