"""The bridge over a real study: what is asked, recorded, pruned, closed and adopted."""

import time
from dataclasses import dataclass, field

import numpy as np
import pytest
from optuna.trial import TrialState

from okddip_search.cluster.resources import Concurrency
from okddip_search.driver.bridge import StudyBridge, reduced
from okddip_search.driver.retries import WORKER_DEATHS_FORGIVEN
from okddip_search.driver.work import CONTENDER, SEED, FixedWork, SearchWork
from okddip_search.errors import UserError
from okddip_search.layout import JOURNAL
from okddip_search.space.load import load_space
from okddip_search.space.settings import ObjectiveSettings
from okddip_search.study.storage import cut_torn_tail
from okddip_search.study.study import open_fixed_study, open_study, require_same_images
from okddip_search.study.trials import runs_with, state_of

SPACE = """\
name: bridge
data: {name: digits}
trainer: {model: resnet8, epochs: 6, ramp_epochs: 3}
search: {lr: {type: float, low: 0.001, high: 1.0, log: true}}
enqueue: [{lr: 0.1}]
study: {trials: 4, sampler: tpe, pruner: {type: median, n_startup_trials: 1}}
"""


@dataclass
class Witness:
    """A listener that remembers."""

    started: list = field(default_factory=list)
    epochs: list = field(default_factory=list)
    paused: list = field(default_factory=list)
    ended: list = field(default_factory=list)
    said: list = field(default_factory=list)
    hopeless: set = field(default_factory=set)

    def trial_started(self, number, params, resumed):
        self.started.append((number, resumed))

    def epoch_reported(self, number, step, report):
        self.epochs.append((number, step))

    def trial_paused(self, number):
        self.paused.append(number)

    def trials_hopeless(self, numbers):
        self.hopeless |= numbers

    def trial_ended(self, end, best):
        self.ended.append((end, best))


@pytest.fixture
def make(tmp_path):
    """Open (or reopen, like a driver after a kill) the same study."""
    (tmp_path / "space.yaml").write_text(SPACE)

    def make(slots=1, sets=()):
        spec = load_space(tmp_path / "space.yaml", sets)
        witness = Witness()
        said = witness.said
        return StudyBridge(
            open_study(tmp_path, spec),
            SearchWork(spec),
            Concurrency(slots),
            [witness],
            said.append,
        ), witness

    return make


def reports(values, first=0):
    return [{"epoch": first + i, "leader_accuracy": v} for i, v in enumerate(values)]


def run_trial(bridge, values):
    number = bridge.next_trial().trial.number
    for report in reports(values[:-1]):
        if bridge.report(number, [report]):
            return number
    bridge.complete(number, reports(values[-1:], first=len(values) - 1))
    return number


MOST = 5  # failures in a row
RISING = [0.1, 0.2, 0.3, 0.4, 0.5, 0.6]


def test_the_enqueued_configuration_comes_first(make):
    bridge, _ = make()
    assert bridge.next_trial().config.lr == 0.1


def test_a_complete_trial_has_its_curve_and_its_last_value(make):
    bridge, witness = make()
    number = run_trial(bridge, RISING)
    trial = bridge.study.trials[number]
    assert trial.state is TrialState.COMPLETE
    assert trial.value == 0.6
    assert list(trial.intermediate_values.values()) == RISING
    assert witness.ended[0][0].state == "complete"
    assert witness.ended[0][1].number == number


def test_no_more_trials_than_slots_are_open(make):
    bridge, _ = make(slots=2)
    assert bridge.next_trial() and bridge.next_trial()
    assert bridge.next_trial() is None
    assert not bridge.done


def test_the_budget_counts_complete_and_pruned_trials_but_not_failed_ones(make):
    bridge, _ = make()
    run_trial(bridge, RISING)
    bridge.fail(bridge.next_trial().trial.number, "out of luck")
    for _ in range(3):
        run_trial(bridge, RISING)
    assert bridge.next_trial() is None
    assert bridge.done
    assert [t.state for t in bridge.study.trials].count(TrialState.FAIL) == 1
    assert len(bridge.study.trials) == 5


