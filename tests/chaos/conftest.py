"""Counts what was broken and what came through; the table at the end is docs/reliability.md's."""

from dataclasses import dataclass

import pytest

ROWS = []


@dataclass
class Fault:
    """A line of the table.

    Attributes:
        words: What was broken.
        tries: How often.
        survived: How often everything promised held afterwards.
        lost: Reported epochs or trials that were missing, doubled or changed afterwards.
    """

    words: str
    tries: int = 0
    survived: int = 0
    lost: int = 0


@pytest.fixture
def fault():
    """Open a line of the table: ``row = fault("kill -9 of the driver")``, then count in it."""

    def open_row(words):
        ROWS.append(Fault(words))
        return ROWS[-1]

    return open_row


def pytest_terminal_summary(terminalreporter):
    if not ROWS:
        return
    terminalreporter.section("faults")
    terminalreporter.write_line("| fault | tries | survived | lost |")
    terminalreporter.write_line("|---|---|---|---|")
    for row in ROWS:
        terminalreporter.write_line(f"| {row.words} | {row.tries} | {row.survived} | {row.lost} |")
