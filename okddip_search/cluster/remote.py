"""One function call in a worker."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, TypeVar

import ray
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from okddip_search.cluster.ray_cluster import KEPT
from okddip_search.cluster.signals import StopSwitch
from okddip_search.cluster.waiting import PendingResources
from okddip_search.environment import protect_files
from okddip_search.errors import UserError

T = TypeVar("T")


def call_in_worker(
    stop: StopSwitch,
    function: Callable[..., T],
    *arguments: Any,
    cpus: float,
    gpus: float,
    **named: Any,
) -> T:
    """Call a function once in a worker with so many cores and GPUs; a failure is not retried.

    On the driver's own node if that has them, because the driver can read the images. Says so
    while they are taken.

    Raises:
        Stopped: A signal came; the worker is ended, or not waited for any more.
        UserError: There was no room for half an hour.
    """
    here = NodeAffinitySchedulingStrategy(ray.get_runtime_context().get_node_id(), soft=True)
    options = {
        "num_cpus": cpus,
        "num_gpus": gpus,
        "max_retries": 0,
        "scheduling_strategy": here,
        "num_returns": "streaming",
    }
    answers = ray.remote(**options)(_placed_then_called).remote(function, arguments, named)
    waiting = PendingResources(f"No worker ({function.__name__})", cpus, gpus)
    _next_of(answers, stop, lambda: _tell(waiting, stop.say))
    result: T = _next_of(answers, stop, lambda: None)
    return result


def _next_of(answers: Any, stop: StopSwitch, meanwhile: Callable[[], None]) -> Any:
    """Wait for a task's next answer, with a call every half second."""
    while not ray.wait([answers], timeout=0.5)[0]:  # signals are heard in between
        if stop.is_thrown:
            ray.cancel(answers, force=True)
            stop.check()
        meanwhile()
    return ray.get(next(answers))


def _placed_then_called(
    function: Callable[..., T], arguments: Sequence[Any], named: Mapping[str, Any]
) -> Iterator[T | None]:
    """Yield once when a worker has begun, and then what the function returns."""
    yield None
    protect_files()
    yield function(*arguments, **named)


def _tell(waiting: PendingResources, say: Callable[[str], None]) -> None:
    if line := waiting.look():
        say(line)
    if waiting.given_up:
        raise UserError(f"given up: {waiting.given_up}", KEPT)
