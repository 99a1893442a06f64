"""The description of one training run: every field with its unit, range and default.

This module needs no torch, so that the driver can check a search space against it in milliseconds.
Defaults are the paper's setting (Chen et al. 2020, "Online Knowledge Distillation with Diverse
Peers", section 4.1) wherever the paper has one.
"""

from collections.abc import Collection, Mapping
from typing import TYPE_CHECKING, Annotated, Any, Literal, Self

from pydantic import Field, field_validator, model_validator

from trainer.config.data import DataConfig, require_plain
from trainer.config.strict import ConfigError, Fraction, StrictModel, nearest
from trainer.io.yaml import KeyPath
from trainer.registry import METHODS, MODELS, readers_of, width_problem

if TYPE_CHECKING:
    MethodName = str
    ModelName = str
else:  # one line in the registry is all that a new method or network takes
    MethodName = Literal[tuple(METHODS)]
    ModelName = Literal[tuple(MODELS)]


RENAMED_EXECUTORS = {"separate": "eager", "graphed": "cuda_graph"}
"""Values of ``executor`` by their names before version 0.2, still found in files."""
MOST_TEACHERS = 3
"""A teacher may have a teacher of its own; each is trained before the next."""


class TrainConfig(StrictModel):
    """One training run. Frozen; two equal configurations give equal runs on one machine.

    Raises:
        ConfigError: (a ``ValueError``) for unknown fields and values outside their range, naming
            the field, the value and the range.
    """

    data: DataConfig = Field(default_factory=DataConfig, description="the images")
    model: ModelName = Field(default="resnet32", description="network of every member")
    width: float = Field(default=1.0, ge=0.125, le=8, description="factor on all channel counts")
    structure: Literal["network", "branch"] = Field(
        default="branch", description="separate networks, or one trunk with a branch per member"
    )
    method: MethodName = Field(default="okddip", description="how the members teach each other")
    num_peers: int = Field(
        default=3,
        ge=0,
        le=15,
        description="peers P, the deployed member is one more; 0 if one is trained",
    )
    temperature: float = Field(
        default=3.0, gt=0, le=100, description="softmax temperature T; dml and codistillation: 1"
    )
    attention_dim: Annotated[int, Field(ge=1, le=4096)] | None = Field(
        default=None, description="width d of the attention projections; null: feature width / 8"
    )
    peer_weight: float = Field(default=1.0, ge=0, le=100, description="λ₁, peers' distillation")
    leader_weight: float = Field(default=1.0, ge=0, le=100, description="λ₂, leader's distillation")
    ramp_epochs: Annotated[int, Field(ge=0)] | Annotated[float, Field(ge=0, le=1)] = Field(
        default=80 / 300,
        description="ramp-up length R: epochs (whole number) or a fraction of the run (0.25)",
    )
    aggregate: Literal["logits", "probabilities"] = Field(
        default="logits",
        description="what attention averages: logits (authors' code) or probabilities",
    )
    detach_targets: bool = Field(
        default=False,
        description="stop gradients through the targets (attention then learns nothing)",
    )
    attention: Literal["learned", "symmetric", "mean", "random"] = Field(
        default="learned", description="okddip: how the peers' shares are found (ablations)"
    )
    two_level: bool = Field(
        default=True,
        description="okddip: the ensemble teaches a leader; false: all members are peers",
    )
    dml_target: Literal["ensemble_first", "pairwise"] = Field(
        default="pairwise", description="dml: from the others' mean logits, or mean over pairs"
    )
    stale_steps: int = Field(
        default=100,
        ge=1,
        le=1_000_000,
        description="codistillation: steps between refreshed copies",
    )
    teacher: str | dict[str, Any] | None = Field(
        default=None, description="kd: folder of a leader, or a configuration that is trained first"
    )
    epochs: int = Field(
        default=300, ge=1, le=100_000, description="passes over the training images"
    )
    batch_size: int = Field(default=128, ge=2, le=65_536, description="images a step")
    lr: float = Field(default=0.1, gt=0, le=100, description="initial learning rate")
    momentum: float = Field(default=0.9, ge=0, lt=1, description="Nesterov momentum")
    weight_decay: float = Field(
        default=5e-4, ge=0, le=1, description="L2 penalty on all parameters"
    )
    lr_schedule: Literal["multistep", "cosine"] = Field(
        default="multistep", description="lr over epochs"
    )
    lr_milestones: tuple[Fraction, ...] = Field(
        default=(0.5, 0.75),
        strict=False,
        description="multistep: lr drops here (fractions of the run)",
    )
    lr_decay: float = Field(default=0.1, gt=0, le=1, description="multistep: factor at each drop")
    label_smoothing: float = Field(default=0.0, ge=0, lt=1, description="of the cross-entropy")
    confidence_penalty: float = Field(
        default=0.0,
        ge=0,
        le=10,
        description="β on the entropy of the outputs (Pereyra et al. 2017)",
    )
    seed: int = Field(
        default=0, ge=0, lt=2**63, description="of weights, data order and augmentation"
    )
    device: Literal["auto", "cpu", "cuda"] = Field(
        default="auto", description="auto: CUDA if there is one"
    )
    precision: Literal["fp32", "bf16", "auto"] = Field(
        default="fp32",
        description="bf16: autocast; auto: bf16 where the hardware has the instructions",
    )
    executor: Literal["eager", "fused", "cuda_graph", "auto"] = Field(
        default="eager",
        description="members one by one, all at once as grouped convolutions, or side by side in a "
        "CUDA graph of the whole step: the same numbers but for rounding; auto: fused for small "
        "networks on the CPU, where it pays",
    )
    num_threads: Annotated[int, Field(ge=1, le=1024)] | None = Field(
        default=None, description="CPU threads; null: all cores this process may use"
    )
    leader_epoch: Literal["last", "best"] = Field(
        default="last",
        description="which epoch's leader is saved: the last one's, or that of the epoch with the "
        "best accuracy on the validation images (the first of equals)",
    )
    checkpoint_every_s: float = Field(
        default=10.0,
        ge=0,
        le=86_400,
        description="seconds between checkpoints, at the end of an epoch; what a kill costs at "
        "most, beside the epoch it falls in; 0: every epoch, before it is reported",
    )

    @model_validator(mode="before")
    @classmethod
    def _defaults_of_the_method(cls, values: dict[str, Any]) -> dict[str, Any]:
        name = values.get("method", "okddip")
        if not isinstance(name, str) or name not in METHODS:
            return values  # the field says what is wrong
        info = METHODS[name]
        defaults: dict[str, Any] = {"temperature": info.temperature}
        if not info.grouped:
            defaults["num_peers"] = 0
        if len(info.structures) == 1:
            defaults["structure"] = info.structures[0]
        return {**defaults, **values}

    @field_validator("executor", mode="before")
    @classmethod
    def _current_name(cls, value: Any) -> Any:
        return RENAMED_EXECUTORS.get(value, value) if isinstance(value, str) else value

    @model_validator(mode="after")
    def _method_fits(self) -> Self:
        info = METHODS[self.method]
        problems: list[tuple[KeyPath, str]] = []
        if info.grouped == (self.num_peers == 0):
            what = (
                "trains a group: 1 or more" if info.grouped else "trains one network: leave it out"
            )
            problems.append((("num_peers",), f"{self.num_peers}, but {self.method} {what}"))
        if self.structure not in info.structures:
            text = f"{self.structure!r}, but {self.method} needs {' or '.join(info.structures)}"
            problems.append((("structure",), text))
        require_plain("teacher", self.teacher)
        try:
            self.teacher_config()
        except ConfigError as error:
            problems += [(("teacher", *path), text) for path, text in error.problems]
        if problems:
            raise ConfigError(problems)
        return self

    @model_validator(mode="after")
    def _repeated_steps_are_alike(self) -> Self:
        reasons = {
            "streamed images are decoded outside of it": self.data.streaming,
            f"those of {self.method} are not alike": not METHODS[self.method].same_steps,
        }
        if self.executor == "cuda_graph" and any(reasons.values()):
            why = " and ".join(reason for reason, holds in reasons.items() if holds)
            text = f"'cuda_graph' repeats one step from a CUDA graph, but {why}; use 'eager'"
            raise ConfigError([(("executor",), text)])
        return self

    @model_validator(mode="after")
    def _milestones_ascend(self) -> Self:
        if list(self.lr_milestones) != sorted(set(self.lr_milestones)):
            text = f"{list(self.lr_milestones)} is not strictly ascending"
            raise ConfigError([(("lr_milestones",), text)])
        return self

    @model_validator(mode="after")
    def _network_comes_in_this_width(self) -> Self:
        if problem := width_problem(self.model, self.width):
            raise ConfigError([(("width",), problem)])
        return self

    def teacher_config(self) -> "TrainConfig | None":
        """Return the run that trains the teacher first, if one is described; on the same images.

        Raises:
            ConfigError: The description is not a valid configuration.
        """
        if not isinstance(self.teacher, dict):
            return None
        _require_few_teachers(self.teacher)
        here = {"device": self.device, "num_threads": self.num_threads}
        return TrainConfig(**{**here, **self.teacher, "data": self.data})

    @property
    def ramp_length(self) -> int:
        """R in whole epochs: ``ramp_epochs``, or that fraction of the run."""
        if isinstance(self.ramp_epochs, int):
            return self.ramp_epochs
        return round(self.ramp_epochs * self.epochs)

    @property
    def num_members(self) -> int:
        """Group size m: the peers and the leader."""
        return self.num_peers + 1

    def to_dict(self) -> dict[str, Any]:
        """Return plain Python values, ready for YAML or JSON; ``TrainConfig(**d)`` restores it."""
        return self.model_dump(mode="json")


