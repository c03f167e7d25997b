"""One stream for numpy and torch, in torch's layout."""

import numpy as np
import pytest
import torch

from rl.core.learning.random_numbers import RandomNumbers


def words_of(state: np.ndarray, count: int = 700) -> list[int]:
    """What torch draws next where a stream stands, past its next twist."""
    generator = torch.Generator()
    generator.set_state(torch.from_numpy(state.copy()))
    return torch.randint(0, 1 << 20, (count,), generator=generator).tolist()


@pytest.mark.parametrize("seed", [0, 7, (1 << 62) + 12345])
def test_it_begins_as_torch_does(seed: int) -> None:
    expected = torch.Generator().manual_seed(seed)
    numbers = RandomNumbers(seed)
    assert words_of(numbers.get_state()) == words_of(expected.get_state().numpy())
    assert numbers.torch.initial_seed() == seed


@pytest.mark.parametrize("drawn", [0, 1, 5, 623, 624, 625, 1300])
def test_numpy_and_torch_stand_at_the_same_place_after_every_draw(drawn: int) -> None:
    numbers, reference = RandomNumbers(3), torch.Generator().manual_seed(3)
    if drawn:
        numbers.permutation(drawn)  # takes a word each
        torch.randint(0, 1 << 20, (drawn,), generator=reference)
    assert words_of(numbers.get_state()) == words_of(reference.get_state().numpy())
    # And back: what torch has drawn, numpy does not draw again.
    torch.randint(0, 1 << 20, (10,), generator=numbers.torch)
    torch.randint(0, 1 << 20, (10,), generator=reference)
    numbers.permutation(3)
    torch.randint(0, 1 << 20, (3,), generator=reference)
    assert words_of(numbers.get_state()) == words_of(reference.get_state().numpy())
    assert torch.equal(
        torch.randperm(9, generator=numbers.torch), torch.randperm(9, generator=reference)
    )


@pytest.mark.parametrize("with_torch", [False, True])
def test_a_state_is_gone_on_from_to_the_bit(with_torch: bool) -> None:
    first, second = RandomNumbers(1), RandomNumbers(2)
    if with_torch:
        torch.randn(3, generator=first.torch)  # it keeps the fourth for later
    first.normals((5,))
    second.set_state(first.get_state())
    assert first.permutation(50).tolist() == second.permutation(50).tolist()
    assert first.normals((3, 2)).tolist() == second.normals((3, 2)).tolist()
    assert torch.equal(
        torch.randn(20, generator=first.torch), torch.randn(20, generator=second.torch)
    )
    assert np.array_equal(first.get_state(), second.get_state())


@pytest.mark.parametrize("state", [np.zeros(3, np.uint8), np.zeros(5056, np.int64)])
def test_another_state_is_refused(state: np.ndarray) -> None:
    with pytest.raises(ValueError, match="generator's state"):
        RandomNumbers(0).set_state(state)


def test_permutations_are_all_equally_likely() -> None:
    numbers = RandomNumbers(0)
    counts: dict[tuple[int, ...], int] = {}
    for _ in range(6000):
        order = tuple(numbers.permutation(3).tolist())
        counts[order] = counts.get(order, 0) + 1
    assert len(counts) == 6
    assert all(850 < count < 1150 for count in counts.values())  # 5 deviations
    assert numbers.permutation(1000).dtype == np.int64
    assert sorted(numbers.permutation(1000).tolist()) == list(range(1000))
    assert numbers.permutation(0).shape == (0,)


def test_normals_are_normal() -> None:
    drawn = RandomNumbers(0).normals((100_000,))
    assert drawn.dtype == np.float32
    assert abs(drawn.mean()) < 0.02
    assert drawn.std() == pytest.approx(1, abs=0.01)
