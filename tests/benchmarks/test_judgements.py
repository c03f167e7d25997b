"""When a return counts as reached, and how likely chance alone makes samples so different."""

import itertools
from types import ModuleType

import pytest

from tests.benchmarks.test_run_all import BENCHMARKS


@pytest.fixture(autouse=True)
def path(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(BENCHMARKS)


@pytest.fixture
def time_to_return() -> ModuleType:
    import time_to_return as module

    return module


@pytest.fixture
def engines() -> ModuleType:
    import engines as module

    return module


def test_a_mean_counts_from_as_many_episodes_on_as_it_is_of(time_to_return: ModuleType) -> None:
    assert time_to_return.reached([9.0, 9.0], 5.0, 3) is None
    assert time_to_return.reached([9.0, 9.0, 9.0], 5.0, 3) == 3
    assert time_to_return.reached([0.0, 0.0, 0.0, 6.0, 9.0, 0.0], 5.0, 3) == 5
    assert time_to_return.reached([0.0, 0.0, 0.0, 6.0, 8.9], 5.0, 3) is None


def test_the_medians_are_of_those_that_got_there(time_to_return: ModuleType) -> None:
    runs = [{"seconds": 4.0, "env_steps": 40}, {"seconds": None, "env_steps": None}]
    told = time_to_return.told([*runs, {"seconds": 2.0, "env_steps": 20}])
    assert (told["reached"], told["seconds"], told["env_steps"]) == ("2 of 3", 3.0, 30)
    assert time_to_return.told(runs[1:]) == {"reached": "0 of 1"}


def test_p_is_near_the_share_of_all_splits_that_differ_as_much(engines: ModuleType) -> None:
    values = [1.0, 2.0, 3.0, 4.0, 5.0, 6.0, 7.0, 8.0, 9.0, 10.0, 11.0, 12.0]
    one, other = values[:4] + values[6:8], values[4:6] + values[8:]
    # Sums of six ranks that are at least as far from their mean, 39, counted one by one.
    splits = [sum(split) for split in itertools.combinations(range(1, 13), 6)]
    exact = sum(abs(each - 39) >= abs(sum(one) - 39) for each in splits) / len(splits)
    assert 0.01 < exact < 0.2
    assert engines.rank_sum(one, other) == pytest.approx(exact, abs=0.01)
    assert engines.rank_sum(one, other) == engines.rank_sum(other, one)


def test_equal_samples_differ_by_chance_and_apart_ones_do_not(engines: ModuleType) -> None:
    assert engines.rank_sum([500.0] * 10, [500.0] * 10) == 1.0
    assert engines.rank_sum([1.0, 2.0, 3.0], [1.0, 2.0, 3.0]) == 1.0
    low, high = [float(each) for each in range(10)], [float(each) for each in range(10, 20)]
    assert engines.rank_sum(low, high) == pytest.approx(0.00018, abs=0.00002)


def test_runs_that_never_parted_are_counted(engines: ModuleType) -> None:
    one = {"0": {"greedy": 500.0, "training": 1.0}, "1": {"greedy": 9.0, "training": 2.0}}
    other = {"0": {"greedy": 500.0, "training": 1.0}, "1": {"greedy": 9.0, "training": 3.0}}
    assert engines.same_runs(one, other) == 1
    assert engines.same_runs(one, {**other, "2": other["1"]}) == 1
    assert engines.same_runs(one, {}) == 0


def test_ties_narrow_the_spread_of_chance(engines: ModuleType) -> None:
    one, other = [500.0] * 9 + [400.0], [500.0] * 5 + [300.0] * 5
    # By hand: U = 9 (5 / 2 + 5) + 5 = 72.5; variance 100 / 12 (21 - (2730 + 120) / 380) = 112.5;
    # z = (72.5 - 50 - 0.5) / 10.607 = 2.074.
    assert engines.rank_sum(one, other) == pytest.approx(0.0381, abs=0.0002)