def _require_few_teachers(teacher: object) -> None:
    """Count teachers of teachers before each of them is built inside of the last one's check."""
    count = 0
    while isinstance(teacher, dict):
        teacher, count = teacher.get("teacher"), count + 1
    if count > MOST_TEACHERS:
        raise ConfigError([((), f"{count} teachers of teachers are more than {MOST_TEACHERS}")])


HYPERPARAMETERS = frozenset(name for info in METHODS.values() for name in info.hyperparameters)
"""All method-specific fields; each method reads some of them."""


def unread_fields(values: Mapping[str, Any], methods: Collection[str]) -> list[tuple[KeyPath, str]]:
    """Return the method-specific fields that none of the methods reads, with the reason.

    ``TrainConfig`` itself takes them: configurations of several methods are made from the same
    fields, and a saved one holds them all. A file that a person writes is held against this.

    Args:
        values: The fields given, valid ones; a teacher's description is checked as well.
        methods: The methods that are trained with them.
    """
    problems: list[tuple[KeyPath, str]] = [
        ((name,), unread(name, methods))
        for name in values
        if name in HYPERPARAMETERS and not set(methods) & set(readers_of(name))
    ]
    teacher = values.get("teacher")
    if isinstance(teacher, Mapping) and not problems:
        method = teacher.get("method", TrainConfig.model_fields["method"].default)
        problems += [(("teacher", *path), text) for path, text in unread_fields(teacher, [method])]
    return problems


def unread(field: str, methods: Collection[str]) -> str:
    """Say that some methods do not read a field, which do, and what it may have been meant for."""
    own = [name for method in methods for name in METHODS[method].hyperparameters]
    hint = nearest(field, own) if field in HYPERPARAMETERS else ""
    return f"is not read by {', '.join(methods)}, only by {', '.join(readers_of(field))}{hint}"
