"""Another package's ``trainer`` in the way of ours, found before anything is imported from it."""

import importlib.util
import sys
from importlib import metadata
from pathlib import Path

OURS = "TrainConfig"
"""A name in our ``trainer/__init__.py`` and in nobody else's."""


def require_own_trainer() -> None:
    """Exit with the reason and the remedy where ``import trainer`` would find another package's."""
    found = importlib.util.find_spec("trainer")
    origin = Path(found.origin) if found and found.origin else None
    if origin is None or not _is_ours(origin):
        place = origin or (list(found.submodule_search_locations or ["?"])[0] if found else "?")
        print(
            f"Error: {place} stands in the way: it is another package's `trainer`{_owners()}, "
            f"and okddip-search needs its own. {_remedy(origin)}",
            file=sys.stderr,
        )
        sys.exit(2)


def _is_ours(origin: Path) -> bool:
    """Return whether a module's file is ours: beside this package, and not written over."""
    beside = Path(__file__).resolve().parents[1] / "trainer" / "__init__.py"
    return origin.resolve() == beside and OURS in origin.read_text(encoding="utf-8")


def _owners() -> str:
    others = set(metadata.packages_distributions().get("trainer", ())) - {"okddip-search"}
    return f" (distribution {', '.join(sorted(others))})" if others else ""


def _remedy(origin: Path | None) -> str:
    if origin and origin.parent in (Path.cwd(), Path.cwd() / "trainer"):
        return "Start the command in another folder, or rename that file."
    return (
        "Give okddip-search an environment of its own (python3 -m venv), "
        "and leave that folder out of PYTHONPATH."
    )
