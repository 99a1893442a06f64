"""The baselines' configurations and spaces, derived from those of a search."""

from collections.abc import Mapping
from typing import Any

from okddip_search.space.dimensions import Dimension
from okddip_search.space.model import SearchSpec
from trainer.config.strict import ConfigError
from trainer.config.train import HYPERPARAMETERS, TrainConfig
from trainer.registry import METHODS, readers_of

DEFAULT_PEERS: int = TrainConfig.model_fields["num_peers"].default


def without_seed(config: TrainConfig) -> dict[str, Any]:
    """Return the fields that describe a setting; images, device and threads come with the run."""
    elsewhere = {"seed", "data", "device", "num_threads"}
    return {k: v for k, v in config.to_dict().items() if k not in elsewhere}


def baseline_config(method: str, leading: Mapping[str, Any]) -> dict[str, Any]:
    """Turn a configuration into that of another method at equal cost.

    Network, images, optimiser, length and group size stay; how members teach each other is as
    published for the method.

    Args:
        method: The baseline.
        leading: Fields of ``TrainConfig``, those of the search's best trial.

    Raises:
        ConfigError: The method needs what the configuration does not have (a teacher).
    """
    info = METHODS[method]
    its_own = HYPERPARAMETERS | {"method", "num_peers"}
    values = {k: v for k, v in leading.items() if k not in its_own}
    if "teacher" in info.hyperparameters:
        if not leading.get("teacher"):
            raise ConfigError([(("teacher",), f"{method} needs one: set trainer.teacher")])
        values["teacher"] = leading["teacher"]
    if info.grouped:
        values["num_peers"] = leading["num_peers"] or DEFAULT_PEERS
    if values["structure"] not in info.structures:
        values["structure"] = info.structures[0]
    return without_seed(TrainConfig(**values, method=method))


def baseline_spec(spec: SearchSpec, method: str) -> SearchSpec:
    """Return the search's space for one method: the same ranges, budget and seed.

    Sampled fields that the method does not read are left out, and so is what applies only with
    other values of a field that is fixed now. There are no more trials than configurations.
    """
    fields = TrainConfig.model_fields
    unread = {"method"} | {name for name in fields if method not in readers_of(name)}
    trainer = {k: v for k, v in spec.trainer.items() if k not in unread} | {"method": method}
    fixed = {**TrainConfig(method=method).to_dict(), **trainer}
    search: dict[str, Dimension] = {}
    for name, dimension in spec.search.items():
        elsewhere = {k: v for k, v in dimension.when.items() if k not in search}
        if name not in unread and all(fixed[k] in wanted for k, wanted in elsewhere.items()):
            when = {k: v for k, v in dimension.when.items() if k in search}
            search[name] = dimension.model_copy(update={"when": when})
    first = [{k: v for k, v in entry.items() if k in search} for entry in spec.enqueue[:1]]
    enqueue = tuple(entry for entry in first if entry)
    changes = {"trainer": trainer, "search": search, "enqueue": enqueue}
    own = spec.model_copy(update={**changes, "name": f"{spec.name}-{method}", "confirm": None})
    return own.within_points()
