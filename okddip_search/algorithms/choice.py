"""A sampler or pruner by name, with its arguments."""

import inspect
from collections.abc import Mapping
from typing import Any

from pydantic import Field, model_serializer

from trainer.config.strict import ConfigError, StrictModel, nearest

# Arguments that a space does not set: seeds come from study.seed, warnings would spoil the table,
# and the rest is deprecated in Optuna 5.
_HIDDEN = {
    "seed",
    "warn_independent_sampling",
    "warn_asynchronous_seeding",
    "consider_prior",
    "prior_weight",
    "consider_magic_clip",
    "consider_endpoints",
}
_PLAIN: dict[str, tuple[type, ...]] = {
    "int": (int,),
    "float": (int, float),
    "bool": (bool,),
    "str": (str,),
    "None": (type(None),),
}
_JSON_TYPES = {
    "int": "integer",
    "float": "number",
    "bool": "boolean",
    "str": "string",
    "None": "null",
}
_USUAL_RANGE = (0, 1_000_000)
_RANGES = {"n_ei_candidates": (1, 10_000)}
"""Of whole numbers that samplers and pruners take; Optuna itself would try a billion."""


class Choice(StrictModel):
    """A sampler or pruner by name, with its own arguments."""

    type: str
    arguments: dict[str, Any] = Field(default_factory=dict)

    @model_serializer
    def to_plain(self) -> dict[str, Any]:
        """Return the YAML form."""
        plain = {k: v.to_plain() if isinstance(v, Choice) else v for k, v in self.arguments.items()}
        return {"type": self.type, **plain}


def parse_choice(raw: Any, kinds: Mapping[str, type]) -> Choice:
    """Read ``median`` or ``{type: median, n_warmup_steps: 20}``.

    Raises:
        ConfigError: An unknown name, or arguments that the class does not take.
    """
    if isinstance(raw, Choice):
        return raw
    known = ", ".join(kinds)
    arguments = dict(raw) if isinstance(raw, Mapping) else {"type": raw}
    if "type" not in arguments:
        raise ConfigError([(("type",), f"is required: one of {known}")])
    name = arguments.pop("type")
    if not isinstance(name, str) or name not in kinds:
        where = ("type",) if isinstance(raw, Mapping) else ()
        text = f"{name!r} is not one of {known}{nearest(str(name), kinds)}"
        raise ConfigError([(where, text)])
    wrapped = {}
    if name == "patient":
        wrapped["wrapped"] = _wrapped_pruner(arguments.pop("wrapped", "none"), kinds)
    _check_arguments(name, kinds[name], arguments)
    return Choice(type=name, arguments={**arguments, **wrapped})


def choice_schema(kinds: Mapping[str, type]) -> dict[str, Any]:
    """Return the JSON schema of a name or of a mapping with a name and its arguments."""
    forms: list[dict[str, Any]] = [{"enum": list(kinds)}]
    for name, kind in kinds.items():
        arguments = {key: _argument_schema(note) for key, note in _plain_parameters(kind).items()}
        if name == "patient":
            arguments["wrapped"] = {"type": ["string", "object"]}
        properties = {"type": {"const": name}, **arguments}
        form = {"type": "object", "properties": properties, "required": ["type"]}
        forms.append({**form, "additionalProperties": False})
    return {"anyOf": forms}


def _argument_schema(note: str) -> dict[str, Any]:
    return {"type": [_JSON_TYPES[part] for part in note.split(" | ")]}


def _wrapped_pruner(raw: Any, kinds: Mapping[str, type]) -> Choice:
    try:
        return parse_choice(raw, {k: v for k, v in kinds.items() if k != "patient"})
    except ConfigError as error:
        raise ConfigError([(("wrapped", *path), text) for path, text in error.problems]) from None


def _check_arguments(name: str, kind: type, arguments: Mapping[str, Any]) -> None:
    """Hold arguments against the class's own signature, so that a new Optuna brings its own."""
    known = _plain_parameters(kind)
    problems: list[tuple[tuple[str, ...], str]] = []
    for key, value in arguments.items():
        if key not in known:
            text = f"'{name}' has no such argument{nearest(key, known)}"
            problems.append(((key,), f"{text}; it takes {', '.join(known) or 'none'}"))
        elif not _fits(value, known[key]):
            problems.append(((key,), f"{value!r} is not {known[key].replace(' | ', ' or ')}"))
        elif isinstance(value, int) and not isinstance(value, bool):
            low, high = _RANGES.get(key, _USUAL_RANGE)
            if not low <= value <= high:
                problems.append(((key,), f"{value} is not a number in [{low}, {high}]"))
    for key, parameter in inspect.signature(kind).parameters.items():
        if key in known and parameter.default is parameter.empty and key not in arguments:
            problems.append(((key,), f"is required: {known[key]}"))
    if problems:
        raise ConfigError(problems)


def _plain_parameters(kind: type) -> dict[str, str]:
    """Return the parameters that YAML can express, with their annotation."""
    found = {}
    for name, parameter in inspect.signature(kind).parameters.items():
        note = parameter.annotation
        text = note if isinstance(note, str) else getattr(note, "__name__", "")
        if name not in _HIDDEN and all(part in _PLAIN for part in text.split(" | ")):
            found[name] = text
    return found


def _fits(value: Any, annotation: str) -> bool:
    kinds = [kind for part in annotation.split(" | ") for kind in _PLAIN[part]]
    return (bool in kinds) if isinstance(value, bool) else isinstance(value, tuple(kinds))
