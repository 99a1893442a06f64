"""Counts what was broken and what came through; the table at the end is docs/reliability.md's."""

from dataclasses import asdict, dataclass

import pytest

ROWS = {}  # words to line; tests of one fault share it


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
    """Open a line of the table: ``row = fault("kill -9 of the driver")``, then count in it.

    A line that is there already is counted on.
    """

    def open_row(words):
        if words not in ROWS:
            ROWS[words] = Fault(words)
        return ROWS[words]

    return open_row


def pytest_sessionfinish(session):
    """Hand this process's lines on where several share the work."""
    if hasattr(session.config, "workeroutput"):
        session.config.workeroutput["faults"] = [asdict(row) for row in ROWS.values()]


@pytest.hookimpl(optionalhook=True)
def pytest_testnodedown(node):
    """Add up the lines of all processes."""
    for line in getattr(node, "workeroutput", {}).get("faults", []):
        row = ROWS.setdefault(line["words"], Fault(line["words"]))
        row.tries += line["tries"]
        row.survived += line["survived"]
        row.lost += line["lost"]


def pytest_terminal_summary(terminalreporter):
    if not ROWS:
        return
    terminalreporter.section("faults")
    terminalreporter.write_line("| fault | tries | survived | lost |")
    terminalreporter.write_line("|---|---|---|---|")
    for row in ROWS.values():
        terminalreporter.write_line(f"| {row.words} | {row.tries} | {row.survived} | {row.lost} |")
