"""The sum tree against numpy."""

import numpy as np
import pytest

from rl.core.data.sum_tree import SumTree


@pytest.mark.parametrize("size", [1, 2, 16, 17, 1000, 4097, 70_000])
def test_a_random_sequence_of_changes_gives_numpys_sums_and_leaves(size: int) -> None:
    generator = np.random.default_rng(size)
    tree, weights = SumTree(size), np.zeros(size)
    for _ in range(50):
        leaves = generator.integers(size, size=generator.integers(1, 40))
        values = generator.integers(0, 5, size=len(leaves)) / 4  # exact sums
        tree.set(leaves, values)
        weights[leaves] = values
        assert tree.total == weights.sum()
        assert np.array_equal(tree.get(np.arange(size)), weights)
        if tree.total > 0:
            targets = generator.random(30) * tree.total
            expected = np.searchsorted(np.cumsum(weights), targets, side="right")
            assert np.array_equal(tree.find(targets), expected)


def test_a_leaf_without_weight_is_never_found() -> None:
    tree = SumTree(6)
    tree.set(np.array([1, 4]), np.array([0.1, 0.2]))
    edges = np.array([0.0, 0.1, np.nextafter(0.3, 1), tree.total, 5.0])
    assert set(tree.find(edges)) == {1, 4}


def test_rounding_never_finds_a_leaf_without_weight() -> None:
    tree, generator = SumTree(5000), np.random.default_rng(0)  # sums above leaves
    for _ in range(100):
        weights = generator.random(16)
        weights[[0, 15]] = 0
        tree.set(np.arange(16), weights)
        edges = np.append(np.cumsum(weights), tree.total)  # summed in another order
        for targets in (edges, np.nextafter(edges, 0), np.nextafter(edges, 16)):
            assert (tree.get(tree.find(targets)) > 0).all()
