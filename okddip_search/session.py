"""A driver at work in a search directory: images read, Ray up, MLflow told; it runs studies.

A search, its rivals' own searches, its confirmation and the last training on all images are
studies that one session runs one after the other, on the same cluster, under the same lock.
"""

import dataclasses
import logging
import os
import platform
import shutil
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import Any, ParamSpec, TypeVar

import optuna
from ray import tune
from ray.tune.stopper import Stopper
from rich.console import Console
from rich.markup import escape

from okddip_search.agenda import Agenda
from okddip_search.bridge import StudyBridge, StudyScheduler, StudySearcher, Unsaved
from okddip_search.cluster import call_in_worker, ray_cluster
from okddip_search.console import SearchConsole, noise_to
from okddip_search.errors import UserError
from okddip_search.events import Listener
from okddip_search.export import TRIALS
from okddip_search.report import write_report
from okddip_search.resources import Allotment, Node, allot
from okddip_search.spec import SearchSpec
from okddip_search.speed import Speed, find_speed
from okddip_search.stopping import StopSwitch
from okddip_search.study import sole_driver
from okddip_search.tracking import Tracker, masked, target_of, usual_uri
from okddip_search.tracking_restore import past_trials
from okddip_search.tracking_stage import Stage
from okddip_search.trial import OKDDipTrial
from trainer.data import DataError, DevelopmentData, load_development_data
from trainer.files import write_atomically

logger = logging.getLogger(__name__)

P = ParamSpec("P")
T = TypeVar("T")

WORKER_DEATHS_FORGIVEN = 3
"""So often a trial goes on from its checkpoint after its process died (killed, out of memory)."""
TRACKING_FLUSH_S = 20.0
SPEC = "spec.yaml"


@dataclass(frozen=True)
class Request:
    """What the user asked for.

    Attributes:
        spec: The checked space.
        directory: Of the search.
        resume: Whether to go on with the search that is there.
        gpus: ``--gpus``; None: all visible, 0: CPU.
        tracking_uri: Of an MLflow server; None: sqlite in the directory.
        address: Of a running Ray cluster; None: a private one on this machine.
        command: The command line, for the record.
    """

    spec: SearchSpec
    directory: Path
    resume: bool
    gpus: int | None
    tracking_uri: str | None
    address: str | None
    command: str


