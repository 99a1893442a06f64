"""Models of plain values that say what is wrong with one: which field, its range, a right spelling.

This module needs no torch, so that the driver can check a search space with it in milliseconds.
"""

import difflib
from collections.abc import Iterable, Mapping, Sequence
from typing import Annotated, Any, ClassVar, Literal, get_args, get_origin

from annotated_types import Ge, Gt, Le, Lt
from pydantic import BaseModel, ConfigDict, Field, ValidationError
from pydantic.fields import FieldInfo

from trainer.config.synonyms import meant_by
from trainer.errors import TrainerError
from trainer.io.text import truncate
from trainer.io.yaml import KeyPath

Fraction = Annotated[float, Field(gt=0, lt=1)]
Count = Annotated[int, Field(ge=1)]


MOST_PROBLEMS = 20
"""Nobody reads more in one message."""
LONGEST_PROBLEM = 800
"""Characters; the longest range, the names of all networks, takes 300."""


def nearest(word: str, known: Iterable[str]) -> str:
    """Return ``" (did you mean 'x'?)"`` for the known word that is meant, or an empty string.

    That is the one for which other tools have this word, else the closest by its letters.
    """
    names = list(known)
    match = [name for name in meant_by(word) if name in names]
    match = match or difflib.get_close_matches(word[:64], names, n=1, cutoff=0.5)
    return f" (did you mean '{match[0]}'?)" if match else ""


class ConfigError(TrainerError, ValueError):
    """A configuration that cannot be used.

    Attributes:
        problems: Pairs of the field's path (``("data", "root")``) and what is wrong with it.
    """

    def __init__(self, problems: Sequence[tuple[KeyPath, str]]) -> None:
        self.problems = list(problems)
        lines = [
            truncate(": ".join(filter(None, (".".join(map(str, path)), text))), LONGEST_PROBLEM)
            for path, text in self.problems[:MOST_PROBLEMS]
        ]
        more = len(problems) - MOST_PROBLEMS
        super().__init__("; ".join(lines + ([f"and {more} more"] if more > 0 else [])))

    def __reduce__(self) -> tuple[Any, ...]:
        """Pickle by the problems, from which the message is made."""
        return type(self), (self.problems,)


def describe_range(field: FieldInfo) -> str:
    """Say in words which values a field takes: its choices, its interval or its type."""
    parts: list[str] = []
    for option, bounds in _alternatives(field.annotation, field.metadata):
        if get_origin(option) is Literal:
            parts.append("one of " + ", ".join(str(choice) for choice in get_args(option)))
        elif get_origin(option) is tuple:
            [(_, item_bounds)] = _alternatives(get_args(option)[0], [])
            parts.append(f"a list of numbers{_interval(item_bounds)}")
        elif option is type(None):
            parts.append("null")
        else:
            parts.append(f"{_type_name(option)}{_interval(bounds)}")
    return " or ".join(parts)


def _alternatives(annotation: Any, metadata: list[Any]) -> list[tuple[Any, list[Any]]]:
    if get_origin(annotation) is Annotated:
        inner, *extra = get_args(annotation)
        bounds = [m for e in extra for m in (e.metadata if isinstance(e, FieldInfo) else [e])]
        return _alternatives(inner, metadata + bounds)
    whole = (None, Literal, tuple, dict)
    if get_origin(annotation) not in whole and not isinstance(annotation, type):
        return [pair for arm in get_args(annotation) for pair in _alternatives(arm, metadata)]
    return [(annotation, metadata)]


def _type_name(option: Any) -> str:
    names = {int: "a whole number", float: "a number", bool: "true or false", str: "text"}
    return names.get(option, "a mapping")


def _interval(bounds: list[Any]) -> str:
    low = next((f"[{b.ge}" if isinstance(b, Ge) else f"({b.gt}" for b in bounds
                if isinstance(b, (Ge, Gt))), "(-inf")  # fmt: skip
    high = next((f"{b.le}]" if isinstance(b, Le) else f"{b.lt})" for b in bounds
                 if isinstance(b, (Le, Lt))), "inf)")  # fmt: skip
    return "" if (low, high) == ("(-inf", "inf)") else f" in {low}, {high}"


class StrictModel(BaseModel):
    """A frozen pydantic model without type coercion whose errors name field, value and range."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True, allow_inf_nan=False)
    part: ClassVar[str] = "field"
    """The word for one of its values in messages."""

    def __init__(self, /, **values: Any) -> None:
        """Validate the values.

        Raises:
            ConfigError: A ``ValueError`` that lists every unknown or out-of-range field.
        """
        try:
            super().__init__(**values)
        except ValidationError as error:
            raise ConfigError(_problems(type(self), error, values)) from None


def _problems(
    model: type[StrictModel], error: ValidationError, values: Mapping[str, Any]
) -> list[tuple[KeyPath, str]]:
    found: dict[KeyPath, str] = {}
    for item in error.errors():
        cause = item.get("ctx", {}).get("error")
        name = str(item["loc"][0]) if item["loc"] else ""
        if isinstance(cause, ConfigError):  # a nested model has spoken already
            prefix = _place(item["loc"], values)
            found.update({prefix + path: text for path, text in cause.problems})
        elif item["type"] == "extra_forbidden":
            found[(name,)] = f"unknown {model.part}{nearest(name, model.model_fields)}"
        elif name not in model.model_fields:  # a text that is none: half a surrogate pair
            found[(name,)] = f"cannot be read ({item['type']})"
        elif item["type"] == "missing":
            found[(name,)] = f"is required: {describe_range(model.model_fields[name])}"
        else:
            hint = ""
            if item["type"] == "literal_error" and isinstance(item["input"], str):
                hint = nearest(item["input"], _words(model.model_fields[name].annotation))
            range_ = describe_range(model.model_fields[name])
            found[(name,)] = f"{_written(item['input'])} is not {range_}{hint}"
    return list(found.items())


def _words(annotation: Any) -> list[str]:
    """Return the words that a field can be, among whatever else it can be."""
    options = [option for option, _ in _alternatives(annotation, [])]
    choices = [c for option in options if get_origin(option) is Literal for c in get_args(option)]
    return [choice for choice in choices if isinstance(choice, str)]


def _place(loc: KeyPath, values: Any) -> KeyPath:
    """Return the part of pydantic's location that is in the values; its own names come after it."""
    if not loc or not isinstance(values, Mapping) or loc[0] not in values:
        return ()
    return (loc[0], *_place(loc[1:], values[loc[0]]))


def _written(value: object) -> str:
    try:
        return truncate(repr(value))
    except (RecursionError, ValueError):  # nested, or long as a number, beyond all measure
        return f"this {type(value).__name__}"
