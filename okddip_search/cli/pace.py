"""How long an epoch takes, and the plan of a budget that follows; torch is not imported here."""

import json
import subprocess
import sys
import time
from pathlib import Path

from okddip_search.algorithms.pruners import first_prunable_step
from okddip_search.algorithms.screen import rung_of
from okddip_search.cli.images import Images
from okddip_search.cluster.resources import Allocation
from okddip_search.driver.autotune import Pace, Speed, as_run, load_speed, paced
from okddip_search.driver.budget import FEW_RUNS, LEAST_SEEDS, Budget
from okddip_search.errors import UserError
from okddip_search.formatting import duration
from okddip_search.space.model import SearchSpec

_TIMING_S = 180.0
UNSURE = 1.2
"""Factor by which two timings of the same short sample may differ."""


class BudgetPlan:
    """The contents of a budget, from a measured epoch.

    Args:
        spec: The space, which has a budget.
        allocation: Resources of a trial.
        directory: Of the search; has the measurement if the search has begun.
        images: Those of the space.

    Attributes:
        budget: As it will be when the search begins.

    Raises:
        UserError: Two full runs do not fit, or an epoch could not be timed.
    """

    def __init__(
        self, spec: SearchSpec, allocation: Allocation, directory: Path, images: Images
    ) -> None:
        assert spec.study.budget is not None
        speed = load_speed(directory) or Speed()
        self._measured = "when the search began" if speed.pace else "just now"
        known = Pace(**speed.pace) if speed.pace else None
        self._pace = known or _measured(spec, allocation, speed, images)
        self._spec = spec
        total_s = spec.study.budget.seconds(allocation.gpus)
        self.budget = Budget(
            total_s,
            time.monotonic() + total_s,
            allocation.slots,
            spec.max_epochs,
            spec.confirm,
            self._pace.middle_s,
            self._pace.baseline_s,
        )
        self.budget.require_two_runs()

    @property
    def _epochs(self) -> tuple[int, int]:
        """Epochs of the whole search: all trials the largest, or like the middle of the space."""
        slower = max(self._pace.largest_s / self._pace.middle_s, UNSURE)
        most = self.budget.slots * self.budget.epochs_left
        return int(most / slower), int(most)

    @property
    def _begun(self) -> tuple[int, int]:
        """The fewest and the most trials to expect."""
        fewest, most = self._epochs
        if self._spec.study.searcher is None:
            return fewest // self.budget.epochs, most // (first_judged(self._spec) + 1)
        rung = self._rung
        return fewest // (2 * rung), most // (2 * rung)

    @property
    def _rung(self) -> int:
        return rung_of(first_judged(self._spec), self.budget.epochs)

    def expected(self) -> SearchSpec:
        """Return the space with the most trials, and the most seeds, that are to be expected."""
        study = self._spec.study.model_copy(update={"trials": max(1, self._begun[1])})
        confirm = self._spec.confirm if self.budget.kept_seeds else None
        if confirm is not None:
            seeds = max(self.budget.kept_seeds, min(self.budget.most_seeds, self.budget.seeds))
            counted = "max_seeds" if confirm.seeds == "auto" else "seeds"
            confirm = confirm.model_copy(update={counted: seeds})
        return self._spec.model_copy(update={"study": study, "confirm": confirm})

    def describe(self) -> str:
        """Return the plan, a line for each part."""
        budget, pace = self.budget, self._pace
        fewest, most = self._epochs
        return "\n".join(
            [
                f"{duration(budget.total_s)} for everything, {budget.slots} trials at a time",
                f"an epoch takes {pace.middle_s:.2g} s in the middle of the space, "
                f"{pace.largest_s:.2g} s with its largest configuration (timed {self._measured} on "
                "random images; the trials' own epochs correct it)",
                f"the search has {duration(budget.search_left_s)}: {fewest:,} to {most:,} epochs, "
                f"{self._trials()}",
                *self._seeds(),
                f"kept back to finish: {duration(budget.finish_s)}",
                *self._shorter(most),
            ]
        )

    def _trials(self) -> str:
        fewest, most = self._begun
        epochs, rung = self.budget.epochs, self._rung
        if self._spec.study.searcher is None:
            return f"{fewest} trials if none is pruned, {most} if all are as early as can be"
        if rung == epochs:
            return f"{fewest} to {most} trials"
        on = " to ".join(str(e // (2 * (epochs - rung))) for e in self._epochs)
        return f"{fewest} to {most} trials of {rung} epochs, {on} of which go on to epoch {epochs}"

    def _seeds(self) -> list[str]:
        budget = self.budget
        if budget.confirm is None:
            return []
        if not budget.kept_seeds:
            least = duration(budget.confirm_s(LEAST_SEEDS))
            return [f"no room for a confirmation: {LEAST_SEEDS} seeds would take {least}"]
        seeds = budget.kept_seeds
        return [
            f"kept back for the confirmation: {duration(budget.confirm_s(seeds))}, {seeds} seeds "
            f"each; up to {budget.most_seeds}, and a shorter search, if after half of its time the "
            "last third of its epochs has brought no better leader"
        ]

    def _shorter(self, epochs: int) -> list[str]:
        """Say how short runs would have to be for the search to have a few."""
        length = epochs // FEW_RUNS
        if length >= self.budget.epochs or length < 1:
            return []
        return [
            f"that is {epochs / self.budget.epochs:.1f} full runs: epochs stay as the space has "
            f"them; for {FEW_RUNS} full runs, --set trainer.epochs={length}"
        ]


def first_judged(spec: SearchSpec) -> int:
    """Return the first epoch, from 0, at which the middle of the space may be judged."""
    return first_prunable_step(spec.example())


def _measured(spec: SearchSpec, allocation: Allocation, speed: Speed, images: Images) -> Pace:
    """Time an epoch in a process that may import torch."""
    threads = allocation.threads_per_trial
    order = {
        "configs": [as_run(c, threads, allocation) for c in paced(speed.applied_to(spec))],
        "shape": [images.channels, images.side, images.side, images.classes],
        "images": [max(2, images.train), images.validation],
    }
    try:
        done = subprocess.run(
            [sys.executable, "-m", "trainer.tools.timing"],
            input=json.dumps(order) + "\n",
            capture_output=True,
            text=True,
            timeout=_TIMING_S,
            check=True,
        )
        return Pace.of(json.loads(done.stdout))
    except (OSError, subprocess.SubprocessError, ValueError, TypeError) as error:
        raise UserError(f"study.budget: an epoch could not be timed here: {error}") from None
