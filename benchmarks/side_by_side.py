"""What the benchmarks share: images, groups to compare, work in turns and at the same time."""

import multiprocessing
import queue
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from functools import partial
from multiprocessing import Queue
from multiprocessing.connection import Connection
from multiprocessing.synchronize import Barrier

import reference
import torch

from trainer.config.strict import ConfigError
from trainer.config.train import TrainConfig
from trainer.data.images import ImageSet
from trainer.data.resident import ResidentData
from trainer.engine.hardware import cpu_name
from trainer.engine.trainer import Trainer
from trainer.io.cores import available_cores
from trainer.models import build_architecture
from trainer.tools import timing
from trainer.tools.timing import Shape

MEAN, STD = (0.4914, 0.4822, 0.4465), (0.2470, 0.2435, 0.2616)
VARIANTS = (("fp32", "eager"), ("fp32", "fused"), ("bf16", "eager"), ("bf16", "fused"))


def random_images(count: int, size: int) -> ImageSet:
    return timing.random_images(count, Shape(3, size, size, 10))


def random_data(train: int, validation: int, size: int) -> ResidentData:
    data = timing.random_data(train, validation, Shape(3, size, size, 10))
    return replace(data, mean_C=MEAN, std_C=STD, pad=4)  # as CIFAR's, whatever the size


def reference_group(model: str, width: float, members: int, structure: str) -> reference.Group:
    architecture = build_architecture(model, channels=3, num_classes=10, width=width)
    return reference.Group(architecture, members, structure)


def trainers(data: ResidentData, **fields: object) -> dict[tuple[str, str], Trainer]:
    """Make a trainer of each variant that this machine and network have; say which they lack."""
    found = {}
    for precision, executor in VARIANTS:
        try:
            config = TrainConfig(
                **fields, precision=precision, executor=executor, device="cpu", ramp_epochs=0
            )
            found[precision, executor] = Trainer(config, data)
        except ConfigError as error:
            print(f"skipped {precision} {executor}: {error}")
    return found


def take_turns(
    work: Mapping[object, Callable[[], object]], *, rounds: int, budget_s: float
) -> dict[object, float]:
    """Return the median seconds of each; all take turns, so that other load falls on all alike.

    Args:
        work: What to time.
        rounds: At most so many, beside one that warms up.
        budget_s: No further round starts when the next would end after so many seconds.
    """
    times: dict[object, list[float]] = {name: [] for name in work}
    began = time.perf_counter()
    for turn in range(rounds + 1):
        started_round = time.perf_counter()
        for name, call in work.items():
            started = time.perf_counter()
            call()
            if turn:
                times[name].append(time.perf_counter() - started)
        now = time.perf_counter()
        if turn and now - began + (now - started_round) > budget_s:
            break
    return {name: statistics.median(samples) for name, samples in times.items()}


def often(times: int, function: Callable[..., object], *arguments: object) -> Callable[[], None]:
    """Make one call of several: too short ones end while others' threads are still awake."""

    def calls() -> None:
        for _ in range(times):
            function(*arguments)

    return calls


def elsewhere(
    make: Callable[..., Mapping[str, Callable[[], object]]], *arguments: object
) -> dict[str, Callable[[], object]]:
    """Make functions in a process of their own, which no trainer's settings reach (its malloc).

    Args:
        make: Of a module; returns functions without arguments, by name.
        arguments: Of ``make``.

    Returns:
        By the same names, functions that have theirs called there, and wait.
    """
    context = multiprocessing.get_context("spawn")
    here, there = context.Pipe()
    context.Process(target=_serve, args=(there, make, arguments), daemon=True).start()
    names = here.recv()
    return {name: partial(_ask, here, name) for name in names}


def _serve(pipe: Connection, make: Callable[..., Mapping], arguments: Sequence[object]) -> None:
    work = make(*arguments)
    pipe.send(list(work))
    with suppress(EOFError):  # the benchmark is over
        while True:
            pipe.send(work[pipe.recv()]())


def _ask(pipe: Connection, name: str) -> object:
    pipe.send(name)
    return pipe.recv()


def at_once(
    count: int, limit_s: float, make: Callable[..., Callable[[], object]], *arguments: object
) -> list[object]:
    """Have several processes do the same at the same time.

    Args:
        count: Processes.
        limit_s: Seconds for all of it.
        make: Of a module; prepares it in each process, and returns what is done when all are ready.
        arguments: Of ``make``.

    Returns:
        What was returned by each.

    Raises:
        RuntimeError: One of them failed, or there was not time enough.
    """
    context = multiprocessing.get_context("spawn")
    ready, answers = context.Barrier(count), context.Queue()
    shared = (ready, answers, make, arguments)
    processes = [context.Process(target=_take_part, args=shared) for _ in range(count)]
    for process in processes:
        process.start()
    try:
        found = [answers.get(timeout=limit_s) for _ in processes]
    except queue.Empty:
        raise RuntimeError(f"not done after {limit_s:.0f} s") from None
    finally:
        for process in processes:
            process.join(5)
            process.kill()
    if problems := [problem for problem, _ in found if problem]:
        raise RuntimeError(problems[0])
    return [answer for _, answer in found]


def _take_part(ready: Barrier, answers: Queue, make: Callable, arguments: Sequence) -> None:
    try:
        work = make(*arguments)
        ready.wait()
        answers.put(("", work()))
    except Exception as error:
        answers.put((f"{type(error).__name__}: {error}", None))
        ready.abort()  # nobody need wait for this one


def machine(threads: int) -> str:
    return f"{cpu_name()}, {available_cores()} cores, {threads} threads, torch {torch.__version__}"
