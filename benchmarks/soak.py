"""A search of thousands of trials: what it does to its driver from the first trial to the last.

    python benchmarks/soak.py [--trials 2000] [--epochs 20] [--at-once 16]

The real command's search: study journal, default sampler and pruner, Ray Tune, console, MLflow's
sqlite store and the report. Only training is left out: a trial sleeps for its epochs and writes
files as small as they can be. A second process watches the driver from outside.
"""

import contextlib
import json
import os
import random
import re
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any, NamedTuple

import click

from okddip_search.driver.trainable import OKDDipTrial
from trainer.config.train import TrainConfig
from trainer.io.files import exclusive_lock, write_json

SLEEP_S = 0.05
PEERS = 3
PARTS = 5
TEMPLATE = "template"
EVERY_S = 0.5
MIB = 2**20

WEEK_S = 7 * 86_400
WEEK_TRIAL_S = 600
"""Of a trial in the week that the verdict is about: ten minutes, pruned ones counted."""
MOST_GROWTH_MIB = 4096
"""Of the driver in such a week; a machine with so many trials at once has it many times over."""
MOST_SHARE = 0.25
"""Of the time between two trials, what the driver may be busy with one at the week's end."""


class SleepingRun:
    """Looks like a ``TrainingRun`` to the trial; its accuracy follows from its learning rate."""

    def __init__(self, config: TrainConfig, directory: Path, template: Path) -> None:
        directory.mkdir(parents=True, exist_ok=True)
        self._held = ExitStack()
        self._held.enter_context(exclusive_lock(directory / "lock"))
        self._config, self._directory, self._template = config, directory, template
        self._draw = random.Random(config.seed)
        self.history: list[Report] = []
        self.trainer = self

    @property
    def finished(self) -> bool:
        """Whether all epochs are done."""
        return len(self.history) >= self._config.epochs

    def step(self) -> "Report":
        """Sleep for an epoch."""
        time.sleep(SLEEP_S)
        self.history.append(self._report())
        if self.finished:
            self._save("result.json")
            shutil.copytree(self._template, self._directory / "leader", dirs_exist_ok=True)
        return self.history[-1]

    def _report(self) -> "Report":
        epoch, config, noise = len(self.history), self._config, self._draw.gauss(0, 0.01)
        level = 0.9 - abs(config.lr - 0.1) - 0.02 * abs(config.temperature - 3)
        accuracy = min(1.0, max(0.05, level * (1 - 0.8 ** (epoch + 1)) + noise))
        part = {"total": 2.0, "ce_peers": 1.0, "ce_leader": 1.0, "kd_peers": 0.1, "kd_leader": 0.1}
        return Report(
            epoch=epoch, lr=config.lr, ramp_weight=1.0, train=part, leader_accuracy=accuracy,
            leader_nll=1 - accuracy, leader_ece=0.05, peer_accuracy=[accuracy] * PEERS,
            peer_nll=[0.5] * PEERS, mean_peer_accuracy=accuracy, ensemble_accuracy=accuracy,
            ensemble_nll=0.4, ensemble_gap=0.01, diversity=0.2, disagreement=0.1,
            q_statistic=0.9, collapsed=False, attention=[[1 / PEERS] * PEERS] * PEERS,
            attention_entropy=1.09, seconds=SLEEP_S, images_per_s=1000.0,
        )  # fmt: skip

    def _save(self, name: str) -> None:
        environment = {"device": "none", "precision": "fp32", "executor": "eager",
                       "num_threads": 1, "torch": "none"}  # fmt: skip
        story = {
            "config": self._config.to_dict(),
            "environment": environment,
            "epochs_done": len(self.history),
            "seconds": SLEEP_S * len(self.history),
            "final": self.history[-1] if self.history else None,
            "history": self.history,
        }
        (self._directory / "state-000001.safetensors").write_bytes(b"no weights")
        write_json(self._directory / name, story)

    def close(self) -> None:
        """Save and let go of the directory, as a real run does."""
        with self._held:
            self._save("state.json")


class Report(dict[str, Any]):
    """An ``EpochReport``, as a dict already."""

    def to_dict(self) -> dict[str, Any]:
        """Return it."""
        return dict(self)


class SleepingTrial(OKDDipTrial):
    """The tool's own trial around a run that sleeps; its worker never imports torch."""

    def _open(self) -> Any:
        config = TrainConfig(**self._assignment["trainer"])
        return SleepingRun(config, self._directory, self._trials_dir.parent / TEMPLATE)

    def cleanup(self) -> None:
        """Let go of the run."""
        if self._run is not None:
            self._run.close()
            self._run = None


