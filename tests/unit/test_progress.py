"""The console of a running study: counts, paused trials, time left."""

import io

import pytest
from rich.console import Console

from okddip_search.driver.progress import SearchConsole
from okddip_search.study.events import TrialEnd

REPORT = {"epoch": 2, "leader_accuracy": 0.5, "ensemble_accuracy": 0.6, "images_per_s": 9.0}


@pytest.fixture
def show():
    """Let a console hear of events, and return all that it drew."""

    def show(tell, *, terminal=True, **named):
        file = io.StringIO()
        console = Console(file=file, force_terminal=terminal, width=200)
        with SearchConsole(console, "tiny", named.pop("trials", 20), 9, 3, **named) as screen:
            tell(screen)
        return file.getvalue()

    return show


def pause(screen, number=7):
    screen.trial_started(number, {"lr": 0.1}, False)
    screen.epoch_reported(number, 2, REPORT)
    screen.trial_paused(number)


def test_trials_that_an_earlier_session_has_paused_are_counted(show):
    earlier = {4: {"lr": 0.1}, 5: {"lr": 0.2}}
    assert "paused 2, " in show(lambda screen: None, paused=earlier)
    assert "paused 3, " in show(pause, paused=earlier)


def test_a_paused_trial_that_goes_on_is_not_said_to_resume_after_a_crash(show):
    def goes_on(screen):
        screen.trial_started(4, {"lr": 0.1}, True)

    assert "resumes from its checkpoint" not in show(goes_on, terminal=False, paused={4: {}})
    assert "trial 4 resumes from its checkpoint" in show(goes_on, terminal=False)


def test_a_trial_of_an_earlier_session_ends_with_its_parameters(show):
    def ends(screen):
        screen.trial_ended(TrialEnd(4, "pruned", 0.5, 2), None)

    shown = show(ends, terminal=False, paused={4: {"lr": 0.1}})
    assert "trial   4  pruned     50.00 %    3 epochs  lr=0.1" in shown


def test_with_a_budget_its_time_is_left_and_no_number_of_trials_is_planned(show):
    shown = show(pause, trials=None, left_s=lambda: 192.0)
    assert "tiny: 3 trials" in shown
    assert "left 3:12, confirmation included" in shown
