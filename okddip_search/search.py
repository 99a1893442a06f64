"""``run_search``: Ray up, Tune over the study, winner out, Ray down."""

import dataclasses
import logging
import os
import platform
import shutil
import signal
import tempfile
import warnings
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from types import FrameType
from typing import Any, Literal

import optuna
import ray
from optuna.trial import TrialState
from ray import tune
from ray.tune.stopper import Stopper
from rich.console import Console

from okddip_search.bridge import StudyBridge, StudyScheduler, StudySearcher, Unsaved, best_of
from okddip_search.console import SearchConsole, noise_to
from okddip_search.errors import UserError
from okddip_search.events import TrialEnd
from okddip_search.export import BEST, LEADER, TRIALS, BestKeeper, keep_best
from okddip_search.resources import Allotment, Node, allot, count_cpus, count_gpus
from okddip_search.result import print_result
from okddip_search.spec import SearchSpec
from okddip_search.study import JOURNAL, open_study, require_same_images, sole_driver, trials_in
from okddip_search.tracking import Tracker, masked, target_of, usual_uri
from okddip_search.trial import OKDDipTrial
from trainer.data import DataError, DevelopmentData, load_development_data
from trainer.files import write_atomically

logger = logging.getLogger(__name__)

WORKER_DEATHS_FORGIVEN = 3
"""So often a trial goes on from its checkpoint after its process died (killed, out of memory)."""
TRACKING_FLUSH_S = 30.0
SPEC = "spec.yaml"
STOP_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


@dataclass(frozen=True)
class SearchRequest:
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


def run_search(request: SearchRequest) -> int:
    """Run a search to its end, or until it is stopped.

    Returns:
        The exit code: 0 done, 1 given up after failures, 130 stopped by a signal.

    Raises:
        UserError: The request cannot be carried out here.
    """
    directory = request.directory
    directory.mkdir(parents=True, exist_ok=True)
    with sole_driver(directory):
        _require_fresh_or_resumed(request)
        with noise_to(directory / "search.log") as terminal, _quiet_libraries():
            return _Search(request, terminal).run()


class _Search:
    """One session of a search, from Ray's start to the printed result."""

    def __init__(self, request: SearchRequest, terminal: Console) -> None:
        self.request = request
        self.spec = request.spec
        self.directory = request.directory.resolve()
        self.terminal = terminal

    def run(self) -> int:
        uri = self.request.tracking_uri
        if uri is None and self.request.resume:
            uri = usual_uri(self.directory)
        target_of(self.directory, uri)  # a mistake in it is told before anything starts
        data = self._load_data()
        with ExitStack() as stack:
            allotment = stack.enter_context(_ray_cluster(self.request))
            as_run = _as_run(self.spec, allotment)
            write_atomically(self.directory / SPEC, self.spec.to_yaml())
            study = open_study(self.directory, self.spec)
            before = len(trials_in(study, TrialState.COMPLETE, TrialState.PRUNED))
            require_same_images(study, data.fingerprint)
            console = SearchConsole(self.terminal, self.spec, before, best_of(study))
            console.say(allotment.words)
            tracker = Tracker(self.directory, uri, self.spec.name, on_trouble=console.say)
            tracker.search_started(*self._provenance(data, allotment))
            keeper = BestKeeper(self.directory, self.spec.objective.words)
            bridge = StudyBridge(study, as_run, allotment.slots, (keeper, tracker, console))
            tracker.catch_up(bridge.closed(), bridge.best())
            with _stop_on_signal(bridge, self.request.directory, console), console:
                self._tune(bridge, allotment, data)
            # Before Ray goes down: that takes seconds in which the result can be read already.
            return self._finish(bridge, tracker, len(data.validation))

    def _load_data(self) -> DevelopmentData:
        try:
            return load_development_data(self.spec.data, cache_dir=self.directory)
        except DataError as error:
            raise UserError(f"data: {error}") from None

    def _provenance(
        self, data: DevelopmentData, allotment: Allotment
    ) -> tuple[dict[str, Any], dict[str, str], list[Path]]:
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
            "okddip.data_fingerprint": data.fingerprint,
            "okddip.slots": str(allotment.slots),
            "okddip.host": platform.node(),
            "okddip.python": platform.python_version(),
            **{
                f"okddip.{package}": metadata.version(package)
                for package in ("okddip-search", "torch", "ray", "optuna", "mlflow")
            },
        }
        return params, tags, [self.directory / SPEC]

    def _tune(self, bridge: StudyBridge, allotment: Allotment, data: DevelopmentData) -> None:
        if bridge.done:
            return
        os.environ["TUNE_MAX_PENDING_TRIALS_PG"] = str(allotment.slots)
        trials_dir = str(self.directory / TRIALS)
        trainable = tune.with_resources(
            tune.with_parameters(OKDDipTrial, arrays=data.to_arrays(), trials_dir=trials_dir),
            {"cpu": allotment.cpus_per_trial, "gpu": allotment.gpus_per_trial},
        )
        scratch = self.directory / ".tune"  # Tune's own records; the study is the truth
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

    def _finish(self, bridge: StudyBridge, tracker: Tracker, num_validation: int) -> int:
        best = bridge.best()
        if best is not None and self._keep(best) and not bridge.interrupted:
            tracker.log_leader(self.directory / LEADER)
        status: Literal["FINISHED", "KILLED", "FAILED"] = "FINISHED"
        if bridge.interrupted or bridge.abort_reason:
            status = "KILLED" if bridge.interrupted else "FAILED"
        best_file = self.directory / BEST
        tracker.search_ended(status, {}, [best_file] if best_file.exists() else [])
        print_result(self.terminal, self.spec, self.directory, bridge, num_validation)
        undelivered = tracker.close(TRACKING_FLUSH_S)
        if undelivered:
            self.terminal.print(
                f"{undelivered} tracking records are not delivered yet; they are kept. "
                f"Deliver them with:  okddip-search sync {self.request.directory}"
            )
        return 130 if bridge.interrupted else 1 if bridge.abort_reason or best is None else 0

    def _keep(self, best: TrialEnd) -> bool:
        try:
            keep_best(self.directory, best, self.spec.objective.words)
        except (OSError, ValueError, KeyError) as error:
            self.terminal.print(f"{BEST} and {LEADER}/ could not be written: {error}", markup=False)
            return False
        return True


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


