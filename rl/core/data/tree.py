"""Observations are one array, or a dictionary of arrays when the space is composite.

Shapes are spelt with T steps, B environments, K episode ends, N = T * B samples.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

Array = NDArray[Any]
Tree = Array | dict[str, Array]
"""One array, or arrays by the path of their leaf, `camera` or `robot/position`."""

X = TypeVar("X")
Y = TypeVar("Y")

__all__ = ["Array", "Tree", "concatenate_trees", "first_leaf", "put_rows", "tree_map"]


def tree_map(function: Callable[[X], Y], tree: X | dict[str, X]) -> Y | dict[str, Y]:
    """Applies the function to the array, or to each array of the dictionary."""
    if isinstance(tree, dict):
        return {path: function(leaf) for path, leaf in tree.items()}
    return function(tree)


def concatenate_trees(trees: list[Tree], axis: int) -> Tree:
    """Joins trees of equal structure leaf by leaf."""
    first = trees[0]
    if len(trees) == 1:
        return first
    if isinstance(first, dict):
        return {
            path: np.concatenate([tree[path] for tree in trees if isinstance(tree, dict)], axis)
            for path in first
        }
    return np.concatenate([tree for tree in trees if not isinstance(tree, dict)], axis)


def first_leaf(tree: X | dict[str, X]) -> X:
    """The array, or the first of the dictionary's; for what all leaves share, such as a length."""
    return next(iter(tree.values())) if isinstance(tree, dict) else tree


def put_rows(target: Tree, to: Any, source: Tree, at: Any) -> None:
    """Writes `source[at]` to `target[to]`, leaf by leaf."""
    if isinstance(target, dict):
        assert isinstance(source, dict)
        for path, leaf in target.items():
            leaf[to] = source[path][at]
    else:
        assert not isinstance(source, dict)
        target[to] = source[at]
