"""The command ``okddip-search``: options and messages only; each command calls one function."""

import errno
import io
import json
import logging
import os
import shlex
import sys
from pathlib import Path
from typing import Any

import click

from okddip_search.cluster.signals import STOPPED, quit_on_signals
from okddip_search.driver.request import Request
from okddip_search.environment import protect_files
from okddip_search.errors import UserError
from okddip_search.export import FORMATS
from okddip_search.export import export as run_export
from okddip_search.hints import to_see
from okddip_search.masking import masked
from okddip_search.space.load import bundled_spaces, summary_of
from okddip_search.space.resolve import requested_search, resumed_search
from okddip_search.terminal import echo
from trainer.__main__ import main as train

REMEDIES = {
    errno.EROFS: "It is on a read-only file system: copy the search to where you may write, "
    "and continue there.",
    errno.EACCES: "You may not write there: change the permissions, or copy the search.",
}
DIRECTORY = click.Path(path_type=Path, file_okay=False)
upgrade_option = click.option(
    "--upgrade-tracking-db",
    is_flag=True,
    help="Migrate a database that an earlier MLflow wrote; it cannot read it then.",
)


@click.group(invoke_without_command=True, context_settings={"help_option_names": ["-h", "--help"]})
@click.option(
    "--space", metavar="FILE", help="Space file, or a bundled one. [default: digits.yaml]"
)
@click.option("--gpus", type=click.IntRange(0), help="GPUs to use; 0: CPU. [default: all visible]")
@click.option("--gpus-per-trial", type=float, help="Below 1, several trials share a GPU.")
@click.option("--trials", type=click.IntRange(1), help="Finished trials, instead of the space's.")
@click.option("--budget", metavar="TIME", help="Everything is over after 8h, or 80 gpu-hours.")
@click.option("--timeout", metavar="TIME", help="No trial starts after 8h, 90m, 30s.")
@click.option("--name", help="Name of the search, instead of the space's.")
@click.option("--out", type=DIRECTORY, help="Directory of the search. [default: runs/NAME]")
@click.option(
    "--resume",
    type=click.Choice(["yes", "auto"]),
    is_flag=False,
    flag_value="yes",
    metavar="[=auto]",
    help="Resume the search in the directory; --resume=auto: or begin one where there is none.",
)
@click.option("--tracking-uri", metavar="URI", help="MLflow server. [default: sqlite in --out]")
@upgrade_option
@click.option("--address", metavar="ADDR", help="Running Ray cluster. [default: this machine]")
@click.option("--set", "sets", metavar="KEY=VALUE", multiple=True, help="Change the space file.")
@click.option("--no-confirm", is_flag=True, help="Skip the confirmation of the space.")
@click.option("--explain", is_flag=True, help="Print the plan of the search without starting it.")
@click.version_option(package_name="okddip-search")
@click.pass_context
def cli(
    context: click.Context,
    space: str | None,
    gpus: int | None,
    gpus_per_trial: float | None,
    trials: int | None,
    budget: str | None,
    timeout: str | None,
    name: str | None,
    out: Path | None,
    resume: str | None,
    tracking_uri: str | None,
    upgrade_tracking_db: bool,
    address: str | None,
    sets: tuple[str, ...],
    no_confirm: bool,
    explain: bool,
) -> None:
    """Search for the best compact image classifier that online distillation can train.

    A space file defines the training and the values to try. Trials run in parallel on the GPUs,
    hopeless ones are pruned, MLflow shows them, and the best configuration and network are saved.

    \b
    okddip-search                                   digits on the CPU, a minute
    okddip-search --space cifar100.yaml --gpus 8    overnight on eight GPUs
    okddip-search --space cifar100.yaml --resume    resume after a stop or a crash
    """  # noqa: D301 (a backspace, click's mark for lines that it must not wrap)
    if context.invoked_subcommand is not None:
        return
    if gpus_per_trial is not None:
        sets = (*sets, f"resources.gpus_per_trial={gpus_per_trial}")
    spec, directory, is_resumed = requested_search(
        space,
        sets,
        resume="auto" if resume == "auto" else resume is not None,
        trials=trials,
        timeout=timeout,
        budget=budget,
        name=name,
        out=out,
        say=_warn,
    )
    if explain:
        from okddip_search.cli.explain import explain_search

        explained = spec.model_copy(update={"confirm": None}) if no_confirm else spec
        explain_search(
            explained,
            directory,
            is_resumed=is_resumed,
            gpus=gpus,
            tracking_uri=tracking_uri,
            upgrade_tracking_db=upgrade_tracking_db,
        )
        return
    quit_on_signals()
    from okddip_search.run import run_search

    place = (gpus, tracking_uri, address, _command(), upgrade_tracking_db)
    request = Request(spec, directory, is_resumed, *place)
    context.exit(run_search(request, then_confirm=not no_confirm))


