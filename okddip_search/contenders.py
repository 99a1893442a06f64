"""Who is confirmed: the search's best configurations, the paper's setting, and rivals.

Pure choices over a space and its study; the plan that comes of them is written down before the
first run, so that no result can change who takes part.
"""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Literal, Self

import optuna
import yaml
from optuna.trial import FixedTrial, FrozenTrial, TrialState

from okddip_search.errors import UserError
from okddip_search.seeds import confirm_seed
from okddip_search.settings import ConfirmSettings
from okddip_search.spec import SearchSpec
from okddip_search.study import paper_trial, trials_in
from trainer.config import ConfigError, TrainConfig
from trainer.files import write_atomically
from trainer.registry import METHODS

PLAN = "plan.yaml"
PAPER = "paper's setting"
LONGER_SINGLE = "single, as long in seconds"
DEFAULT_PEERS: int = TrainConfig.model_fields["num_peers"].default

_TEACHING = {knob for info in METHODS.values() for knob in info.knobs}
"""Fields that say how members teach each other; a rival has its own, as published."""


@dataclass(frozen=True)
class Contender:
    """A configuration that is trained over several seeds.

    Attributes:
        label: Its name, unique in the plan.
        kind: A ``candidate`` of the search, the ``paper``'s setting, or a ``rival`` method.
        note: What it is and where its settings come from, in one line.
        config: Fields of ``TrainConfig``, without seed, data and what the machine decides.
        search_trial: The search's trial with this configuration, if any.
        search_value: What that trial was worth, if it was completed.
        may_win: Whether it is one of the search's best, of which the winner is chosen.
    """

    label: str
    kind: Literal["candidate", "paper", "rival"]
    note: str
    config: Mapping[str, Any]
    search_trial: int | None = None
    search_value: float | None = None
    may_win: bool = False

    @property
    def method(self) -> str:
        """Name of its training method."""
        return str(self.config["method"])


@dataclass(frozen=True)
class Plan:
    """What a confirmation trains.

    Attributes:
        settings: As asked for.
        contenders: In the order in which they are shown.
        seeds: Every contender is trained with each of them.
        search_trials: Trials that the search had when the contenders were chosen.
    """

    settings: ConfirmSettings
    contenders: tuple[Contender, ...]
    seeds: tuple[int, ...]
    search_trials: int

    def with_contender(self, contender: Contender) -> Self:
        """Return the plan with one more contender."""
        return replace(self, contenders=(*self.contenders, contender))

    def with_seeds(self, count: int, study_seed: int) -> Self:
        """Return the plan with more seeds; those that it has stay the first."""
        settings = self.settings.model_copy(update={"seeds": count})
        return replace(self, settings=settings, seeds=first_seeds(study_seed, count))

    def save(self, directory: Path) -> None:
        """Write ``plan.yaml``, atomically."""
        directory.mkdir(parents=True, exist_ok=True)
        values = {
            "search_trials": self.search_trials,
            "settings": self.settings.model_dump(mode="json"),
            "seeds": list(self.seeds),
            "contenders": [asdict(contender) for contender in self.contenders],
        }
        body = yaml.safe_dump(values, sort_keys=False, allow_unicode=True)
        write_atomically(directory / PLAN, "# What is confirmed; chosen before any run.\n" + body)

    @classmethod
    def load(cls, directory: Path) -> Self | None:
        """Read ``plan.yaml``; None where there is none.

        Raises:
            UserError: It is damaged.
        """
        path = directory / PLAN
        if not path.exists():
            return None
        try:
            values = yaml.safe_load(path.read_text(encoding="utf-8"))
            return cls(
                ConfirmSettings(**values["settings"]),
                tuple(Contender(**contender) for contender in values["contenders"]),
                tuple(values["seeds"]),
                values["search_trials"],
            )
        except (yaml.YAMLError, KeyError, TypeError, ValueError) as error:
            raise UserError(f"{path} is damaged: {error}", "Restore it from a copy.") from None


def first_seeds(study_seed: int, count: int) -> tuple[int, ...]:
    """Return the seeds of a confirmation; a longer list begins with the shorter one."""
    return tuple(confirm_seed(study_seed, index) for index in range(count))


