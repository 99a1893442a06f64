"""A running search, shown in MLflow, whatever the state of the MLflow server.

The driver appends events to a journal in the search directory, which takes microseconds and works
always. One thread replays the journal into MLflow, with retries; what it could not deliver by the
end, the next ``--resume`` or ``okddip-search sync`` delivers. Nobody else writes: the workers of
the trials never import mlflow.
"""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

from okddip_search.masking import masked
from okddip_search.tracking_journal import SEARCH, finite, param_texts, tag_texts
from okddip_search.tracking_model import digest_of
from okddip_search.tracking_record import Record, harmless
from okddip_search.tracking_replay import Courier, sync, usual_uri
from okddip_search.tracking_stage import Stage
from okddip_search.tracking_store import store_uri, target_of

__all__ = ["Stage", "Tracker", "masked", "store_uri", "sync", "target_of", "usual_uri"]

RunStatus = Literal["FINISHED", "KILLED", "FAILED"]


class Tracker(Stage):
    """Tells MLflow about a search: one parent run, one nested run per trial.

    By itself it is the ``Listener`` of the search; ``stage`` gives the others.
    """

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
        self._target = target_of(search_dir.absolute(), tracking_uri)
        super().__init__(Record(search_dir, search_name, on_trouble), SEARCH)
        self._courier = Courier(self._record, self._target)

    def stage(self, name: str) -> Stage:
        """Return the ``Listener`` for trials of another stage, in the same parent run.

        Args:
            name: ``confirm``, ``retrain`` or ``tuning-METHOD``; in every run of it as the tag
                ``okddip.stage``.
        """
        return Stage(self._record, name)

    @harmless
    def search_started(
        self, params: Mapping[str, Any], tags: Mapping[str, str], artifacts: Sequence[Path]
    ) -> None:
        """Open the search's run, or go on in it: in the same driver or in a later one.

        Args:
            params: The few essentials of the search.
            tags: Provenance; every trial's run gets them too.
            artifacts: Files to keep with the run.
        """
        self._record.append(
            {
                "op": "search",
                "store": self._target.key,
                "params": param_texts(params),
                "tags": {"okddip.space": self._record.story.name, **tag_texts(tags)},
            }
        )
        self._append_artifacts(artifacts)

    @harmless
    def search_ended(
        self,
        status: RunStatus,
        metrics: Mapping[str, Any],
        artifacts: Sequence[Path],
        tags: Mapping[str, Any] | None = None,
    ) -> None:
        """Close the search's run; runs of trials still open are marked as interrupted.

        Args:
            status: MLflow's; shown as complete, interrupted or failed.
            metrics: Of the search as a whole.
            artifacts: Files to keep with the run.
            tags: What is to be read on the run, such as the verdict; one that is None is left out.
        """
        self._append_artifacts(artifacts)
        states = {"FINISHED": "complete", "KILLED": "interrupted", "FAILED": "failed"}
        story = self._record.story
        self._record.append(
            {
                "op": "search_end",
                "status": status,
                "state": states[status],
                "metrics": finite(metrics),
                "tags": tag_texts(tags or {}),
                "open": sorted(story.open),
                "ended": story.num_ended,
            }
        )

    @harmless
    def log_leader(self, leader_dir: Path) -> None:
        """Log a saved leader (``trainer.leader.save_leader``) as a model with its files."""
        self._record.append({"op": "leader", "path": self._record.relative(leader_dir)})

    @harmless
    def log_confirmed(
        self,
        leader_dir: Path,
        registered_name: str,
        alias: Literal["champion", "candidate"],
        description: str,
    ) -> None:
        """Log a confirmed leader as ``log_leader`` does, and register it in the Model Registry.

        The same weights are one version, however often they are told. The alias moves to it from
        whichever version had it, and leaves this version if an earlier verdict was another one.

        Args:
            leader_dir: What ``trainer.leader.save_leader`` wrote.
            registered_name: Of the registered model; without ``/`` and ``:``.
            alias: ``champion`` only where the verdict allows it.
            description: What the version's page says, for instance the verdict.
        """
        digest = digest_of(leader_dir)
        if digest is None:
            raise FileNotFoundError(f"no leader in {leader_dir}")
        operation = {
            "op": "confirmed",
            "path": self._record.relative(leader_dir),
            # A verdict holds for these weights alone, not for what lies there later.
            "digest": digest,
            "name": registered_name,
            "alias": alias,
            "description": description,
        }
        # Told before: somebody may have moved the alias since.
        if operation.items() - self._record.story.confirmed.items():
            self._record.append(operation)

    def close(self, timeout_s: float) -> int:
        """Deliver what can be delivered in time, and stop.

        Returns:
            Number of operations left for ``--resume`` or ``okddip-search sync``.
        """
        return self._courier.close(timeout_s)

    def _append_artifacts(self, artifacts: Sequence[Path]) -> None:
        if artifacts:
            paths = [self._record.relative(path) for path in artifacts]
            self._record.append({"op": "artifacts", "paths": paths})