def _command() -> str:
    return shlex.join(["okddip-search", *sys.argv[1:]])


def _warn(line: str) -> None:
    echo(line, err=True)


@cli.command()
@click.argument("directory", metavar="DIR", type=DIRECTORY)
@click.option(
    "--seeds", metavar="N|auto", help="Runs of each setting; auto: as needed. Can be added later."
)
@click.option("--top", type=int, help="Number of best configurations of the search.")
@click.option("--baselines", help="searched: the winner's optimiser settings; tuned: their own.")
@click.option("--rivals", hidden=True)
@click.option("--methods", metavar="A,B,…", help="Baseline methods.")
@click.option(
    "--single", metavar="UNIT", help="epochs: as many as a group; seconds: a longer run too."
)
@click.option("--open-test-again", is_flag=True, help="Open the test set again; this is counted.")
@click.option("--retrain-on-all", is_flag=True, help="Train the leader on train + validation.")
@click.option("--restart", is_flag=True, help="Set an earlier confirmation aside; choose again.")
@click.option("--anew", is_flag=True, hidden=True)
@click.option("--gpus", type=click.IntRange(0), help="GPUs to use; 0: CPU. [default: all visible]")
@click.option("--tracking-uri", metavar="URI", help="MLflow server. [default: the search's]")
@upgrade_option
@click.option("--address", metavar="ADDR", help="Running Ray cluster. [default: this machine]")
@click.option("--set", "sets", metavar="KEY=VALUE", multiple=True, help="data.root, resources.")
@click.pass_context
def confirm(
    context: click.Context,
    directory: Path,
    seeds: str | None,
    top: int | None,
    baselines: str | None,
    rivals: str | None,
    methods: str | None,
    single: str | None,
    open_test_again: bool,
    retrain_on_all: bool,
    restart: bool,
    anew: bool,
    gpus: int | None,
    tracking_uri: str | None,
    upgrade_tracking_db: bool,
    address: str | None,
    sets: tuple[str, ...],
) -> None:
    """Find out whether the winner of the search in DIR is real.

    The best configurations, the paper's setting and baseline methods are trained over the same
    seeds. Then the sealed test set is opened, once or at planned looks (--seeds auto). The same
    command resumes after a stop. Options override the space's confirm: section.
    """
    for text in sets:
        if not text.startswith(("data.", "resources.")):
            raise UserError(
                f"--set {text}: a confirmation keeps the settings of its search",
                "Only data. (where the images lie) and resources. can be set; see --help.",
            )
    spec = resumed_search(directory, sets, say=_warn)
    count = int(seeds) if seeds is not None and seeds.isdigit() else seeds
    asked = {"seeds": count, "top": top, "baselines": baselines or rivals, "single": single}
    overrides: dict[str, Any] = {key: value for key, value in asked.items() if value is not None}
    if methods is not None:
        overrides["methods"] = [name.strip() for name in methods.split(",") if name.strip()]
    for given, old, new in ((anew, "--anew", "--restart"), (rivals, "--rivals", "--baselines")):
        if given:
            echo(f"{old} is now called {new}; the old name will go in the next version", err=True)
    quit_on_signals()
    from okddip_search.confirm.options import ConfirmOptions
    from okddip_search.confirm.run import run_confirm

    options = ConfirmOptions(overrides, open_test_again, retrain_on_all, restart or anew)
    place = (gpus, tracking_uri, address, _command(), upgrade_tracking_db)
    request = Request(spec, directory, True, *place)
    context.exit(run_confirm(request, options))


@cli.command()
@click.argument("directory", metavar="DIR", type=DIRECTORY)
def report(directory: Path) -> None:
    """Write report.html and report.json of the search in DIR, finished or not."""
    from okddip_search.report.page import write_report

    page = write_report(directory)
    echo(f"wrote {page}\nTo see it:  {to_see(page)}")