@dataclass
class Session:
    """What every phase works with.

    Attributes:
        request: What was asked for.
        spec: The space with what the machine decides (device, threads).
        directory: Of the search, absolute.
        terminal: Where the user reads.
        data: Training and validation images.
        allotment: How the machine is shared out.
        tracker: MLflow's side.
        switch: Thrown when the user wants to stop.
    """

    request: Request
    spec: SearchSpec
    directory: Path
    terminal: Console
    data: DevelopmentData
    allotment: Allotment
    tracker: Tracker
    switch: StopSwitch

    def say(self, message: str) -> None:
        """Print a line, above the table if one is drawn."""
        self.terminal.print(escape(message), soft_wrap=True)

    @property
    def common(self) -> dict[str, Any]:
        """Fields of ``TrainConfig`` that every run of this session has."""
        machine = {k: self.spec.trainer[k] for k in ("device", "num_threads")}
        return {**machine, "data": self.spec.data.model_dump(mode="json")}

    def run_study(
        self,
        study: optuna.Study,
        agenda: Agenda,
        home: Path,
        screen: SearchConsole,
        tracked: Stage | None,
        data: DevelopmentData | None = None,
        keeper: Listener | None = None,
    ) -> StudyBridge:
        """Run a study until its agenda is spent, or the user stops it.

        Args:
            study: Opened under the directory's lock.
            agenda: What to run.
            home: Directory of the study; its trials have theirs in ``home/trials``.
            screen: Shows it.
            tracked: Shows it in MLflow; None: not at all.
            data: Instead of the session's.
            keeper: Told of every event before the others.
        """
        listeners = [listener for listener in (keeper, tracked, screen) if listener is not None]
        bridge = StudyBridge(study, agenda, self.allotment.slots, listeners)
        if tracked is not None:
            trials = study.get_trials(deepcopy=False)
            tracked.catch_up(past_trials(trials, agenda.params, home, agenda.objective))
        with self.switch.stops(bridge), screen:
            if not bridge.done:
                self._tune(bridge, home, data or self.data)
        return bridge

    def _tune(self, bridge: StudyBridge, home: Path, data: DevelopmentData) -> None:
        allotment = self.allotment
        os.environ["TUNE_MAX_PENDING_TRIALS_PG"] = str(allotment.slots)
        folders = {
            "trials_dir": str(home / TRIALS),
            "teachers_dir": str(self.directory / "teachers"),
        }
        trainable = tune.with_resources(
            tune.with_parameters(OKDDipTrial, arrays=data.to_arrays(), **folders),
            {"cpu": allotment.cpus_per_trial, "gpu": allotment.gpus_per_trial},
        )
        scratch = home / ".tune"  # Tune's own records; the study is the truth
        tuner = tune.Tuner(
            trainable,
            tune_config=tune.TuneConfig(
                search_alg=StudySearcher(bridge),
                scheduler=StudyScheduler(bridge),
                num_samples=-1,
                reuse_actors=True,
                trial_dirname_creator=lambda trial: trial.trial_id,
            ),
            run_config=tune.RunConfig(
                name="tune",
                storage_path=str(scratch),
                stop=_WhenInterrupted(bridge),
                verbose=0,
                failure_config=tune.FailureConfig(max_failures=WORKER_DEATHS_FORGIVEN),
                checkpoint_config=tune.CheckpointConfig(checkpoint_at_end=False),
            ),
        )
        try:
            tuner.fit()
        finally:
            shutil.rmtree(scratch, ignore_errors=True)

    def in_worker(self, function: Callable[P, T], *arguments: P.args, **named: P.kwargs) -> T:
        """Call a function in a worker with a trial's resources (``call_in_worker``)."""
        share = self.allotment
        return call_in_worker(
            function, *arguments, cpus=share.cpus_per_trial, gpus=share.gpus_per_trial, **named
        )

    def write_report(self) -> Path | None:
        """Write the report; what goes wrong with it must not cost the search its end."""
        try:
            return write_report(self.directory)
        except Exception as error:
            logger.exception("the report")
            self.say(f"the report could not be written: {type(error).__name__}: {error}")
            return None

    @property
    def shown(self) -> Path:
        """The directory as a person in the working directory would type it."""
        working = Path.cwd()
        inside = self.directory.is_relative_to(working)
        return self.directory.relative_to(working) if inside else self.directory

    def provenance(self) -> tuple[dict[str, Any], dict[str, str], list[Path]]:
        """Return parameters, tags and files that describe the search in MLflow."""
        spec = self.spec
        params = {
            "data": spec.data.name,
            "trials": spec.study.trials,
            "sampler": spec.study.sampler.type,
            "pruner": spec.study.pruner.type,
            "study_seed": spec.study.seed,
            "objective": f"{spec.objective.metric} ({spec.objective.reduce})",
        }
        tags = {
            "okddip.command": masked(self.request.command),
            "okddip.space": spec.name,
            "okddip.data_fingerprint": self.data.fingerprint,
            "okddip.reduction": spec.objective.words,
            "okddip.slots": str(self.allotment.slots),
            "okddip.host": platform.node(),
            "okddip.python": platform.python_version(),
            **{
                f"okddip.{package}": metadata.version(package)
                for package in ("okddip-search", "torch", "ray", "optuna", "mlflow")
            },
        }
        return params, tags, [self.directory / SPEC]


@contextmanager
def open_session(request: Request, how_to_go_on: str) -> Iterator[Session]:
    """Lock the directory, read the images, start Ray and MLflow's side; end them in reverse.

    Args:
        request: What the user asked for; ``spec.yaml`` is written from its space.
        how_to_go_on: The command that goes on after a stop.

    Raises:
        UserError: The request cannot be carried out here.
    """
    directory = request.directory
    directory.mkdir(parents=True, exist_ok=True)
    with (
        sole_driver(directory),
        noise_to(directory / "search.log") as terminal,
        _quiet_libraries(),
        StopSwitch(lambda line: terminal.print(escape(line), soft_wrap=True), how_to_go_on) as stop,
    ):
        uri = request.tracking_uri
        if uri is None and request.resume:
            uri = usual_uri(directory.resolve())
        target_of(directory, uri)  # a mistake in it is told before anything starts
        data = _load_data(request.spec, directory)
        with ray_cluster(request.spec.resources, request.gpus, request.address) as nodes:
            stop.take_over()  # Ray has put a handler of its own over SIGTERM, which aborts
            spec, allotment, speed = _settle(request, nodes, data)
            write_atomically(directory / SPEC, request.spec.to_yaml())
            home = directory.resolve()
            tracker = Tracker(
                home, uri, spec.name, on_trouble=lambda text: terminal.print(escape(text))
            )
            session = Session(request, spec, home, terminal, data, allotment, tracker, stop)
            session.say(allotment.words)
            if speed.words:
                session.say(speed.words)
            tracker.search_started(*session.provenance())
            try:
                yield session
            except BaseException:
                tracker.search_ended("FAILED", {}, [])
                tracker.close(TRACKING_FLUSH_S)
                raise
            # Before Ray goes down: that takes seconds in which the result can be read already.
            undelivered = tracker.close(TRACKING_FLUSH_S)
            if undelivered:
                session.say(
                    f"{undelivered} tracking records are not delivered yet; they are kept. "
                    f"Deliver them with:  okddip-search sync {directory}"
                )


