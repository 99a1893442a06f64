"""The configurations of a confirmation: the search's best, the paper's setting and baselines.

Pure choices over a space and its study. The resulting plan is written to disk before the first run,
so that no result can change which configurations take part.
"""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Literal, Self

import optuna
from optuna.trial import FixedTrial, FrozenTrial, TrialState

from okddip_search.algorithms.seeds import confirm_seed
from okddip_search.confirm.looks import Design, planned_looks
from okddip_search.errors import UserError
from okddip_search.layout import PLAN
from okddip_search.space.baselines import baseline_config, without_seed
from okddip_search.space.model import SearchSpec
from okddip_search.space.settings import RENAMED, ConfirmSettings
from okddip_search.study.trials import paper_trial, ranked
from trainer.config.strict import ConfigError
from trainer.io.files import write_atomically
from trainer.io.text import truncate
from trainer.io.yaml import YamlError, dump_yaml, parse_yaml, read_text

PAPER = "paper's setting"
LONGER_SINGLE = "single, as long in seconds"


@dataclass(frozen=True)
class Configuration:
    """A configuration trained over several seeds.

    Attributes:
        label: Its name, unique in the plan.
        kind: A ``candidate`` of the search, the ``paper``'s setting or a ``baseline`` method.
        note: Origin of its settings, in one line.
        config: Fields of ``TrainConfig``, without seed, data, device and number of threads.
        search_trial: The search's trial with this configuration, if any.
        search_value: That trial's objective value, if it was completed.
        may_win: Whether it is one of the search's best, from which the winner is chosen.
        is_baseline: Whether a winner is compared with it: baseline methods, the paper's setting,
            and a candidate identical to a baseline.
    """

    label: str
    kind: Literal["candidate", "paper", "baseline"]
    note: str
    config: Mapping[str, Any]
    search_trial: int | None = None
    search_value: float | None = None
    may_win: bool = False
    is_baseline: bool = False

    @property
    def method(self) -> str:
        """Name of its training method."""
        return str(self.config["method"])


@dataclass(frozen=True)
class Plan:
    """The runs of a confirmation.

    Attributes:
        settings: The space's, with the user's overrides.
        study_seed: Seed of the search, from which the confirmation's seeds are derived.
        data: Data set and preparation of the images, without their location.
        configurations: In display order; empty until they are chosen.
        search_trials: Number of the search's trials when the configurations were chosen.
        begun: When it was planned (ISO 8601, UTC); names its looks in the log of openings.
    """

    settings: ConfirmSettings
    study_seed: int
    data: Mapping[str, Any]
    configurations: tuple[Configuration, ...] = ()
    search_trials: int = 0
    begun: str = ""

    @classmethod
    def begin(cls, spec: SearchSpec, settings: ConfirmSettings) -> Self:
        """Return a plan without configurations; ``choose`` adds them."""
        begun = datetime.now(UTC).isoformat()
        return cls(settings, spec.study.seed, prepared_data(spec), begun=begun)

    @property
    def looks(self) -> tuple[int, ...]:
        """Numbers of seeds after which the test set is opened."""
        if self.settings.seeds == "auto":
            return planned_looks(self.settings.max_seeds)
        return (self.settings.seeds,)

    @property
    def seeds(self) -> tuple[int, ...]:
        """Seeds of all runs there can be; a longer list starts with the shorter one."""
        return tuple(confirm_seed(self.study_seed, i) for i in range(self.looks[-1]))

    def design(self, baselines: Sequence[str]) -> Design:
        """Return how the winner is compared with these baselines."""
        candidates = sum(configuration.may_win for configuration in self.configurations)
        methods = [None if b == LONGER_SINGLE else self.configuration(b).method for b in baselines]
        asked = self.settings.primary
        primary = methods.index(asked) if asked in methods else None
        return Design(candidates, len(baselines), self.looks, primary)

    def configuration(self, label: str) -> Configuration:
        """Return a configuration by its label."""
        return next(c for c in self.configurations if c.label == label)

    @property
    def single(self) -> Configuration | None:
        """The baseline ``single``, under whichever label, if it takes part."""
        baselines = (c for c in self.configurations if c.is_baseline and c.method == "single")
        return next((c for c in baselines if c.label != LONGER_SINGLE), None)

    def with_configuration(self, configuration: Configuration) -> Self:
        """Return the plan with one more configuration."""
        return replace(self, configurations=(*self.configurations, configuration))

    def save(self, directory: Path) -> None:
        """Write ``plan.yaml``, atomically."""
        directory.mkdir(parents=True, exist_ok=True)
        values = {
            "begun": self.begun,
            "search_trials": self.search_trials,
            "study_seed": self.study_seed,
            "data": dict(self.data),
            "settings": self.settings.model_dump(mode="json"),
            "contenders": [asdict(configuration) for configuration in self.configurations],
        }
        body = dump_yaml(values)
        write_atomically(
            directory / PLAN,
            "# The plan of the confirmation, written before its runs.\n" + body,
        )

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
            parsed = parse_yaml(read_text(path))
            if parsed.problems:
                raise YamlError(*parsed.problems[0])
            values = parsed.values
            settings = {RENAMED.get(key, key): v for key, v in values["settings"].items()}
            return cls(
                ConfirmSettings(**settings),
                int(values["study_seed"]),
                dict(values["data"]),
                tuple(_from_plan(stored) for stored in values["contenders"]),
                int(values["search_trials"]),
                str(values.get("begun", "")),
            )
        except (OSError, YamlError, KeyError, TypeError, ValueError) as error:
            text = f"{path} is damaged: {truncate(str(error), 300)}"
            remedy = "Restore it from a copy, or set this confirmation aside with --restart."
            raise UserError(text, remedy) from None