@cli.command()
@click.argument("directory", metavar="DIR", type=DIRECTORY)
@click.option("--output", type=click.Path(path_type=Path), help="File or folder to write.")
@click.option("--format", "form", type=click.Choice(FORMATS), default="yaml", show_default=True)
@click.option("--force", is_flag=True, help="Overwrite what is there.")
def export(directory: Path, output: Path | None, form: str, force: bool) -> None:
    """Write out the winner of the search in DIR: the confirmed one where there is one.

    yaml: its configuration; weights: safetensors and JSON; pt2, onnx: the network, ready to run.
    """
    path, words = run_export(directory, form, output, force=force)
    echo(f"wrote {path} ({words})")


@cli.command()
@click.argument("directory", metavar="DIR", type=DIRECTORY)
@click.option("--port", type=click.IntRange(1, 65535), help="[default: 5000, or a free one]")
@click.option("--host", default="127.0.0.1", show_default=True)
@click.option("--open", "open_browser", is_flag=True, help="Show it in your browser.")
@upgrade_option
@click.pass_context
def ui(
    context: click.Context,
    directory: Path,
    port: int | None,
    host: str,
    open_browser: bool,
    upgrade_tracking_db: bool,
) -> None:
    """Show the search in DIR in MLflow's user interface."""
    from okddip_search.tracking.ui import serve_ui

    options: dict[str, Any] = {"open_browser": open_browser, "upgrade": upgrade_tracking_db}
    context.exit(serve_ui(directory, host=host, port=port, echo=echo, **options))


@cli.command()
@click.argument("directory", metavar="DIR", type=DIRECTORY)
@click.option("--tracking-uri", metavar="URI", help="Instead of the search's own.")
@upgrade_option
def sync(directory: Path, tracking_uri: str | None, upgrade_tracking_db: bool) -> None:
    """Send MLflow the parts of the search in DIR that it does not have yet."""
    from okddip_search.tracking.worker import sync as run_sync

    delivered = run_sync(directory, tracking_uri, upgrade=upgrade_tracking_db, on_trouble=_warn)
    echo(f"delivered {delivered} records; MLflow is up to date")


@cli.command()
def spaces() -> None:
    """List the bundled spaces."""
    for name, path in bundled_spaces().items():
        echo(f"{name:<22} {summary_of(path)}")


@cli.command()
def schema() -> None:
    """Print the JSON schema of a space file, for editors.

    With the YAML language server, a first line "# yaml-language-server: $schema=space.json" makes
    an editor complete and check a space while it is written.
    """
    from okddip_search.space.schema import space_schema

    echo(json.dumps(space_schema(), indent=2, ensure_ascii=False))


@cli.command()
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def models(as_json: bool) -> None:
    """List the networks: parameters alone and in groups of 4, and multiply-adds.

    Groups count the two projections of OKDDip. MACs are the multiply-adds of the convolutions and
    linear layers of one network, for one image of the size it was published for.
    """
    from okddip_search.cli.listing import show_models

    show_models(as_json=as_json)


@cli.command()
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def methods(as_json: bool) -> None:
    """List the training methods."""
    from okddip_search.cli.listing import show_methods

    show_methods(as_json=as_json)


@cli.command()
@click.option("--verbose", is_flag=True, help="Also the machine, to paste into a bug report.")
def version(verbose: bool) -> None:
    """Print the version; with --verbose, also of Python, PyTorch, Ray, the driver and so on."""
    from okddip_search.cli.machine import describe_machine

    for name, words in describe_machine():
        echo(f"{name:<14} {words}")
        if not verbose:
            break


cli.add_command(train, "train")


def main() -> None:
    """Run the command; a user's mistake prints a message and exits 2, without a traceback."""
    protect_files()
    code = _run()
    # Everything is written and closed by now. A regular exit would spend 2 s on unloading torch and
    # MLflow while the user waits.
    logging.shutdown()
    try:
        sys.stdout.flush()
        sys.stderr.flush()
    except OSError:
        code = code or 1  # the reader has gone
    os._exit(code)


def _run() -> int:
    try:
        return cli.main(standalone_mode=False) or 0
    except UserError as error:
        echo(f"Error: {masked(str(error))}", err=True)
        return 2
    except OSError as error:
        echo(f"Error: {masked(str(error))}", err=True)
        if error.errno in REMEDIES:
            echo(REMEDIES[error.errno], err=True)
        return 2
    except click.ClickException as error:
        usage = io.StringIO()
        error.show(usage)
        echo(usage.getvalue().rstrip(), err=True)
        return error.exit_code
    except click.Abort:
        return STOPPED


if __name__ == "__main__":
    main()
