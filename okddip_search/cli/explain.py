"""``--explain``: prints the plan of a search; nothing is started, torch is not imported."""

from pathlib import Path

import optuna

from okddip_search.algorithms.screen import rung_of
from okddip_search.cli.checks import describe_tracking, require_folder, require_room
from okddip_search.cli.disk import estimate_disk
from okddip_search.cli.images import count_images
from okddip_search.cli.pace import BudgetPlan, first_judged
from okddip_search.cluster.resources import allocate, this_machine
from okddip_search.confirm.looks import planned_looks
from okddip_search.driver.autotune import left_to_timing, load_speed
from okddip_search.driver.budget import later_runs, most_runs
from okddip_search.formatting import duration, params_text
from okddip_search.layout import BEST, DATA, JOURNAL, PAGE, SESSIONS, SPEC, SPEED
from okddip_search.space.model import SearchSpec
from okddip_search.space.settings import ConfirmSettings
from okddip_search.study.warm_start import warm_configurations
from okddip_search.terminal import echo

SAMPLES = 3


def explain_search(
    spec: SearchSpec,
    directory: Path,
    *,
    is_resumed: bool,
    gpus: int | None,
    tracking_uri: str | None,
    upgrade_tracking_db: bool,
) -> None:
    """Print the resolved space, the budget, each trial's resources and the files to be written.

    Raises:
        UserError: The search cannot run here as asked.
    """
    require_folder(directory)
    tracking = describe_tracking(
        directory,
        tracking_uri,
        is_resumed=is_resumed,
        upgrade=upgrade_tracking_db,
        say=lambda line: echo(line, err=True),
    )
    allocation = allocate(spec.resources, [this_machine(gpus)], asked_gpus=gpus)
    images = count_images(spec.data)
    study = spec.study
    echo(spec.to_yaml())
    echo(f"# Images\n{images.words}\n")
    echo("# Budget")
    if study.budget is not None:
        plan = BudgetPlan(spec, allocation, directory, images)
        spec = plan.expected()
        echo(plan.describe())
    else:
        echo(_budget(spec))
    echo("\n# Resources")
    echo(allocation.words)
    echo(_timing(spec, directory))
    echo("\n# First trials")
    warm = warm_configurations(spec, echo)
    tried = spec.model_copy(update={"enqueue": (*spec.enqueue, *warm)})
    for number, params in enumerate(first_params(tried)):
        source = "enqueued" if number < len(tried.enqueue) else study.proposer.type
        echo(f"trial {number} ({source}): {params_text(params)}")
    if spec.confirm is not None:
        echo("\n# Confirmation, after the search")
        echo(_confirmation(spec.confirm, "up to " if study.budget else ""))
    echo("\n# Disk")
    disk = estimate_disk(spec, allocation.slots, images, own_store=tracking_uri is None)
    echo(disk.describe() if disk else "unknown: the networks could not be counted")
    if disk:
        echo(require_room(directory, disk))
    echo("\n# Would write")
    for name, what in (
        (SPEC, "this space"),
        *([(SPEED, "timings before the first trial")] if left_to_timing(spec) else []),
        (JOURNAL, "every decision and every epoch's value (Optuna)"),
        (
            "trials/NUMBER/",
            "result.json (the curves) of each trial; its checkpoint while it runs, "
            f"and the leaders of the best {spec.study.keep_leaders}",
        ),
        (BEST, "the winner's configuration"),
        ("leader/", "the winner's network"),
        (PAGE, f"the search in one page; {DATA} has its numbers"),
        *([("confirm/", "the confirmation: runs, results, leader")] if spec.confirm else []),
        (SESSIONS, "the commands that worked on it, and how each ended"),
        ("search.log", "messages of the libraries"),
    ):
        echo(f"{directory}/{name:<16} {what}")
    echo(f"MLflow: {tracking}")


def _budget(spec: SearchSpec) -> str:
    trials, epochs = spec.study.trials, spec.max_epochs
    timeout_s = spec.study.timeout
    late = "" if timeout_s is None else f"\nno trial starts after {duration(timeout_s)}"
    if spec.study.searcher is None:
        return (
            f"{trials} finished trials of at most {epochs} epochs "
            f"({trials * epochs:,} epochs if none is pruned){late}"
        )
    rung = rung_of(first_judged(spec), epochs)
    on = max(1, round(trials * rung / (epochs - rung))) if rung < epochs else 0
    return (
        f"{trials} trials of {rung} epochs each; about as many epochs again let the most promising "
        f"ones go on to epoch {epochs}: about {on} of them\n"
        f"(about {trials * rung + on * (epochs - rung):,} epochs in all){late}"
    )


def _timing(spec: SearchSpec, directory: Path) -> str:
    known = load_speed(directory)
    if known is not None and known.chosen:
        return known.describe()
    left = left_to_timing(spec)
    return f"timed once, before the first trial: {', '.join(left) or 'nothing'}"


def _confirmation(settings: ConfirmSettings, at_most: str) -> str:
    tuned = ", each after a search of its own" if settings.baselines == "tuned" else ""
    return (
        f"the {settings.top} best configurations, the paper's setting and the baselines "
        f"{', '.join(settings.methods)}{tuned}\n{_seeds(settings, at_most)}"
    )


def _seeds(settings: ConfirmSettings, at_most: str) -> str:
    if settings.seeds != "auto":
        runs = most_runs(settings, settings.seeds)
        return (
            f"with {at_most}{settings.seeds} seeds each: at most {runs} runs; then the sealed test "
            "set is opened once"
        )
    looks = planned_looks(settings.max_seeds)
    runs = most_runs(settings, looks[0]) + later_runs(settings, looks[-1] - looks[0])
    return (
        f"with as many seeds as the verdict needs: at most {runs} runs; the sealed test set is "
        f"opened after {', '.join(map(str, looks))} seeds, as long as baselines are undecided"
    )


def first_params(spec: SearchSpec) -> list[dict[str, object]]:
    """Return the parameters of the enqueued trials and of the first sampled ones.

    They are sampled as in the search before any trial has finished, when samplers that learn still
    suggest at random.
    """
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    study = optuna.create_study(direction="maximize")
    for params in spec.enqueue:
        study.enqueue_trial(dict(params))
    found: list[dict[str, object]] = []
    for number in range(min(spec.study.trials, len(spec.enqueue) + SAMPLES)):
        study.sampler = spec.make_sampler(number)
        trial = study.ask()
        spec.suggest(trial)
        found.append(trial.params)
    return found
