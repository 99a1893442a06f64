"""The value of ``--set key=value``, read as its field's type demands and not as a line of YAML."""

from collections.abc import Iterator
from types import NoneType
from typing import Annotated, Any, Literal, get_args, get_origin

from pydantic import BaseModel

from okddip_search.space.model import SearchSpec
from trainer.config.train import TrainConfig
from trainer.io.yaml import KeyPath, YamlError, parse_plain, parse_yaml


def read_value(path: KeyPath, text: str) -> Any:
    """Return the value of a field as the user typed it.

    A field of text (a path, a name) gets the text: ``#``, ``: ``, ``%`` and ``@`` mean nothing in
    it. Other fields take numbers, true, false, null and words, and lists and mappings in brackets.

    Args:
        path: Of the field.
        text: Behind the equals sign.

    Raises:
        ValueError: The brackets or quotes are no YAML.
    """
    kinds, bare = set(_kinds(path)), text.strip()
    is_bracketed = bare[:1] in ("[", "{") and (dict in kinds or str not in kinds)
    is_quoted = len(bare) > 1 and bare[0] == bare[-1] and bare[0] in ("'", '"')
    if not is_bracketed and not is_quoted:
        is_text = str in kinds and not (bare == "null" and NoneType in kinds)
        return parse_plain(text, is_text=is_text)
    try:
        parsed = parse_yaml(text)
    except YamlError as error:
        raise ValueError(error.text) from None
    if parsed.problems:
        raise ValueError(parsed.problems[0][1])
    return parsed.values


def _kinds(path: KeyPath) -> Iterator[Any]:
    """Yield the types that a field takes; nothing for one that there is not."""
    is_fixed = path[0] == "trainer"
    options: list[Any] = [TrainConfig if is_fixed else SearchSpec]
    for part in path[1:] if is_fixed else path:
        models = [one for one in options if isinstance(one, type) and issubclass(one, BaseModel)]
        fields = [model.model_fields.get(str(part)) for model in models]
        options = [kind for field in fields if field for kind in _options(field.annotation)]
    yield from options


def _options(annotation: Any) -> Iterator[Any]:
    origin = get_origin(annotation)
    if origin is Annotated:
        yield from _options(get_args(annotation)[0])
    elif origin is Literal or isinstance(annotation, type):
        yield origin or annotation
    elif origin in (dict, tuple, list):
        yield origin
    else:  # a union
        for option in get_args(annotation):
            yield from _options(option)