def test_a_hopeless_trial_is_pruned_but_not_before_its_ramp_up_is_over(make):
    bridge, witness = make()
    run_trial(bridge, RISING)
    number = bridge.next_trial().trial.number
    assert not bridge.report(number, reports([0.0]))
    assert not bridge.report(number, reports([0.0], first=1))
    assert not bridge.report(number, reports([0.0], first=2))
    assert bridge.report(number, reports([0.0], first=3))  # w(3) = 1 with R = 3; w(2) = 0.57
    trial = bridge.study.trials[number]
    assert trial.state is TrialState.PRUNED
    assert (trial.last_step, trial.value) == (3, 0.0)
    assert witness.ended[-1][0].state == "pruned"
    assert bridge.report(number, reports([0.0], first=4)), "a closed trial is told to stop"
    assert len(bridge.study.trials[number].intermediate_values) == 4


def test_a_trial_left_running_is_adopted_with_number_parameters_and_curve(make):
    bridge, _ = make()
    entry = bridge.next_trial()
    bridge.report(entry.trial.number, reports(RISING[:2]))

    again, witness = make()
    adopted = again.next_trial()
    assert adopted.trial.number == entry.trial.number
    assert adopted.config == entry.config
    assert witness.started == [(0, True)]
    # The new worker reports all it has: the known epochs stay, the missed one is filled in.
    again.report(0, reports([0.9, 0.9, 0.3]))
    assert again.study.trials[0].intermediate_values == {0: 0.1, 1: 0.2, 2: 0.3}
    assert witness.epochs == [(0, 0), (0, 1), (0, 2)], "watchers may have missed the first ones"
    assert len(again.study.trials) == 1


def test_a_trial_killed_between_asking_and_sampling_is_adopted(make):
    bridge, _ = make()
    bridge.study.ask()
    again, _ = make()
    assert again.next_trial().config.lr == 0.1


def test_a_finished_worker_that_reports_again_closes_the_adopted_trial(make):
    bridge, _ = make()
    bridge.report(bridge.next_trial().trial.number, reports(RISING))
    again, _ = make()
    again.complete(again.next_trial().trial.number, reports(RISING))
    assert again.study.trials[0].value == 0.6


@pytest.mark.parametrize("sampler", ["tpe", "random", "gp", "qmc"])
def test_a_search_that_was_cut_anywhere_suggests_what_the_unbroken_one_does(
    make, tmp_path, sampler
):
    def suggestions(cut_after):
        (tmp_path / JOURNAL).unlink(missing_ok=True)
        found = []
        bridge, _ = make(sets=[f"study.sampler={sampler}", "study.trials=8"])
        for number in range(8):
            if number == cut_after:
                bridge, _ = make(sets=[f"study.sampler={sampler}", "study.trials=8"])
            entry = bridge.next_trial()
            found.append(entry.config.lr)
            bridge.complete(entry.trial.number, reports([entry.config.lr] * 6))
        return found

    straight = suggestions(cut_after=None)
    assert len(set(straight)) == 8
    assert suggestions(cut_after=3) == straight
    assert suggestions(cut_after=6) == straight


def test_seeds_differ_from_trial_to_trial(make):
    bridge, _ = make(slots=3)
    seeds = {bridge.next_trial().config.seed for _ in range(3)}
    assert len(seeds) == 3


def test_a_failure_keeps_its_reason(make):
    bridge, witness = make()
    number = bridge.next_trial().trial.number
    bridge.fail(number, "NonFiniteLossError: loss is nan")
    assert bridge.study.trials[number].state is TrialState.FAIL
    assert bridge.study.trials[number].user_attrs["okddip:reason"].endswith("loss is nan")
    assert witness.ended[0][0].reason.endswith("loss is nan")


def test_failures_beside_trials_that_train_well_do_not_end_the_search(make):
    bridge, _ = make(slots=2)
    healthy = bridge.next_trial().trial.number
    for step in range(MOST + 2):
        bridge.fail(bridge.next_trial().trial.number, "loss is nan")
        bridge.report(healthy, reports([0.1], first=step))
    assert not bridge.done and not bridge.abort_reason


def test_a_listener_that_raises_does_not_end_the_search(make):
    bridge, witness = make()
    witness.trial_started = None  # not callable
    assert bridge.next_trial() is not None


def test_failures_in_a_row_end_the_search_and_a_success_forgives_them(make):
    bridge, _ = make()
    for _ in range(MOST - 1):
        bridge.fail(bridge.next_trial().trial.number, "no space left on device")
    run_trial(bridge, RISING)
    for _ in range(MOST):
        assert not bridge.done
        bridge.fail(bridge.next_trial().trial.number, "no space left on device")
    assert bridge.done
    assert "no space left on device" in bridge.abort_reason


def test_a_search_whose_trials_all_fail_after_some_epochs_ends_too(make):
    bridge, _ = make()
    for step in range(MOST):
        assert not bridge.done
        number = bridge.next_trial().trial.number
        bridge.report(number, reports([0.1]))
        bridge.fail(number, f"NonFiniteLossError: loss is nan in epoch {step}")
    assert bridge.done
    assert bridge.abort_reason == (
        "5 trials in a row failed: NonFiniteLossError: loss is nan in epoch 4"
    )


def test_giving_up_names_the_causes_the_most_frequent_first(make):
    bridge, _ = make(sets=["study.max_failures=3"])
    for reason in ("disk 1 broke", "loss is nan", "disk 2 broke"):
        bridge.fail(bridge.next_trial().trial.number, reason)
    assert bridge.abort_reason == ("3 trials in a row failed: 2 × disk 2 broke; 1 × loss is nan")


def test_out_of_memory_is_tried_once_more_with_half_as_many_at_a_time(make):
    bridge, witness = make(slots=4)
    numbers = [bridge.next_trial().trial.number for _ in range(4)]
    for number in numbers[:2]:  # two that ran beside each other halve once
        bridge.requeue(number, "CUDA out of memory", "out of memory")
    assert bridge.share.slots == 2
    assert len(witness.said) == 1
    assert "2 trials at a time" in witness.said[0]
    assert bridge.next_trial() is None  # the other two are still running
    bridge.fail(numbers[2], "x")
    assert bridge.next_trial().trial.number == numbers[0]
    bridge.requeue(numbers[0], "CUDA out of memory", "out of memory")
    assert bridge.study.trials[numbers[0]].state is TrialState.FAIL
    assert bridge.study.trials[numbers[1]].state is TrialState.RUNNING


def test_out_of_memory_without_company_is_a_failure(make):
    bridge, _ = make()
    number = bridge.next_trial().trial.number
    bridge.requeue(number, "CUDA out of memory", "out of memory")
    assert bridge.study.trials[number].state is TrialState.FAIL
    assert (
        "as the only trial on its device" in bridge.study.trials[number].user_attrs["okddip:reason"]
    )


def test_a_resumed_search_remembers_how_many_fit(make):
    bridge, _ = make(slots=4)
    bridge.requeue(bridge.next_trial().trial.number, "no memory", "out of memory")
    again, _ = make(slots=4)
    assert again.share.slots == 2


@pytest.mark.parametrize(
    ("share", "halved"),
    [
        (Concurrency(8, 0.25), Concurrency(4, 0.5)),  # two GPUs
        (Concurrency(3, 1 / 3), Concurrency(1, 1.0)),
        (Concurrency(5, 0.25), Concurrency(2, 0.5)),  # max_concurrent: 5
        (Concurrency(8, 1.0), None),
        (Concurrency(4, 2.0), None),
        (Concurrency(2), Concurrency(1)),
        (Concurrency(1), None),
    ],
)
def test_half_as_many_trials_on_a_gpu_or_on_a_machine_without_one(share, halved):
    assert share.halved() == halved


def test_a_full_disk_pauses_new_trials_and_loses_none(make, monkeypatch):
    bridge, witness = make(slots=2)
    first, second = (bridge.next_trial().trial.number for _ in range(2))
    bridge.requeue(first, "OSError: no space left on device", "disk full")
    bridge.requeue(second, "OSError: no space left on device", "disk full")
    assert len(witness.said) == 1
    assert "no space left" in witness.said[0]
    assert bridge.next_trial() is None
    assert not bridge.done
    monkeypatch.setattr(bridge, "_paused_until_s", 0.0)
    assert [bridge.next_trial().trial.number for _ in range(2)] == [first, second]
    bridge.complete(first, reports(RISING))
    assert "has space again" in witness.said[1]


def test_a_worker_that_ends_early_is_a_failure_not_a_result(make):
    bridge, _ = make()
    number = bridge.next_trial().trial.number
    bridge.complete(number, reports(RISING[:2]))
    assert bridge.study.trials[number].state is TrialState.FAIL


def test_no_trial_starts_after_the_timeout_but_running_ones_finish(make):
    bridge, _ = make(sets=["study.timeout=0.001"])
    bridge._deadline = 0.0
    assert bridge.next_trial() is None
    assert bridge.done


@pytest.mark.parametrize(
    ("reduce", "value"), [("last", 0.4), ("best", 0.9), ("mean_last_3", (0.9 + 0.2 + 0.4) / 3)]
)
def test_a_curve_is_reduced_as_the_objective_says(reduce, value):
    assert reduced([0.1, 0.9, 0.2, 0.4], ObjectiveSettings(reduce=reduce)) == pytest.approx(value)


def test_a_torn_last_line_is_cut_and_a_whole_journal_is_left_alone(make, tmp_path):
    bridge, _ = make()
    run_trial(bridge, RISING)
    journal = tmp_path / JOURNAL
    whole = journal.read_bytes()
    assert not cut_torn_tail(journal)
    for torn in (b"{", b'{"op_code": 4', b'{"op_code": 4}'):
        journal.write_bytes(whole + torn)
        assert cut_torn_tail(journal)
        assert journal.read_bytes() == whole


def test_other_images_are_refused_on_resume(make):
    bridge, _ = make()
    require_same_images(bridge.study, "abc")
    again, _ = make()
    require_same_images(again.study, "abc")
    with pytest.raises(UserError, match="images"):
        require_same_images(again.study, "xyz")


def test_a_journal_damaged_in_its_middle_is_told(make, tmp_path):
    bridge, _ = make()
    run_trial(bridge, RISING)
    journal = tmp_path / JOURNAL
    lines = journal.read_bytes().splitlines(keepends=True)
    journal.write_bytes(b"".join([*lines[:3], b"\x00\x00\n", *lines[3:]]))
    with pytest.raises(UserError, match="damaged"):
        make()


# Runs that are all known beforehand


def fixed_bridge(tmp_path, runs):
    work = FixedWork({"a": {"epochs": 2}}, ObjectiveSettings(), {}, 5)
    return StudyBridge(open_fixed_study(tmp_path, "fixed", runs), work, Concurrency(1), [])


RUNS = [{CONTENDER: "a", SEED: 5}, {CONTENDER: "a", SEED: 6}]


def test_fixed_runs_are_trained_once_each_in_order_with_their_seeds(tmp_path):
    bridge = fixed_bridge(tmp_path, RUNS)
    seeds = []
    while (entry := bridge.next_trial()) is not None:
        seeds.append(entry.config.seed)
        bridge.complete(entry.trial.number, reports([0.1, 0.2]))
    assert seeds == [5, 6]
    assert bridge.done
    assert fixed_bridge(tmp_path, RUNS).done


def test_runs_that_are_added_later_come_after_those_that_are_there(tmp_path):
    run_trial(fixed_bridge(tmp_path, RUNS[:1]), [0.1, 0.2])
    bridge = fixed_bridge(tmp_path, RUNS)
    assert bridge.next_trial().config.seed == 6


def test_a_run_whose_worker_died_is_tried_once_more_by_a_later_driver(tmp_path):
    for tries in (1, 2):
        bridge = fixed_bridge(tmp_path, RUNS[:1])
        number = bridge.next_trial().trial.number
        for _ in range(WORKER_DEATHS_FORGIVEN):
            bridge.requeue(number, "killed", "died")
            assert bridge.next_trial().trial.number == number
        bridge.requeue(number, "killed", "died")
        assert bridge.done
        assert len(runs_with(bridge.study, RUNS[0])) == tries
    assert fixed_bridge(tmp_path, RUNS[:1]).done


def test_a_run_whose_training_failed_has_failed(tmp_path):
    bridge = fixed_bridge(tmp_path, RUNS[:1])
    bridge.fail(bridge.next_trial().trial.number, "loss is nan")
    assert fixed_bridge(tmp_path, RUNS[:1]).done


# --- screening: trials wait at their rungs (here after 2 of 6 epochs), and some go on

SCREENED = ("study.searcher=screen", "study.pruner=none", "trainer.ramp_epochs=1")
RUNG = 2


def next_of(bridge):
    """Return the next trial once the bridge has decided; None where there is none."""
    while (entry := bridge.next_trial()) is None and bridge.is_deciding:
        bridge.wait_for_decision()
    return entry or (None if bridge.exhausted else bridge.next_trial())


def train(bridge, entry, level):
    """Train a trial until it pauses or ends; return whether it is at its end."""
    number = entry.trial.number
    for epoch in range(6):
        value = level * (epoch + 1) / 6
        if epoch == 5:
            bridge.complete(number, reports([value], first=5))
        elif bridge.report(number, reports([value], first=epoch)):
            return False
    return True


def level_of(entry):
    return 1 - abs(np.log10(entry.config.lr) + 1) / 4


