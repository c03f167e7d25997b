from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from rl.core.data.batch import TensorBatch, to_tensor


@dataclass(frozen=True)
class Sample(TensorBatch):
    observations: dict[str, Tensor]
    rewards: Tensor
    weights: Tensor | None = None


def ten() -> Sample:
    rows = torch.arange(10)
    return Sample({"a": rows.unsqueeze(1) * 2, "b": rows * 3}, rows.float())


def test_rows_are_taken_from_every_column_alike() -> None:
    part = ten().take(torch.tensor([3, 9, 3]))
    assert len(part) == 3
    assert part.observations["a"].tolist() == [[6], [18], [6]]
    assert part.observations["b"].tolist() == [9, 27, 9]
    assert part.rewards.tolist() == [3.0, 9.0, 3.0]
    assert part.weights is None


def test_minibatches_cover_every_row_once_and_the_last_may_be_short() -> None:
    parts = list(ten().minibatches(4))
    assert [len(part) for part in parts] == [4, 4, 2]
    assert torch.cat([part.rewards for part in parts]).tolist() == list(range(10))


def test_shuffling_keeps_rows_together_and_depends_on_the_generator_alone() -> None:
    def shuffled(seed: int) -> Sample:
        return ten().shuffled(torch.Generator().manual_seed(seed))

    batch = shuffled(0)
    assert sorted(batch.rewards.tolist()) == list(range(10))
    assert batch.rewards.tolist() != list(range(10))
    assert torch.equal(batch.observations["b"].float(), batch.rewards * 3)
    assert torch.equal(shuffled(0).rewards, batch.rewards)
    assert not torch.equal(shuffled(1).rewards, batch.rewards)


def test_a_read_only_array_is_copied_and_others_are_shared() -> None:
    array = np.zeros(3, np.float32)
    shared = to_tensor(array)
    array[0] = 1
    assert shared[0] == 1
    array.setflags(write=False)
    copied = to_tensor(array)
    copied[0] = 5
    assert array[0] == 1
