"""What a `gymnasium.vector.VectorEnv` promises, checked; and its batches, taken apart."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

import numpy as np
from gymnasium import spaces
from gymnasium.vector import AutoresetMode

from rl.core.data.spaces import ActionLayout, Leaf, ObservationLayout
from rl.core.data.tree import Array
from rl.env_runners.faults import check_observation
from rl.errors import EnvironmentFault, UsageError

__all__ = ["autoreset_mode", "batched_actions", "check_vector", "check_vector_step", "info_of"]

PARTS = ("num_envs", "single_observation_space", "single_action_space", "reset", "step")
"""What is asked of a vector environment, whatever its class."""


def check_vector(env: Any, name: str, num_envs: int) -> None:
    """Raises `UsageError` for what is no vector environment of `num_envs` environments."""
    lacking = [part for part in PARTS if not hasattr(env, part)]
    if lacking:
        raise UsageError(
            f"env {name}: gave a {type(env).__name__} without {', '.join(lacking)}; asked for"
            " num_envs it must return a vector environment, as gymnasium.vector.VectorEnv is"
        )
    if env.num_envs != num_envs:
        raise UsageError(
            f"env {name}: was asked for num_envs={num_envs} and made a vector environment of"
            f" {env.num_envs}; let it make as many as it is asked for"
        )
    autoreset_mode(env, name)


def autoreset_mode(env: Any, name: str) -> AutoresetMode:
    """How a vector environment goes on where an episode ended; `UsageError` unless it says so."""
    metadata = getattr(env, "metadata", None) or {}
    mode = metadata.get("autoreset_mode")
    if isinstance(mode, AutoresetMode):
        return mode
    fix = (
        'set metadata = {"autoreset_mode": gymnasium.vector.AutoresetMode.NEXT_STEP} in its class'
        " (or SAME_STEP, or DISABLED), whichever it does"
    )
    if "autoreset_mode" not in metadata:
        raise UsageError(
            f"env {name}: the vector environment {type(env).__name__} does not declare how it goes"
            f" on where an episode ends, and a guess would spoil what is learnt; {fix}"
        )
    raise UsageError(
        f"env {name}: the vector environment {type(env).__name__} declares the autoreset mode"
        f" {mode!r}, which is none that Gymnasium knows; {fix}"
    )


def info_of(infos: Mapping[str, Any], b: int) -> dict[str, Any]:
    """What the infos of all environments say of one, as its own `info` would."""
    told = {}
    for key, values in infos.items():
        mask = infos.get(f"_{key}")
        if key.startswith("_") and key[1:] in infos:
            continue
        if mask is not None and not (isinstance(mask, np.ndarray) and mask[b]):
            continue
        if isinstance(values, Mapping):
            told[key] = info_of(values, b)
        elif isinstance(values, np.ndarray) and values.ndim and len(values) > b:
            told[key] = values[b]
    return told


def batched_actions(layout: ActionLayout, rows: Array) -> Any:
    """Turns stored rows [B, *act] into what `step` of a vector environment takes.

    Continuous values are clipped to the space, as by `ActionLayout.decode`.
    """
    if isinstance(layout.space, spaces.Discrete):
        return (rows + layout.space.start).astype(layout.space.dtype, copy=False)
    batch, used = _batch(layout.space, rows, 0)
    assert used == layout.num_columns
    return batch


def _batch(space: spaces.Space[Any], rows: Array, at: int) -> tuple[Any, int]:
    """The columns of a space from `at` on as a batch of it, and where the next ones begin."""
    if isinstance(space, spaces.Dict):
        named = {}
        for key, part in space.spaces.items():
            named[key], at = _batch(part, rows, at)
        return named, at
    if isinstance(space, spaces.Tuple):
        parts = []
        for part in space.spaces:
            batch, at = _batch(part, rows, at)
            parts.append(batch)
        return tuple(parts), at
    assert space.shape is not None
    end = at + int(np.prod(space.shape))
    block = rows[:, at:end].reshape(-1, *space.shape)
    if isinstance(space, spaces.Box):
        block = np.clip(block, space.low, space.high)
    elif isinstance(space, spaces.Discrete | spaces.MultiDiscrete):
        block = block.astype(np.int64) + space.start
    return block.astype(space.dtype, copy=False), end


def check_vector_step(result: Any, layout: ObservationLayout, width: int, where: str) -> None:
    """Raises the `EnvironmentFault` that tells what is wrong with the result of a step, if any."""
    if not isinstance(result, tuple | list) or len(result) != 5:
        raise EnvironmentFault(
            f"{where}: step returned a {type(result).__name__}, expected the tuple (observations,"
            " rewards, terminations, truncations, infos)"
        )
    observations, rewards, terminated, truncated, infos = result
    check_observations(observations, layout, width, where, "step")
    for name, values, kinds in (
        ("rewards", rewards, "biuf"),
        ("terminations", terminated, "biu"),
        ("truncations", truncated, "biu"),
    ):
        array = np.asarray(values)
        if array.shape != (width,) or array.dtype.kind not in kinds:
            raise EnvironmentFault(
                f"{where}: step returned {name} of shape {array.shape} and dtype {array.dtype};"
                f" expected {'numbers' if 'f' in kinds else 'bools'} of shape {(width,)}"
            )
    if not isinstance(infos, Mapping):
        raise EnvironmentFault(
            f"{where}: step returned infos of type {type(infos).__name__}, expected a dict"
        )


def check_observations(
    observations: Any, layout: ObservationLayout, width: int, where: str, method: str
) -> list[Any]:
    """The leaves of a batch of observations, each [B, *shape]; `EnvironmentFault` for others."""
    try:
        leaves = layout.split(observations)
    except (KeyError, IndexError, TypeError) as error:
        raise EnvironmentFault(
            f"{where}: {method} returned observations without the part {error}"
        ) from error
    for leaf, value in zip(layout.leaves, leaves, strict=True):
        check_observation(_batched(leaf, width), value, where, method)
    return leaves


def _batched(leaf: Leaf, width: int) -> Leaf:
    return dataclasses.replace(
        leaf,
        shape=(width, *leaf.shape),
        sizes=leaf.sizes * width,
        starts=leaf.starts * width,
    )
