"""A running search, shown in MLflow, whatever the state of the MLflow server.

The driver appends events to a journal in the search directory, which takes microseconds and works
always. One thread replays the journal into MLflow, with retries; what it could not deliver by the
end, the next ``--resume`` or ``okddip-search sync`` delivers. Nobody else writes: the workers of
the trials never import mlflow.
"""

from collections.abc import Callable
from pathlib import Path

from okddip_search.masking import masked
from okddip_search.tracking.courier import Courier, sync, usual_uri
from okddip_search.tracking.record import Record
from okddip_search.tracking.search_stage import SearchStage
from okddip_search.tracking.stage import Stage
from okddip_search.tracking.store import store_uri, target_of

__all__ = ["Stage", "Tracker", "masked", "store_uri", "sync", "target_of", "usual_uri"]


class Tracker(SearchStage):
    """Tells MLflow about a search, in the driver: the journal, and the thread that delivers it."""

    def __init__(
        self,
        search_dir: Path,
        tracking_uri: str | None,
        search_name: str,
        *,
        on_trouble: Callable[[str], None],
    ) -> None:
        """Open the journal (an earlier driver's is continued) and start delivering it.

        Args:
            search_dir: The search directory; it must exist.
            tracking_uri: MLflow server or store; None: sqlite in the search directory.
            search_name: Name of MLflow's experiment.
            on_trouble: Called, from another thread, once when the store does not answer and once
                when it does again.
        """
        target = target_of(search_dir.absolute(), tracking_uri)
        super().__init__(Record(search_dir, search_name, on_trouble), target.key)
        self._courier = Courier(self._record, target)

    def close(self, timeout_s: float) -> int:
        """Deliver what can be delivered in time, and stop.

        Returns:
            Number of operations left for ``--resume`` or ``okddip-search sync``.
        """
        return self._courier.close(timeout_s)
