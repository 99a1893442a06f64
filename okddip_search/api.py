"""The Python API: searches from a script or a notebook, and what came of them.

    >>> import okddip_search
    >>> search = okddip_search.search("digits", out="runs/digits", trials=20)
    >>> search.best.value, search.confirm(seeds=5).sentence
    >>> leader = search.leader()

The same code runs as behind the command, with the same search directory: what a script began, the
command can resume, and the other way round.
"""

import shlex
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from os import PathLike, umask
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from optuna.trial import FrozenTrial, TrialState

from okddip_search.cluster.signals import STOPPED
from okddip_search.driver.request import Request
from okddip_search.environment import protect_files
from okddip_search.errors import UserError
from okddip_search.export import export, winner_of
from okddip_search.layout import CONFIRM, CONFIRMATION, JOURNAL, require_search, run_dir
from okddip_search.space.resolve import Resume, requested_search, resumed_search
from okddip_search.study.reading import read_findings, read_study, training_seconds
from okddip_search.study.trials import REASON, STATES, best_trial
from okddip_search.terminal import echo
from trainer.leader.leader import Leader, load_leader

if TYPE_CHECKING:
    import pandas


class SearchError(UserError):
    """A search or a confirmation gave up: too many trials or runs failed."""


@dataclass(frozen=True)
class Trial:
    """One trial of a search.

    Attributes:
        number: Its number in the study, from 0.
        state: ``complete``, ``pruned``, ``failed``, ``running`` or ``waiting``.
        value: The objective, an accuracy in [0, 1] by default; None if there is none yet.
        params: The sampled hyperparameters.
        epochs: Epochs recorded.
        seconds: Training time, evaluation included; None if nothing was saved.
        reason: Why it failed or was pruned; empty otherwise.
    """

    number: int
    state: str
    value: float | None
    params: dict[str, Any]
    epochs: int
    seconds: float | None
    reason: str


@dataclass(frozen=True)
class Confirmation:
    """The result of training the best configurations and the baselines over several seeds.

    Attributes:
        winner: Label of the winning configuration, for instance ``trial 7``.
        status: ``better``, ``unconfirmed`` or the like; empty before the test set was opened.
        sentence: The verdict in words.
        details: All of ``confirm.json``: runs, comparisons, intervals, costs, openings.
    """

    winner: str
    status: str
    sentence: str
    details: Mapping[str, Any]


class Search:
    """A search directory: a search that is running, was stopped, or has ended.

    Everything is read from the directory when it is asked for, so that a search which another
    process is running can be watched.

    Attributes:
        directory: Of the search.
    """

    def __init__(self, directory: Path) -> None:
        self.directory = directory

    def __repr__(self) -> str:
        return f"Search({str(self.directory)!r})"

    @property
    def trials(self) -> list[Trial]:
        """All trials by number."""
        trials, _ = read_study(self.directory / JOURNAL)
        return [self._record(trial) for trial in trials]

    @property
    def best(self) -> Trial | None:
        """The best complete trial; of equals, the first. None if no trial is complete."""
        best = best_trial(read_study(self.directory / JOURNAL)[0])
        return None if best is None else self._record(best)

    def _record(self, trial: FrozenTrial) -> Trial:
        return Trial(
            number=trial.number,
            state=STATES[trial.state],
            value=trial.value if trial.state is not TrialState.FAIL else None,
            params=dict(trial.params),
            epochs=len(trial.intermediate_values),
            seconds=training_seconds(run_dir(self.directory, trial.number)),
            reason=trial.user_attrs.get(REASON, ""),
        )

    def to_dataframe(self) -> "pandas.DataFrame":
        """Return a row per trial, hyperparameters as columns ``params_NAME`` (as Optuna's)."""
        import pandas

        rows = []
        for trial in self.trials:
            row = asdict(trial)
            rows.append(row | {f"params_{k}": v for k, v in row.pop("params").items()})
        return pandas.DataFrame(rows)

    @property
    def confirmation(self) -> Confirmation | None:
        """The confirmation so far; None if there is none.

        Raises:
            UserError: It cannot be read.
        """
        found, problem = read_findings(self.directory / CONFIRM / CONFIRMATION)
        if problem:
            raise UserError(problem)
        if found is None:
            return None
        verdict = found["verdict"] or {"status": "", "sentence": ""}
        return Confirmation(found["winner"], verdict["status"], verdict["sentence"], found)

    def confirm(
        self,
        *,
        seeds: int | Literal["auto"] | None = None,
        top: int | None = None,
        baselines: str | None = None,
        methods: Sequence[str] | None = None,
        single: str | None = None,
        open_test_again: bool = False,
        retrain_on_all: bool = False,
        restart: bool = False,
        gpus: int | None = None,
        tracking_uri: str | None = None,
        address: str | None = None,
        overrides: Sequence[str] = (),
        upgrade_tracking_db: bool = False,
    ) -> Confirmation:
        """Train the best configurations and the baselines over several seeds, and judge.

        Args:
            seeds: Runs of each setting, or ``auto``; None: as in the space, or as planned before.
            top: Number of best configurations of the search.
            baselines: ``searched`` or ``tuned``.
            methods: Baseline methods.
            single: ``epochs`` or ``seconds``.
            open_test_again: Whether the sealed test set may be opened again; this is counted.
            retrain_on_all: Whether to train the final leader on training and validation images.
            restart: Whether to set an earlier confirmation aside.
            gpus: Number of GPUs; None: all visible, 0: CPU.
            tracking_uri: Of an MLflow server; None: the search's.
            address: Of a running Ray cluster; None: this machine.
            overrides: ``data.root=…`` and ``resources.…=…``.
            upgrade_tracking_db: Whether to migrate a database of an earlier MLflow.

        Raises:
            UserError: There is nothing to confirm, or the request cannot be carried out.
            SearchError: Too many runs failed.
            KeyboardInterrupt: A signal stopped it; calling it again resumes.
        """
        from okddip_search.confirm.options import ConfirmOptions
        from okddip_search.confirm.run import run_confirm

        asked = {"seeds": seeds, "top": top, "baselines": baselines, "single": single}
        changes: dict[str, Any] = {k: v for k, v in asked.items() if v is not None}
        if methods is not None:
            changes["methods"] = list(methods)
        spec = resumed_search(self.directory, overrides, say=echo)
        place = (gpus, tracking_uri, address, _command(), upgrade_tracking_db)
        request = Request(spec, self.directory, True, *place)
        options = ConfirmOptions(changes, open_test_again, retrain_on_all, restart)
        _run(lambda: run_confirm(request, options), self.directory)
        confirmation = self.confirmation
        assert confirmation is not None
        return confirmation

    def report(self) -> Path:
        """Write ``report.html`` and ``report.json``, and return the page's path."""
        from okddip_search.report.page import write_report

        return write_report(self.directory)

    def leader(self) -> Leader:
        """Load the best network available: retrained, else confirmed, else the search's best.

        Raises:
            UserError: No trial is complete.
            trainer.TrainerError: Its files are damaged.
        """
        return load_leader(winner_of(self.directory).leader)

    def export(
        self,
        form: str = "yaml",
        output: str | PathLike[str] | None = None,
        *,
        force: bool = False,
    ) -> Path:
        """Write the winner and return the path.

        Args:
            form: ``yaml``, ``weights``, ``pt2`` or ``onnx``.
            output: Path to write; None: the format's usual name in the working directory.
            force: Whether to overwrite what is there.

        Raises:
            UserError: There is no winner yet, a package for the format is missing, or there is
                something at the path.
        """
        place = None if output is None else Path(output)
        return export(self.directory, form, place, force=force)[0]


