"""``SearchSpec``: a checked space, which turns a trial into a training configuration."""

import math
import re
from collections.abc import Mapping
from typing import Any, ClassVar

from optuna.pruners import BasePruner
from optuna.samplers import BaseSampler
from optuna.trial import BaseTrial, FixedTrial
from pydantic import Field, ValidationInfo, field_validator, model_validator

from okddip_search.algorithms.points import EachPoint
from okddip_search.algorithms.pruners import make_pruner
from okddip_search.algorithms.samplers import make_sampler
from okddip_search.algorithms.seeds import trial_seed
from okddip_search.space.dimensions import Dimension, points_of
from okddip_search.space.fields import (
    enqueued,
    fixed_problems,
    ordered,
    search_problems,
    spelling_problems,
)
from okddip_search.space.settings import (
    ConfirmSettings,
    ObjectiveSettings,
    ResourceSettings,
    StudySettings,
    WarmStart,
)
from trainer.config.data import DataConfig
from trainer.config.strict import ConfigError, StrictModel
from trainer.config.train import TrainConfig
from trainer.io.yaml import dump_yaml

FORMAT = 2
"""Of a search directory; it rises when an older version could no longer read a new one.

2: ``confirm.baselines`` was called ``rivals``, and there was no section ``machine``.
"""
_SIZES = {"num_peers", "width", "batch_size"}  # fields that a run's memory grows with
MAX_GRID_POINTS = 100_000  # Optuna holds all of them in memory
MOST_POINTS = 10_000
"""With more configurations than that, some may be trained twice."""
_NAME = r"^[A-Za-z0-9][A-Za-z0-9._-]{0,63}$"


