"""``speed.json``: timings before the first trial, which fix how all trials of a search run.

For ``auto`` in the space, executor and precision are those that are fastest on this machine for the
middle of the space, and the number of trials per device is the one with the highest throughput.
They are measured once, when a search starts, because trials computed in different ways would not be
comparable.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from statistics import fmean
from typing import Any, Literal, Protocol, Self, TypeVar

from okddip_search.cluster.resources import Allocation
from okddip_search.errors import UserError
from okddip_search.layout import SPEED
from okddip_search.space.baselines import baseline_config
from okddip_search.space.model import SearchSpec
from okddip_search.space.settings import ResourceSettings
from trainer.config.train import TrainConfig
from trainer.io.files import read_json, write_json
from trainer.io.text import truncate
from trainer.registry import METHODS

MIN_SPEEDUP = 1.05
"""Minimum speed-up over the plainer variant, or over fewer concurrent trials, to be chosen."""
MOST_TRIALS_PER_GPU = 8
CONTEXT_GIB = 0.6
"""GPU memory of a process's CUDA context and libraries, which torch does not report."""
HEADROOM = 0.9
"""Concurrency of a GPU's memory available to trials."""

T = TypeVar("T")


class Ask(Protocol):
    """Calls a function in a worker with the given cores and GPUs."""

    def __call__(self, function: Callable[..., T], *arguments: Any, cpus: float, gpus: float) -> T:
        """Return the function's result."""


@dataclass(frozen=True)
class Candidate:
    """A number of concurrent trials on one device, and how they ran.

    Attributes:
        trials: How many.
        steps_per_s: All trials together; 0 if they did not fit.
        memory_gib: GPU memory of all trials together.
    """

    trials: int
    steps_per_s: float
    memory_gib: float = 0.0


@dataclass(frozen=True)
class Speed:
    """The choices of autotuning, and the measurements behind them.

    Attributes:
        chosen: Those of ``executor``, ``precision``, ``trials_per_gpu`` and ``cpus_per_trial`` that
            the space leaves to the machine.
        seconds: Length of a short epoch, by executor and precision.
        left_out: Reasons for not timing a variant, by executor and precision.
        tried: Fields of ``Candidate`` for each number of concurrent trials.
        device: Name of the device that was measured.
        pace: Fields of ``Pace``; empty where no budget of time depends on it.
    """

    chosen: Mapping[str, Any] = field(default_factory=dict)
    seconds: Mapping[str, float] = field(default_factory=dict)
    left_out: Mapping[str, str] = field(default_factory=dict)
    tried: Sequence[Mapping[str, Any]] = ()
    device: str = ""
    pace: Mapping[str, float] = field(default_factory=dict)

    def describe(self) -> str:
        """Return the choices and timings in one line; empty if nothing was measured."""
        if not self.chosen:
            return ""
        parts = [f"{name} {value}" for name, value in self.chosen.items()]
        times = [f"{name} {1000 * s:.0f} ms" for name, s in self.seconds.items()]
        loads = [f"{t['trials']} at a time {t['steps_per_s']:.1f} steps/s" for t in self.tried]
        not_timed = [f"{name} left out: {why}" for name, why in self.left_out.items()]
        return f"Chosen by timing: {', '.join(parts)} ({'; '.join([*times, *loads, *not_timed])})"

    def applied_to(self, spec: SearchSpec) -> SearchSpec:
        """Return the spec with the chosen executor and precision."""
        fields = {k: self.chosen[k] for k in ("executor", "precision") if k in self.chosen}
        return spec.model_copy(update={"machine": {**spec.machine, **fields}})

    def share(self, resources: ResourceSettings) -> ResourceSettings:
        """Return the resources with each ``auto`` replaced by the chosen number."""
        left = [k for k in _PACKING if getattr(resources, k) == "auto"]
        fields = {k: self.chosen[k] for k in left if k in self.chosen}
        return resources.model_copy(update=fields)


@dataclass(frozen=True)
class Pace:
    """How long an epoch takes, measured on random images.

    Attributes:
        middle_s: Of a configuration in the middle of the space.
        largest_s: Of the one that takes longest.
        baseline_s: Mean over the baselines of the confirmation; 0: there are none.
    """

    middle_s: float
    largest_s: float
    baseline_s: float

    @classmethod
    def of(cls, seconds: Sequence[float]) -> Self:
        """Return the pace from the times of the configurations of ``paced``."""
        middle_s, largest_s, *baselines = seconds
        baseline_s = fmean(baselines) if baselines else 0.0
        return cls(middle_s, max(middle_s, largest_s), baseline_s)


_PACKING = ("trials_per_gpu", "cpus_per_trial")


def load_speed(directory: Path) -> Speed | None:
    """Return the measurements of a search, or None if it made none.

    Raises:
        UserError: The file cannot be read.
    """
    path = directory / SPEED
    if not path.exists():
        return None
    try:
        speed = Speed(**read_json(path))
        _ = speed.describe(), dict(speed.chosen)  # raises if a field has the wrong form
        return speed
    except (OSError, ValueError, TypeError, KeyError, AttributeError) as error:
        raise UserError(
            f"{path} cannot be read: {truncate(str(error), 300)}",
            "It fixes how this search's trials are computed; restore it from a copy of the search.",
        ) from None