def search(
    space: str | PathLike[str],
    *,
    out: str | PathLike[str] | None = None,
    gpus: int | None = None,
    trials: int | None = None,
    timeout: str | None = None,
    budget: str | None = None,
    resume: Resume = False,
    confirm: bool = False,
    name: str | None = None,
    overrides: Sequence[str] = (),
    tracking_uri: str | None = None,
    address: str | None = None,
    upgrade_tracking_db: bool = False,
) -> Search:
    """Run a search to its end.

    Args:
        space: Space file, or the name of a bundled space (``digits``).
        out: Directory of the search; None: ``runs/NAME``.
        gpus: Number of GPUs; None: all visible, 0: CPU.
        trials: Finished trials, instead of the space's.
        timeout: No trial starts after it: ``8h``, ``90m``, ``30s``.
        budget: Time for everything, confirmation included: ``8h``, or ``80 gpu-hours``.
        resume: Whether to resume the search in the directory; ``auto``: where there is one.
        confirm: Whether to run the confirmation that the space asks for; ``Search.confirm``
            does the same later.
        name: Name of the search, instead of the space's.
        overrides: Changes to the space, ``key=value`` with dotted keys: ``trainer.epochs=5``.
        tracking_uri: Of an MLflow server; None: sqlite in the directory.
        address: Of a running Ray cluster; None: this machine.
        upgrade_tracking_db: Whether to migrate a database of an earlier MLflow.

    Returns:
        The search; its ``best`` is None if its time was up before a trial was complete.

    Raises:
        UserError: A mistake in the space, or a request that cannot be carried out here.
        SearchError: Too many trials failed.
        KeyboardInterrupt: A signal stopped it; ``resume=True`` resumes it.
    """
    from okddip_search.run import run_search

    place = None if out is None else Path(out)
    spec, directory, is_resumed = requested_search(
        Path(space),
        overrides,
        resume=resume,
        trials=trials,
        timeout=timeout,
        budget=budget,
        name=name,
        out=place,
        say=echo,
    )
    where = (gpus, tracking_uri, address, _command(), upgrade_tracking_db)
    request = Request(spec, directory, is_resumed, *where)
    _run(lambda: run_search(request, then_confirm=confirm), directory)
    return Search(directory)


def load_search(directory: str | PathLike[str]) -> Search:
    """Return the search in a directory, whether or not it has ended.

    Raises:
        UserError: There is none.
    """
    require_search(Path(directory), "Name a search directory, such as runs/digits.")
    return Search(Path(directory))


def _command() -> str:
    """Return the program that asked, for the record."""
    return shlex.join(["python", *sys.argv]) if sys.argv[0] else "python"


def _run(run: Callable[[], int], directory: Path) -> None:
    before = protect_files()
    try:
        code = run()
    finally:
        umask(before)
    if code == STOPPED:
        raise KeyboardInterrupt
    if code:
        raise SearchError(f"{directory}: it gave up", "search.log has the details.")
