"""Derived values of a confirmation for the report: cost, noise, the winner's curse."""

import math
from collections.abc import Mapping, Sequence
from typing import Any


def winners_curse(confirm: Mapping[str, Any] | None) -> dict[str, Any] | None:
    """Compare the search's best value with the mean of the same setting over several seeds."""
    best = (confirm or {}).get("search_best")
    if not best:
        return None
    known = best["confirmed_mean"] is not None
    return {**best, "difference": best["confirmed_mean"] - best["value"] if known else None}


def noise_floor(confirm: Mapping[str, Any] | None) -> dict[str, Any] | None:
    """Add the spread of a difference of two single runs to that of one setting.

    Their difference has √2 times the standard deviation; twice that is the usual bound.
    """
    noise = (confirm or {}).get("noise_floor")
    return {**noise, "two_runs": 2 * math.sqrt(2) * noise["sd"]} if noise else None


def times_opened(openings: Sequence[Mapping[str, Any]]) -> dict[str, int]:
    """Count the openings of the test set.

    Returns:
        ``times``, and ``looks`` that were planned before the first one: they are no further times.
    """
    looks = sum((opening.get("look") or {"number": 1})["number"] > 1 for opening in openings)
    return {"times": len(openings) - looks, "looks": looks}


LEFT = {
    "decided": "decided",
    "hopeless": "no gain in sight",
    "last look": "the last look",
    "primary not beaten": "the primary baseline is not beaten",
    "not settled": "not settled",
}


def looks(confirm: Mapping[str, Any] | None) -> dict[str, Any] | None:
    """Return planned and taken looks, and who left when and why; None if there was but one."""
    planned = (confirm or {}).get("looks")
    if not confirm or not planned or len(planned["seeds"]) < 2:
        return None
    taken = planned["at"] if confirm["state"] == "complete" else planned["at"] - 1
    return {
        "planned": planned["seeds"],
        "taken": taken,
        "error_spent": planned["error_spent"][taken - 1] if taken else 0.0,
        "left": {
            c["rival"]: f"{c['n']} seeds, look {c['look']}: {LEFT[c['left']]}"
            for c in confirm["comparisons"]
        },
    }


def cost(confirm: Mapping[str, Any] | None, search_s: float | None) -> dict[str, Any]:
    """Return training costs: of each configuration, of the search and of the confirmation.

    Device-seconds are wall seconds times the GPUs of a run, or its cores where it has no GPU.

    Args:
        confirm: ``confirm.json``, if there is one.
        search_s: Sum of the search's training times; None if unknown.
    """
    if confirm is None:
        return {"unit": None, "contenders": [], "search_s": search_s, "confirm_s": None,
                "search_device_s": None, "confirm_device_s": None}  # fmt: skip
    configurations = [_of_configuration(configuration) for configuration in confirm["contenders"]]
    of_search = confirm.get("search_cost") or {}
    seconds = of_search.get("training_s", search_s)
    return {
        "unit": "GPU" if any(c["gpus"] for c in configurations) else "core",
        "contenders": configurations,
        "search_s": seconds,
        "confirm_s": _total(c["training_s"] for c in configurations),
        "search_device_s": _device_seconds(seconds, of_search),
        "confirm_device_s": _total(c["device_s"] for c in configurations),
    }


def _of_configuration(configuration: Mapping[str, Any]) -> dict[str, Any]:
    spent = configuration["cost"]
    return {
        "label": configuration["label"],
        "method": configuration["method"],
        "num_peers": configuration["config"].get("num_peers"),
        **spent,
        "device_s": _device_seconds(spent["training_s"], spent),
        "device_s_per_run": _device_seconds(spent["training_s_per_run"], spent),
    }


def _device_seconds(seconds: float | None, share: Mapping[str, Any]) -> float | None:
    devices = share.get("gpus") or share.get("cpus")
    return None if seconds is None or not devices else seconds * float(devices)


def _total(values: Any) -> float | None:
    known: Sequence[float] = [value for value in values if value is not None]
    return sum(known) if known else None


def failed_runs(confirm: Mapping[str, Any] | None) -> list[dict[str, Any]]:
    """Return the confirmation's failed runs with their reasons."""
    return [
        {"contender": configuration["label"], "seed": run["seed"], "reason": run["reason"]}
        for configuration in (confirm or {}).get("contenders", [])
        for run in configuration["runs"]
        if run["state"] == "failed"
    ]