def _load_data(spec: SearchSpec, directory: Path) -> DevelopmentData:
    try:
        return load_development_data(spec.data, cache_dir=directory.resolve())
    except DataError as error:
        raise UserError(f"data: {error}") from None


def _settle(
    request: Request, nodes: Sequence[Node], data: DevelopmentData
) -> tuple[SearchSpec, Allotment, Speed]:
    """Return the spec and the shares as they will be run; what is left to the machine is timed."""
    spec, resources = request.spec, request.spec.resources
    images = data.train
    shape = (images.channels, *images.size, images.num_classes)
    allotment = allot(resources, nodes, asked_gpus=request.gpus)
    _as_run(spec, allotment)  # a mistake is told before anything is timed
    node_cpus = max(node.cpus for node in nodes)
    speed = find_speed(spec, allotment, shape, node_cpus, request.directory, call_in_worker)
    allotment = allot(speed.share(resources), nodes, asked_gpus=request.gpus)
    return _as_run(speed.applied_to(spec), allotment), allotment, speed


def _as_run(spec: SearchSpec, allotment: Allotment) -> SearchSpec:
    """Return the spec with what the machine decides; a value in the space file wins.

    Raises:
        UserError: The space wants CUDA and its trials get no GPU, or more threads than cores.
    """
    if allotment.gpus_per_trial == 0 and spec.trainer.get("device") == "cuda":
        raise UserError(
            "trainer.device is cuda, but the trials get no GPU",
            "Leave trainer.device out of the space, or give --gpus at least 1.",
        )
    if spec.trainer.get("num_threads", 0) > allotment.threads_per_trial:
        raise UserError(
            f"trainer.num_threads is {spec.trainer['num_threads']}, but a trial has "
            f"{allotment.cpus_per_trial:g} cores: threads that wait for each other cost a multiple",
            "Leave trainer.num_threads out, or raise resources.cpus_per_trial.",
        )
    if (spec.data.workers or 0) > allotment.cpus_per_trial:
        raise UserError(
            f"data.workers is {spec.data.workers}, but a trial has {allotment.cpus_per_trial:g} "
            "cores: processes that wait for each other decode no faster",
            "Leave data.workers out, or raise resources.cpus_per_trial.",
        )
    here: dict[str, Any] = {"num_threads": allotment.threads_per_trial}
    # Said outright: a worker that has lost its GPU must fail, not train on the CPU for days.
    here["device"] = "cuda" if allotment.gpus_per_trial > 0 else "cpu"
    return dataclasses.replace(spec, trainer={**here, **spec.trainer})


class _WhenInterrupted(Unsaved, Stopper):  # type: ignore[misc]
    """Ends Tune after a signal; running trials finish their epoch and save it."""

    def __init__(self, bridge: StudyBridge) -> None:
        self._bridge = bridge

    def __call__(self, trial_id: str, result: dict[str, Any]) -> bool:
        return False

    def stop_all(self) -> bool:
        return self._bridge.interrupted


@contextmanager
def _quiet_libraries() -> Iterator[None]:
    """Send what libraries have to say through logging, which goes to ``search.log``."""
    logging.basicConfig(
        level=logging.INFO, format="%(asctime)s %(name)s %(levelname)s %(message)s", force=True
    )
    logging.getLogger("alembic").setLevel(logging.WARNING)
    optuna.logging.disable_default_handler()
    optuna.logging.enable_propagation()
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield
