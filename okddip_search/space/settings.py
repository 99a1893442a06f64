"""How a search is run: its objective, its study (budget, sampler, pruner) and its resources."""

import re
from typing import Annotated, Any, Literal, Self

from pydantic import (
    Field,
    WithJsonSchema,
    field_serializer,
    field_validator,
    model_serializer,
    model_validator,
)

from okddip_search.algorithms.choice import Choice, choice_schema, parse_choice
from okddip_search.algorithms.pruners import PRUNERS
from okddip_search.algorithms.samplers import SAMPLERS
from trainer.config.strict import ConfigError, Count, StrictModel, nearest
from trainer.config.train import MethodName
from trainer.registry import METHODS

_UNIT_S = {"d": 86_400, "h": 3_600, "m": 60, "s": 1}


def parse_duration(value: Any) -> float:
    """Return seconds for ``8h``, ``90m``, ``1h30m``, ``30s``, ``2d`` or a number of seconds.

    Raises:
        ValueError: Another spelling, or no time at all.
    """
    seconds = 0.0
    if isinstance(value, (int, float)) and not isinstance(value, bool):
        seconds = float(value)
    elif isinstance(value, str) and re.fullmatch(
        r"(?:\d+(?:\.\d+)?[dhms]\s*)+|\d+(?:\.\d+)?", value
    ):
        parts = re.findall(r"(\d+(?:\.\d+)?)([dhms]?)", value)
        seconds = sum(float(number) * _UNIT_S[unit or "s"] for number, unit in parts)
    if not 0 < seconds < 1e9:
        raise ValueError(
            f"{value!r} is not a duration such as 8h, 90m, 1h30m, 30s (or null for none)"
        )
    return seconds


def format_duration(seconds: float) -> str:
    """Return the shortest exact spelling of a duration, for instance ``90m``."""
    for unit, length in _UNIT_S.items():
        if unit != "d" and seconds % length == 0:
            return f"{int(seconds // length)}{unit}"
    return f"{seconds!r}s"


class ObjectiveSettings(StrictModel):
    """The value that the study maximises."""

    metric: Literal["leader_accuracy"] = Field(
        "leader_accuracy", description="of the leader, on the validation images"
    )
    reduce: Literal["last", "best", "mean_last_3"] = Field(
        "last",
        description="a trial's value: its last epoch, its best (whose leader is then handed over), "
        "or the mean of the last three",
    )

    @property
    def leader_epoch(self) -> Literal["last", "best"]:
        """The epoch whose leader is handed over, so that it is the one with the trial's value."""
        return "best" if self.reduce == "best" else "last"

    @property
    def words(self) -> str:
        """Say how a trial's value comes from its curve; it stands beside every number."""
        return {
            "last": "last epoch",
            "best": "best epoch",
            "mean_last_3": "mean of the last 3 epochs",
        }[self.reduce]


class BudgetSettings(StrictModel):
    """Time for everything: of the wall clock, or of all GPUs together."""

    clock_s: float | None = None
    gpu_s: float | None = None

    @classmethod
    def parse(cls, value: Any) -> Self:
        """Read ``8h`` or ``80 gpu-hours``.

        Raises:
            ValueError: Another spelling.
        """
        found = re.fullmatch(r"(\d+(?:\.\d+)?)\s*gpu-hours?", str(value).strip())
        if found:
            return cls(gpu_s=parse_duration(f"{found[1]}h"))
        try:
            return cls(clock_s=parse_duration(value))
        except ValueError as error:
            raise ValueError(f"{error}, or 80 gpu-hours") from None

    def seconds(self, gpus: float) -> float:
        """Return the wall-clock time on so many GPUs; without one, the CPU counts as one."""
        return self.clock_s if self.clock_s is not None else (self.gpu_s or 0.0) / max(gpus, 1.0)

    @model_serializer
    def to_plain(self) -> str:
        """Return the YAML form."""
        if self.clock_s is not None:
            return format_duration(self.clock_s)
        return f"{(self.gpu_s or 0.0) / _UNIT_S['h']:g} gpu-hours"


class SearcherSettings(StrictModel):
    """Screening: every trial runs to its first judged epoch and waits; the promising go on."""

    type: Literal["screen"] = "screen"
    sampler: Annotated[Choice, WithJsonSchema(choice_schema(SAMPLERS))] = Field(
        Choice(type="gp"), description="how configurations are chosen, instead of study.sampler"
    )

    @field_validator("sampler", mode="before")
    @classmethod
    def _known_sampler(cls, value: Any) -> Choice:
        return parse_choice(value, SAMPLERS)


