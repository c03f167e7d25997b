"""Returns and advantages: pure functions of time-major tensors.

T steps, B environments, K episode ends. `terminated` and `done` (terminated or truncated) are
separate everywhere: a terminated step has no successor to value, a truncated one has, but neither
lets credit flow back from the next episode.
"""

from __future__ import annotations

import torch
from torch import Tensor

__all__ = ["explained_variance", "generalized_advantages", "successor_values"]


def successor_values(values: Tensor, final_values: Tensor, final_steps: Tensor) -> Tensor:
    """The value of what really followed each step.

    Args:
        values: V(observations), [T+1, B].
        final_values: V(final_observations), [K].
        final_steps: (t, b) of each end, [K, 2] int64.

    Returns:
        [T, B]: the next row's value, or the final observation's where an episode ended.
    """
    following = values[1:].clone()
    following[final_steps[:, 0], final_steps[:, 1]] = final_values
    return following


def generalized_advantages(
    rewards: Tensor,
    values: Tensor,
    next_values: Tensor,
    terminated: Tensor,
    done: Tensor,
    gamma: float,
    gae_lambda: float,
) -> Tensor:
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
    advantages = rewards + gamma * next_values * (~terminated) - values
    carry = (~done).to(values.dtype) * (gamma * gae_lambda)
    # The recursion as a scan of ceil(log2 T) whole-array operations instead of T small ones:
    # after a round with step k, row t holds the sum over its next 2k rows.
    step = 1
    while step < advantages.shape[0]:
        gained = advantages[:-step] + carry[:-step] * advantages[step:]
        reached = carry[:-step] * carry[step:]
        advantages = torch.cat((gained, advantages[-step:]))
        carry = torch.cat((reached, carry[-step:]))
        step *= 2
    return advantages


def explained_variance(values: Tensor, targets: Tensor) -> Tensor:
    """1 - Var(target - value) / Var(target): 1 is perfect, 0 a constant's; NaN where Var is 0."""
    variance = targets.var(unbiased=False)
    unexplained = (targets - values).var(unbiased=False)
    return torch.where(variance > 0, 1 - unexplained / variance, torch.nan)
