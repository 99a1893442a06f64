"""A small search directory, made by the real bridge and trainer but without Ray: about 2 s."""

import json
from html.parser import HTMLParser
from pathlib import Path

from okddip_search.cluster.resources import Concurrency
from okddip_search.driver.bridge import StudyBridge
from okddip_search.driver.work import SearchWork
from okddip_search.report.page import write_report
from okddip_search.space.load import load_space
from okddip_search.study.sessions import Session, SessionLog
from okddip_search.study.study import open_study, require_same_images
from trainer.data.base import DevelopmentData
from trainer.data.load import load_development_data
from trainer.engine.run import TrainingRun

SPACE = """\
name: tiny
data: {name: digits, train_limit: 150, validation: 200}
trainer: {model: resnet8, width: 0.25, batch_size: 32, epochs: 4, ramp_epochs: 2, num_threads: 1}
search:
  lr: {type: float, low: 0.00001, high: 0.5, log: true}
  num_peers: {type: int, low: 2, high: 3}
  lr_schedule: {type: categorical, choices: [multistep, cosine]}
  lr_decay: {type: float, low: 0.05, high: 0.3, when: {lr_schedule: multistep}}
enqueue:
  - {lr: 0.1, num_peers: 3, lr_schedule: multistep, lr_decay: 0.1}
  - {lr: 0.05, num_peers: 2, lr_schedule: cosine}
  - {lr: 0.2, num_peers: 3, lr_schedule: cosine}
  - {lr: 0.00001, num_peers: 2, lr_schedule: cosine}
study:
  trials: 12
  pruner: {type: median, n_startup_trials: 2}
"""
SINGLE = """\
name: alone
data: {name: digits, train_limit: 100, validation: 100}
trainer: {model: resnet8, width: 0.25, method: single, batch_size: 32, epochs: 2, num_threads: 1}
search:
  lr: {type: float, low: 0.01, high: 0.2, log: true}
study: {trials: 1, pruner: none}
"""
REASON = "NonFiniteLossError: loss is nan at epoch 1, step 2"
COMMAND = "okddip-search --space tiny.yaml --tracking-uri http://me:hunter2@mlflow.example"


def begin(directory: Path, space: str) -> tuple[StudyBridge, DevelopmentData]:
    """Open the study as a driver would."""
    directory.mkdir(parents=True)
    (directory / "spec.yaml").write_text(space)
    spec = load_space(directory / "spec.yaml")
    (directory / "spec.yaml").write_text(spec.to_yaml())
    data = load_development_data(spec.data)
    study = open_study(directory, spec)
    require_same_images(study, data.fingerprint)
    return StudyBridge(study, SearchWork(spec), Concurrency(9), listeners=()), data


def run_trial(
    directory: Path, bridge: StudyBridge, data: DevelopmentData, epochs: int | None = None
) -> int:
    """Train the next trial to its end, until it is pruned, or for so many epochs."""
    entry = bridge.next_trial()
    number = entry.trial.number
    with TrainingRun(entry.config, data, directory / "trials" / str(number)) as run:
        while not run.trainer.finished and run.trainer.epoch != epochs:
            if bridge.report(number, [run.step().to_dict()]):
                return number
        if run.trainer.finished:
            bridge.complete(number, [])
    return number


def write_sessions(directory: Path, ended: str | None) -> None:
    """Write who worked on the search, and how it ended."""
    tags = {
        "okddip.command": COMMAND.replace("me:hunter2", "***"),
        "okddip.host": "box",
        "okddip.slots": "2",
        "okddip.python": "3.12.1",
        "okddip.torch": "2.9.0",
    }
    (directory / "sessions.jsonl").unlink(missing_ok=True)
    log = SessionLog(directory)
    log.begin(Session("s1", "tiny", tags=tags))
    if ended:
        log.end(ended)


def make_search(directory: Path) -> Path:
    """Make a search with complete, pruned, failed and running trials; nobody works on it now."""
    bridge, data = begin(directory, SPACE)
    for _ in range(4):
        run_trial(directory, bridge, data)
    bridge.fail(run_trial(directory, bridge, data, epochs=1), REASON)
    run_trial(directory, bridge, data, epochs=2)
    write_sessions(directory, ended=None)
    return directory


def make_single_search(directory: Path) -> Path:
    """Make a search of single networks with one trial, finished."""
    bridge, data = begin(directory, SINGLE)
    run_trial(directory, bridge, data)
    return directory


