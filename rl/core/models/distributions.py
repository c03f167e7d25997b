"""Distributions over actions: log-probability, entropy, sampling from given noise.

Parameters are the policy network's output [N, parameters], actions are rows [N] or [N, columns] as
`ActionLayout` lays them. Nothing here draws: the noise comes in, so that the same noise gives the
same action whatever engine computes it. Log-probabilities and entropies are summed over the parts
of an action.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from rl.core.data.masks import FORBIDDEN
from rl.core.data.spaces import ActionLayout

__all__ = [
    "Bernoulli",
    "Categorical",
    "Distribution",
    "Gaussian",
    "Product",
    "SquashedGaussian",
    "make_distribution",
    "masked_logits",
    "squash",
    "squashed_sample",
]

LOG_SQRT_2PI = 0.5 * math.log(2 * math.pi)
LOG_2 = math.log(2)
LARGEST_BELOW_ONE = 1 - 2**-24
"""Of float32."""
QUADRATURE_NODES = 64


class Distribution(ABC):
    """A batch of N independent distributions over actions."""

    @abstractmethod
    def log_prob(self, actions: Tensor) -> Tensor:
        """[N], the log of the probability or density of each action."""

    @abstractmethod
    def entropy(self) -> Tensor:
        """[N], in nats."""

    @abstractmethod
    def sample(self, noise: Tensor) -> Tensor:
        """Actions from noise of their shape: uniform in [0, 1), standard normal for Gaussians."""

    @abstractmethod
    def mode(self) -> Tensor:
        """The most likely action."""


class Categorical(Distribution):
    """One of n categories; logits [N, n], actions [N] int64."""

    def __init__(self, logits: Tensor) -> None:
        self.logits = logits
        self.log_probs = F.log_softmax(logits, dim=-1)

    def log_prob(self, actions: Tensor) -> Tensor:
        # Beside a continuous part, categories stand in float columns: exact below 2**24.
        return self.log_probs.gather(-1, actions.long().unsqueeze(-1)).squeeze(-1)

    def entropy(self) -> Tensor:
        return -(self.log_probs.exp() * self.log_probs).sum(-1)

    def sample(self, noise: Tensor) -> Tensor:
        # Inverse of the cumulative distribution; `<=` never picks a category of probability 0.
        cumulative = self.log_probs.exp().cumsum(-1)
        below = cumulative <= noise.unsqueeze(-1) * cumulative[..., -1:]
        return below.sum(-1).clamp_(max=self.logits.shape[-1] - 1)

    def mode(self) -> Tensor:
        return self.logits.argmax(-1)


class Bernoulli(Distribution):
    """k independent bits; logits [N, k] of a one, actions [N, k]."""

    def __init__(self, logits: Tensor) -> None:
        self.logits = logits

    def log_prob(self, actions: Tensor) -> Tensor:
        # log sigmoid(x) for a one, log sigmoid(-x) for a zero
        return F.logsigmoid(torch.where(actions > 0, self.logits, -self.logits)).sum(-1)

    def entropy(self) -> Tensor:
        ones = torch.sigmoid(self.logits)
        return -(ones * F.logsigmoid(self.logits) + (1 - ones) * F.logsigmoid(-self.logits)).sum(-1)

    def sample(self, noise: Tensor) -> Tensor:
        return (noise < torch.sigmoid(self.logits)).long()

    def mode(self) -> Tensor:
        return (self.logits > 0).long()


class Gaussian(Distribution):
    """d independent normals; mean [N, d], log_std [d], actions [N, d] not yet clipped."""

    def __init__(self, mean: Tensor, log_std: Tensor) -> None:
        self.mean = mean
        self.log_std = log_std

    def log_prob(self, actions: Tensor) -> Tensor:
        scaled = (actions - self.mean) * torch.exp(-self.log_std)
        return (-0.5 * scaled.square() - self.log_std - LOG_SQRT_2PI).sum(-1)

    def entropy(self) -> Tensor:
        return (0.5 + LOG_SQRT_2PI + self.log_std).sum(-1).expand(self.mean.shape[:-1])

    def sample(self, noise: Tensor) -> Tensor:
        return self.mean + torch.exp(self.log_std) * noise

    def mode(self) -> Tensor:
        return self.mean


def squash(before: Tensor) -> tuple[Tensor, Tensor]:
    """The value tanh u and log d tanh(u) / du, each of u's shape.

    The logarithm as 2 (ln 2 - u - softplus(-2u)): exact and with a gradient where 1 - tanh^2 u has
    long rounded to 0 (Haarnoja et al. 2018, arXiv:1801.01290, app. C).
    """
    return torch.tanh(before), 2 * (LOG_2 - before - F.softplus(-2 * before))


def squashed_sample(mean: Tensor, log_std: Tensor, noise: Tensor) -> tuple[Tensor, Tensor]:
    """Actions in (-1, 1), [..., d], and their log-density there, [...]; differentiable.

    Args:
        mean: Before squashing, [..., d].
        log_std: [..., d].
        noise: Standard normal, [..., d].
    """
    actions, log_slope = squash(mean + torch.exp(log_std) * noise)
    log_prob = -0.5 * noise.square() - log_std - LOG_SQRT_2PI - log_slope
    return actions, log_prob.sum(-1)


class SquashedGaussian(Distribution):
    """d independent normals through tanh, scaled to bounds; actions [N, d] as the environment's."""

    def __init__(self, mean: Tensor, log_std: Tensor, middle: Tensor, radius: Tensor) -> None:
        """Takes mean and log_std before squashing, [N, d], and where the bounds lie, [d]."""
        self.mean = mean
        self.log_std = log_std
        self.middle = middle
        self.radius = radius

    def log_prob(self, actions: Tensor) -> Tensor:
        squashed = ((actions - self.middle) / self.radius).clamp(
            -LARGEST_BELOW_ONE, LARGEST_BELOW_ONE
        )
        before = torch.atanh(squashed)
        scaled = (before - self.mean) * torch.exp(-self.log_std)
        normal = -0.5 * scaled.square() - self.log_std - LOG_SQRT_2PI
        return (normal - squash(before)[1] - self.radius.log()).sum(-1)

    def entropy(self) -> Tensor:
        """By quadrature: there is no closed form."""
        nodes, weights = np.polynomial.hermite_e.hermegauss(QUADRATURE_NODES)
        shape = (-1, *[1] * self.mean.dim())
        noise = torch.tensor(nodes, dtype=self.mean.dtype).view(shape)
        share = torch.tensor(weights / weights.sum(), dtype=self.mean.dtype).view(shape)
        slopes = squash(self.mean + torch.exp(self.log_std) * noise)[1]
        normal = 0.5 + LOG_SQRT_2PI + self.log_std
        return (normal + (share * slopes).sum(0) + self.radius.log()).sum(-1)

    def sample(self, noise: Tensor) -> Tensor:
        squashed = torch.tanh(self.mean + torch.exp(self.log_std) * noise)
        return self.middle + self.radius * squashed

    def mode(self) -> Tensor:
        """The median, which is what is meant by the greedy action."""
        return self.middle + self.radius * torch.tanh(self.mean)


