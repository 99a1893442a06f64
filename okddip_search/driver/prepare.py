"""Preparation of a session before its first trial: images, resources, timings."""

import logging
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

from ray.exceptions import RayError
from rich.console import Console

from okddip_search.cluster.remote import call_in_worker
from okddip_search.cluster.resources import Allocation, Node, allocate
from okddip_search.cluster.signals import StopSwitch
from okddip_search.driver.autotune import Speed, find_pace, find_speed, keep_pace
from okddip_search.driver.budget import Budget, process_began_s
from okddip_search.driver.request import Request
from okddip_search.errors import UserError
from okddip_search.space.model import SearchSpec
from trainer.data.base import DevelopmentData
from trainer.data.images import DataError
from trainer.data.load import load_development_data
from trainer.data.survey import describe

logger = logging.getLogger(__name__)


def load_data(spec: SearchSpec, directory: Path, terminal: Console) -> DevelopmentData:
    """Read the training and validation images, and report how many there are of each part."""
    try:
        data = load_development_data(spec.data, cache_dir=directory.resolve())
    except DataError as error:
        raise UserError(f"data: {error}") from None
    terminal.print(describe(data.survey), soft_wrap=True)
    if data.skipped:
        skipped = f"{data.skipped} images cannot be decoded and are skipped; their names: "
        terminal.print(f"{skipped}{directory}/corrupt-train.txt", soft_wrap=True)
    return data


def settle(
    request: Request, nodes: Sequence[Node], data: DevelopmentData, stop: StopSwitch
) -> tuple[SearchSpec, Allocation, Speed]:
    """Return the spec and the resources of its trials, with ``auto`` resolved by timing."""
    spec = request.spec.model_copy(update={"machine": {}})  # the last driver's may differ
    resources = spec.resources
    images = data.train
    shape = (images.channels, *images.size, images.num_classes)
    allocation = allocate(resources, nodes, asked_gpus=request.gpus)
    _as_run(spec, allocation)  # reports a mistake before anything is timed
    node_cpus = max(node.cpus for node in nodes)
    ask = partial(call_in_worker, stop)
    try:
        speed = find_speed(spec, allocation, shape, node_cpus, request.directory, ask)
    except RayError:  # trials that decide by rule are better than none, and show the error
        logger.exception("timing")
        speed = Speed()
    allocation = allocate(speed.share(resources), nodes, asked_gpus=request.gpus)
    return _as_run(speed.applied_to(spec), allocation), allocation, speed


def _as_run(spec: SearchSpec, allocation: Allocation) -> SearchSpec:
    """Return the spec with device and threads filled in; values in the space file take precedence.

    Raises:
        UserError: The space wants CUDA and its trials get no GPU, or more threads than cores.
    """
    if allocation.gpus_per_trial == 0 and spec.trainer.get("device") == "cuda":
        raise UserError(
            "trainer.device is cuda, but the trials get no GPU",
            "Leave trainer.device out of the space, or give --gpus at least 1.",
        )
    if spec.trainer.get("num_threads", 0) > allocation.threads_per_trial:
        raise UserError(
            f"trainer.num_threads is {spec.trainer['num_threads']}, but a trial has "
            f"{allocation.cpus_per_trial:g} cores: more threads than cores "
            "are several times slower",
            "Leave trainer.num_threads out, or raise resources.cpus_per_trial.",
        )
    if (spec.data.workers or 0) > allocation.cpus_per_trial:
        raise UserError(
            f"data.workers is {spec.data.workers}, but a trial has {allocation.cpus_per_trial:g} "
            "cores: more processes than cores decode no faster",
            "Leave data.workers out, or raise resources.cpus_per_trial.",
        )
    here: dict[str, Any] = {"num_threads": allocation.threads_per_trial}
    # Explicit, so that a worker that has lost its GPU fails instead of training on the CPU.
    here["device"] = "cuda" if allocation.gpus_per_trial > 0 else "cpu"
    machine = {k: v for k, v in here.items() if k not in spec.trainer}
    return spec.model_copy(update={"machine": {**spec.machine, **machine}})


def budgeted(
    request: Request,
    spec: SearchSpec,
    allocation: Allocation,
    data: DevelopmentData,
    speed: Speed,
    stop: StopSwitch,
) -> Budget | None:
    """Return the time budget of a search, or None if it has none.

    Args:
        request: The user's request.
        spec: The space as it runs here.
        allocation: Resources of a trial.
        data: Training and validation images.
        speed: What was timed for the search.
        stop: Is heard while an epoch is timed.

    Raises:
        UserError: Two full runs do not fit, or an epoch could not be timed.
    """
    if spec.study.budget is None:
        return None
    images = data.train
    shape = (images.channels, *images.size, images.num_classes)
    counts = len(images), len(data.validation)
    ask = partial(call_in_worker, stop)
    try:
        pace = find_pace(spec, allocation, shape, counts, speed, ask)
    except RayError as error:
        raise UserError(f"study.budget: an epoch could not be timed: {error}") from None
    total_s = spec.study.budget.seconds(allocation.gpus)
    ends_at_s = process_began_s() + total_s
    runs = allocation.slots, spec.max_epochs, spec.confirm
    budget = Budget(total_s, ends_at_s, *runs, pace.middle_s, pace.baseline_s)
    budget.require_two_runs()
    keep_pace(request.directory, speed, pace)
    return budget