def agreed_settings(
    spec: SearchSpec, known: Plan | None, changes: Mapping[str, Any]
) -> ConfirmSettings:
    """Return the settings of a confirmation: the plan's or the space's, with the user's changes.

    Raises:
        UserError: A change is no valid setting, or comes too late.
    """
    usual = known.settings if known else spec.confirm or ConfirmSettings()
    try:
        asked = ConfirmSettings(**{**usual.model_dump(), **changes})
    except ConfigError as error:
        raise UserError(f"confirm: {error}") from None
    if known is not None:
        kept = {name for name in ConfirmSettings.model_fields if name != "seeds"}
        changed = sorted(n for n in kept if getattr(asked, n) != getattr(usual, n))
        if changed or asked.seeds < usual.seeds:
            what = ", ".join(changed) or f"seeds (from {usual.seeds} to {asked.seeds})"
            raise UserError(
                f"the confirmation has begun with other settings: {what}",
                "More seeds can be added; who takes part was fixed before the first run.",
            )
    return asked


def make_plan(
    spec: SearchSpec,
    study: optuna.Study,
    settings: ConfirmSettings,
    tuned: Mapping[str, Mapping[str, Any]],
) -> Plan:
    """Choose the contenders.

    Args:
        spec: The search.
        study: Its study.
        settings: How many candidates and seeds, and which rivals.
        tuned: Rivals that had a search of their own: method → configuration.

    Raises:
        UserError: No trial is complete, or a rival cannot be built from the search's winner.
    """
    best = best_trials(study, settings.top)
    if not best:
        raise UserError(
            "no trial of the search is complete, so there is nothing to confirm",
            "Let the search finish a trial first (--resume).",
        )
    paper = _paper(spec, study)
    contenders = [
        Contender(
            label=f"trial {trial.number}",
            kind="candidate",
            note=f"number {rank} of the search",
            config=_config_of(spec, trial.params),
            search_trial=trial.number,
            search_value=trial.value,
            may_win=True,
        )
        for rank, trial in enumerate(best, start=1)
        if trial.number != paper.search_trial
    ]
    # One more that may win would be one more chance of a lucky choice (docs/confirm.md).
    is_among_best = paper.search_trial in {trial.number for trial in best}
    contenders.append(replace(paper, may_win=is_among_best))
    fixed = {contender.label: dict(contender.config) for contender in contenders}
    leading = _config_of(spec, best[0].params)
    for method in settings.methods:
        rival = _rival(method, leading, best[0].number, tuned.get(method))
        if dict(rival.config) not in fixed.values():
            contenders.append(rival)
    seeds = first_seeds(spec.study.seed, settings.seeds)
    return Plan(settings, tuple(contenders), seeds, len(study.get_trials(deepcopy=False)))


def best_trials(study: optuna.Study, count: int) -> list[FrozenTrial]:
    """Return the best complete trials, the best first; equal configurations count once."""
    ranked = sorted(
        trials_in(study, TrialState.COMPLETE), key=lambda t: (-(t.value or 0.0), t.number)
    )
    distinct: list[FrozenTrial] = []
    for trial in ranked:
        if all(trial.params != other.params for other in distinct):
            distinct.append(trial)
    return distinct[:count]


def best_config(spec: SearchSpec, study: optuna.Study) -> dict[str, Any]:
    """Return the configuration of a study's best trial.

    Raises:
        UserError: No trial is complete.
    """
    best = best_trials(study, 1)
    if not best:
        raise UserError(
            f"no trial of {spec.name} is complete",
            "See what failed in MLflow, or set confirm.rivals to searched.",
        )
    return _config_of(spec, best[0].params)


def _paper(spec: SearchSpec, study: optuna.Study) -> Contender:
    """Return the first enqueued configuration, or else the trainer's defaults: the paper's."""
    trial = paper_trial(study)
    if trial is not None and trial.params:
        complete = trial.state is TrialState.COMPLETE
        return Contender(
            PAPER,
            "paper",
            f"trial {trial.number} of the search, enqueued first",
            _config_of(spec, trial.params),
            trial.number,
            trial.value if complete else None,
        )
    defaults = TrainConfig(**spec.trainer, data=spec.data)
    return Contender(PAPER, "paper", "the trainer's defaults", _without_seed(defaults))


