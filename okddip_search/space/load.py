"""A YAML space → ``SearchSpec``: strict, with line numbers, nearest names, and no torch.

Sections: ``name``, ``data``, ``trainer`` (fixed fields), ``search`` (sampled fields), ``enqueue``
(configurations tried first), ``objective``, ``study``, ``resources``, ``confirm``.
"""

import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import search_spaces
from okddip_search.errors import UserError
from okddip_search.layout import SPEC
from okddip_search.space.check import check_space
from okddip_search.space.document import Document
from okddip_search.space.model import SearchSpec
from okddip_search.space.overrides import read_value
from okddip_search.space.settings import RENAMED
from trainer.config.strict import nearest
from trainer.config.train import RENAMED_EXECUTORS
from trainer.io.text import is_plain, truncate
from trainer.io.yaml import KeyPath

logger = logging.getLogger(__name__)  # without a handler, a warning is a line on stderr

RENAMED_NOTE = "%s: %s is called %s now; this version still reads the old name"


def bundled_spaces() -> dict[str, Path]:
    """Return the spaces that come with the package, by file name."""
    folder = Path(search_spaces.__file__).parent
    return {path.name: path for path in sorted(folder.glob("*.yaml"))}


def summary_of(path: Path) -> str:
    """Return the first comment line of a space file: what it is for."""
    for line in path.read_text(encoding="utf-8").splitlines():
        if line.startswith("#") and line.strip("# "):
            return line.strip("# ")
    return ""


def load_space(
    source: str | Path,
    overrides: Sequence[str] = (),
    *,
    trials: int | None = None,
    timeout: str | None = None,
    budget: str | None = None,
    name: str | None = None,
) -> SearchSpec:
    """Read and check a space.

    Args:
        source: A file, or the name of a bundled space (``digits`` or ``digits.yaml``); an existing
            file wins.
        overrides: ``key=value`` with dotted keys (``trainer.epochs=5``), applied before the checks.
        trials: Replaces ``study.trials``.
        timeout: Replaces ``study.timeout``.
        budget: Replaces ``study.budget``.
        name: Replaces ``name``.

    Raises:
        UserError: With every problem found, each with its line or its option.
    """
    options = {**_limits(trials, timeout, budget), "name": name}
    return _load(_find(source), overrides, options, is_saved=False)


def load_saved(
    directory: Path,
    overrides: Sequence[str] = (),
    *,
    trials: int | None = None,
    timeout: str | None = None,
    budget: str | None = None,
) -> SearchSpec:
    """Read the space of a search from its directory.

    Args:
        directory: Of the search; an earlier version may have begun it.
        overrides: As for ``load_space``.
        trials: Replaces ``study.trials``.
        timeout: Replaces ``study.timeout``.
        budget: Replaces ``study.budget``.

    Raises:
        UserError: As ``load_space`` does.
    """
    options = _limits(trials, timeout, budget)
    return _load(directory / SPEC, overrides, options, is_saved=True)


def _limits(trials: int | None, timeout: str | None, budget: str | None) -> dict[str, Any]:
    return {"study.trials": trials, "study.timeout": timeout, "study.budget": budget}


def _load(
    path: Path, overrides: Sequence[str], options: Mapping[str, Any], *, is_saved: bool
) -> SearchSpec:
    document = Document(path)
    for old, new in RENAMED.items():
        place = document.rename("confirm", old, new)
        if place and not is_saved:
            logger.warning(RENAMED_NOTE, place, f"confirm.{old}", f"confirm.{new}")
    if is_saved:
        _divide_as_begun(document)
    for text in overrides:
        _apply(document, text)
    _rename_executor(document, is_saved)
    for key, value in options.items():
        if value is not None:
            keys = tuple(key.split("."))
            document.override(keys, value, f"--{keys[-1]}")
    return check_space(document, is_saved=is_saved)


def _divide_as_begun(document: Document) -> None:
    """Keep all images of a folder where they were when test and validation folders did not count.

    Earlier versions drew the validation images from the training part and no test images at all.
    """
    fields = document.values.get("data")
    if isinstance(fields, dict) and fields.get("name") == "image_folder" and "test" not in fields:
        fields |= {"test": 0, "own_validation": False}


def _rename_executor(document: Document, is_saved: bool) -> None:
    fields = document.values.get("trainer")
    if not isinstance(fields, dict) or fields.get("executor") not in list(RENAMED_EXECUTORS):
        return
    old = fields["executor"]
    fields["executor"] = new = RENAMED_EXECUTORS[old]
    if not is_saved:
        place = document.place(("trainer", "executor"))
        logger.warning(RENAMED_NOTE, place, f"the executor {old}", new)


def _find(source: str | Path) -> Path:
    path, bundled = Path(source), bundled_spaces()
    if path.is_file():
        return path
    for known in (str(source), f"{source}.yaml"):
        if known in bundled:
            return bundled[known]
    what = "is a directory" if path.is_dir() else "no such file"
    remedy = f"Bundled spaces: {', '.join(bundled)}."
    raise UserError(f"{source}: {what}{nearest(path.name, bundled)}", remedy)


def _apply(document: Document, text: str) -> None:
    """Apply one ``--set key=value``."""
    key, equals, value = text.partition("=")
    path: KeyPath = tuple(key.strip().split("."))
    label = f"--set {truncate(key.strip())}"
    if path[:-1] == ("confirm",) and path[-1] in RENAMED:
        old = str(path[-1])
        path = ("confirm", RENAMED[old])
        logger.warning(RENAMED_NOTE, label, f"confirm.{old}", f"confirm.{RENAMED[old]}")
    if not equals or "" in path or not is_plain(key):
        raise UserError(
            f"--set {truncate(text)}: expected key=value, for instance trainer.epochs=5"
        )
    try:
        read = read_value(path, value)
    except ValueError as error:
        raise UserError(f"{label}: {error}") from None
    _expand_shorthand(document, path)
    document.override(path, read, label)


def _expand_shorthand(document: Document, path: KeyPath) -> None:
    """Make room for ``study.pruner.type=none`` and the like.

    ``pruner: median`` stands for ``{type: median}``; and as arguments belong to a type, a new type
    starts without any.
    """
    choices = [(("study", name), "type") for name in ("sampler", "pruner", "searcher")]
    for parent, key in [(("objective",), "metric"), *choices]:
        if path[:-1] != parent:
            continue
        *outer, last = parent
        section: Any = document.values
        for part in outer:
            section = section.get(part) if isinstance(section, dict) else None
        if isinstance(section, dict) and isinstance(section.get(last), str):
            section[last] = {key: section[last]}
        if isinstance(section, dict) and path[-1] == "type":
            section[last] = {}