_BUDGETED = "study.budget decides when the search ends: leave this out, or set study.budget=null"
OVERRULED = {
    ("searcher", "sampler"): "study.searcher has a sampler of its own: write "
    "searcher: {{type: screen, sampler: {}}} instead, or set study.searcher=null",
    ("budget", "trials"): _BUDGETED,
    ("budget", "timeout"): _BUDGETED,
}
"""Fields of ``study`` without effect beside another one: (that one, the field), and the remedy."""


class StudySettings(StrictModel):
    """Budget, and how configurations are chosen and given up."""

    trials: int = Field(
        20, ge=1, le=1_000_000, description="finished trials (complete or pruned), enqueued too"
    )
    timeout: float | None = Field(None, description="seconds (8h, 90m, 30s); null: none")
    budget: BudgetSettings | None = Field(
        None,
        description="time (8h, or 80 gpu-hours) by which search, confirmation and report are over; "
        "it then says how many trials and seeds there are, instead of trials and timeout; null: "
        "none",
    )
    sampler: Annotated[Choice, WithJsonSchema(choice_schema(SAMPLERS))] = Field(
        Choice(type="tpe"), description="how configurations are chosen"
    )
    searcher: SearcherSettings | None = Field(
        None,
        description="screen: every trial runs to its first judged epoch and waits there, and the "
        "most promising go on; null: each runs on until it ends or is given up",
    )
    pruner: Annotated[Choice, WithJsonSchema(choice_schema(PRUNERS))] = Field(
        Choice(type="median"), description="when a trial is given up"
    )
    wait_for_ramp_up: bool = Field(
        True, description="prune no trial before its distillation weight has reached 0.7"
    )
    max_failures: Count = Field(5, description="failed trials in a row that end the search")
    keep_leaders: Count = Field(
        3,
        description="best trials whose networks stay on disk; a trial that ended keeps its curves",
    )
    seed: int = Field(0, ge=0, lt=2**63, description="of the sampler and of every trial")

    @property
    def overruled(self) -> set[str]:
        """Names of the fields that have no effect here."""
        return {name for ruler, name in OVERRULED if getattr(self, ruler) is not None}

    @property
    def proposer(self) -> Choice:
        """The sampler at work: the searcher's own, where there is one."""
        return self.searcher.sampler if self.searcher else self.sampler

    @field_validator("timeout", mode="before", json_schema_input_type=float | str | None)
    @classmethod
    def _in_seconds(cls, value: Any) -> float | None:
        try:
            return None if value is None else parse_duration(value)
        except ValueError as error:
            raise ConfigError([((), str(error))]) from None

    @field_validator("budget", mode="before", json_schema_input_type=float | str | None)
    @classmethod
    def _in_time(cls, value: Any) -> Any:
        try:
            is_read = value is None or isinstance(value, BudgetSettings)
            return value if is_read else BudgetSettings.parse(value)
        except ValueError as error:
            raise ConfigError([((), str(error))]) from None

    @field_validator(
        "searcher",
        mode="before",
        json_schema_input_type=Literal["screen"] | SearcherSettings | None,
    )
    @classmethod
    def _by_name(cls, value: Any) -> Any:
        return {"type": value} if isinstance(value, str) else value

    @field_validator("sampler", mode="before")
    @classmethod
    def _known_sampler(cls, value: Any) -> Choice:
        return parse_choice(value, SAMPLERS)

    @field_validator("pruner", mode="before")
    @classmethod
    def _known_pruner(cls, value: Any) -> Choice:
        return parse_choice(value, PRUNERS)

    @field_serializer("timeout")
    def _as_written(self, timeout: float | None) -> str | None:
        return None if timeout is None else format_duration(timeout)


class WarmStart(StrictModel):
    """Configurations of earlier searches that are tried first; ``{from: PATH, top: 5}``."""

    path: str = Field(description="best.yaml, search directory, journal or storage of Optuna")
    top: Count = Field(1, description="best trials to take")
    study: str | None = Field(None, description="name of the study, where a storage has several")

    @classmethod
    def parse(cls, value: Any) -> Self | None:
        """Read a path or a mapping with ``from``; None for anything else.

        Raises:
            ConfigError: Its fields are wrong.
        """
        if isinstance(value, str):
            return cls(path=value)
        if not isinstance(value, dict) or "from" not in value:
            return None
        try:
            return cls(path=value["from"], **{k: v for k, v in value.items() if k != "from"})
        except ConfigError as error:
            at = [(("from",) if path == ("path",) else path, text) for path, text in error.problems]
            raise ConfigError(at) from None

    @model_serializer
    def to_plain(self) -> dict[str, Any]:
        """Return the YAML form."""
        study = {"study": self.study} if self.study else {}
        return {"from": self.path, "top": self.top, **study}


