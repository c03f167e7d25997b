"""Distributions of returns on fixed atoms (C51; Bellemare et al. 2017, arXiv:1707.06887).

An action's return is one of N values z_1 < ... < z_N, evenly spaced, each with a probability. Pure
functions of M transitions.
"""

from __future__ import annotations

import torch
from torch import Tensor

__all__ = ["cross_entropy", "divergence", "project"]


def project(probabilities: Tensor, returns: Tensor, discounts: Tensor, support: Tensor) -> Tensor:
    """The distribution of R + gamma^m Z, brought back to the atoms (algorithm 1 of the paper).

    Each moved atom gives its mass to the two atoms around it, to each the more the nearer it is;
    one that arrives on an atom gives it all, one outside the range to the atom at its end. So the
    mean is kept where nothing was cut off.

    Args:
        probabilities: Of Z, [M, N].
        returns: Discounted rewards of m steps, [M].
        discounts: gamma^m, 0 where the episode terminated, [M].
        support: The atoms, [N].

    Returns:
        [M, N], each row summing to 1.
    """
    low, high, last = support[0], support[-1], support.shape[0] - 1
    moved = returns.unsqueeze(-1) + discounts.unsqueeze(-1) * support
    places = ((moved - low) / (high - low) * last).clamp(0, last)  # [M, N], counted in atoms
    below = places.floor()
    upper = places - below  # the share of the atom above: 0 where it arrives on one
    projected = torch.zeros_like(probabilities)
    index = below.long()
    projected.scatter_add_(1, index, probabilities * (1 - upper))
    projected.scatter_add_(1, (index + 1).clamp(max=last), probabilities * upper)
    return projected


def cross_entropy(targets: Tensor, log_probs: Tensor) -> Tensor:
    """-sum target log p, the sample loss of algorithm 1; [M].

    Args:
        targets: Probabilities, [M, N].
        log_probs: Logarithms of the predicted ones, [M, N].
    """
    return -(targets * log_probs).sum(-1)


def divergence(targets: Tensor, log_probs: Tensor) -> Tensor:
    """KL(target || p): the cross-entropy less what no prediction can avoid, so 0 at best; [M]."""
    return cross_entropy(targets, log_probs) + torch.xlogy(targets, targets).sum(-1)
