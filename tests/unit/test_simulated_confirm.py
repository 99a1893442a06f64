"""Where the truth is known: confirm keeps its error rate and coverage, and finds real gains.

The simulation is that of docs/confirm.md, from the search to the verdict; nothing is trained.
"""

import pytest
from simulate_confirm import World, simulate

# 1,000 repetitions: the standard error of a rate of 5 % is 0.7, of 95 % over 3 baselines about 0.6.
REPETITIONS = 1000
NULL = {
    "validation and test noise almost the same": World(rho=0.9),
    "many baselines": World(baselines=6, rho=0.9),
    "no choice": World(candidates=1),
    "the paper's setting may win, too": World(paper=True),
    "ten seeds": World(seeds=10, rho=0.9),
    "bootstrap": World(seeds=3, rho=0.9),
    "unequal noise": World(noisy=(2.0, 1.0)),
}


@pytest.mark.parametrize("world", NULL.values(), ids=NULL.keys())
def test_where_all_are_alike_a_gain_is_rarely_claimed(world: World) -> None:  # type: ignore[valid-type]
    rates = simulate(world, REPETITIONS)
    assert rates.any_false_better <= 0.05
    assert 0.93 <= rates.coverage <= 0.97


def test_intervals_hold_where_candidates_truly_differ() -> None:
    assert 0.93 <= simulate(World(spread=1.0), REPETITIONS).coverage <= 0.97


def test_without_its_correction_choosing_among_candidates_would_cost_too_many_errors() -> None:
    world = World(candidates=5, rho=0.9)
    assert simulate(world, REPETITIONS).any_false_better <= 0.05
    assert simulate(world._replace(as_one=True), REPETITIONS).any_false_better > 0.05


def test_power_grows_with_the_gain_and_the_seeds() -> None:
    worlds = [World(gain=1.0), World(gain=2.0), World(seeds=10, gain=2.0)]
    small, large, sure = (simulate(world, REPETITIONS // 2).power for world in worlds)
    assert 0.05 < small < 0.2
    assert 0.35 < large < 0.6
    assert sure > 0.9
