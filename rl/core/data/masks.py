"""Action masks: which actions the environment allows, told with each observation.

A mask is a part of the observation, the leaf `action_mask`, so it is sampled, stored, replayed and
given to the network wherever the observation is; no network takes it for a feature. It has an entry
for each choice, as the policy network has a logit: [A] for `Discrete(A)`, all categories one behind
the other for `MultiDiscrete`. An environment gives it under that key of its Dict observation, or of
`info`, and then `InfoMask` (rl/env_runners/masks.py) puts it into the observation.

A row that allows nothing is an error where an action must be chosen. Where none will be, after an
episode's last step, it is common, and it forbids nothing: no maximum is over an empty set.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from gymnasium import spaces

from rl.core.data.spaces import MASK, ActionLayout, ObservationLayout
from rl.core.data.tree import Array
from rl.errors import UsageError

__all__ = [
    "FORBIDDEN",
    "best_allowed",
    "check_mask",
    "forbid",
    "has_choice",
    "nth_allowed",
    "with_mask",
]

FORBIDDEN = np.float32(-1e8)
"""Logit of what the mask forbids: finite, so that entropies and gradients stay so; exp gives 0."""


def check_mask(observation: ObservationLayout, action: ActionLayout) -> None:
    """Raises `UsageError` when an observation's mask cannot be one of these actions."""
    mask = observation.mask
    if mask is None:
        return
    if not action.categorical:
        raise UsageError(
            f"the observation has the part {MASK!r}, but its actions are {action.space}: only"
            " Discrete and MultiDiscrete actions, and Dict and Tuple of them, can be masked; give"
            " the part another name if it is no mask"
        )
    if mask.shape != (action.num_parameters,):
        raise UsageError(
            f"the part {MASK!r} of the observation has the shape {mask.shape}, but the actions"
            f" {action.space} need {(action.num_parameters,)}, an entry for each choice"
        )


def with_mask(observation: spaces.Space[Any], action: ActionLayout) -> spaces.Dict:
    """The space of observations that a mask of these actions was put into."""
    mask = {MASK: spaces.MultiBinary(action.num_parameters)}
    if isinstance(observation, spaces.Dict):
        return spaces.Dict({**observation.spaces, **mask})
    return spaces.Dict({"observation": observation, **mask})


def has_choice(action: ActionLayout, mask: Array) -> Array:
    """Whether masks [..., choices] allow something for every category of the action; [...]."""
    starts = [head.parameters.start for head in action.heads]
    allowed = np.logical_or.reduceat(mask, starts, axis=-1)
    return np.asarray(allowed.all(-1))


def forbid(scores: Array, mask: Array | None, value: np.float32 = FORBIDDEN) -> Array:
    """Scores [B, n] with `value` for what the mask [B, n] forbids; `scores` where there is none."""
    return scores if mask is None else np.where(mask, scores, value)


def best_allowed(values: Array, mask: Array | None) -> Array:
    """The best action [B] of values [B, A] among those a mask [B, A] allows; None allows all.

    A row that forbids all, as after an episode's end, forbids nothing.
    """
    if mask is not None:
        lenient = mask | ~mask.any(1, keepdims=True)
        values = forbid(values, lenient, np.float32(-np.inf))
    best: Array = values.argmax(1)
    return best


def nth_allowed(mask: Array, share: Array) -> Array:
    """Of the actions that masks [B, n] allow, the one at a share [B] in [0, 1) of them; [B]."""
    count = mask.sum(1)
    nth = np.minimum((share * count.astype(np.float32)).astype(np.int64), count - 1)
    place: Array = (mask.cumsum(1) <= nth[:, None]).sum(1)
    place[place == mask.shape[1]] = 0  # where nothing is allowed
    return place