class Product(Distribution):
    """Independent parts side by side, each owning columns of the action row."""

    def __init__(self, parts: list[tuple[slice, Distribution]], dtype: torch.dtype) -> None:
        self.parts = parts
        self.dtype = dtype

    def log_prob(self, actions: Tensor) -> Tensor:
        return sum_tensors([part.log_prob(_columns(actions, at, part)) for at, part in self.parts])

    def entropy(self) -> Tensor:
        return sum_tensors([part.entropy() for _, part in self.parts])

    def sample(self, noise: Tensor) -> Tensor:
        return self._join([part.sample(_columns(noise, at, part)) for at, part in self.parts])

    def mode(self) -> Tensor:
        return self._join([part.mode() for _, part in self.parts])

    def _join(self, columns: list[Tensor]) -> Tensor:
        rows = [column if column.dim() > 1 else column.unsqueeze(-1) for column in columns]
        return torch.cat([row.to(self.dtype) for row in rows], dim=-1)


def _columns(rows: Tensor, at: slice, part: Distribution) -> Tensor:
    columns = rows[..., at]
    return columns.squeeze(-1) if isinstance(part, Categorical) else columns


def sum_tensors(terms: list[Tensor]) -> Tensor:
    """The sum, in the order given."""
    total = terms[0]
    for term in terms[1:]:
        total = total + term
    return total


def masked_logits(logits: Tensor, mask: Tensor | None) -> Tensor:
    """Logits [..., n] with those that a mask [..., n] forbids so low that exp gives 0.

    What is forbidden then adds nothing to probabilities, entropy and gradient. A row that forbids
    all is uniform.
    """
    return logits if mask is None else logits.masked_fill(~mask, float(FORBIDDEN))


def make_distribution(
    layout: ActionLayout, parameters: Tensor, log_std: Tensor | None, mask: Tensor | None = None
) -> Distribution:
    """The distribution of a policy's output.

    Args:
        layout: Heads of the action space.
        parameters: [N, layout.num_parameters], logits and means.
        log_std: [layout.num_gaussian], or None where no head is continuous.
        mask: [N, layout.num_parameters], False for categories of probability 0; None: all are
            allowed.
    """
    parameters = masked_logits(parameters, mask)
    if len(layout.heads) == 1 and not layout.shape:
        return Categorical(parameters)
    parts: list[tuple[slice, Distribution]] = []
    used = 0
    for head in layout.heads:
        own = parameters[..., head.parameters]
        if head.kind == "categorical":
            parts.append((head.columns, Categorical(own)))
        elif head.kind == "bernoulli":
            parts.append((head.columns, Bernoulli(own)))
        else:
            assert log_std is not None
            size = head.columns.stop - head.columns.start
            parts.append((head.columns, Gaussian(own, log_std[used : used + size])))
            used += size
    if len(parts) == 1 and not isinstance(parts[0][1], Categorical):
        return parts[0][1]
    return Product(parts, torch.float32 if layout.continuous else torch.int64)
