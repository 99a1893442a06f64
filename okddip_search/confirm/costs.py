"""Inference and tuning costs of the confirmed configurations."""

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from okddip_search.confirm.plan import Configuration, Plan
from okddip_search.confirm.results import Run, leader_name
from okddip_search.driver.session import Session
from okddip_search.layout import CONFIRM, TUNING
from okddip_search.space.baselines import baseline_spec
from okddip_search.space.model import SearchSpec
from okddip_search.study.reading import study_seconds
from okddip_search.study.study import open_study


def measure_leaders(leader_dirs: list[str]) -> list[dict[str, Any]]:
    """Measure the inference cost of leaders, on a CPU core of a worker.

    Returns:
        ``parameters``, ``macs`` and ``latency_ms`` (one image on one core) of each.
    """
    from dataclasses import asdict

    from trainer.leader.cost import measure_cost
    from trainer.leader.leader import load_leader

    return [asdict(measure_cost(load_leader(Path(folder)))) for folder in leader_dirs]


def leader_costs(
    session: Session,
    plan: Plan,
    runs: Mapping[str, list[Run]],
    before: Iterable[Mapping[str, Any]],
) -> dict[str, dict[str, Any]]:
    """Measure one leader of each configuration; equal networks are measured once.

    Args:
        session: Provides the worker.
        plan: Plan of the confirmation.
        runs: By label.
        before: Configurations in the results of an earlier call, whose costs are kept.
    """
    known = {configuration["label"]: configuration["cost"] for configuration in before}
    measured: dict[tuple[Any, ...], dict[str, Any]] = {}
    costs = {}
    for configuration in plan.configurations:
        numbers = [r.number for r in runs[configuration.label] if r.state == "complete"]
        if not numbers:
            continue
        network = (configuration.config["model"], configuration.config["width"])
        earlier = known.get(configuration.label, {})
        if earlier.get("leader_parameters"):
            names = ("parameters", "macs", "latency_ms")
            measured.setdefault(network, {name: earlier[f"leader_{name}"] for name in names})
        if network not in measured:
            folder = session.directory / leader_name(numbers[0])
            [measured[network]] = session.in_worker(measure_leaders, [str(folder)])
        costs[configuration.label] = {
            **measured[network],
            "tuning_s": tuning_seconds(session.spec, session.directory / CONFIRM, configuration),
        }
    return costs


def tuning_seconds(spec: SearchSpec, directory: Path, configuration: Configuration) -> float:
    """Return the training seconds of a baseline's own search; 0 if it had none."""
    folder = directory / TUNING / configuration.method
    if configuration.kind != "baseline" or not folder.is_dir():
        return 0.0
    return study_seconds(open_study(folder, baseline_spec(spec, configuration.method)), folder)
