"""The gradients of SAC's losses on compiled kernels: the engine `compiled`.

Shapes: M transitions of a batch, F features, d numbers of an action; 2 is the critics.
"""

from __future__ import annotations

from collections.abc import Sequence

from rl.core.data.replay import Transitions
from rl.core.data.tree import Array, Tree
from rl.core.kernels.mlp import CompiledMLP
from rl.core.kernels.sac import CompiledSACLosses, SACNetworks
from rl.core.learning.analytic_critics import compiled_critics
from rl.core.learning.analytic_mlp import make_mlp
from rl.core.learning.analytic_sac import AnalyticSAC, Named, Views
from rl.core.models.spec import LOG_STD_BOUNDS

__all__ = ["CompiledSAC"]


class CompiledSAC(AnalyticSAC):
    """Each gradient in one call of `sac.c`."""

    def _make(
        self, names: Sequence[str], policy: Views, critics: Views, target: Named, activation: str
    ) -> None:
        acting = make_mlp("compiled", names, *policy, activation, head=True)
        assert isinstance(acting, CompiledMLP)
        self._losses = CompiledSACLosses(
            SACNetworks(
                acting,
                compiled_critics(*critics, activation),
                compiled_critics(target, None, activation),
                self._middle,
                self._inverse,
                LOG_STD_BOUNDS,
            )
        )

    def critic_gradient(
        self, batch: Transitions, noise: Array, ent_coef: float, weights: Array | None
    ) -> tuple[dict[str, float], Array]:
        features = self._features(batch.observations)
        following = self._features(batch.next_observations)
        loss, value, errors = self._losses.critic_gradient(
            (features, batch.actions, batch.returns, following, batch.discounts),
            *(noise, ent_coef, weights),
        )
        return {"critic_loss": loss, "q_value": value}, errors

    def policy_gradient(
        self, observations: Tree, noise: Array, ent_coef: float
    ) -> tuple[float, float]:
        features = self._features(observations)
        value, log_prob = self._losses.policy_gradient(features, noise, ent_coef)
        return ent_coef * log_prob - value, log_prob