def _from_plan(stored: Mapping[str, Any]) -> Configuration:
    """Build a configuration from ``plan.yaml``, where version 0.1.0 says rival for baseline."""
    values = {("is_baseline" if key == "is_rival" else key): v for key, v in stored.items()}
    return Configuration(
        **{**values, "kind": "baseline" if values["kind"] == "rival" else values["kind"]}
    )


def prepared_data(spec: SearchSpec) -> dict[str, Any]:
    """Return data set and preparation of the images, without their location."""
    return spec.data.model_dump(mode="json", exclude={"root", "download", "workers"})


def _with_defaults(data: Mapping[str, Any], spec: SearchSpec) -> dict[str, Any]:
    """Add the defaults of fields that the version which wrote a plan did not have."""
    fields = type(spec.data).model_fields
    return {name: data.get(name, fields[name].default) for name in prepared_data(spec)}


def agreed_settings(
    spec: SearchSpec, known: Plan | None, overrides: Mapping[str, Any]
) -> ConfirmSettings:
    """Return a confirmation's settings: the plan's or the space's, with the user's overrides.

    Raises:
        UserError: An override is invalid, or comes too late.
    """
    usual = known.settings if known else spec.confirm or ConfirmSettings()
    try:
        asked = ConfirmSettings(**{**usual.model_dump(), **overrides})
    except ConfigError as error:
        raise UserError(f"confirm: {error}") from None
    if known is not None:
        kept = {name for name in ConfirmSettings.model_fields if name != "seeds"}
        changed = sorted(n for n in kept if getattr(asked, n) != getattr(usual, n))
        is_auto_now = asked.seeds == "auto" and usual.seeds != "auto"
        if changed or is_auto_now or asked.most_seeds < usual.most_seeds:
            what = ", ".join(changed) or f"seeds (from {usual.seeds} to {asked.seeds})"
            raise UserError(
                f"the confirmation has begun with other settings: {what}",
                "Seeds can be added, but the configurations were fixed before the first run. "
                "--restart starts another confirmation.",
            )
        if _with_defaults(known.data, spec) != prepared_data(spec):
            raise UserError(
                "the confirmation has begun with images that were prepared in another way",
                "Leave --set data.… out, but for data.root and data.workers.",
            )
    return asked


