"""What is told of a search as a whole: its run, its files, its best leader, its confirmation."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

from okddip_search.tracking.journal import AGAIN, SEARCH, finite, param_texts, tag_texts
from okddip_search.tracking.model import digest_of
from okddip_search.tracking.record import Record, harmless
from okddip_search.tracking.stage import Stage

_CONFIRMED = "confirm/leader"
RunStatus = Literal["FINISHED", "KILLED", "FAILED"]


class SearchStage(Stage):
    """Tells MLflow about a search: one parent run, one nested run per trial.

    By itself it is the ``Listener`` of the search; ``stage`` gives the others.
    """

    def __init__(self, record: Record, store: str) -> None:
        """Take the journal to write to, and the key of the store that it is delivered to."""
        super().__init__(record, SEARCH)
        self.store = store
        self._stamp: dict[str, Any] = {}

    def tell_again(self, told_ms: int) -> None:
        """Mark what is told from now on as what the store may have been told before.

        Args:
            told_ms: When that was, or before, ms since 1970.
        """
        self._stamp = {"t": told_ms, AGAIN: True}

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
                "store": self.store,
                "params": param_texts(params),
                "tags": {"okddip.space": self._record.story.name, **tag_texts(tags)},
                **self._stamp,
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
                **self._stamp,
            }
        )

    @harmless
    def log_leader(self, leader_dir: Path) -> None:
        """Log a saved leader (``trainer.leader.leader.save_leader``) as a model with its files."""
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
            leader_dir: What ``trainer.leader.leader.save_leader`` wrote.
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
            self._record.append({**operation, **self._stamp})

    def confirmation_ended(
        self, found: Mapping[str, Any], stage: Stage, artifacts: Sequence[Path]
    ) -> None:
        """Tell what a confirmation found out, register its leader, and close the search's run.

        Args:
            found: The document of ``confirm/confirm.json``.
            stage: Of the confirmation's runs.
            artifacts: Files to keep with the run.
        """
        for contender in found["contenders"]:
            for run in contender["runs"]:
                if run["test"] is not None:
                    stage.results(run["number"], {"test/leader_accuracy": run["test"]})
        verdict, retrained = found["verdict"], found["retrained"]
        is_champion = verdict is not None and verdict["allows_champion"]
        words = verdict["sentence"] if verdict else "no verdict"
        self.log_confirmed(
            self._record.directory / (retrained["path"] if retrained else _CONFIRMED),
            self._record.story.name,
            "champion" if is_champion else "candidate",
            words + (" Retrained on train + validation." if retrained else ""),
        )
        tags = {"okddip.verdict": words, "okddip.confirmed": found["winner"]}
        self.search_ended("FINISHED", {}, artifacts, tags)

    @property
    def identity(self) -> dict[str, Any]:
        """Who the search is in MLflow, for the study to remember."""
        story = self._record.story
        names = ("search_id", "name", "store", "params", "tags")
        return {name: getattr(story, name) for name in names}

    def _append_artifacts(self, artifacts: Sequence[Path]) -> None:
        if artifacts:
            paths = [self._record.relative(path) for path in artifacts]
            self._record.append({"op": "artifacts", "paths": paths})
