"""Waiting for a place on a machine: the reason is named, and in the end the wait is given up."""

import re
import time
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import ray

from okddip_search.cluster.ray_private import session_logs
from okddip_search.masking import masked

TOLD_EVERY_S = 60.0
GIVEN_UP_AFTER_S = 1800.0
"""A cluster may be growing, or others may be done soon."""

LOGS = ("raylet.err", "worker-*.err", "runtime_env_setup-*.log", "gcs_server.err")
"""Where a worker that does not start leaves the reason."""
TAIL_BYTES = 64 * 1024
LONGEST = 300
_RAYS_OWN = re.compile(r"\[?\d{4}-\d\d-\d\d \d\d:\d\d:\d\d,\d+")
_RAYS_ERROR = re.compile(r"\[[\d :,-]+ [EF] [\d ]+\] (?:\(\w+\) )?(?P<text>.*)")


class PendingResources:
    """Measures how long something has waited for cores and GPUs, from construction.

    Args:
        what: Waits for them; the beginning of a sentence "… could be started".
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

        When it is time to give up there is none, and ``given_up`` says why.
        """
        now = time.monotonic()
        if now - self._told_at_s < TOLD_EVERY_S:
            return ""
        self._told_at_s = now
        waited_s = now - self._began_s
        reason = what_is_missing(ray.nodes(), *self._needs) or why_nothing_starts(
            session_logs(), waited_s
        )
        if waited_s > GIVEN_UP_AFTER_S:
            self.given_up = f"{reason}, for {waited_s / 60:.0f} minutes"
            return ""
        return f"{self._what} could be started for {waited_s:.0f} s: {reason}; waiting"


def what_is_missing(nodes: Iterable[Mapping[str, Any]], cpus: float, gpus: float) -> str:
    """Say which resource no node has enough of; nothing where one has.

    Args:
        nodes: As ``ray.nodes()`` returns them.
        cpus: Cores it needs.
        gpus: GPUs it needs.
    """
    alive = [node["Resources"] for node in nodes if node["Alive"]]
    has = [(node.get("CPU", 0), node.get("GPU", 0)) for node in alive]
    if any(c >= cpus and g >= gpus for c, g in has):
        return ""
    there = ", ".join(f"{c:g} and {g:g}" for c, g in has) or "none"
    lacking = "GPU" if gpus and not any(g >= gpus for _, g in has) else "CPU"
    needs = f"a trial needs {cpus:g} cores and {gpus:g} GPUs"
    return f"{lacking}: {needs}, and the nodes that are left have {there}"


def why_nothing_starts(logs: Path | None, within_s: float) -> str:
    """Say why no worker starts although there is room: what Ray's logs have last complained of.

    Args:
        logs: Ray's folder of them on this node; None: there is none.
        within_s: Older logs are of no interest.
    """
    said = last_complaint(logs, within_s) if logs else ""
    if said:
        return f"Ray's log says: {said}"
    place = f" (its logs: {logs})" if logs else ""
    return f"whoever else uses this Ray has taken the cores, or its workers do not start{place}"


def last_complaint(logs: Path, within_s: float) -> str:
    """Return the last line of what a starting worker, or else Ray itself, has complained of."""
    recent = list(_recent_logs(logs, within_s))
    for path, lines in recent:  # of a shell, or of Python: says more than Ray, which saw it die
        if plain := [line for line in lines if not _RAYS_OWN.match(line)]:
            return _shown(plain[-1], path)
    for path, lines in recent:
        if errors := [match["text"] for line in lines if (match := _RAYS_ERROR.match(line))]:
            return _shown(errors[-1], path)
    return ""


def _recent_logs(logs: Path, within_s: float) -> Iterator[tuple[Path, list[str]]]:
    oldest_s = time.time() - within_s
    for pattern in LOGS:
        for path in sorted(logs.glob(pattern)):
            try:
                if path.stat().st_mtime < oldest_s:
                    continue
                with path.open("rb") as file:
                    file.seek(max(0, path.stat().st_size - TAIL_BYTES))
                    text = file.read().decode(errors="replace")
            except OSError:  # it was removed meanwhile
                continue
            yield path, [line.strip() for line in text.splitlines() if line.strip()]


def _shown(line: str, path: Path) -> str:
    return f"{masked(line)[:LONGEST]} ({path.name})"
