"""Finds the processes of a search, looks at its study without touching it, and breaks things."""

import json
import os
import shutil
import tempfile
import time
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

from optuna.trial import TrialState
from search_helpers import ENDED, read_study

# Eight channels at least: torch 2.15 has been seen to break its heap with four on some CPUs.
SPACE = """\
name: tiny
data: {name: digits, train_limit: 100, validation: 100}
trainer:
  {model: resnet8, width: 0.5, num_peers: 2, batch_size: 50, epochs: 4, ramp_epochs: 2,
   checkpoint_every_s: 1}
search:
  lr: {type: float, low: 0.001, high: 0.3, log: true}
  temperature: {type: float, low: 1, high: 6}
enqueue:
  - {lr: 0.1, temperature: 3.0}
study: {trials: 5, sampler: tpe, pruner: {type: median, n_startup_trials: 2, n_warmup_steps: 1}}
confirm: {top: 1, seeds: 2, methods: [single]}
"""
REPORTED = 7  # Optuna's code of "an epoch was reported" in its journal


@dataclass(frozen=True)
class Process:
    """A process, told from a later one with its number by the time it began."""

    pid: int
    began: str

    @property
    def alive(self):
        return _stat(self.pid)[:1] == [self.began]


def _stat(pid):
    """Return when a living process began and its parent; nothing of a dead one."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return []
    return [] if fields[0] in "ZX" else [fields[19], int(fields[1])]


def family(pid):
    """Return a process and all its descendants, the eldest first."""
    facts = {int(p.name): _stat(p.name) for p in Path("/proc").glob("[0-9]*")}
    children = {}
    for child, found in facts.items():
        if found:
            children.setdefault(found[1], []).append(child)
    found, todo = [], [pid]
    while todo:
        one = todo.pop(0)
        if facts.get(one):
            found.append(Process(one, facts[one][0]))
        todo += children.get(one, [])
    return found


def command_of(process):
    try:
        return Path(f"/proc/{process.pid}/cmdline").read_bytes()
    except OSError:
        return b""


def find(victim, members):
    """Return the driver, the raylet or a worker that trains, or None where there is none yet."""
    if victim == "driver":
        return members[0] if members else None
    sign = {"raylet": b"raylet/raylet", "worker": b"ray::ResourceTrainable"}[victim]
    return next((one for one in members if sign in command_of(one)), None)


def assert_all_gone(members):
    """Within ten seconds nothing is left of a command that has ended (busy machines get longer)."""
    deadline = time.monotonic() + 10.0 * patience()
    while left := [one for one in members if one.alive]:
        assert time.monotonic() < deadline, [command_of(one)[:80] for one in left]
        time.sleep(0.1)


def patience():
    """Return how much longer than alone things may take here: by the load, at least 1."""
    return max(1.0, os.getloadavg()[0] / (os.cpu_count() or 1))


def look_at(directory):
    """Copy a study's whole records and return number → (state, params, curve).

    Raises AssertionError where an epoch was reported twice.
    """
    journal = directory / "study.journal"
    if not journal.exists():
        return {}
    with tempfile.TemporaryDirectory() as folder:
        content = journal.read_bytes()
        whole = content[: content.rfind(b"\n") + 1]
        if not whole:
            return {}
        Path(folder, "study.journal").write_bytes(whole)
        records = [json.loads(line) for line in whole.splitlines()]
        epochs = Counter((r["trial_id"], r["step"]) for r in records if r["op_code"] == REPORTED)
        assert not [epoch for epoch, times in epochs.items() if times > 1], "reported twice"
        trials = read_study(Path(folder)).trials
    return {t.number: (t.state, t.params, dict(t.intermediate_values)) for t in trials}


def lost_between(before, after):
    """Count what was in the study before and is missing or different now: trials and epochs."""
    lost = 0
    for number, (state, params, curve) in before.items():
        if number not in after:
            lost += 1 + len(curve)
            continue
        state_now, params_now, curve_now = after[number]
        lost += not params.items() <= params_now.items()
        lost += state in ENDED and state_now is not state
        lost += sum(curve_now.get(step) != value for step, value in curve.items())
    return lost


def assert_over(trials, budget):
    """The budget is spent and nothing is left running."""
    states = Counter(state for state, _, _ in trials.values())
    assert states[TrialState.RUNNING] == 0, states
    assert states[TrialState.COMPLETE] + states[TrialState.PRUNED] == budget, states
    assert sorted(trials) == list(range(len(trials)))
    for number, (_, _, curve) in trials.items():
        assert sorted(curve) == list(range(len(curve))), f"trial {number} has gaps"


def findings(directory):
    return json.loads((directory / "confirm" / "confirm.json").read_text())


def openings(directory, event="opened"):
    log = directory / "test_openings.jsonl"
    if not log.exists():
        return []
    found = []
    for line in log.read_bytes().splitlines():
        try:
            found.append(json.loads(line))
        except ValueError:  # cut off by a kill
            continue
    return [line for line in found if line["event"] == event]


def fresh_copy(source, target):
    shutil.copytree(source, target)
    return target