def contender(label: str, kind: str, config: dict, tests: list[float | None], **more) -> dict:
    """Return a contender with runs over seeds 1, 2, …; a None is a failed run."""
    known = [share for share in tests if share is not None]
    mean = sum(known) / len(known)
    runs = [
        {
            "seed": seed,
            "number": seed,
            "state": "failed" if share is None else "complete",
            "validation": None if share is None else share + 0.01,
            "test": share,
            "seconds": 2.0,
            "reason": REASON if share is None else "",
        }
        for seed, share in enumerate(tests, start=1)
    ]
    return {
        "label": label,
        "kind": kind,
        "method": config["method"],
        "note": f"settings of {label}",
        "search_trial": None,
        "search_value": None,
        "config": config,
        "runs": runs,
        "validation": {"mean": mean + 0.01, "sd": 0.004, "n": len(known)},
        "test": {"mean": mean, "sd": 0.005, "n": len(known)},
        "cost": {
            "training_s": 2.0 * len(tests),
            "training_s_per_run": 2.0,
            "gpus": 0,
            "cpus": 2,
            "leader_parameters": 4970,
            "leader_macs": 1_234_567,
            "leader_latency_ms": 0.61,
        },
        **more,
    }


def comparison(rival: str, difference: float, half: float, verdict: str, words: str = "") -> dict:
    """Return a comparison of the winner (mean 0.90) with a rival."""
    return {
        "rival": rival,
        "winner_mean": 0.9,
        "rival_mean": 0.9 - difference,
        "difference": difference,
        "low": difference - half,
        "high": difference + half,
        "p_value": 0.01,
        "p_adjusted": 0.031,
        "method": "paired t",
        "n": 5,
        "of": "test",
        "verdict": verdict,
        "seeds_needed": None,
        "words": words or verdict,
    }


def make_confirm(directory: Path) -> dict:
    """Return what a complete confirmation of ``make_search`` could have found out."""
    result = json.loads((directory / "trials" / "0" / "result.json").read_text())
    config = {key: value for key, value in result["config"].items() if key != "seed"}
    single = {**config, "method": "single", "num_peers": 0}
    winner = [0.90, 0.91, 0.89, 0.90, 0.90]
    return {
        "format": 1,
        "state": "complete",
        "command": "okddip-search confirm runs/tiny",
        "started": "2030-01-01T10:00:00+00:00",
        "ended": "2030-01-01T11:00:00+00:00",
        "objective": {"metric": "leader_accuracy", "reduce": "last", "words": "last epoch"},
        "seeds": [1, 2, 3, 4, 5],
        "settings": {"top": 1, "seeds": 5, "baselines": "searched", "methods": ["single", "dml"],
                     "single": "epochs"},
        "contenders": [
            contender("trial 1", "candidate", config, winner, search_trial=1, search_value=0.93),
            contender("paper's setting", "paper", config, [0.90, 0.90, 0.89, 0.90, 0.88]),
            contender("single", "rival", single, [0.87, 0.88, 0.86, 0.87, None]),
            contender("dml", "rival", {**config, "method": "dml"}, [0.93, 0.93, 0.92, 0.93, 0.93]),
        ],
        "winner": "trial 1",
        "search_best": {"trial": 1, "value": 0.93, "confirmed_mean": 0.91},
        "noise_floor": {"contender": "trial 1", "sd": 0.005, "low": 0.003, "high": 0.014, "n": 5,
                        "of": "test"},
        "comparisons": [
            comparison("paper's setting", 0.006, 0.01, "within noise",
                       "within noise (needs about 23 seeds)"),
            comparison("single", 0.03, 0.01, "better"),
            comparison("dml", -0.03, 0.01, "worse"),
        ],
        "verdict": {"sentence": "Trial 1 is beaten by dml.", "status": "beaten",
                    "allows_champion": False},
        "openings": [
            {"time": "2030-01-01T10:59:00+00:00", "command": "okddip-search confirm runs/tiny"}
        ],
        "leader": {"seed": 2, "validation": 0.92, "test": 0.91},
        "retrained": None,
        "search_trials": 6,
        "search_cost": {"training_s": 12.0, "trials": 5, "gpus": 0, "cpus": 2},
    }  # fmt: skip


def write_confirm(directory: Path, confirm: dict) -> None:
    """Write it where confirm does."""
    (directory / "confirm").mkdir(exist_ok=True)
    (directory / "confirm" / "confirm.json").write_text(json.dumps(confirm))


def data_of(directory: Path) -> dict:
    """Return report.json, which must be strict JSON: browsers know no NaN."""
    write_report(directory)

    def refuse(word):
        raise AssertionError(f"{word} is no JSON")

    return json.loads((directory / "report.json").read_text(), parse_constant=refuse)


class Page(HTMLParser):
    """What a browser makes of the page: elements, and the text that a reader sees."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.elements: list[tuple[str, dict]] = []
        self._text: list[str] = []
        self._hidden = False
        self.feed(html)

    def handle_starttag(self, tag, attributes):
        self.elements.append((tag, dict(attributes)))
        self._hidden = tag in ("script", "style")

    def handle_endtag(self, tag):
        self._hidden = False

    def handle_data(self, data):
        if not self._hidden:
            self._text.append(data)

    @property
    def text(self) -> str:
        return " ".join(" ".join(self._text).split())

    def count(self, tag: str) -> int:
        return sum(name == tag for name, _ in self.elements)
