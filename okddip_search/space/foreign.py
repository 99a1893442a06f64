"""Ranges as Weights & Biases, Ray Tune, Optuna, Hydra and others spell them, spelt as here.

They are refused all the same: two spellings of one thing are a source of mistakes.
"""

import ast
import math
import re
from collections.abc import Mapping, Sequence
from typing import Any

from okddip_search.space.dimensions import KINDS
from trainer.config.train import TrainConfig
from trainer.io.yaml import parse_plain

_CALL = re.compile(r"(?:[\w]+\.)*(\w+)\s*\((.*)\)\s*", re.DOTALL)
_LOG_RATIO = 100
"""Ratio of the ends of a range from which its logarithm is searched, if nothing else is said."""
_LOW = ("low", "min", "lower", "minimum", "lo", "lower_bound", "start", "from", "a")
_HIGH = ("high", "max", "upper", "maximum", "hi", "upper_bound", "end", "stop", "to", "b")
_CHOICES = ("choices", "values", "choice", "options", "categories", "candidates", "grid_search")
_BOTH = ("bounds", "range", "interval", "limits")
_STEP = ("step", "q", "quantum", "increment")
_LOG = ("log", "log_scale", "logscale")
_KIND = ("type", "distribution", "kind", "dtype", "parametertype", "name", "scale", "base")
_NESTED = ("attributes", "feasiblespace")
_WITHOUT_END = ("randint", "lograndint", "range")
"""Of Ray Tune, NumPy and Python: the upper end is not drawn."""
_OURS = {"type", "low", "high", "log", "step", "choices", "when"}
_THEIRS = {*_LOW, *_HIGH, *_CHOICES, *_BOTH, *_STEP, *_LOG, *_KIND, *_NESTED, "value"} - _OURS


def respelled(field: str, raw: Any) -> str:
    """Return how a range of another tool is written here; empty if it is ours, or unknown.

    Args:
        field: The searched field, which says whether whole numbers are meant.
        raw: What stands behind its name.
    """
    if isinstance(raw, Mapping):
        return _of_mapping(field, raw)
    if isinstance(raw, (list, tuple)):
        return _of_list(field, raw)
    if isinstance(raw, str) and (call := _CALL.fullmatch(raw.strip())):
        return _of_call(field, call[1], call[2])
    return ""


def _of_list(field: str, values: Sequence[Any]) -> str:
    listed = _choices(values)
    if len(values) == 2 and all(map(_is_number, values)) and values[0] < values[1]:
        return f"{_range(field, *values)} for a range, or {listed} for these two values"
    return listed


def _of_mapping(field: str, raw: Mapping[str, Any]) -> str:
    flat = _flat(raw)
    if raw.get("type") in KINDS and not flat.keys() & _THEIRS:
        return ""
    kind = " ".join(str(flat[key]) for key in _KIND if key in flat).lower()
    value, choices = flat.get("value"), _first(flat, _CHOICES)
    if isinstance(choices, (list, tuple)):
        return _choices(choices)
    if isinstance(value, (list, tuple)):  # NNI: {_type: loguniform, _value: [1, 2]}
        return _of_call(field, kind, ", ".join(map(repr, value)))
    low, high = _first(flat, _BOTH) or (_first(flat, _LOW), _first(flat, _HIGH))
    if _is_number(low) and _is_number(high):
        if flat.get("distribution") == "log_uniform":  # of W&B: the ends are natural logarithms
            low, high = (float(f"{math.exp(end):.3g}") for end in (low, high))
        log = _first(flat, _LOG)
        is_log = bool(log) if log is not None else "log" in kind or None
        return _range(field, low, high, is_log=is_log, step=_first(flat, _STEP), kind=kind)
    return f"trainer: {{{field}: {_text(value)}}} (it is fixed)" if "value" in flat else ""


def _flat(raw: Mapping[str, Any]) -> dict[str, Any]:
    """Return a mapping with lower-case keys and without the levels that some tools have."""
    flat: dict[str, Any] = {}
    for key, value in raw.items():
        name = key.strip("_").lower()
        flat |= _flat(value) if name in _NESTED and isinstance(value, Mapping) else {name: value}
    if not (isinstance(pair := _first(flat, _BOTH), (list, tuple)) and len(pair) == 2):
        flat = {key: value for key, value in flat.items() if key not in _BOTH}
    return flat


def _of_call(field: str, name: str, inside: str) -> str:
    """Return the spelling of ``loguniform(1e-4, 1)`` or ``suggest_float('lr', 0, 1, log=True)``."""
    try:
        tree = ast.parse(f"f({inside})", mode="eval").body
        assert isinstance(tree, ast.Call)
        given = [ast.literal_eval(argument) for argument in tree.args]
        named = {word.arg: ast.literal_eval(word.value) for word in tree.keywords if word.arg}
    except (SyntaxError, ValueError, AssertionError, MemoryError, RecursionError):
        given, named = [parse_plain(part.strip()) for part in inside.strip("[]() ").split(",")], {}
    name = name.lower()
    if name.startswith("suggest_") and given:
        given = given[1:]
    if "choice" in name or "categorical" in name or "grid" in name or "sample" in name:
        values = given[0] if len(given) == 1 and isinstance(given[0], (list, tuple)) else given
        return _choices(named.get("choices", values)) if values or named else ""
    ends = [*given, *(named[k] for k in (*_LOW, *_HIGH) if k in named)]
    if len(ends) < 2 or not all(map(_is_number, ends[:2])):
        return ""
    if name in _WITHOUT_END and all(isinstance(end, int) for end in ends[:2]):
        ends[1] -= 1
    step = named.get("step", named.get("q", ends[2] if name.startswith("q") and ends[2:] else None))
    is_log = True if "log" in name or named.get("log") else False if "uniform" in name else None
    return _range(field, ends[0], ends[1], is_log=is_log, step=step, kind=name)


def _range(
    field: str,
    low: Any,
    high: Any,
    *,
    is_log: bool | None = None,
    step: Any = None,
    kind: str = "",
) -> str:
    is_whole = _takes_whole_numbers(field) or "int" in kind
    if is_log is None:
        is_log = low > 0 and high / low >= _LOG_RATIO
    parts = [f"type: {'int' if is_whole else 'float'}", f"low: {low}", f"high: {high}"]
    if is_log:
        parts.append("log: true")
    elif _is_number(step) and not (is_whole and step == 1):
        parts.append(f"step: {step}")
    return f"{{{', '.join(parts)}}}"


def _choices(values: Sequence[Any]) -> str:
    return f"{{type: categorical, choices: [{', '.join(map(_text, values))}]}}"


def _text(value: Any) -> str:
    words = {True: "true", False: "false", None: "null"}
    return words[value] if value is None or isinstance(value, bool) else str(value)


def _takes_whole_numbers(field: str) -> bool:
    known = TrainConfig.model_fields.get(field)
    kinds = str(known.annotation) if known else ""
    return "int" in kinds and "float" not in kinds


def _first(flat: Mapping[str, Any], names: Sequence[str]) -> Any:
    return next((flat[name] for name in names if name in flat), None)


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool)
