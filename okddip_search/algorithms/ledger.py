"""Trials as screening sees them, and the epochs that were promised to them."""

from collections.abc import Sequence
from dataclasses import dataclass

from optuna.trial import FrozenTrial, TrialState


@dataclass(frozen=True)
class Run:
    """A trial as screening sees it.

    Attributes:
        trial: In the study.
        rung: Epochs after which it may be judged.
        epochs: Of the whole run.
        pauses: Whether it waits at its rung; if not, it is trained to its end at once.
        in_slot: Whether a worker has it.
    """

    trial: FrozenTrial
    rung: int
    epochs: int
    pauses: bool
    in_slot: bool

    @property
    def seen(self) -> int:
        """Epochs that the study has heard of."""
        return len(self.trial.intermediate_values)

    @property
    def is_paused(self) -> bool:
        """Whether it waits at its rung."""
        is_open = self.trial.state is TrialState.RUNNING and not self.in_slot
        return self.pauses and is_open and self.seen == self.rung

    @property
    def was_let_go_on(self) -> bool:
        """Whether the way from its rung to its end was promised to it."""
        promoted = self.seen > self.rung or (self.in_slot and self.seen == self.rung)
        return not self.pauses or promoted


@dataclass(frozen=True)
class Ledger:
    """Epochs promised: to the rungs of the trials begun, and from there to the end of those let on.

    Attributes:
        new: Of all that were begun.
        on: Of all that were let go on.
    """

    new: int
    on: int

    @classmethod
    def of(cls, runs: Sequence[Run]) -> "Ledger":
        """Add up what the trials were promised."""
        on = sum(run.epochs - run.rung for run in runs if run.was_let_go_on)
        return cls(sum(run.rung for run in runs), on)
