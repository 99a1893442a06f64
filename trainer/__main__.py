"""``python -m trainer config.yaml --out DIR``: one configuration, one run."""

import sys
from pathlib import Path

import click

from trainer.io.posix import require_posix


@click.command()
@click.argument("config_path", metavar="CONFIG", type=click.Path(path_type=Path))
@click.option(
    "--out",
    "out_dir",
    metavar="DIR",
    type=click.Path(path_type=Path, file_okay=False),
    help="Directory of the run; a stopped run in it is resumed.  [default: runs/CONFIG's name]",
)
@click.option("--open-test", is_flag=True, help="Afterwards evaluate on the sealed test set, once.")
def main(config_path: Path, out_dir: Path | None, open_test: bool) -> None:
    """Train the group that CONFIG (YAML) describes, and write its leader and result.json."""
    require_posix()
    from trainer.errors import TrainerError
    from trainer.io.text import visible

    out_dir = out_dir or Path("runs") / config_path.stem
    try:
        _train(config_path, out_dir, open_test)
    except (TrainerError, OSError) as error:
        place = "" if str(error).startswith(f"{config_path}:") else f"{config_path}: "
        remedy = f"; {error.remedy}" if isinstance(error, TrainerError) and error.remedy else ""
        click.echo(visible(f"Error: {place}{error}{remedy}"), err=True)
        sys.exit(error.exit_code if isinstance(error, TrainerError) else 2)
    except KeyboardInterrupt:
        click.echo(f"Stopped; the same command resumes it from {out_dir}.", err=True)
        sys.exit(130)


def _train(config_path: Path, out_dir: Path, open_test: bool) -> None:
    from rich.progress import MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    from trainer import test_set
    from trainer.config.load import load_config
    from trainer.data.load import load_development_data
    from trainer.data.survey import describe
    from trainer.engine.run import TrainingRun

    config = load_config(config_path)
    data = load_development_data(config.data, cache_dir=out_dir)
    click.echo(describe(data.survey))
    if data.skipped:
        click.echo(f"{data.skipped} images are left out; see {out_dir}/corrupt-train.txt")
    columns = (
        *Progress.get_default_columns()[:2],
        MofNCompleteColumn(),
        TimeRemainingColumn(),
        TextColumn("{task.fields[state]}"),
    )
    with TrainingRun(config, data, out_dir) as run, Progress(*columns) as progress:
        trainer = run.trainer
        bar = progress.add_task("epochs", total=config.epochs, completed=trainer.epoch, state="")
        while not trainer.finished:
            report = run.step()
            state = (
                f"leader {report.leader_accuracy:.2%}  ensemble {report.ensemble_accuracy:.2%}  "
                f"loss {report.train['total']:.3f}"
            )
            progress.update(bar, completed=trainer.epoch, state=state)
        final = trainer.selected_epoch
    click.echo(
        f"leader's validation accuracy {final.leader_accuracy:.4%} ({config.leader_epoch} epoch, "
        f"{len(data.validation)} images); written to {out_dir}"
    )
    if open_test:
        log = out_dir / "test_openings.jsonl"
        [result] = test_set.open_test(
            [out_dir / "leader"],
            config.data,
            log=log,
            reason=" ".join(sys.argv),
            device=trainer.device,
            cache_dir=out_dir,
        )
        click.echo(f"leader's test accuracy {result.accuracy:.4%} ({result.num_images} images)")


if __name__ == "__main__":
    main(prog_name="python -m trainer")
