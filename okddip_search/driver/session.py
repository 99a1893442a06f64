"""A session of the driver in a search directory: images, Ray, MLflow, and the studies it runs.

A search, its baselines' own searches, its confirmation and the final training on all images are
studies that one session runs one after the other, on the same cluster, under the same lock.
"""

import logging
import os
import platform
import shlex
import shutil
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from importlib import metadata
from pathlib import Path
from typing import Any, ParamSpec, TypeVar

import optuna
from ray import tune
from rich.console import Console

from okddip_search.cluster.ray_cluster import new_scratch, ray_cluster
from okddip_search.cluster.ray_private import low_memory_survived, tune_without_signals
from okddip_search.cluster.remote import call_in_worker
from okddip_search.cluster.resources import Allocation, allocate, this_machine
from okddip_search.cluster.signals import Stopped, StopSwitch
from okddip_search.driver.bridge import StudyBridge
from okddip_search.driver.budget import Budget
from okddip_search.driver.prepare import budgeted, load_data, settle
from okddip_search.driver.progress import SearchConsole
from okddip_search.driver.request import Request
from okddip_search.driver.retention import Retention, drop_teachers
from okddip_search.driver.trainable import OKDDipTrial
from okddip_search.driver.tune import StudyScheduler, StudySearcher, WhenInterrupted
from okddip_search.driver.watchdog import Watchdog
from okddip_search.driver.work import Work
from okddip_search.layout import SPEC, TEACHERS, TRIALS
from okddip_search.masking import masked
from okddip_search.space.model import SearchSpec
from okddip_search.study.events import Listener
from okddip_search.study.study import sole_driver
from okddip_search.study.trials import ends_in
from okddip_search.terminal import noise_to, quiet_libraries
from okddip_search.tracking.schema import require_schema
from okddip_search.tracking.store import target_of
from okddip_search.tracking.worker import Stage, Tracker, chosen_uri
from trainer.data.base import DevelopmentData
from trainer.data.survey import describe
from trainer.io.files import write_atomically

logger = logging.getLogger(__name__)

P = ParamSpec("P")
T = TypeVar("T")

LETTING_GO_S = 5.0
"""Seconds a worker gets, once all trials have ended, to save the trial it was running."""
TRACKING_FLUSH_S = 20.0