def choose(
    plan: Plan,
    spec: SearchSpec,
    study: optuna.Study,
    tuned: Mapping[str, Mapping[str, Any]],
) -> Plan:
    """Choose the configurations of a plan.

    Args:
        plan: Just begun.
        spec: The search.
        study: Its study.
        tuned: Configurations of the baselines that had their own search, by method.

    Raises:
        UserError: No trial is complete, or a baseline cannot be built from the search's winner.
    """
    best = best_trials(study, plan.settings.top)
    if not best:
        raise UserError(
            "no trial of the search is complete, so there is nothing to confirm",
            "Let the search finish a trial first (--resume).",
        )
    paper = _paper(spec, study)
    configurations = _candidates(spec, best, paper)
    leading = _config_of(spec, best[0].params)
    for method in plan.settings.methods:
        baseline = _baseline(method, leading, best[0].number, tuned.get(method))
        same = [c for c in configurations if c.config == baseline.config]
        configurations = [
            replace(c, is_baseline=c.is_baseline or c in same) for c in configurations
        ]
        configurations += [] if same else [baseline]
    count = len(study.get_trials(deepcopy=False))
    return replace(plan, configurations=tuple(configurations), search_trials=count)


def _candidates(
    spec: SearchSpec, best: Sequence[FrozenTrial], paper: Configuration
) -> list[Configuration]:
    """Return the search's best and then the paper's setting, which is listed only once."""
    found, may_win = [], False
    for rank, trial in enumerate(best, start=1):
        config = _config_of(spec, trial.params)
        if config == paper.config:
            may_win = True
            continue
        note = f"number {rank} of the search"
        label = f"trial {trial.number}"
        found.append(
            Configuration(label, "candidate", note, config, trial.number, trial.value, may_win=True)
        )
    # A further candidate would be a further chance of a lucky choice (docs/confirm.md).
    return [*found, replace(paper, may_win=may_win, is_baseline=True)]


def best_trials(study: optuna.Study, count: int) -> list[FrozenTrial]:
    """Return the best complete trials, best first; equal configurations count once."""
    distinct: list[FrozenTrial] = []
    for trial in ranked(study.get_trials(deepcopy=False)):
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
            "See what failed in MLflow, or set confirm.baselines to searched.",
        )
    return _config_of(spec, best[0].params)


def _paper(spec: SearchSpec, study: optuna.Study) -> Configuration:
    """Return the first enqueued configuration, or else the trainer's defaults: the paper's."""
    trial = paper_trial(study.get_trials(deepcopy=False))
    if trial is not None and trial.params:
        complete = trial.state is TrialState.COMPLETE
        return Configuration(
            PAPER,
            "paper",
            f"trial {trial.number} of the search, enqueued first",
            _config_of(spec, trial.params),
            trial.number,
            trial.value if complete else None,
        )
    defaults = spec.configured(spec.fixed)
    return Configuration(PAPER, "paper", "the trainer's defaults", without_seed(defaults))


def _config_of(spec: SearchSpec, params: Mapping[str, Any]) -> dict[str, Any]:
    return without_seed(spec.suggest(FixedTrial(dict(params))))


def _baseline(
    method: str,
    leading: Mapping[str, Any],
    leading_number: int,
    tuned: Mapping[str, Any] | None,
) -> Configuration:
    if tuned is not None:
        note = "tuned in a search of its own with the same budget"
        return Configuration(method, "baseline", note, tuned, is_baseline=True)
    note = f"as published, with network, images, optimiser and length of trial {leading_number}"
    try:
        return Configuration(
            method, "baseline", note, baseline_config(method, leading), is_baseline=True
        )
    except ConfigError as error:
        raise UserError(
            f"confirm.methods: {method}: {error}",
            f"Leave {method} out of confirm.methods, or set trainer.teacher in the space.",
        ) from None


def longer_single(plan: Plan, seconds: Mapping[str, Sequence[float]]) -> Configuration | None:
    """Return ``single`` trained for as many seconds as the search's best configuration was.

    Args:
        plan: With its configurations.
        seconds: Training seconds of each completed run, by label.

    Returns:
        None if ``single`` takes no part or one of the two times is unknown.
    """
    single = plan.single
    candidates = (c for c in plan.configurations if c.may_win)
    leading = max(candidates, key=lambda c: c.search_value or 0.0)
    if single is None or not seconds.get(single.label) or not seconds.get(leading.label):
        return None
    one, other = (
        sum(seconds[label]) / len(seconds[label]) for label in (single.label, leading.label)
    )
    factor = max(1.0, other / one)
    epochs = round(factor * single.config["epochs"])
    note = f"single for {epochs} epochs, which take as long as {leading.label} ({factor:.1f} times)"
    config = {**single.config, "epochs": epochs}
    return Configuration(LONGER_SINGLE, "baseline", note, config, is_baseline=True)
