"""What waits for a place on a machine: the missing resource is named, and given up at last."""

import time
from collections.abc import Iterable, Mapping
from typing import Any

import ray

TOLD_EVERY_S = 60.0
GIVEN_UP_AFTER_S = 1800.0
"""A cluster may be growing, or others may be done soon."""


class Wait:
    """Waiting for cores and GPUs, from its making on.

    Args:
        what: Waits for them; begins a sentence that goes on with "could be started".
        cpus: Cores it needs.
        gpus: GPUs it needs.
    """

    def __init__(self, what: str, cpus: float, gpus: float) -> None:
        self._what = what
        self._needs = cpus, gpus
        self._began_s = self._told_at_s = time.monotonic()
        self.given_up = ""

    def look(self) -> str:
        """Return a line for the user, if one is due, or nothing.

        When it is time to give up there is none, and ``given_up`` says for what lack of.
        """
        now = time.monotonic()
        if now - self._told_at_s < TOLD_EVERY_S:
            return ""
        self._told_at_s = now
        waited_s = now - self._began_s
        missing = what_is_missing(ray.nodes(), *self._needs)
        if waited_s > GIVEN_UP_AFTER_S:
            self.given_up = f"{missing}, for {waited_s / 60:.0f} minutes"
            return ""
        return f"{self._what} could be started for {waited_s:.0f} s: {missing}; waiting"


def what_is_missing(nodes: Iterable[Mapping[str, Any]], cpus: float, gpus: float) -> str:
    """Say which resource keeps something from being placed.

    Args:
        nodes: As ``ray.nodes()`` returns them.
        cpus: Cores it needs.
        gpus: GPUs it needs.
    """
    alive = [node["Resources"] for node in nodes if node["Alive"]]
    has = [(node.get("CPU", 0), node.get("GPU", 0)) for node in alive]
    needs = f"a trial needs {cpus:g} cores and {gpus:g} GPUs"
    if not any(c >= cpus and g >= gpus for c, g in has):
        there = ", ".join(f"{c:g} and {g:g}" for c, g in has) or "none"
        lacking = "GPU" if gpus and not any(g >= gpus for _, g in has) else "CPU"
        return f"{lacking}: {needs}, and the nodes that are left have {there}"
    return f"{needs}, and whoever else uses this Ray cluster has taken them"
