"""The JSON schema of a space file, for editors that complete and check YAML."""

from typing import Any

from pydantic.json_schema import models_json_schema

from okddip_search.space.fields import NEVER_FIXED, NEVER_SEARCHED
from okddip_search.space.model import FORMAT, SearchSpec
from trainer.config.train import TrainConfig

_SHORT_FORMS: dict[str, list[dict[str, Any]]] = {
    "objective": [{"const": "leader_accuracy"}],
    "confirm": [{"const": False}],
}
"""How a section may also be written; each but the first three may be empty as well."""


def space_schema() -> dict[str, Any]:
    """Return the JSON schema; cross-checks such as "searched and fixed" are beyond it."""
    _, schema = models_json_schema(
        [(SearchSpec, "validation"), (TrainConfig, "validation")],
        ref_template="#/$defs/{model}",
    )
    defs = schema["$defs"]
    space, run = defs.pop("SearchSpec"), defs.pop("TrainConfig")["properties"]
    sections = space["properties"]
    dimension = sections["search"]["additionalProperties"]
    fixed = {name: field for name, field in run.items() if name not in NEVER_FIXED}
    searched = {
        name: {**dimension, "description": field["description"]}
        for name, field in run.items()
        if name not in NEVER_SEARCHED
    }
    values = {name: {"description": run[name]["description"]} for name in searched}
    sections["trainer"] |= _fields(fixed)
    sections["search"] |= _fields(searched) | {"minProperties": 1}
    del sections["warm_start"]  # a part of enqueue
    source = _source(defs.pop("WarmStart"))
    listed = {"type": "object", "minProperties": 1} | _fields(values)
    sections["enqueue"]["items"] = {"anyOf": [listed, *source]}
    sections["enqueue"] = {
        "anyOf": [sections["enqueue"], *source],
        "description": sections["enqueue"].pop("description"),
    }
    sections["machine"]["readOnly"] = True
    sections["format"] = {"const": FORMAT, "description": "of a saved space"}
    for name in set(sections) - {"name", "search", "format"}:
        short = [*_SHORT_FORMS.get(name, []), {"type": "null"}]
        described = sections.pop(name)
        text = described.pop("description")
        sections[name] = {"anyOf": [described, *short], "description": text}
    header = {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": "A space of okddip-search",
    }
    return {**space, **header, "$defs": defs}


def _source(model: dict[str, Any]) -> list[dict[str, Any]]:
    """Return the two forms of a source of configurations: a path, and a mapping with ``from``."""
    fields = dict(model["properties"])
    mapping = _fields({"from": fields.pop("path"), **fields}) | {"required": ["from"]}
    return [{"type": "string"}, {"type": "object", **mapping}]


def _fields(properties: dict[str, Any]) -> dict[str, Any]:
    return {"properties": properties, "additionalProperties": False}
