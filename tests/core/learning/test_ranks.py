"""Parts of a batch, and what several learners in threads of one process agree on."""

import threading
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

from rl.core.learning.ranks import Ranks, zeros


class ThreadRanks(Ranks):
    """Ranks in threads of one process: the arithmetic of a group without its transport."""

    def __init__(self, rank: int, size: int, shared: dict[str, Any]) -> None:
        super().__init__()
        self.rank, self.size, self.share = rank, size, 1 / size
        self._shared = shared

    def average_(self, values: Any) -> Any:
        values *= self.share
        return self.sum_(values)

    def sum_(self, values: Any) -> Any:
        self._shared["values"][self.rank] = torch.as_tensor(values).clone()
        self._shared["barrier"].wait(60)
        values[...] = torch.stack(self._shared["values"]).sum(0)
        self._shared["barrier"].wait(60)
        return values

    def whole(self, part: Any) -> Any:
        rows = zeros(part, self.rows)
        if self.share > 0:
            rows[self._own(self.rows)] = part
        return self.sum_(rows)


def side_by_side(size: int, work: Callable[[Ranks], Any]) -> list[Any]:
    """What `work` returns on each of `size` ranks."""
    shared = {"values": [None] * size, "barrier": threading.Barrier(size)}
    results: list[Any] = [None] * size

    def run(rank: int) -> None:
        try:
            results[rank] = work(ThreadRanks(rank, size, shared))
        except BaseException as error:
            shared["barrier"].abort()
            results[rank] = error

    threads = [threading.Thread(target=run, args=(rank,)) for rank in range(size)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for result in results:
        if isinstance(result, BaseException):
            raise result
    return results


@pytest.mark.parametrize(("rows", "size"), [(64, 2), (7, 2), (7, 3), (1, 1), (5, 5), (100, 7)])
def test_parts_are_all_rows_once_and_their_shares_add_up(rows: int, size: int) -> None:
    ranks = [ThreadRanks(rank, size, {}) for rank in range(size)]
    own = [list(range(rows))[each.part(rows)] for each in ranks]
    assert [row for part in own for row in part] == list(range(rows))
    assert max(map(len, own)) - min(map(len, own)) <= 1
    assert sum(each.share for each in ranks) == pytest.approx(1)


def test_who_has_no_row_of_its_own_has_no_say() -> None:
    ranks = [ThreadRanks(rank, 3, {}) for rank in range(3)]
    assert all(len(range(2)[each.part(2)]) == 1 for each in ranks)
    assert sorted(each.share for each in ranks) == [0, 0.5, 0.5]


@pytest.mark.parametrize(("rows", "size"), [(64, 2), (7, 3), (2, 3)])
def test_means_over_parts_become_the_mean_of_the_batch(rows: int, size: int) -> None:
    values = torch.arange(float(rows)) ** 2

    def work(ranks: Ranks) -> tuple[float, Tensor]:
        own = values[ranks.part(rows)]
        return float(ranks.average_(own.mean())), ranks.whole(own)

    for mean, whole in side_by_side(size, work):
        assert mean == pytest.approx(float(values.mean()), rel=1e-6)
        assert torch.equal(whole, values)


def test_who_never_takes_a_part_computes_what_the_others_do() -> None:
    """A learner that knows nothing of ranks: equal gradients stay what they are."""
    gradients = side_by_side(2, lambda ranks: ranks.average_(torch.tensor([3.0, -1.0])).tolist())
    assert gradients == [[3, -1], [3, -1]]
