"""Counts the cases and bounds each in time and memory; ten thousand of them are promised."""

from pathlib import Path

import pytest
from fuzz_helpers import COUNTS
from hypothesis import HealthCheck, Phase, settings

settings.register_profile(
    "fuzz",
    database=None,  # the same cases in every run, on every machine
    derandomize=True,
    deadline=None,  # a case has its own limit, of CPU time: other processes work here, too
    suppress_health_check=list(HealthCheck),
    print_blob=False,
    phases=[Phase.explicit, Phase.generate],
)
settings.load_profile("fuzz")


def pytest_collection_modifyitems(items):
    """Put the count behind what it counts."""
    items.sort(key=lambda item: item.path == Path(__file__).with_name("test_count.py"))


@pytest.fixture
def everything_ran(request):
    """Say whether this run has all files of the folder, and nothing of them left out."""
    folder = Path(__file__).parent
    ran = {item.path for item in request.session.items}
    chosen = request.config.option.keyword or any("::" in word for word in request.config.args)
    return not chosen and set(folder.glob("test_*.py")) <= ran


def pytest_terminal_summary(terminalreporter):
    if not COUNTS:
        return
    terminalreporter.section("fuzzing")
    for reader, count in COUNTS.items():
        terminalreporter.write_line(
            f"{count.cases:>7,} cases  {count.refused:>7,} refused  {reader}"
        )
    total = sum(count.cases for count in COUNTS.values())
    terminalreporter.write_line(f"{total:>7,} cases in all")