@dataclass
class Session:
    """Shared state of all phases.

    Attributes:
        request: The user's request, with the space that runs: device and threads are filled in.
        directory: Directory of the search, absolute.
        terminal: The user's terminal.
        data: Training and validation images.
        allocation: Resources of a trial, and number of concurrent trials.
        tracker: Sends the search to MLflow.
        switch: Set when the user wants to stop.
        budget: Time for everything; None: the search ends otherwise, or has ended before.
    """

    request: Request
    directory: Path
    terminal: Console
    data: DevelopmentData
    allocation: Allocation
    tracker: Tracker
    switch: StopSwitch
    budget: Budget | None = None

    @property
    def spec(self) -> SearchSpec:
        """The space that runs, as ``spec.yaml`` holds it."""
        return self.request.spec

    def say(self, message: str) -> None:
        """Print a line, above the table if one is drawn."""
        self.terminal.print(message, soft_wrap=True)

    @property
    def common(self) -> dict[str, Any]:
        """Fields of ``TrainConfig`` that every run of this session has."""
        machine = {k: self.spec.fixed[k] for k in ("device", "num_threads")}
        return {**machine, "data": self.spec.data.model_dump(mode="json")}

    def run_study(
        self,
        study: optuna.Study,
        work: Work,
        home: Path,
        screen: SearchConsole,
        tracked: Stage | None,
        data: DevelopmentData | None = None,
        keepers: Sequence[Listener] = (),
    ) -> StudyBridge:
        """Run a study until its work is exhausted or the user stops it.

        Args:
            study: Opened under the directory's lock.
            work: The trials to run.
            home: Directory of the study; its trials are in ``home/trials``.
            screen: Shows progress on the terminal.
            tracked: Sends events to MLflow; None: no tracking.
            data: Images to use instead of the session's.
            keepers: Receive every event before the other listeners.
        """
        retention = Retention(home / TRIALS, work.keep_leaders)
        watching = (*keepers, retention, tracked, screen)
        listeners = [listener for listener in watching if listener is not None]
        bridge = StudyBridge(study, work, self.allocation.share, listeners, self.say)
        retention.sweep(ends_in(study))  # files of an earlier driver
        with self.switch.stops(bridge), screen:
            if not bridge.done:
                self._tune(bridge, home, data or self.data)
                bridge.close_paused()
                retention.sweep(ends_in(study), LETTING_GO_S)
        drop_teachers(self.directory / TEACHERS)
        return bridge

    def _tune(self, bridge: StudyBridge, home: Path, data: DevelopmentData) -> None:
        allocation = self.allocation
        os.environ["TUNE_MAX_PENDING_TRIALS_PG"] = str(allocation.slots)
        folders = {
            "trials_dir": str(home / TRIALS),
            "teachers_dir": str(self.directory / TEACHERS),
        }
        trainable = tune.with_resources(
            tune.with_parameters(OKDDipTrial, arrays=data.to_arrays(), **folders),
            # Per trial: after one ran out of memory, later ones get a larger share of a GPU.
            lambda config: {
                "cpu": allocation.cpus_per_trial,
                "gpu": config.get("gpus", allocation.gpus_per_trial),
            },
        )
        searcher, scheduler = StudySearcher(bridge), StudyScheduler(bridge)
        scratch = new_scratch(
            home, shared=bool(self.request.address)
        )  # Tune's own records; the study is the truth
        tuner = tune.Tuner(
            trainable,
            tune_config=tune.TuneConfig(
                search_alg=searcher,
                scheduler=scheduler,
                num_samples=-1,
                reuse_actors=True,
                trial_dirname_creator=lambda trial: trial.trial_id,
            ),
            run_config=tune.RunConfig(
                name="tune",
                storage_path=str(scratch),
                stop=WhenInterrupted(bridge),
                verbose=0,
                callbacks=[self._watchdog(bridge, scheduler)],
                failure_config=tune.FailureConfig(max_failures=0),  # the bridge retries
                checkpoint_config=tune.CheckpointConfig(checkpoint_at_end=False),
            ),
        )
        try:
            with low_memory_survived(), tune_without_signals():
                tuner.fit()
            if not searcher.has_finished:
                bridge.cut_short("Ray Tune ended by itself")
        finally:
            shutil.rmtree(scratch, ignore_errors=True)

    def _watchdog(self, bridge: StudyBridge, scheduler: StudyScheduler) -> Watchdog:
        cpus = self.allocation.cpus_per_trial
        return Watchdog(bridge, scheduler.kill, self.spec.resources, cpus, self.say)

    def in_worker(self, function: Callable[P, T], *arguments: P.args, **named: P.kwargs) -> T:
        """Call a function in a worker with a trial's resources (``call_in_worker``)."""
        share = self.allocation
        return call_in_worker(
            self.switch,
            function,
            *arguments,
            cpus=share.cpus_per_trial,
            gpus=share.gpus_per_trial,
            **named,
        )

    @property
    def shown(self) -> Path:
        """The directory, relative to the working directory if it lies inside."""
        working = Path.cwd()
        inside = self.directory.is_relative_to(working)
        return self.directory.relative_to(working) if inside else self.directory

    def provenance(self) -> tuple[dict[str, Any], dict[str, str]]:
        """Return parameters and tags that describe the search in MLflow and in the report."""
        spec, budget = self.spec, self.spec.study.budget
        params = {
            "data": spec.data.name,
            **({"budget": budget.to_plain()} if budget else {"trials": spec.study.trials}),
            "sampler": spec.study.proposer.type,
            "pruner": spec.study.pruner.type,
            "study_seed": spec.study.seed,
            "objective": f"{spec.objective.metric} ({spec.objective.reduce})",
        }
        tags = {
            "okddip.command": masked(self.request.command),
            "okddip.space": spec.name,
            "okddip.data_fingerprint": self.data.fingerprint,
            "okddip.images": describe(self.data.survey),
            "okddip.reduction": spec.objective.words,
            "okddip.slots": str(self.allocation.slots),
            "okddip.host": platform.node(),
            "okddip.python": platform.python_version(),
            **{
                f"okddip.{package}": metadata.version(package)
                for package in ("okddip-search", "torch", "ray", "optuna", "mlflow")
            },
        }
        return params, tags


