"""The parts of a space that may change before a resume: limits, resources, the images' place."""

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from okddip_search.errors import UserError
from okddip_search.space.model import SearchSpec

KEPT = ("data.", "trainer.", "search.", "objective.", "study.seed")
"""Fields that rank the trials, make their seeds, or are in their checkpoints."""
FREE = ("data.root", "data.download", "data.workers", "data.test", "data.own_validation")
"""Of these, what makes other images of a data set is found by their fingerprint."""


def require_unchanged(began: SearchSpec, now: SearchSpec, directory: Path) -> None:
    """Keep trials of one study comparable.

    Args:
        began: The space as the search began.
        now: As it is asked for now.
        directory: Of the search.

    Raises:
        UserError: With every field that is another now.
    """
    fields = [f for f in _changes(began, now) if f[0].startswith(KEPT) and f[0] not in FREE]
    if fields:
        changed = "; ".join(f"{key} was {before}, is {after} now" for key, before, after in fields)
        raise UserError(
            f"the space has changed since the search in {directory} began: {changed}",
            "Leave --space and --set out to go on as it began, or choose another --name.",
        )


def left_as_it_was(kept: SearchSpec, asked: SearchSpec) -> list[str]:
    """Say, a line a field, what a space file asks for and a resumed search does not take over."""
    return [
        f"{key} stays {before}; the space file has {after} (--set {key}=… changes it)"
        for key, before, after in _changes(kept, asked)
        if key.startswith(("study.", "resources.", "confirm", "enqueue"))
    ]


def _changes(one: SearchSpec, other: SearchSpec) -> Iterator[tuple[str, str, str]]:
    """Yield each field that differs, with its two values as text."""
    before, after = dict(_flat(one.to_plain())), dict(_flat(other.to_plain()))
    for key in sorted({*before, *after}):
        if before.get(key, "absent") != after.get(key, "absent"):
            yield key, str(before.get(key, "absent")), str(after.get(key, "absent"))


def _flat(values: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    for key, value in values.items():
        if isinstance(value, Mapping):
            yield from _flat(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", value
