"""Twin critics as arrays: what actors and critics learn by without torch."""

from __future__ import annotations

import itertools
import math
from typing import TYPE_CHECKING

import numpy as np

from rl.core.data.spaces import ObservationLayout
from rl.core.data.tree import Array
from rl.core.data.weights import ParameterTable
from rl.core.lazy import LazyModule, torch
from rl.core.models.initial import uniform
from rl.core.models.plain import become_views, plain_obstacles
from rl.core.models.spec import PolicySpec

if TYPE_CHECKING:
    from rl.core.models import twin_critics
    from rl.core.models.normalizer import Normalizer
    from rl.core.models.twin_critics import TwinCritics
else:
    twin_critics = LazyModule("rl.core.models.twin_critics")

__all__ = ["PlainTwinCritics"]


class PlainTwinCritics:
    """The parameters of `TwinCritics`, as one vector, under the same names, in the same order."""

    def __init__(
        self,
        spec: PolicySpec,
        num_inputs: int,
        num_outputs: int,
        generator: np.random.Generator,
    ) -> None:
        """Draws the weights both begin with, by the law of torch's Linear.

        Args:
            spec: Of the policy, without `plain_obstacles`.
            num_inputs: Numbers of an action, or 0 where the outputs stand for the actions.
            num_outputs: 1, or the number of actions.
            generator: What the weights are drawn from.
        """
        assert not any(plain_obstacles(spec))
        self._of = spec, num_inputs, num_outputs
        features = ObservationLayout(spec.observation_space).num_features
        sizes = (features + num_inputs, *spec.hidden_sizes, num_outputs)
        widths = [*itertools.pairwise(sizes)]
        shapes: dict[str, tuple[int, ...]] = {
            **{f"weights.{n}": (2, *width) for n, width in enumerate(widths)},
            **{f"biases.{n}": (2, 1, outputs) for n, (_, outputs) in enumerate(widths)},
        }
        self.table = ParameterTable(shapes)
        """Where each parameter lies in the vector."""
        self.vector: Array = np.empty(sum(map(math.prod, shapes.values())), np.float32)
        """All parameters, [P]. Change it in place only."""
        views = self.table.views(self.vector)
        for n, (inputs, _) in enumerate(widths):
            for name in (f"weights.{n}", f"biases.{n}"):
                views[name][...] = uniform(generator, views[name].shape, inputs)

    def build(self, normalizer: Normalizer | None) -> TwinCritics:
        """The torch module, whose parameters live in the memory of these.

        Args:
            normalizer: The policy's, shared.
        """
        with torch.random.fork_rng(devices=[]):  # what it draws is not used
            critics = twin_critics.TwinCritics(*self._of, normalizer)
        become_views(list(critics.parameters()), torch.from_numpy(self.vector))
        return critics