class SearchSpec(StrictModel):
    """A space, section by section; ``spec.yaml`` in a search directory holds the one that runs.

    Each section is right in itself; ``check_space`` sees to it that they go together.
    """

    part: ClassVar[str] = "section"

    name: str = Field(pattern=_NAME, description="of the search and of its directory")
    data: DataConfig = Field(description="the images; the same for every trial")
    trainer: dict[str, Any] = Field(default_factory=dict, description="fixed fields of a run")
    search: dict[str, Dimension] = Field(description="sampled fields of a run")
    enqueue: tuple[dict[str, Any], ...] = Field(
        (), description="configurations tried first: values of sampled fields, the rest is sampled"
    )
    warm_start: tuple[WarmStart, ...] = Field(
        (), description="sources of configurations; written into enqueue, as {from: PATH, top: 5}"
    )
    objective: ObjectiveSettings = Field(
        default_factory=ObjectiveSettings, description="what is maximised"
    )
    study: StudySettings = Field(
        default_factory=StudySettings, description="budget, sampler, pruner, seed"
    )
    resources: ResourceSettings = Field(
        default_factory=ResourceSettings, description="what each trial occupies"
    )
    confirm: ConfirmSettings | None = Field(
        None, description="what is confirmed when the search is over; false: nothing"
    )
    machine: dict[str, Any] = Field(
        default_factory=dict,
        description="fields of a run that the driver decided on its machine; decided again by the "
        "next one, so that a search can be resumed elsewhere",
    )

    @field_validator("name", mode="before")
    @classmethod
    def _is_a_name(cls, name: Any) -> Any:
        if not isinstance(name, str) or not re.fullmatch(_NAME, name):
            text = f"{name!r} is not a name of letters, digits, '.', '_' and '-' (at most 64)"
            raise ConfigError([((), text)])
        return name

    @field_validator(
        "data", "trainer", "search", "objective", "study", "resources", "confirm", mode="before"
    )
    @classmethod
    def _short_forms(cls, value: Any, info: ValidationInfo) -> Any:
        if info.field_name == "objective" and isinstance(value, str):
            return {"metric": value}
        if info.field_name == "confirm" and value is False:
            return None
        return {} if value is None else value  # a section with nothing below it

    @field_validator("search", mode="before")
    @classmethod
    def _is_spelt_as_here(cls, search: Any) -> Any:
        if isinstance(search, Mapping) and (problems := spelling_problems(search)):
            raise ConfigError(problems)
        return search

    @model_validator(mode="before")
    @classmethod
    def _sources_apart(cls, values: Any) -> Any:
        """Move sources of configurations out of ``enqueue``."""
        if not isinstance(values.get("warm_start", ()), tuple):  # a list or a text is from a file
            text = "unknown section: its place is enqueue: [{from: PATH, top: 5}]"
            raise ConfigError([(("warm_start",), text)])
        raw = values.get("enqueue")
        found: list[WarmStart] = []
        entries: list[Any] = []
        for index, item in enumerate(raw if isinstance(raw, list) else [raw]):
            try:
                source = WarmStart.parse(item)
            except ConfigError as error:
                place = ("enqueue", index) if isinstance(raw, list) else ("enqueue",)
                raise ConfigError([((*place, *p), text) for p, text in error.problems]) from None
            if source is None:
                entries.append(item)
            else:
                found.append(source)
        if not found:
            return values
        return {**values, "enqueue": entries, "warm_start": tuple(found)}

    @field_validator("trainer")
    @classmethod
    def _can_be_fixed(cls, fixed: dict[str, Any]) -> dict[str, Any]:
        if problems := fixed_problems(fixed):
            raise ConfigError(problems)
        return fixed

    @field_validator("search")
    @classmethod
    def _can_be_searched(
        cls, search: dict[str, Dimension], info: ValidationInfo
    ) -> dict[str, Dimension]:
        if problems := search_problems(search, info.data.get("trainer", {})):
            raise ConfigError(problems)
        return ordered(search)

    @field_validator("enqueue", mode="before")
    @classmethod
    def _can_be_enqueued(cls, raw: Any, info: ValidationInfo) -> tuple[dict[str, Any], ...]:
        if raw is None or "search" not in info.data:  # the latter has complaints of its own
            return ()
        return enqueued(raw, info.data["search"], info.data.get("trainer", {}))

    @property
    def fixed(self) -> dict[str, Any]:
        """Fields that every run of the search has: the space's, and what the machine decides."""
        return {**self.trainer, **self.machine}

    def suggest(self, trial: BaseTrial) -> TrainConfig:
        """Sample the fields that apply, and fill in the fixed ones and the trial's seed.

        A parameter that does not apply keeps ``TrainConfig``'s default. Parameters that the trial
        has already got (an adopted or fixed trial) come back unchanged.
        """
        values = self.fixed
        for name, dimension in self.search.items():
            if dimension.is_active(values):
                values[name] = dimension.suggest(name, trial)
        values["seed"] = trial_seed(self.study.seed, trial.number)
        return self.configured(values)

    def configured(self, values: Mapping[str, Any]) -> TrainConfig:
        """Return the configuration of a run on the space's images, for its objective.

        Args:
            values: Fields of ``TrainConfig``.

        Raises:
            ConfigError: They do not go together.
        """
        leader_epoch = self.objective.leader_epoch
        return TrainConfig(**values, data=self.data, leader_epoch=leader_epoch)

    def example(self, **chosen: Any) -> TrainConfig:
        """Return the first enqueued configuration, the rest from the middle of each range.

        Args:
            chosen: Values of searched fields that come before both.

        Raises:
            ConfigError: They do not go together.
        """
        values = {name: dimension.middle() for name, dimension in self.search.items()}
        first = self.enqueue[0] if self.enqueue else {}
        return self.suggest(FixedTrial({**values, **first, **chosen}))

    def largest(self, **chosen: Any) -> TrainConfig:
        """Return the configuration that takes most memory, the rest from the middle.

        Args:
            chosen: Values of sampled fields that are not to be the middle ones.

        Raises:
            ConfigError: They do not go together.
        """
        values = {
            name: max(dimension.ends().values()) if name in _SIZES else dimension.middle()
            for name, dimension in self.search.items()
        }
        return self.suggest(FixedTrial({**values, **chosen}))

    @property
    def methods(self) -> tuple[str, ...]:
        """The training methods that trials may have."""
        if "method" in self.search:
            return tuple(self.search["method"].values())
        return (self.trainer.get("method", TrainConfig.model_fields["method"].default),)

    @property
    def has_conditions(self) -> bool:
        """Whether some parameter applies to some trials only."""
        return any(dimension.when for dimension in self.search.values())

    @property
    def max_epochs(self) -> int:
        """Epochs of the longest run."""
        if "epochs" in self.search:
            return int(max(self.search["epochs"].ends().values()))
        return int(self.trainer.get("epochs", TrainConfig.model_fields["epochs"].default))

    def make_sampler(self, trial_number: int) -> BaseSampler:
        """Build the sampler that chooses the parameters of one trial.

        Raises:
            ValueError: Arguments that Optuna refuses, or a space that has no grid.
        """
        sampler = make_sampler(
            self.study.proposer,
            self.study.seed,
            trial_number,
            has_conditions=self.has_conditions,
            grid=self.grid,
        )
        points = self.points()
        return EachPoint(points, self.study.seed, sampler) if points else sampler

    def points(self) -> list[dict[str, Any]] | None:
        """Return all configurations, if there are no more of them than trials; else None."""
        most = min(self.study.trials, MOST_POINTS)
        return points_of(self.search, self.fixed, most)

    def within_points(self) -> "SearchSpec":
        """Return the space with no more trials than it has different configurations."""
        points = self.points()
        trials = self.study.trials if points is None else len(points)
        study = self.study.model_copy(update={"trials": trials})
        return self.model_copy(update={"study": study})

    def make_pruner(self) -> BasePruner:
        """Build the study's pruner.

        Raises:
            ValueError: Arguments that Optuna refuses.
        """
        study = self.study
        return make_pruner(study.pruner, self.max_epochs, wait_for_ramp_up=study.wait_for_ramp_up)

    def grid(self) -> dict[str, list[Any]]:
        """Return all values of every parameter, for the grid sampler.

        Raises:
            ValueError: There is no such list, or the grid has too many points.
        """
        if self.has_conditions:
            raise ValueError("the grid sampler takes no conditional parameters (when)")
        sizes = {name: dimension.count() for name, dimension in self.search.items()}
        endless = ", ".join(name for name, size in sizes.items() if size is None)
        if endless:
            raise ValueError(f"the grid sampler needs a step (or choices) for {endless}")
        points = math.prod(size for size in sizes.values() if size is not None)
        if points > MAX_GRID_POINTS:
            raise ValueError(f"a grid of {points:,} points is more than {MAX_GRID_POINTS:,}")
        return {name: list(dimension.values()) for name, dimension in self.search.items()}

    def to_yaml(self) -> str:
        """Return the resolved space; ``load_space`` reads an equal one from it."""
        return dump_yaml(self.to_plain())

    def to_plain(self) -> dict[str, Any]:
        """Return the resolved space as plain values, section by section."""
        search = {
            name: {
                "type": dimension.type,
                **dimension.model_dump(mode="json", exclude_defaults=True),
            }
            for name, dimension in self.search.items()
        }
        confirm = self.confirm.model_dump(mode="json") if self.confirm else False
        plain = self.model_dump(mode="json")
        study = {k: v for k, v in plain["study"].items() if k not in self.study.overruled}
        enqueue = [*plain["enqueue"], *plain.pop("warm_start")]
        parts = {"search": search, "study": study, "enqueue": enqueue, "confirm": confirm}
        return {"format": FORMAT, **plain, **parts}
