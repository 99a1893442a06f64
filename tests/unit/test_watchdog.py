"""Workers that hang, trials without a place, and what Tune sees of the bridge."""

from types import SimpleNamespace

import pytest
from optuna.trial import TrialState

from okddip_search.cluster import waiting as placement
from okddip_search.cluster.resources import Concurrency
from okddip_search.cluster.waiting import what_is_missing
from okddip_search.driver import watchdog
from okddip_search.driver.bridge import StudyBridge
from okddip_search.driver.tune import StudySearcher
from okddip_search.driver.watchdog import Watchdog
from okddip_search.driver.work import SearchWork
from okddip_search.space.load import load_space
from okddip_search.study.study import open_study

SPACE = """\
name: watched
data: {name: digits}
trainer: {model: resnet8, epochs: 6}
search: {lr: {type: float, low: 0.001, high: 1.0, log: true}}
"""


class Hands:
    """Stands for the scheduler: what it is told to kill."""

    def __init__(self):
        self.killed = []

    def kill(self, trial, reason):
        self.killed.append((trial.config["number"], reason))


class Scene:
    """A bridge with one trial open, a watchdog, and a clock that a test moves."""

    def __init__(self, tmp_path, monkeypatch, **resources):
        (tmp_path / "space.yaml").write_text(SPACE)
        sets = [f"resources.{key}={value}" for key, value in resources.items()]
        spec = load_space(tmp_path / "space.yaml", sets)
        self.now = 1000.0
        clock = SimpleNamespace(monotonic=lambda: self.now)
        monkeypatch.setattr(watchdog, "time", clock)
        monkeypatch.setattr(placement, "time", clock)
        monkeypatch.setattr("okddip_search.driver.bridge.time", clock)
        self.bridge = StudyBridge(open_study(tmp_path, spec), SearchWork(spec), Concurrency(1), [])
        self.hands, self.said = Hands(), []
        self.dog = Watchdog(self.bridge, self.hands.kill, spec.resources, 1.0, self.said.append)
        config = {"number": self.bridge.next_trial().trial.number}
        self.trial = SimpleNamespace(trial_id="t", status="RUNNING", config=config)
        self.bridge.open_trial(0).heard_at_s = self.now

    def wait(self, seconds):
        for _ in range(round(seconds)):
            self.now += 1
            self.dog.on_step_end(0, [self.trial])

    def suspend(self, seconds):
        self.now += seconds
        self.dog.on_step_end(0, [self.trial])

    def epoch(self, seconds):
        report = {"epoch": 0, "leader_accuracy": 0.5, "seconds": seconds}
        self.dog.on_trial_result(0, [], self.trial, {"reports": [report]})
        self.bridge.open_trial(0).heard_at_s = self.now


@pytest.fixture
def scene(tmp_path, monkeypatch):
    return lambda **resources: Scene(tmp_path, monkeypatch, **resources)


def test_an_epoch_ten_times_as_long_as_the_median_hangs(scene):
    s = scene()
    s.epoch(20.0)
    s.wait(150)
    assert not s.hands.killed
    s.wait(100)
    assert [number for number, _ in s.hands.killed] == [0]
    assert "hangs" in s.said[0]


def test_a_suspended_job_does_not_hang(scene):
    """Batch systems stop a whole job (SIGTSTP) and continue it much later (SIGCONT)."""
    s = scene()
    s.epoch(0.1)
    s.wait(10)
    s.suspend(7200)
    s.wait(50)
    assert not s.hands.killed
    s.wait(20)
    assert s.hands.killed


def test_short_epochs_have_a_minute(scene):
    s = scene()
    s.epoch(0.1)
    s.wait(50)
    assert not s.hands.killed
    s.wait(20)
    assert s.hands.killed


def test_the_space_may_say_how_long_an_epoch_takes_at_most(scene):
    s = scene(stall_timeout="20s")
    s.wait(15)
    assert not s.hands.killed
    s.wait(10)
    assert s.hands.killed


def test_a_worker_that_trains_is_left_alone(scene):
    s = scene(stall_timeout="20s")
    for _ in range(5):
        s.wait(15)
        s.epoch(15.0)
    assert not s.hands.killed


def test_trials_that_no_node_has_room_for_are_told_and_given_up(scene, monkeypatch):
    s = scene()
    node = {"Alive": True, "Resources": {"CPU": 0.0}}
    monkeypatch.setattr(placement.ray, "nodes", lambda: [node])
    s.trial.status = "PENDING"
    s.wait(70)
    assert "CPU: a trial needs 1 cores and 0 GPUs" in s.said[0]
    assert not s.bridge.unschedulable
    for _ in range(40):
        s.wait(60)
    assert s.bridge.unschedulable
    assert "CPU" in s.bridge.abort_reason
    assert s.bridge.study.trials[0].state is TrialState.RUNNING  # a resume goes on with it


@pytest.mark.parametrize(
    ("nodes", "words"),
    [
        ([(8, 0), (2, 0)], "GPU: "),
        ([(1, 4)], "CPU: "),
        ([], "have none"),
    ],
)
def test_the_missing_resource_is_named(nodes, words):
    known = [{"Alive": True, "Resources": {"CPU": c, "GPU": g}} for c, g in nodes]
    dead = {"Alive": False, "Resources": {"CPU": 64, "GPU": 8}}
    assert words in what_is_missing([*known, dead], 4, 1)


def test_nothing_is_missing_where_a_node_has_it_all():
    assert what_is_missing([{"Alive": True, "Resources": {"CPU": 4, "GPU": 1}}], 4, 1) == ""


def test_an_interrupted_search_leaves_its_trials_running(scene):
    bridge = scene().bridge
    searcher = StudySearcher(bridge)
    bridge.requeue(0, "killed", "died")
    number = searcher.suggest("t1")["number"]
    bridge.interrupted = True
    searcher.on_trial_complete("t1", {"reports": [], "failure": "stopped"})
    assert bridge.study.trials[number].state is TrialState.RUNNING
    assert searcher.suggest("t2") is None