def _config_of(spec: SearchSpec, params: Mapping[str, Any]) -> dict[str, Any]:
    return _without_seed(spec.suggest(FixedTrial(dict(params))))


def _without_seed(config: TrainConfig) -> dict[str, Any]:
    """Return the fields that describe a setting; images, device and threads come with the run."""
    elsewhere = {"seed", "data", "device", "num_threads"}
    return {k: v for k, v in config.to_dict().items() if k not in elsewhere}


def _rival(
    method: str,
    leading: Mapping[str, Any],
    leading_number: int,
    tuned: Mapping[str, Any] | None,
) -> Contender:
    if tuned is not None:
        note = "tuned in a search of its own with the same budget"
        return Contender(method, "rival", note, tuned)
    note = f"as published, with network, images, optimiser and length of trial {leading_number}"
    try:
        return Contender(method, "rival", note, rival_config(method, leading))
    except ConfigError as error:
        raise UserError(
            f"confirm.methods: {method}: {error}",
            f"Leave {method} out of confirm.methods, or set trainer.teacher in the space.",
        ) from None


def rival_config(method: str, leading: Mapping[str, Any]) -> dict[str, Any]:
    """Turn a configuration into that of another method at equal cost.

    Network, images, optimiser, length and group size stay; how members teach each other is as
    published for the method.

    Args:
        method: The rival.
        leading: Fields of ``TrainConfig``, those of the search's best trial.

    Raises:
        ConfigError: The method needs what the configuration does not have (a teacher).
    """
    info = METHODS[method]
    values = {k: v for k, v in leading.items() if k not in _TEACHING | {"method", "num_peers"}}
    if "teacher" in info.knobs:
        if not leading.get("teacher"):
            raise ConfigError([(("teacher",), f"{method} needs one: set trainer.teacher")])
        values["teacher"] = leading["teacher"]
    if info.grouped:
        values["num_peers"] = leading["num_peers"] or DEFAULT_PEERS
    if values["structure"] not in info.structures:
        values["structure"] = info.structures[0]
    return _without_seed(TrainConfig(**values, method=method))


def rival_spec(spec: SearchSpec, method: str) -> SearchSpec:
    """Return the search's space for one method: the same ranges, budget and seed.

    Sampled fields that the method does not read are left out; so are conditions on the method
    itself, which is fixed now.
    """
    info = METHODS[method]
    unread = _TEACHING - set(info.knobs)
    unread |= {"method"} | (set() if info.grouped else {"num_peers"})
    if len(info.structures) == 1:
        unread.add("structure")
    search = {}
    for name, dimension in spec.search.items():
        if name in unread or method not in dimension.when.get("method", (method,)):
            continue
        when = {k: v for k, v in dimension.when.items() if k in search}
        search[name] = dimension.model_copy(update={"when": when})
    trainer = {k: v for k, v in spec.trainer.items() if k not in unread}
    enqueue = [{k: v for k, v in entry.items() if k in search} for entry in spec.enqueue[:1]]
    return replace(
        spec,
        name=f"{spec.name}-{method}",
        trainer={**trainer, "method": method},
        search=search,
        enqueue=tuple(entry for entry in enqueue if entry),
        confirm=None,
    )


def longer_single(plan: Plan, seconds: Mapping[str, Sequence[float]]) -> Contender:
    """Return ``single`` trained for as many seconds as the search's best configuration was.

    Args:
        plan: It has ``single`` among its contenders.
        seconds: Label → training seconds of each of its runs.

    Raises:
        UserError: No run of one of the two was completed.
    """
    single = next(c for c in plan.contenders if c.label == "single")
    leading = max((c for c in plan.contenders if c.may_win), key=lambda c: c.search_value or 0.0)
    if not seconds.get("single") or not seconds.get(leading.label):
        raise UserError(
            f"no run of single or of {leading.label} was completed, so their times are unknown",
            "Set confirm.single to epochs.",
        )
    mean = {label: sum(seconds[label]) / len(seconds[label]) for label in (leading.label, "single")}
    factor = max(1.0, mean[leading.label] / mean["single"])
    epochs = round(factor * single.config["epochs"])
    note = f"single for {epochs} epochs, which take as long as {leading.label} ({factor:.1f} times)"
    return Contender(LONGER_SINGLE, "rival", note, {**single.config, "epochs": epochs})
