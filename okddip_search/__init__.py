"""The driver: a search space becomes an Optuna study, run by Ray Tune and shown by MLflow.

Public names are loaded on first use: importing the package loads neither torch nor Ray, and changes
nothing in the process.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from okddip_search.api import Confirmation as Confirmation
    from okddip_search.api import Search as Search
    from okddip_search.api import SearchError as SearchError
    from okddip_search.api import Trial as Trial
    from okddip_search.api import load_search as load_search
    from okddip_search.api import search as search
    from okddip_search.errors import UserError as UserError

__version__ = "0.1.0"

_MODULES = {
    "Confirmation": "okddip_search.api",
    "Search": "okddip_search.api",
    "SearchError": "okddip_search.api",
    "Trial": "okddip_search.api",
    "UserError": "okddip_search.errors",
    "load_search": "okddip_search.api",
    "search": "okddip_search.api",
}

__all__ = [*_MODULES, "__version__"]

if not TYPE_CHECKING:  # a type checker would take every misspelt name for an attribute

    def __getattr__(name: str) -> Any:
        """Import a public name from its module on first use (PEP 562)."""
        if name not in _MODULES:
            raise AttributeError(f"module 'okddip_search' has no attribute '{name}'")
        return getattr(import_module(_MODULES[name]), name)