RENAMED = {"rivals": "baselines"}
"""Fields of ``confirm`` by the names that they had before version 0.2."""


class ConfirmSettings(StrictModel):
    """The runs over several seeds that follow a search and test whether its winner is real."""

    top: int = Field(3, ge=1, le=20, description="best configurations of the search to confirm")
    seeds: Annotated[int, Field(ge=2, le=1000)] | Literal["auto"] = Field(
        5,
        description="runs of each, with the same list of seeds; auto: as many as the verdict "
        "needs, with looks planned beforehand",
    )
    max_seeds: int = Field(10, ge=3, le=100, description="runs of each at most, of seeds: auto")
    baselines: Literal["searched", "tuned"] = Field(
        "searched",
        description="their optimiser settings: the search's best, or from a search of their own",
    )
    methods: tuple[str, ...] = Field(
        ("single", "independent", "dml", "one", "cl_ilr"),
        description="baseline methods, at equal cost",
    )
    single: Literal["epochs", "seconds"] = Field(
        "epochs",
        description="what single gets as much of as a group; seconds adds a longer run of it",
    )
    primary: str | None = Field(
        None,
        description="one of methods: it is tested first and alone, and the others only if it is "
        "beaten; null: all together",
    )

    @property
    def most_seeds(self) -> int:
        """Runs of each at most."""
        return self.max_seeds if self.seeds == "auto" else self.seeds

    @field_validator("methods", mode="before", json_schema_input_type=list[MethodName])
    @classmethod
    def _known_methods(cls, names: Any) -> tuple[str, ...]:
        if not isinstance(names, (list, tuple)):
            raise ConfigError([((), f"{names!r} is not a list of methods")])
        for index, name in enumerate(names):
            place = (index,)
            if not isinstance(name, str) or name not in METHODS:
                text = f"{name!r} is not one of {', '.join(METHODS)}{nearest(str(name), METHODS)}"
                raise ConfigError([(place, text)])
            if name in names[:index]:
                raise ConfigError([(place, f"{name!r} is named twice")])
        return tuple(names)

    @model_validator(mode="after")
    def _primary_takes_part(self) -> Self:
        if self.primary is not None and self.primary not in self.methods:
            near = nearest(self.primary, self.methods)
            text = f"{self.primary!r} is not one of methods: {', '.join(self.methods)}{near}"
            raise ConfigError([(("primary",), text)])
        return self


class ResourceSettings(StrictModel):
    """The resources of each trial; null: decided from the machine."""

    cpus_per_trial: Annotated[float, Field(ge=1)] | Literal["auto"] | None = Field(
        None,
        description="CPU cores; null: one, or a GPU's share; auto: without GPUs, timed when the "
        "search begins",
    )
    gpus_per_trial: Annotated[float, Field(ge=0)] | None = Field(
        None, description="GPUs; below 1, several trials share one"
    )
    trials_per_gpu: Annotated[int, Field(ge=1, le=64)] | Literal["auto"] | None = Field(
        None,
        description="trials that share a GPU, instead of gpus_per_trial; auto: timed when the "
        "search begins",
    )
    max_concurrent: Count | None = Field(None, description="trials at a time")
    stall_timeout: float | Literal["auto"] = Field(
        "auto",
        description="an epoch that takes so long (90s, 20m) hangs, and its worker is killed; auto: "
        "ten times the median epoch, at least a minute",
    )

    @field_validator("stall_timeout", mode="before", json_schema_input_type=float | str)
    @classmethod
    def _stall_in_seconds(cls, value: Any) -> Any:
        try:
            return value if value == "auto" else parse_duration(value)
        except ValueError as error:
            raise ConfigError([((), f"{error}, or auto")]) from None

    @model_validator(mode="after")
    def _gpus_are_shared_or_whole(self) -> Self:
        gpus = self.gpus_per_trial
        if gpus is not None and gpus > 1 and gpus != int(gpus):
            text = f"{gpus} is neither a fraction of one GPU nor a whole number of them"
            raise ConfigError([(("gpus_per_trial",), text)])
        if gpus is not None and self.trials_per_gpu is not None:
            text = "gpus_per_trial says already how trials share the GPUs; leave one of them out"
            raise ConfigError([(("trials_per_gpu",), text)])
        return self
