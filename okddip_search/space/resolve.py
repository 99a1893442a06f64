"""The space and the directory of a search that begins or is resumed; nothing here needs Ray."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Literal

from okddip_search.errors import UserError
from okddip_search.layout import JOURNAL, require_search
from okddip_search.space.changes import left_as_it_was, require_unchanged
from okddip_search.space.load import load_saved, load_space
from okddip_search.space.model import SearchSpec
from okddip_search.space.settings import WarmStart
from trainer.io.files import expanded

DEFAULT_SPACE = "digits"
Resume = bool | Literal["auto"]


def requested_search(
    space: str | Path | None,
    overrides: Sequence[str] = (),
    *,
    resume: Resume,
    trials: int | None = None,
    timeout: str | None = None,
    budget: str | None = None,
    name: str | None = None,
    out: Path | None = None,
    say: Callable[[str], None],
) -> tuple[SearchSpec, Path, bool]:
    """Return the space and the directory of a search, and whether it is resumed.

    Args:
        space: File, or name of a bundled space; None: the default, or the resumed search's own.
        overrides: ``key=value`` with dotted keys.
        resume: ``auto`` resumes the search in the directory where there is one.
        trials: Replaces ``study.trials``.
        timeout: Replaces ``study.timeout``.
        budget: Replaces ``study.budget``.
        name: Replaces ``name``.
        out: Directory; None: ``runs/NAME``.
        say: Prints a line for each setting of the space that a resumed search does not use.

    Raises:
        UserError: The space has mistakes, or the search cannot be resumed as asked.
    """
    limits: dict[str, Any] = {"trials": trials, "timeout": timeout, "budget": budget}

    def load(source: str | Path) -> SearchSpec:
        return _bounded(load_space(source, overrides, **limits, name=name), say)

    asked = load(space) if space else None
    directory = out or Path("runs") / (asked.name if asked else name or DEFAULT_SPACE)
    if resume is True or (resume == "auto" and (directory / JOURNAL).exists()):
        spec = resumed_search(directory, overrides, asked=asked, **limits, say=say)
        return spec, directory, True
    if (directory / JOURNAL).exists():
        raise UserError(
            f"{directory} holds a search already",
            "Add --resume to continue it, or choose another --name or --out.",
        )
    return _rooted(asked or load(DEFAULT_SPACE)), directory, False


def resumed_search(
    directory: Path,
    overrides: Sequence[str] = (),
    *,
    asked: SearchSpec | None = None,
    trials: int | None = None,
    timeout: str | None = None,
    budget: str | None = None,
    say: Callable[[str], None],
) -> SearchSpec:
    """Return the space of a search that is resumed: the one that it began with.

    Args:
        directory: Of the search.
        overrides: ``key=value`` with dotted keys.
        asked: The space that the user named, which must not differ in what makes trials comparable.
        trials: Replaces ``study.trials``.
        timeout: Replaces ``study.timeout``.
        budget: Replaces ``study.budget``.
        say: Prints a line for each setting of ``asked`` that is not used.

    Raises:
        UserError: There is no search, or the request changes what its trials have in common.
    """
    require_search(directory, "Leave --resume out to start one.")
    began = load_saved(directory)
    limits: dict[str, Any] = {"trials": trials, "timeout": timeout, "budget": budget}
    spec = _bounded(load_saved(directory, overrides, **limits), say)
    for now in (spec, asked or spec):
        require_unchanged(began, now, directory)
    for line in left_as_it_was(spec, asked or spec):
        say(line)
    return _rooted(spec)


def _bounded(spec: SearchSpec, say: Callable[[str], None]) -> SearchSpec:
    """Ask for no more trials than a space has different configurations, and say so."""
    bounded = spec.within_points()
    if bounded.study.trials < spec.study.trials:
        say(
            f"the space has {bounded.study.trials} different configurations, fewer than "
            f"study.trials ({spec.study.trials}): the search ends when each has been trained once"
        )
    return bounded


def _rooted(spec: SearchSpec) -> SearchSpec:
    """Make the places of data and of warm starts absolute: commands work from any directory."""
    sources = [_absolute(source) for source in spec.warm_start]
    spec = spec.model_copy(update={"warm_start": tuple(sources)})
    if spec.data.root is None:
        return spec
    root = str(expanded(spec.data.root).absolute())
    return spec.model_copy(update={"data": spec.data.model_copy(update={"root": root})})


def _absolute(source: WarmStart) -> WarmStart:
    if "://" in source.path:
        return source
    return source.model_copy(update={"path": str(expanded(source.path).absolute())})