def _require_fresh_or_resumed(request: SearchRequest) -> None:
    exists = (request.directory / JOURNAL).exists()
    if exists and not request.resume:
        raise UserError(
            f"{request.directory} holds a search already",
            "Add --resume to go on with it, or choose another --name or --out.",
        )
    if request.resume and not exists:
        raise UserError(
            f"{request.directory} holds no search to resume", "Leave --resume out to start one."
        )


@contextmanager
def _ray_cluster(request: SearchRequest) -> Iterator[Allotment]:
    """Start a private Ray on this machine, or join the one at ``--address``.

    Raises:
        UserError: More is asked for than there is, or no cluster answers.
    """
    settings = request.spec.resources
    if request.address:
        try:
            ray.init(address=request.address, log_to_driver=False)
        except (ConnectionError, RuntimeError, ValueError) as error:
            raise UserError(f"--address {request.address}: {error}") from None
        nodes = [
            Node(int(node["Resources"].get("CPU", 0)), int(node["Resources"].get("GPU", 0)))
            for node in ray.nodes()
            if node["Alive"]
        ]
        try:
            yield allot(settings, nodes, asked_gpus=request.gpus)
        finally:
            ray.shutdown()
        return
    allotment = allot(settings, [Node(count_cpus(), count_gpus())], asked_gpus=request.gpus)
    # Ray's sockets live there, and their paths may have 107 bytes at most.
    place = "/tmp" if len(tempfile.gettempdir()) > 20 and os.path.isdir("/tmp") else None
    with tempfile.TemporaryDirectory(
        prefix="okddip-", dir=place, ignore_cleanup_errors=True
    ) as short:
        with _sigterm_blocked():
            ray.init(
                address="local",
                num_cpus=allotment.cpus,
                num_gpus=allotment.gpus,
                include_dashboard=False,
                log_to_driver=False,
                _temp_dir=short,
            )
        try:
            yield allotment
        finally:
            ray.shutdown()


@contextmanager
def _sigterm_blocked() -> Iterator[None]:
    """Keep SIGTERM from the processes started meanwhile; they inherit the mask.

    Batch systems and service managers signal a whole process group. Ray's daemons would die before
    the driver has stopped its trials; Ray itself blocks only SIGINT for them.
    """
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGTERM})


class _WhenInterrupted(Unsaved, Stopper):  # type: ignore[misc]
    """Ends Tune after a signal; running trials finish their epoch and save it."""

    def __init__(self, bridge: StudyBridge) -> None:
        self._bridge = bridge

    def __call__(self, trial_id: str, result: dict[str, Any]) -> bool:
        return False

    def stop_all(self) -> bool:
        return self._bridge.interrupted


@contextmanager
def _stop_on_signal(bridge: StudyBridge, directory: Path, console: SearchConsole) -> Iterator[None]:
    """Let the first SIGINT, SIGTERM or SIGHUP end the search cleanly, and a second one at once."""

    def stop(number: int, frame: FrameType | None) -> None:
        if bridge.interrupted:  # everything reported is on disk, so nothing needs tidying
            console.stop()
            console.say(f"Stopped at once. Go on with:  okddip-search --resume --out {directory}")
            os._exit(130)
        bridge.interrupted = True
        console.say("stopping: running trials finish their epoch (once more to stop at once)")

    previous = {s: signal.signal(s, stop) for s in STOP_SIGNALS}
    try:
        yield
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)


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
