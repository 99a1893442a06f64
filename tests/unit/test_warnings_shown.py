"""What a session's user is told of warnings: each once, wherever it comes from."""

import logging

import optuna
import pytest

from okddip_search.terminal import quiet_libraries
from okddip_search.tracking.worker import Tracker


@pytest.fixture(autouse=True)
def logging_as_before():
    """A session sets up its whole process; other tests are to have it as it was."""
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    yield
    root.handlers[:], root.level = handlers, level
    optuna.logging.disable_propagation()
    optuna.logging.enable_default_handler()


def test_a_warning_of_ours_is_shown_and_one_of_a_library_is_not(tmp_path):
    shown = []
    with quiet_libraries(shown.append):
        logging.getLogger("okddip_search.driver.watchdog").warning("trial %d hangs", 3)
        logging.getLogger("ray").warning("a library's")
    assert shown == ["trial 3 hangs"]


def test_what_the_tracking_tells_is_shown_once(tmp_path):
    shown = []
    with quiet_libraries(shown.append):
        Tracker(tmp_path, None, "demo", on_trouble=shown.append)._tell("MLflow does not answer")
    assert shown == ["MLflow does not answer"]
