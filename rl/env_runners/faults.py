"""What is wrong with what an environment returned, in words that name method, step and value."""

from __future__ import annotations

import math
import traceback
from typing import Any

import numpy as np

from rl.core.data.spaces import Leaf, ObservationLayout
from rl.core.data.tree import Array
from rl.errors import EnvironmentFault

__all__ = [
    "check_flag",
    "check_info",
    "check_observation",
    "check_reset",
    "check_reward",
    "check_step",
    "no_choice",
    "not_finite",
    "raised",
    "score_of",
    "success_of",
]

FEW = 16
"""Numbers that Python looks at faster than numpy does."""


def raised(where: str, call: str, error: Exception) -> EnvironmentFault:
    """The fault of an environment that raised; the caller chains the error."""
    if isinstance(error, EnvironmentFault):
        return error
    fault = EnvironmentFault(f"{where}: {call} raised {type(error).__name__}: {error}")
    fault.user_traceback = "".join(traceback.format_exception(error))
    return fault


def _shown(value: Any) -> str:
    text = np.array2string(value, threshold=8) if isinstance(value, np.ndarray) else repr(value)
    return text if len(text) <= 120 else text[:117] + "..."


def check_observation(leaf: Leaf, value: Any, where: str, method: str) -> None:
    """Raises `EnvironmentFault` when a leaf has not the shape or dtype its space promises.

    float64 for float32 and integers for floats are accepted: nothing is lost but precision.
    """
    at = f" at {leaf.path!r}" if leaf.path else ""
    try:
        array = np.asarray(value)
    except ValueError:  # rows of unequal length
        array = np.empty((), object)
    if array.dtype.kind not in "biuf":
        raise EnvironmentFault(
            f"{where}: {method} returned an observation{at} of type {type(value).__name__}"
            f" ({_shown(value)}), which holds no numbers; its space says {leaf.dtype}{leaf.shape}"
        )
    if array.shape != leaf.shape:
        raise EnvironmentFault(
            f"{where}: {method} returned an observation{at} of shape {array.shape}, its space says"
            f" {leaf.shape}; the value was {_shown(value)}"
        )
    if leaf.kind == "mask":
        return  # 0 forbids, in whatever dtype
    if not np.can_cast(array.dtype, leaf.dtype, "same_kind"):
        raise EnvironmentFault(
            f"{where}: {method} returned an observation{at} of dtype {array.dtype}, its space says"
            f" {leaf.dtype}; the value was {_shown(value)}"
        )
    if leaf.sizes:
        lowest, sizes = np.array(leaf.starts), np.array(leaf.sizes)
        if ((array.ravel() < lowest) | (array.ravel() >= lowest + sizes)).any():
            raise EnvironmentFault(
                f"{where}: {method} returned the observation{at} {_shown(value)}, outside its"
                f" space: from {leaf.starts} there are {leaf.sizes} values"
            )


def _is_number(value: Any) -> bool:
    try:
        float(value)
    except (TypeError, ValueError):
        return False
    return not isinstance(value, str | bytes)


def check_reset(result: Any, layout: ObservationLayout, where: str, method: str) -> list[Any]:
    """The leaves of the observation a reset returned; unlike those of a step, finite for sure."""
    if not isinstance(result, tuple) or len(result) != 2:
        size = f" of {len(result)}" if isinstance(result, tuple) else ""
        raise EnvironmentFault(
            f"{where}: {method} returned a {type(result).__name__}{size}, expected the tuple"
            " (observation, info)"
        )
    leaves = _check_leaves(result[0], layout, where, method)
    for leaf, value in zip(layout.leaves, leaves, strict=True):
        array = np.asarray(value)
        place = not_finite(array)
        if place is not None:
            at = f" at {leaf.path!r}" if leaf.path else ""
            raise EnvironmentFault(
                f"{where}: {method} returned an observation{at} with {array[place]} at index"
                f" {list(place)}; it must be finite"
            )
    return leaves


def _check_leaves(
    observation: Any, layout: ObservationLayout, where: str, method: str
) -> list[Any]:
    try:
        leaves = layout.split(observation)
    except (KeyError, IndexError, TypeError) as error:
        raise EnvironmentFault(
            f"{where}: {method} returned an observation without the part {error}:"
            f" {_shown(observation)}"
        ) from error
    for leaf, value in zip(layout.leaves, leaves, strict=True):
        check_observation(leaf, value, where, method)
    return leaves


def check_step(result: Any, layout: ObservationLayout, where: str) -> None:
    """Raises the `EnvironmentFault` that tells what is wrong with the result of a step, if any."""
    if not isinstance(result, tuple | list) or len(result) != 5:
        size = f" of {len(result)}" if isinstance(result, tuple | list) else ""
        raise EnvironmentFault(
            f"{where}: step returned a {type(result).__name__}{size}, expected the tuple"
            " (observation, reward, terminated, truncated, info)"
        )
    observation, reward, terminated, truncated, info = result
    _check_leaves(observation, layout, where, "step")
    check_reward(reward, where)
    check_flag("terminated", terminated, where)
    check_flag("truncated", truncated, where)
    check_info(info, where)


def check_reward(reward: Any, where: str) -> None:
    """Raises `EnvironmentFault` for a reward that is not one number."""
    if not _is_number(reward):
        raise EnvironmentFault(
            f"{where}: step returned the reward {_shown(reward)} of type {type(reward).__name__},"
            " expected one number"
        )


def check_flag(name: str, flag: Any, where: str) -> None:
    """Raises `EnvironmentFault` where `terminated` or `truncated` says neither yes nor no."""
    if not isinstance(flag, bool | np.bool_ | int | np.ndarray) or np.ndim(flag) != 0:
        raise EnvironmentFault(
            f"{where}: step returned {name}={_shown(flag)} of type {type(flag).__name__},"
            " expected a bool"
        )


def check_info(info: Any, where: str) -> None:
    """Raises `EnvironmentFault` for an info that is not a dict."""
    if not isinstance(info, dict):
        raise EnvironmentFault(
            f"{where}: step returned info={_shown(info)} of type {type(info).__name__}, expected a"
            " dict"
        )


def score_of(info: dict[str, Any], own: float) -> float:
    """The return of the episode that ended: as a wrapper below others counted it, else our own."""
    counted = info.get("episode")  # an environment may keep something else under this name
    return float(counted["r"] if isinstance(counted, dict) and "r" in counted else own)


def no_choice(where: str) -> EnvironmentFault:
    """The fault of an environment whose mask allows no action where one must be chosen."""
    return EnvironmentFault(
        f"{where}: the action mask allows no action, and the episode goes on; allow one, or end it"
        " with the step before"
    )


def success_of(info: dict[str, Any]) -> bool | None:
    """What the environment says of the episode that ended; None where it says nothing."""
    success = info.get("is_success")
    return None if success is None else bool(success)


def not_finite(array: Array) -> tuple[int, ...] | None:
    """Index of the first NaN or infinity, in order of time; None when there is none."""
    if array.dtype.kind != "f":
        return None
    if array.size <= FEW and all(map(math.isfinite, array.ravel().tolist())):
        return None
    finite = np.isfinite(array)
    return None if finite.all() else tuple(int(i) for i in np.argwhere(~finite)[0])
