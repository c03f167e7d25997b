"""Log-probabilities and entropies in numpy, with their gradients at the policy's output.

The same distributions as `rl.core.models.distributions`, which defines them. Each is used forward,
then backward. Shapes: M rows, k parameters of a head; rows stand last, [k, M], because sums over
the few parameters are then whole-array operations.
"""

from __future__ import annotations

import math
from typing import Protocol

import numpy as np

from rl.core.data.spaces import ActionLayout, Head
from rl.core.data.tree import Array

__all__ = ["AnalyticDistribution"]

LOG_SQRT_2PI = np.float32(0.5 * math.log(2 * math.pi))
HALF, ONE = np.float32(0.5), np.float32(1)


class _Part(Protocol):
    def forward(self, parameters: Array, actions: Array) -> tuple[Array, Array]:
        """Log-probabilities and entropies, each [M], of parameters [k, M] and actions [M, c]."""

    def backward(self, log_prob: Array, entropy: float, out: Array) -> None:
        """Writes the gradient at the parameters into `out` [k, M].

        Args:
            log_prob: The gradient at each log-probability, [M].
            entropy: The gradient at every entropy; 0: leave it out.
            out: Is overwritten.
        """


class _Categorical:
    """One of k categories."""

    def forward(self, parameters: Array, actions: Array) -> tuple[Array, Array]:
        shifted = parameters - np.maximum.reduce(parameters, 0)
        self._chances = np.exp(shifted)
        total = np.add.reduce(self._chances, 0)
        self._chances /= total
        shifted -= np.log(total)
        self._log_chances = shifted
        self._at = actions.reshape(-1).astype(np.intp, copy=False), np.arange(shifted.shape[1])
        self._entropy = -np.add.reduce(self._chances * shifted, 0)
        return shifted[self._at], self._entropy

    def backward(self, log_prob: Array, entropy: float, out: Array) -> None:
        np.multiply(self._chances, log_prob, out)
        np.negative(out, out)
        out[self._at] += log_prob
        if entropy:  # dH / dlogit = -p (log p + H)
            self._log_chances += self._entropy
            self._log_chances *= self._chances
            self._log_chances *= np.float32(entropy)
            out -= self._log_chances


class _Bernoulli:
    """k independent bits."""

    def forward(self, parameters: Array, actions: Array) -> tuple[Array, Array]:
        self._logits, self._ones = parameters, actions.T > 0
        self._chances = HALF * np.tanh(HALF * parameters) + HALF  # exp(-x) would overflow
        log_one = -np.logaddexp(np.float32(0), -parameters)
        log_zero = log_one - parameters
        log_prob = np.where(self._ones, log_one, log_zero).sum(0)
        entropy = -(self._chances * log_one + (ONE - self._chances) * log_zero).sum(0)
        return log_prob, entropy

    def backward(self, log_prob: Array, entropy: float, out: Array) -> None:
        np.subtract(self._ones, self._chances, out)
        out *= log_prob
        if entropy:  # dH / dlogit = -x p (1 - p)
            out -= np.float32(entropy) * self._logits * self._chances * (ONE - self._chances)


class _Gaussian:
    """k independent normals around the parameters, their deviation a parameter of its own."""

    def __init__(self, log_std: Array, log_std_gradient: Array) -> None:
        self._log_std, self._gradient = log_std, log_std_gradient

    def forward(self, parameters: Array, actions: Array) -> tuple[Array, Array]:
        self._precision = np.exp(-self._log_std)[:, None]
        self._scaled = (actions.T - parameters) * self._precision
        constant = self._log_std.sum() + len(self._log_std) * LOG_SQRT_2PI
        log_prob = (self._scaled * self._scaled).sum(0)
        log_prob *= -HALF
        log_prob -= constant
        entropy = np.full_like(log_prob, constant + HALF * len(self._log_std))
        return log_prob, entropy

    def backward(self, log_prob: Array, entropy: float, out: Array) -> None:
        np.multiply(self._scaled, self._precision, out)
        out *= log_prob
        self._scaled *= self._scaled
        self._scaled -= ONE
        np.dot(self._scaled, log_prob, self._gradient)
        self._gradient += np.float32(entropy * len(log_prob))


class AnalyticDistribution:
    """The distribution over actions of a policy's output, whatever the action space."""

    def __init__(
        self, layout: ActionLayout, log_std: Array | None, log_std_gradient: Array | None
    ) -> None:
        """Takes views.

        Args:
            layout: Heads of the action space.
            log_std: [layout.num_gaussian], or None where no head is continuous.
            log_std_gradient: Like it; `backward` writes there.
        """
        self._parts: list[tuple[Head, _Part]] = []
        used = 0
        for head in layout.heads:
            if head.kind == "categorical":
                self._parts.append((head, _Categorical()))
            elif head.kind == "bernoulli":
                self._parts.append((head, _Bernoulli()))
            else:
                assert log_std is not None
                assert log_std_gradient is not None
                own = slice(used, used + head.columns.stop - head.columns.start)
                used = own.stop
                self._parts.append((head, _Gaussian(log_std[own], log_std_gradient[own])))

    def forward(self, parameters: Array, actions: Array) -> tuple[Array, Array]:
        """Log-probabilities and entropies, each [M], of parameters [M, P] and actions [M, *act]."""
        columns = np.ascontiguousarray(parameters.T)
        self._gradient = np.empty_like(columns)
        rows = actions if actions.ndim > 1 else actions[:, None]
        found = [
            part.forward(columns[head.parameters], rows[:, head.columns])
            for head, part in self._parts
        ]
        log_prob, entropy = found[0]
        for more, wider in found[1:]:
            log_prob, entropy = log_prob + more, entropy + wider
        return log_prob, entropy

    def backward(self, log_prob: Array, entropy: float) -> Array:
        """The gradient at the parameters [M, P], Fortran-ordered.

        Args:
            log_prob: The gradient at each log-probability, [M].
            entropy: The gradient at every entropy; 0: leave it out.
        """
        for head, part in self._parts:
            part.backward(log_prob, entropy, self._gradient[head.parameters])
        return self._gradient.T