def find_speed(
    spec: SearchSpec,
    allocation: Allocation,
    shape: Sequence[int],
    node_cpus: int,
    directory: Path,
    ask: Ask,
) -> Speed:
    """Measure the settings that the space leaves to the machine; a resumed search reads them.

    Args:
        spec: The space.
        allocation: Resources of a trial before tuning.
        shape: Channels, height and width of the images, and number of classes.
        node_cpus: Cores of the largest machine.
        directory: Of the search.
        ask: Runs the measurement; its exceptions are passed on.
    """
    known = load_speed(directory)
    if known is not None:
        return known
    speed = _fastest_variant(spec, allocation, shape, ask)
    speed = _best_packing(speed, speed.applied_to(spec), allocation, shape, node_cpus, ask)
    if speed.chosen:
        write_json(directory / SPEED, vars(speed))
    return speed


def find_pace(
    spec: SearchSpec,
    allocation: Allocation,
    shape: Sequence[int],
    images: tuple[int, int],
    speed: Speed,
    ask: Ask,
) -> Pace:
    """Measure how long an epoch takes, unless that was done before.

    Args:
        spec: The space, with executor and precision chosen.
        allocation: Resources of a trial.
        shape: As for ``find_speed``.
        images: Numbers of training and validation images.
        speed: What was measured before.
        ask: As for ``find_speed``.
    """
    if speed.pace:
        return Pace(**speed.pace)
    runs = [as_run(c, allocation.threads_per_trial, allocation) for c in paced(spec)]
    cpus, gpus = allocation.cpus_per_trial, allocation.gpus_per_trial
    return Pace.of(ask(measure_pace, runs, shape, images, cpus=cpus, gpus=gpus))


def keep_pace(directory: Path, speed: Speed, pace: Pace) -> None:
    """Write the pace down with the other timings."""
    write_json(directory / SPEED, vars(replace(speed, pace=vars(pace))))


def paced(spec: SearchSpec) -> list[TrainConfig]:
    """Return the configurations whose epochs are timed: the middle, the largest, the baselines."""
    middle = spec.example()
    methods = spec.confirm.methods if spec.confirm else ()
    baselines = [TrainConfig(**baseline_config(method, middle.to_dict())) for method in methods]
    return [middle, spec.largest(), *baselines]


def measure_pace(
    runs: Sequence[Mapping[str, Any]], shape: Sequence[int], images: tuple[int, int]
) -> list[float]:
    """Return how long an epoch of each configuration takes; runs in a worker."""
    from trainer.tools.timing import Shape, epoch_seconds

    return [epoch_seconds(TrainConfig(**run), Shape(*shape), *images) for run in runs]


def _fastest_variant(
    spec: SearchSpec, allocation: Allocation, shape: Sequence[int], ask: Ask
) -> Speed:
    variants = open_variants(spec, on_gpu=allocation.gpus_per_trial > 0)
    if len(variants) < 2:
        return Speed()
    config = as_run(spec.example(), allocation.threads_per_trial, allocation)
    answer = ask(
        measure_variants, config, shape, variants,
        cpus=allocation.cpus_per_trial, gpus=allocation.gpus_per_trial,
    )  # fmt: skip
    seconds = {(executor, precision): s for executor, precision, s in answer["seconds"]}
    if not seconds:
        return Speed()
    executor, precision = fastest(seconds)
    chosen = {"executor": executor, "precision": precision}
    left = {k: v for k, v in chosen.items() if v != "auto" and spec.trainer.get(k) == "auto"}
    return Speed(
        left,
        {f"{e} {p}": s for (e, p), s in seconds.items()},
        answer["left_out"],
        device=answer["device"],
    )


def open_variants(spec: SearchSpec, *, on_gpu: bool) -> list[tuple[str, str]]:
    """Return the pairs of executor and precision that the space leaves open, the plainest first.

    If the network is searched, not every one may be fusable, and each trial decides by rule. A CUDA
    graph must suit every trial and the confirmation's baselines.
    """

    def options(name: str, *known: str) -> list[str]:
        value = spec.trainer.get(name, TrainConfig.model_fields[name].default)
        return list(known) if value == "auto" else [value]

    graphs = ["cuda_graph"] if on_gpu and _steps_are_alike(spec) else []
    found = options("executor", "eager", "fused", *graphs)
    executors = ["auto"] if "model" in spec.search else found
    if "executor" in spec.search or "precision" in spec.search:
        return []
    return [(e, p) for p in options("precision", "fp32", "bf16") for e in executors]


def _steps_are_alike(spec: SearchSpec) -> bool:
    """Return whether a CUDA graph can repeat the steps of every run."""
    methods = {*spec.methods, *(spec.confirm.methods if spec.confirm else ())}
    return not spec.data.streaming and all(METHODS[method].same_steps for method in methods)


