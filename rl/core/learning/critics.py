"""The critics of an actor-critic learner: parameters, a slower copy, and what torch computes by."""

from __future__ import annotations

from functools import cached_property
from typing import TYPE_CHECKING, Any

from rl.core.data.weights import ParameterTable
from rl.core.lazy import LazyModule, torch
from rl.core.learning.flat import FlatParameters, frozen_copy
from rl.core.learning.target import TargetNetwork
from rl.core.models.plain import PlainNetwork, plain_obstacles
from rl.core.models.plain_critics import PlainTwinCritics
from rl.core.seeding import random_generator, stream_seed

if TYPE_CHECKING:
    from rl.core.learning.learner import Learner
    from rl.core.models import twin_critics
    from rl.core.models.twin_critics import TwinCritics
else:
    twin_critics = LazyModule("rl.core.models.twin_critics")

__all__ = ["Critics"]

STREAM = "critics"
"""Of the seed."""


class Critics:
    """Both critics. Arrays where the policy is arrays, too; torch's modules are made on demand."""

    def __init__(self, learner: Learner[Any], num_inputs: int, num_outputs: int) -> None:
        """Draws the weights they begin with.

        Args:
            learner: Whose they are; they have layers and statistics like its policy.
            num_inputs: Numbers of an action, or 0 where the outputs stand for the actions.
            num_outputs: 1, or the number of actions.
        """
        self._learner = learner
        self._shape = num_inputs, num_outputs
        rate, seed = learner.config.learning_rate, learner.config.seed
        self._plain: PlainTwinCritics | None = None
        network: Any = learner.network
        if not any(plain_obstacles(network.spec)):  # drawn alike wherever they go
            generator = random_generator(seed, STREAM)
            self._plain = PlainTwinCritics(network.spec, *self._shape, generator)
        if isinstance(network, PlainNetwork):
            assert self._plain is not None
            self.flat = FlatParameters(self._plain.vector, rate)
        else:
            self.module = self._built(seed, network).to(learner.device)
            self.flat = FlatParameters(self.module.parameters(), rate)
            self.judges = frozen_copy(self.module, self.flat.vector)
        self.slow = TargetNetwork(self.flat, lambda: self.module)
        """What targets are made by."""

    def _built(self, seed: int, policy: Any) -> TwinCritics:
        """The torch module of a policy that is one."""
        if self._plain is not None:
            return self._plain.build(policy.encoder.normalizer)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(stream_seed(seed, STREAM))
            return twin_critics.TwinCritics(policy.spec, *self._shape, policy.encoder.normalizer)

    @cached_property
    def module(self) -> TwinCritics:
        """Both as a torch module, whose parameters are views of `flat.vector`."""
        assert self._plain is not None
        policy: Any = self._learner.module
        module = self._plain.build(policy.encoder.normalizer)
        self.flat.adopt(list(module.parameters()))
        return module

    @cached_property
    def judges(self) -> TwinCritics:
        """Their own values, but without gradients: the policy's loss must not move them."""
        return frozen_copy(self.module, self.flat.vector)

    @property
    def table(self) -> ParameterTable:
        """Where each parameter of arrays lies in the vector."""
        assert self._plain is not None
        return self._plain.table