@contextmanager
def open_session(
    request: Request, resume_command: str, *, has_budget: bool = False
) -> Iterator[Session]:
    """Lock the directory, read the images, start Ray and MLflow's side; end them in reverse.

    Args:
        request: The user's request; ``spec.yaml`` is written from its space, as it runs here.
        resume_command: The command that resumes after a stop.
        has_budget: Whether the space's budget of time counts.

    Raises:
        UserError: The request cannot be carried out here.
    """
    directory = request.directory
    directory.mkdir(parents=True, exist_ok=True)
    with (
        sole_driver(directory),
        noise_to(directory / "search.log") as terminal,
        quiet_libraries(lambda line: terminal.print(line, soft_wrap=True)),
        _stop_switch(terminal, resume_command if request.resume else "the same command") as stop,
    ):
        uri = chosen_uri(
            directory.resolve(), request.tracking_uri, is_resumed=request.resume, say=stop.say
        )
        require_schema(target_of(directory, uri), upgrade=request.upgrade_tracking_db)
        _require_room(request)
        data = load_data(request.spec, directory, terminal)
        stop.check()
        with ray_cluster(
            request.spec.resources, request.gpus, request.address, terminal.file, stop
        ) as nodes:
            stop.take_over()  # Ray has installed a SIGTERM handler that aborts
            stop.check()
            spec, allocation, speed = settle(request, nodes, data, stop)
            budget = budgeted(request, spec, allocation, data, speed, stop) if has_budget else None
            request = replace(request, spec=spec)
            stop.resume_command = resume_command
            write_atomically(directory / SPEC, spec.to_yaml())
            home = directory.resolve()
            tracker = Tracker(home, uri, spec.name, spec, on_trouble=stop.say)
            session = Session(request, home, terminal, data, allocation, tracker, stop, budget)
            session.say(allocation.words)
            if speed.describe():
                session.say(speed.describe())
            tracker.begin(*session.provenance())
            try:
                yield session
            except BaseException as error:
                stopped = isinstance(error, Stopped)
                tracker.end("KILLED" if stopped else "FAILED")
                tracker.close(TRACKING_FLUSH_S)
                raise
            # Before Ray shuts down, which takes seconds in which the result can already be read.
            if not tracker.close(TRACKING_FLUSH_S):
                session.say(
                    "MLflow does not have everything yet; nothing is lost. "
                    f"Send the rest with:  okddip-search sync {shlex.quote(str(directory))}"
                )


def _require_room(request: Request) -> None:
    """Refuse what cannot run on this machine before the images are fetched.

    Raises:
        UserError: More is asked for than there is, or torch cannot use the GPUs that are there.
    """
    if request.address is None:
        here = this_machine(request.gpus)
        allocate(request.spec.resources, [here], asked_gpus=request.gpus)


@contextmanager
def _stop_switch(terminal: Console, resume_command: str) -> Iterator[StopSwitch]:
    """Handle signals, and print the resume command after a stop."""

    def say(line: str) -> None:
        terminal.print(line, soft_wrap=True)

    with StopSwitch(say, resume_command) as stop:
        try:
            yield stop
        except Stopped:
            say(f"Stopped. Resume with:  {stop.resume_command}")
            raise