def drive(directory: Path, trials: int, epochs: int, at_once: int) -> int:
    """Run the search, as ``okddip-search`` would."""
    from okddip_search.cluster import resources
    from okddip_search.driver import session
    from okddip_search.run import run_search
    from okddip_search.space.load import load_space

    os.environ["RAY_worker_niceness"] = "0"  # 16 that sleep on two cores are to keep their pace
    session.OKDDipTrial = SleepingTrial  # type: ignore[misc]
    resources.available_cores = lambda: at_once
    _save_template(directory / TEMPLATE)
    fields = (f"trainer.epochs={epochs}", "trainer.ramp_epochs=2", "trainer.precision=fp32",
              "trainer.executor=eager")  # fmt: skip
    spec = load_space("digits", fields, trials=trials, name="soak")
    request = session.Request(spec, directory, False, 0, None, None, "benchmarks/soak.py")
    return run_search(request, then_confirm=False)


def _save_template(directory: Path) -> None:
    """Save an untrained leader, the smallest there is, for every complete trial to copy."""
    from trainer.group.group import single_network
    from trainer.leader.leader import LeaderInfo, save_leader
    from trainer.models import build_architecture

    network = single_network(build_architecture("resnet8", channels=1, num_classes=10, width=0.25))
    names = [str(digit) for digit in range(10)]
    info = LeaderInfo("resnet8", 0.25, names, [1, 8, 8], [0.0], [1.0], 0.5, {})
    save_leader(directory, network.eval(), info)


class Sample(NamedTuple):
    """The driver at one moment: memory of its own (MiB), CPU seconds of all its threads."""

    at_s: float
    cpu_s: float
    ended: int
    memory: float
    rays: float
    files: int
    threads: int
    journal: float
    mlflow: float


class Watch:
    """Looks at a driver from outside, through /proc and the ends in its study."""

    def __init__(self, pid: int, directory: Path) -> None:
        self._pid, self._directory = pid, directory
        self._offset = self._ended = 0

    def sample(self) -> Sample | None:
        """Return the state now; None where the driver has gone."""
        try:
            status = _status(self._pid)
            return Sample(
                time.monotonic(),
                _cpu_s(self._pid),
                self._count_ended(),
                int(status["RssAnon"]) / 1024,
                sum(_daemons(self._pid)) / 1024,
                len(list(Path(f"/proc/{self._pid}/fd").iterdir())),
                int(status["Threads"]),
                self._size("study.journal"),
                self._size("mlflow.db"),
            )
        except (OSError, KeyError):
            return None

    def _size(self, name: str) -> float:
        path = self._directory / name
        return path.stat().st_size / MIB if path.exists() else 0.0

    def _count_ended(self) -> int:
        path = self._directory / "study.journal"
        if path.exists():
            with path.open("rb") as file:
                file.seek(self._offset)
                fresh = file.read()
            whole = fresh[: fresh.rfind(b"\n") + 1]
            self._offset += len(whole)
            self._ended += len(re.findall(rb'"op_code":6,[^\n]*"state":[123],', whole))
        return self._ended


def _status(pid: int) -> dict[str, str]:
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    return {
        key: rest.split()[0] for key, _, rest in (x.partition(":") for x in lines) if rest.split()
    }


def _cpu_s(pid: int) -> float:
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def _daemons(pid: int) -> Iterator[int]:
    """Yield the memory (KiB) of Ray's daemons, the driver's children."""
    for task in Path(f"/proc/{pid}/task").iterdir():
        for child in (task / "children").read_text().split():
            with contextlib.suppress(OSError, KeyError):
                yield int(_status(int(child))["RssAnon"])


def watch(directory: Path, trials: int, epochs: int, at_once: int) -> tuple[list[Sample], float]:
    """Run the driver in a process of its own; return what was seen, and the seconds of its end."""
    command = [sys.executable, __file__, "--as-driver", "--directory", str(directory)]
    command += ["--trials", str(trials), "--epochs", str(epochs), "--at-once", str(at_once)]
    samples: list[Sample] = []
    with (
        (directory / "output.txt").open("wb") as output,
        (directory / "samples.jsonl").open("w") as log,
    ):
        driver = subprocess.Popen(command, stdout=output, stderr=output)
        watcher = Watch(driver.pid, directory)
        while driver.poll() is None:
            if sample := watcher.sample():
                samples.append(sample)
                print(json.dumps(sample._asdict()), file=log, flush=True)
            time.sleep(EVERY_S)
    if driver.returncode != 0:
        raise SystemExit((directory / "output.txt").read_text(errors="replace")[-4000:])
    last = next(s.at_s for s in samples if s.ended >= trials)
    return [s for s in samples if s.at_s <= last], time.monotonic() - last