def left_to_timing(spec: SearchSpec) -> list[str]:
    """Return the fields of the space that are timed when its search starts."""
    fields = ["executor", "precision"] if len(open_variants(spec, on_gpu=False)) > 1 else []
    left = [name for name in fields if spec.trainer.get(name) == "auto"]
    return left + [name for name in _PACKING if getattr(spec.resources, name) == "auto"]


def fastest(seconds: Mapping[tuple[str, str], float]) -> tuple[str, str]:
    """Return the fastest variant; among nearly equal ones the first, which is the plainest."""
    best = next(iter(seconds))
    for variant, taken in seconds.items():
        if seconds[best] >= MIN_SPEEDUP * taken:
            best = variant
    return best


def _best_packing(
    speed: Speed,
    spec: SearchSpec,
    allocation: Allocation,
    shape: Sequence[int],
    node_cpus: int,
    ask: Ask,
) -> Speed:
    resources = spec.resources
    on_gpu = allocation.gpus_per_trial > 0
    asked = resources.trials_per_gpu if on_gpu else resources.cpus_per_trial
    if asked != "auto":
        return speed
    cores = int(allocation.cpus_per_trial) if on_gpu else node_cpus
    config = as_run(spec.largest(), cores, allocation)
    answer = ask(measure_packing, config, shape, cores, cpus=cores, gpus=float(on_gpu))
    tried = [Candidate(**one) for one in answer["tried"]]
    trials = most_gets_done(tried, answer["total_gib"])
    name: Literal["trials_per_gpu", "cpus_per_trial"]
    name, value = (
        ("trials_per_gpu", trials) if on_gpu else ("cpus_per_trial", float(cores // trials))
    )
    return replace(
        speed,
        chosen={**speed.chosen, name: value},
        tried=[vars(one) for one in tried],
        device=answer["device"],
    )


def most_gets_done(tried: Sequence[Candidate], total_gib: float) -> int:
    """Return the number of concurrent trials with the highest throughput that fits in memory.

    A larger number has to be faster by ``MIN_SPEEDUP``.

    Args:
        tried: In ascending order of trials.
        total_gib: Memory of the GPU; 0 on the CPU.
    """
    best = tried[0]
    for one in tried[1:]:
        fits = not total_gib or one.memory_gib <= HEADROOM * total_gib
        if fits and one.steps_per_s > MIN_SPEEDUP * best.steps_per_s:
            best = one
    return best.trials


def as_run(config: TrainConfig, threads: int, allocation: Allocation) -> dict[str, Any]:
    """Return the fields of a configuration on this machine."""
    device = "cuda" if allocation.gpus_per_trial > 0 else "cpu"
    return {**config.to_dict(), "num_threads": max(1, threads), "device": device}


def measure_variants(
    config: Mapping[str, Any], shape: Sequence[int], variants: Sequence[tuple[str, str]]
) -> dict[str, Any]:
    """Time executors and precisions; runs in a worker.

    Returns:
        ``seconds``: rows of executor, precision and seconds; ``left_out``: reasons why others were
        not timed, by name; ``device``: its name.
    """
    from trainer.engine.hardware import device_name, resolve_device
    from trainer.tools.timing import Shape, Variant, time_variants
    from trainer.tools.verify import verify_executor

    run, images = TrainConfig(**config), Shape(*shape)
    tried = [Variant(*variant) for variant in variants]
    doubts = {v: verify_executor(run, images, v) for v in tried if v.executor == "cuda_graph"}
    times = time_variants(run, images, [variant for variant in tried if not doubts.get(variant)])
    return {
        "seconds": [[*variant, s] for variant, s in times.items()],
        "left_out": {" ".join(variant): why for variant, why in doubts.items() if why},
        "device": device_name(resolve_device(run)),
    }


def measure_packing(config: Mapping[str, Any], shape: Sequence[int], cores: int) -> dict[str, Any]:
    """Time 1, 2, 4 … concurrent trials on one device; runs in a worker that has all of it.

    Returns:
        ``tried``: fields of ``Candidate``; ``total_gib``: the GPU's memory; ``device``: its name.
    """
    from trainer.engine.hardware import device_memory_gib, device_name, resolve_device
    from trainer.tools.timing import Shape, side_by_side

    run = TrainConfig(**config)
    device = resolve_device(run)
    on_gpu = device.type == "cuda"
    most = MOST_TRIALS_PER_GPU if on_gpu else cores
    tried: list[Candidate] = []
    trials = 1
    while trials <= most:
        one = run.model_copy(update={"num_threads": max(1, cores // trials)})
        load = side_by_side(one, Shape(*shape), trials)
        if load is None:
            break
        memory_gib = trials * (load.memory_gib + CONTEXT_GIB) if on_gpu else 0.0
        tried.append(Candidate(trials, load.steps_per_s, memory_gib))
        trials *= 2
    return {
        "tried": [vars(one) for one in tried or [Candidate(1, 0.0)]],
        "total_gib": device_memory_gib(device),
        "device": device_name(device),
    }
