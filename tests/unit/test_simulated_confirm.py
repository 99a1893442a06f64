"""Where the truth is known: confirm keeps its error rate and coverage, and finds real gains.

The simulation is that of docs/confirm.md, from the search to the verdict; nothing is trained.
"""

import pytest
from simulate_confirm import AUTO, World, simulate

from okddip_search.confirm.looks import planned_looks

# 4,000 repetitions: the standard error of a rate of 3 % is 0.3, of 95 % over 3 baselines about 0.3.
REPETITIONS = 4000
ALIKE = {
    "validation and test noise almost the same": World(rho=0.9),
    "many baselines": World(baselines=6, rho=0.9),
    "no choice": World(candidates=1),
    "the paper's setting may win, too": World(paper=True, rho=0.9),
    "three seeds": World((3,), rho=0.9),
    "heavy tails": World(noise="heavy tails"),
    "looks as needed": World(AUTO, baselines=6, rho=0.9),
    "looks as needed, one baseline": World(AUTO, baselines=1, rho=0.9),
}
TWICE_AS_NOISY = {
    "five seeds": World(noisy=(2.0, 1.0), baselines=6),
    "looks as needed": World(AUTO, noisy=(2.0, 1.0), baselines=6),
}


@pytest.mark.parametrize("world", ALIKE.values(), ids=ALIKE.keys())
def test_where_all_are_alike_a_gain_is_rarely_claimed(world: World) -> None:
    rates = simulate(world, REPETITIONS)
    assert rates.false_better <= 0.04
    assert rates.false_worse <= 0.025
    assert 0.93 <= rates.coverage <= 0.975


@pytest.mark.parametrize("world", TWICE_AS_NOISY.values(), ids=TWICE_AS_NOISY.keys())
def test_where_candidates_are_twice_as_noisy_as_well(world: World) -> None:
    assert simulate(world, REPETITIONS).false_better <= 0.055  # 5 % and its standard error


@pytest.mark.parametrize("most", [5, 20])
@pytest.mark.parametrize("gain", [0.0, 0.5, 2.0, 5.0])
def test_intervals_hold_however_many_looks_are_planned(most: int, gain: float) -> None:
    rates = simulate(World(planned_looks(most), gain=gain), REPETITIONS)
    assert 0.93 <= rates.coverage <= 0.98


def test_intervals_hold_where_candidates_truly_differ() -> None:
    assert 0.93 <= simulate(World(spread=1.0), REPETITIONS).coverage <= 0.97


def test_without_its_correction_choosing_among_candidates_would_cost_too_many_errors() -> None:
    world = World(candidates=5, rho=0.9)
    assert simulate(world, REPETITIONS).false_better <= 0.04
    assert simulate(world._replace(as_one=True), REPETITIONS).false_better > 0.05


def test_every_seed_more_finds_more() -> None:
    worlds = [World((n,), baselines=6, gain=2.0) for n in (3, 4, 5, 6, 10)]
    power = [simulate(world, REPETITIONS).power for world in worlds]
    assert power == sorted(power)
    assert power[2] > 0.57
    assert power[-1] > 0.95


def test_looks_as_needed_find_a_gain_in_fewer_runs_and_give_up_early_without_one() -> None:
    world = World(AUTO, baselines=6)
    found, nothing = simulate(world._replace(gain=2.0), REPETITIONS), simulate(world, REPETITIONS)
    assert found.power > 0.92
    assert found.runs < 52.5
    assert nothing.runs < 45
    assert simulate(world._replace(gain=5.0), REPETITIONS).coverage > 0.94
