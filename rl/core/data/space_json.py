"""Spaces as JSON, so that a policy file needs no pickle."""

from __future__ import annotations

from typing import Any

import numpy as np
from gymnasium import spaces

from rl.core.data.tree import Array
from rl.errors import CheckpointError

__all__ = ["space_from_json", "space_to_json"]

MOST_ELEMENTS = 1 << 24
"""Numbers or categories a space may have; a file that claims more is damaged or hostile."""


def _numbers(array: Array) -> Any:
    """An array as one number when it is constant, else as nested lists; infinities as words."""
    flat = array.ravel()
    if flat.size and (flat == flat[0]).all():
        return _number(flat[0])
    return [_number(value) for value in flat]


def _number(value: Any) -> int | float | str:
    number = value.item()
    return str(number) if isinstance(number, float) and not np.isfinite(number) else number


def _array(numbers: Any, shape: tuple[int, ...], dtype: np.dtype[Any]) -> Array:
    listed = numbers if isinstance(numbers, list) else [numbers]
    values = [float(n) if isinstance(n, str) else n for n in listed]
    if dtype.kind != "f" and any(isinstance(value, float) for value in values):
        raise ValueError(f"{numbers!r:.80} among whole numbers")
    array = np.array(values, dtype)
    return array.reshape(shape) if isinstance(numbers, list) else np.full(shape, array[0])


def space_to_json(space: spaces.Space[Any]) -> dict[str, Any]:
    """Describes a Box, Discrete, MultiDiscrete, MultiBinary, Dict or Tuple space."""
    if isinstance(space, spaces.Box):
        return {
            "type": "box",
            "shape": list(space.shape),
            "dtype": str(space.dtype),
            "low": _numbers(space.low),
            "high": _numbers(space.high),
        }
    if isinstance(space, spaces.Discrete):
        return {"type": "discrete", "n": int(space.n), "start": int(space.start)}
    if isinstance(space, spaces.MultiDiscrete):
        return {
            "type": "multi_discrete",
            "nvec": space.nvec.tolist(),
            "start": space.start.tolist(),
        }
    if isinstance(space, spaces.MultiBinary):
        shape = [int(side) for side in space.shape]
        return {"type": "multi_binary", "n": shape[0] if isinstance(space.n, int) else shape}
    if isinstance(space, spaces.Dict):
        parts = [[key, space_to_json(part)] for key, part in space.spaces.items()]
        return {"type": "dict", "spaces": parts}
    if isinstance(space, spaces.Tuple):
        return {"type": "tuple", "spaces": [space_to_json(part) for part in space.spaces]}
    raise TypeError(f"no JSON form for {space}")


def space_from_json(data: Any) -> spaces.Space[Any]:
    """The inverse of `space_to_json`. Raises `CheckpointError` on anything else."""
    try:
        return _parse(data, depth=0)
    except (KeyError, TypeError, ValueError, AssertionError, OverflowError) as error:
        raise CheckpointError(f"not the description of a space: {data!r:.200}: {error}") from error


def _bounded(size: float) -> None:
    if size > MOST_ELEMENTS:
        raise ValueError(f"a space of {size:g} elements is too large")


def _parse(data: Any, depth: int) -> spaces.Space[Any]:
    if depth > 32:
        raise ValueError("nested too deeply")
    match data["type"]:
        case "box":
            shape = tuple(int(side) for side in data["shape"])
            _bounded(np.prod(shape, dtype=np.float64))
            dtype = np.dtype(data["dtype"])
            if dtype.kind not in "iuf":
                raise ValueError(f"dtype {dtype} holds no numbers")
            low, high = (_array(data[bound], shape, dtype) for bound in ("low", "high"))
            return spaces.Box(low, high, shape, dtype.type)
        case "discrete":
            _bounded(data["n"])
            return spaces.Discrete(int(data["n"]), start=int(data["start"]))
        case "multi_discrete":
            sizes = np.array(data["nvec"])
            _bounded(sizes.sum(dtype=np.float64))
            return spaces.MultiDiscrete(sizes, start=np.array(data["start"]))
        case "multi_binary":
            bits = np.array(data["n"])  # a number, or the sides of an array
            _bounded(bits.prod(dtype=np.float64))
            return spaces.MultiBinary(int(bits) if bits.ndim == 0 else bits.astype(int).tolist())
        case "dict":
            # Pairs keep their order, which is that of the features; a dict would be sorted.
            return spaces.Dict([(key, _parse(part, depth + 1)) for key, part in data["spaces"]])
        case "tuple":
            return spaces.Tuple([_parse(part, depth + 1) for part in data["spaces"]])
        case other:
            raise ValueError(f"unknown type {other!r}")
