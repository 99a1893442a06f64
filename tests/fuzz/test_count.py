"""The last test of the folder: were there as many cases as promised?"""

import pytest
from fuzz_helpers import COUNTS

PROMISED = 10_000


def test_a_run_has_ten_thousand_cases_and_both_outcomes_for_every_reader(everything_ran):
    if not everything_ran:
        pytest.skip("only a part of the folder is run")
    assert sum(count.cases for count in COUNTS.values()) >= PROMISED
    for reader, count in COUNTS.items():
        # Fuzzing that is always refused at the door never gets to what lies behind it.
        assert 0 < count.refused < count.cases, f"{reader}: {count}"
