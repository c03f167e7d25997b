"""Returns and advantages: pure functions of time-major arrays, or of tensors: they give the same.

T steps, B environments, K episode ends. `terminated` and `done` (terminated or truncated) are
separate everywhere: a terminated step has no successor to value, a truncated one has, but neither
lets credit flow back from the next episode.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, TypeVar

from rl.core.data.tree import Array

if TYPE_CHECKING:
    from torch import Tensor

__all__ = ["explained_variance", "generalized_advantages", "successor_values"]

Rows = TypeVar("Rows", Array, "Tensor")
"""Arrays, or tensors of one device."""


def successor_values(values: Rows, final_values: Rows, final_steps: Rows) -> Any:
    """The value of what really followed each step.

    Args:
        values: V(observations), [T+1, B].
        final_values: V(final_observations), [K].
        final_steps: (t, b) of each end, [K, 2] int64.

    Returns:
        [T, B]: the next row's value, or the final observation's where an episode ended.
    """
    following: Any = values[1:] + 0.0  # a copy, of either kind
    following[final_steps[:, 0], final_steps[:, 1]] = final_values
    return following


def generalized_advantages(
    rewards: Rows,
    values: Rows,
    next_values: Rows,
    terminated: Rows,
    done: Rows,
    gamma: float,
    gae_lambda: float,
) -> Any:
    """Generalized advantage estimation (Schulman et al. 2016, arXiv:1506.02438, eq. 16).

        delta_t = r_t + gamma * (1 - terminated_t) * V(s'_t) - V(s_t)
        A_t = delta_t + gamma * lambda * (1 - done_t) * A_{t+1}

    Args:
        rewards: [T, B].
        values: V(s_t), [T, B].
        next_values: V(s'_t), [T, B], as `successor_values` gives them.
        terminated: [T, B] bool.
        done: [T, B] bool, terminated or truncated.
        gamma: Discount per step.
        gae_lambda: 0 trusts the value function alone, 1 the sampled return alone.

    Returns:
        Advantages [T, B]; adding `values` gives the value targets.
    """
    advantages: Any = rewards + gamma * next_values * (~terminated) - values
    carry: Any = advantages * 0
    carry[...] = ~done
    carry *= gamma * gae_lambda
    # The recursion as a scan of ceil(log2 T) whole-array operations instead of T small ones:
    # after a round with step k, row t holds the sum over its next 2k rows.
    step = 1
    while step < advantages.shape[0]:
        advantages[:-step] += carry[:-step] * advantages[step:]
        carry[:-step] = carry[:-step] * carry[step:]
        step *= 2
    return advantages


def explained_variance(values: Array, targets: Array) -> float:
    """1 - Var(target - value) / Var(target): 1 is perfect, 0 a constant's; NaN where Var is 0."""
    variance = float(targets.var())
    return 1 - float((targets - values).var()) / variance if variance > 0 else float("nan")