class Part(NamedTuple):
    """Some of the trials, one after the other: seconds a trial, and the state at their end."""

    first: int
    last: int
    trial_s: float
    cpu_s: float
    end: Sample


def parts_of(samples: list[Sample]) -> list[Part]:
    total, begin = samples[-1].ended, next(s for s in samples if s.ended)
    found, before = [], begin
    for number in range(1, PARTS + 1):
        goal = total * number // PARTS
        end = next(s for s in samples if s.ended >= goal)
        count = max(1, end.ended - before.ended)
        trial_s, cpu_s = (end.at_s - before.at_s) / count, (end.cpu_s - before.cpu_s) / count
        found.append(Part(before.ended, end.ended, trial_s, cpu_s, end))
        before = end
    return found


def verdict(parts: list[Part], at_once: int) -> list[str]:
    """Say what a week's search would come to, and whether it would get there."""
    week = WEEK_S // WEEK_TRIAL_S * at_once
    first, last = parts[0], parts[-1]
    since = max(1, last.end.ended - first.end.ended)
    growth = (last.end.memory - first.end.memory) / since
    middle = [(part.first + part.last) / 2 for part in parts]
    slope = (last.cpu_s - first.cpu_s) / max(1.0, middle[-1] - middle[0])
    late_s = last.cpu_s + max(0.0, slope) * (week - last.end.ended)
    between_s = WEEK_TRIAL_S / at_once
    more = (last.end.files - first.end.files, last.end.threads - first.end.threads)
    checks = {
        f"memory: {1000 * growth:.0f} MiB more each 1,000 trials, {week * growth:,.0f} MiB in the "
        f"week (limit {MOST_GROWTH_MIB:,})": week * growth <= MOST_GROWTH_MIB,
        f"time: {last.cpu_s:.2f} CPU s a trial at the end, by the same slope {late_s:.1f} s at the "
        f"week's end (limit {MOST_SHARE * between_s:.1f}: a quarter of the {between_s:.1f} s "
        "between two trials)": late_s <= MOST_SHARE * between_s,
        f"open files {more[0]:+d}, threads {more[1]:+d} from the first part to the last (limit "
        f"+{at_once})": max(more) <= at_once,
    }
    lines = [f"{'holds' if fine else 'FAILS'}  {text}" for text, fine in checks.items()]
    sentence = "no growth that would stop it" if all(checks.values()) else "it would be stopped"
    head = f"A week of {week:,} trials of {WEEK_TRIAL_S // 60} minutes, {at_once} at once:"
    return [f"{head} {sentence}", *lines]


def show(parts: list[Part], end_s: float, epochs: int, at_once: int) -> None:
    from side_by_side import machine

    print(f"{parts[-1].last} trials of at most {epochs} epochs of {1000 * SLEEP_S:.0f} ms, "
          f"{at_once} at once, tpe, median pruner; {machine(1)}")  # fmt: skip
    heads = ("trials", "s a trial", "CPU s", "driver MiB", "Ray MiB", "files", "threads",
             "study MiB", "MLflow MiB")  # fmt: skip
    print(*(f"{head:>12}" for head in heads))
    for first, last, trial_s, cpu_s, end in parts:
        texts = (f"{first}-{last}", f"{trial_s:.3f}", f"{cpu_s:.3f}", f"{end.memory:.0f}",
                 f"{end.rays:.0f}", str(end.files), str(end.threads), f"{end.journal:.1f}",
                 f"{end.mlflow:.1f}")  # fmt: skip
        print(*(f"{text:>12}" for text in texts))
    print(f"After the last trial: {end_s:.1f} s (result, report, MLflow, Ray down)")


@click.command()
@click.option("--trials", default=2000, show_default=True)
@click.option("--epochs", default=20, show_default=True)
@click.option("--at-once", default=16, show_default=True)
@click.option("--directory", type=click.Path(path_type=Path), help="Keep the search there.")
@click.option("--as-driver", is_flag=True, hidden=True)
def main(trials: int, epochs: int, at_once: int, directory: Path | None, as_driver: bool) -> None:
    """Print the driver's memory, files, threads and pace for each fifth of the search."""
    if as_driver:
        assert directory is not None
        sys.exit(drive(directory, trials, epochs, at_once))
    with tempfile.TemporaryDirectory(prefix="soak-") as place:
        home = directory or Path(place)
        home.mkdir(parents=True, exist_ok=True)
        samples, end_s = watch(home, trials, epochs, at_once)
    parts = parts_of(samples)
    show(parts, end_s, epochs, at_once)
    print(*verdict(parts, at_once), sep="\n")


if __name__ == "__main__":
    main()
