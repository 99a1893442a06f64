"""The GPUs, cores and slots of a search, decided before anything starts."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

from okddip_search.cluster.gpus import count_gpus
from okddip_search.errors import UserError
from okddip_search.space.settings import ResourceSettings
from trainer.io.cores import available_cores


@dataclass(frozen=True)
class Concurrency:
    """How many trials run at a time.

    Attributes:
        slots: On all devices together.
        gpus_per_trial: Of each; 0 on the CPU.
    """

    slots: int
    gpus_per_trial: float = 0.0

    @property
    def per_device(self) -> int:
        """Trials that share a GPU, or the machine where there is none."""
        if self.gpus_per_trial == 0:
            return self.slots
        return max(1, int(1 / self.gpus_per_trial + 1e-9))

    def halved(self) -> "Concurrency | None":
        """Return the share with half as many on a device; None where one has it alone already."""
        together = self.per_device
        if together == 1:
            return None
        half = together // 2
        slots = max(1, self.slots * half // together)
        return Concurrency(slots, 1 / half if self.gpus_per_trial else 0.0)

    def at_most(self, per_device: int) -> "Concurrency":
        """Return the share, halved until no more trials than that share a device."""
        share = self
        while share.per_device > per_device and (less := share.halved()):
            share = less
        return share


@dataclass(frozen=True)
class Allocation:
    """How the machine (or cluster) is shared out.

    Attributes:
        cpus: Cores that the search may use.
        gpus: GPUs that it may use.
        cpus_per_trial: Cores of one trial; also its number of threads, so that trials × threads
            never exceed the cores.
        gpus_per_trial: GPUs of one trial; below 1, several trials share one.
        slots: Trials at a time.
    """

    cpus: int
    gpus: int
    cpus_per_trial: float
    gpus_per_trial: float
    slots: int

    @property
    def words(self) -> str:
        """Say it in one line."""
        return (
            f"{self.slots} trials at a time on {self.cpus} cores and {self.gpus} GPUs; each has "
            f"{self.cpus_per_trial:g} cores ({self.threads_per_trial} threads) and "
            f"{self.gpus_per_trial:g} GPUs"
        )

    @property
    def share(self) -> Concurrency:
        """How many trials run at a time."""
        return Concurrency(self.slots, self.gpus_per_trial)

    @property
    def threads_per_trial(self) -> int:
        """Threads of one trial, at least 1."""
        return max(1, int(self.cpus_per_trial))


class Node(NamedTuple):
    """The resources of one machine."""

    cpus: int
    gpus: int


def this_machine(asked_gpus: int | None) -> Node:
    """Return what this machine has; with ``--gpus 0`` it does not matter whether a GPU works.

    Raises:
        UserError: There is a GPU that torch cannot use.
    """
    return Node(available_cores(), 0 if asked_gpus == 0 else count_gpus())


def allocate(
    settings: ResourceSettings, nodes: Sequence[Node], *, asked_gpus: int | None
) -> Allocation:
    """Divide what there is. A trial lives on one node, so that every node is divided alone.

    Args:
        settings: Of the space; null values are decided here.
        nodes: The machines, at least one.
        asked_gpus: ``--gpus``: how many GPUs to use; None: all, 0: run on the CPU.

    Raises:
        UserError: More is asked for than there is, or not even one trial fits on any node.
    """
    there = sum(node.gpus for node in nodes)
    if asked_gpus is not None and asked_gpus > there:
        raise UserError(
            f"--gpus {asked_gpus}: there are only {there} GPUs here",
            f"Use --gpus {there}." if there else "Use --gpus 0 to run on the CPU.",
        )
    gpus = there if asked_gpus is None else asked_gpus
    used = [Node(node.cpus, min(node.gpus, gpus)) for node in nodes]
    gpus_per_trial = _gpus_per_trial(settings, max(node.gpus for node in used))
    wanted = [_slots(node, gpus_per_trial) for node in used]
    asked_cpus = None if settings.cpus_per_trial == "auto" else settings.cpus_per_trial
    cpus_per_trial = asked_cpus or _cores_each(used, wanted, gpus_per_trial)
    slots = sum(
        min(want, int(node.cpus / cpus_per_trial)) for node, want in zip(used, wanted, strict=True)
    )
    if gpus_per_trial > 0:
        slots = min(slots, _slots(Node(0, gpus), gpus_per_trial))
    if slots < 1:
        raise UserError(
            f"no trial fits: each needs {cpus_per_trial:g} CPU cores and {gpus_per_trial:g} GPUs, "
            "there are " + ", ".join(f"{node.cpus} and {node.gpus}" for node in used),
            "Lower resources.cpus_per_trial or resources.gpus_per_trial in the space.",
        )
    return Allocation(
        sum(node.cpus for node in nodes),
        gpus,
        cpus_per_trial,
        gpus_per_trial,
        min(slots, settings.max_concurrent or slots),
    )


def _gpus_per_trial(settings: ResourceSettings, most_on_a_node: int) -> float:
    if most_on_a_node == 0:
        return 0.0
    if isinstance(settings.trials_per_gpu, int):
        return 1.0 / settings.trials_per_gpu
    asked = 1.0 if settings.gpus_per_trial is None else settings.gpus_per_trial
    if asked > most_on_a_node:
        raise UserError(
            f"a trial needs {asked:g} GPUs, there are {most_on_a_node}",
            "Use fewer --gpus-per-trial.",
        )
    return asked


def _slots(node: Node, gpus_per_trial: float) -> int:
    """Return how many trials a node's GPUs hold; trials without a GPU take a core each."""
    if gpus_per_trial == 0:
        return node.cpus
    if gpus_per_trial < 1:
        return node.gpus * int(1 / gpus_per_trial + 1e-9)
    return node.gpus // int(gpus_per_trial)


def _cores_each(nodes: Sequence[Node], slots: Sequence[int], gpus_per_trial: float) -> float:
    """Return the cores of a trial: a node's share, on the node where that is least."""
    if gpus_per_trial == 0:
        return 1.0
    shares = [node.cpus // n for node, n in zip(nodes, slots, strict=True) if n]
    return float(max(1, min(shares)))