def search_on(bridge, trials):
    """Train trials one after the other."""
    for _ in range(trials):
        if (entry := next_of(bridge)) is None:
            return
        train(bridge, entry, level_of(entry))


def test_a_screened_trial_pauses_at_its_rung_and_gives_its_slot_away(make):
    bridge, witness = make(sets=SCREENED)
    paper = next_of(bridge)
    assert train(bridge, paper, 0.5), "the paper's setting never waits"
    waiting = next_of(bridge)
    assert not train(bridge, waiting, 0.5)
    trial = bridge.study.trials[1]
    assert trial.state is TrialState.RUNNING
    assert len(trial.intermediate_values) == RUNG
    assert state_of(trial) == "paused", "as people are told"
    assert witness.paused == bridge.paused == [1]
    assert next_of(bridge).trial.number == 2


def test_a_promoted_trial_is_adopted_and_goes_on_to_its_end(make):
    bridge, witness = make(sets=(*SCREENED, "study.trials=6"))
    search_on(bridge, 20)
    trials = bridge.study.trials
    promoted = [t for t in trials[1:] if t.state is TrialState.COMPLETE]
    assert promoted and all((t.number, True) in witness.started for t in promoted)
    assert all(set(t.user_attrs["okddip:went_on"]) == {"mean", "sd", "mark"} for t in promoted)
    assert all(len(t.intermediate_values) == 6 for t in promoted)
    assert len(trials) == 6 and bridge.done


def test_paused_trials_without_a_chance_are_announced(make):
    bridge, witness = make(sets=(*SCREENED, "study.trials=30"))
    while not witness.hopeless and (entry := next_of(bridge)):
        train(bridge, entry, level_of(entry))
    waiting = set(bridge.paused)
    assert witness.hopeless and witness.hopeless < waiting
    values = {n: bridge.study.trials[n].intermediate_values[RUNG - 1] for n in waiting}
    assert max(values, key=values.__getitem__) not in witness.hopeless


def test_when_the_search_is_over_paused_trials_are_closed_as_pruned(make):
    bridge, witness = make(sets=(*SCREENED, "study.trials=6"))
    search_on(bridge, 20)
    paused = bridge.paused
    assert paused and bridge.done
    assert {bridge.study.trials[n].state for n in paused} == {TrialState.RUNNING}, "done only asks"
    bridge.close_paused()
    for number in paused:
        trial = bridge.study.trials[number]
        assert trial.state is TrialState.PRUNED
        assert trial.value == trial.intermediate_values[RUNG - 1]
    assert [end.number for end, _ in witness.ended[-len(paused) :]] == paused


def test_after_a_kill_paused_trials_still_wait_and_the_same_is_decided(make):
    bridge, _ = make(sets=(*SCREENED, "study.trials=9"))
    search_on(bridge, 6)
    waiting, decided = bridge.paused, next_of(bridge)
    again, _ = make(sets=(*SCREENED, "study.trials=9"))
    if decided.pauses_after is None:
        assert set(again.paused) == set(waiting)
    entry = next_of(again)
    assert entry.trial.number == decided.trial.number
    assert entry.trial.params == decided.trial.params


def test_a_trial_killed_before_it_had_parameters_gets_what_was_proposed(make):
    sets = (*SCREENED, "study.trials=20")
    bridge, _ = make(sets=sets)
    while (entry := next_of(bridge)).trial.number < 7:
        train(bridge, entry, level_of(entry))
    train(bridge, entry, 0.5)
    trials = bridge.study.trials
    expected = bridge.work.screening.begin(trials, (), len(trials)).proposal.params
    bridge.study._storage.create_new_trial(bridge.study._study_id)
    adopted = next_of(make(sets=sets)[0]).trial
    assert adopted.number == len(trials)
    assert adopted.params == expected


def test_nothing_is_promoted_after_the_deadline_or_once_the_search_was_given_up(make):
    bridge, _ = make(sets=(*SCREENED, "study.trials=9", "study.timeout=0.5s"))
    entry = next_of(bridge)
    train(bridge, entry, 0.5)
    time.sleep(0.6)
    assert next_of(bridge) is None and bridge.done
    bridge, _ = make(sets=(*SCREENED, "study.trials=9"))
    search_on(bridge, 5)
    waiting = bridge.paused
    bridge.abort_reason = "out of luck"
    assert next_of(bridge) is None and bridge.done
    bridge.close_paused()
    assert bridge.paused == waiting != []
