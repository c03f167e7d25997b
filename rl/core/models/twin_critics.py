"""Two critics as one network: every layer is one batched product over both."""

from __future__ import annotations

import itertools
import math
from typing import Any

import torch
from gymnasium import spaces
from torch import Tensor, nn

from rl.core.data.spaces import ObservationLayout
from rl.core.models.modules import ACTIVATIONS, ObservationEncoder, TensorTree
from rl.core.models.normalizer import Normalizer

__all__ = ["TwinCritics"]


class TwinCritics(nn.Module):
    """Q1 and Q2 of observations and actions, or of observations for each action.

    They share nothing but the convolutions of images. Weights are [2, inputs, outputs] and begin as
    those of torch's Linear, biases are [2, 1, outputs].
    """

    def __init__(
        self,
        observation_space: spaces.Space[Any],
        num_inputs: int,
        num_outputs: int,
        hidden_sizes: tuple[int, ...],
        activation: str,
        normalizer: Normalizer | None,
        images: str = "nature",
    ) -> None:
        """Makes both.

        Args:
            observation_space: Of one environment.
            num_inputs: Numbers of an action, or 0 where the outputs stand for the actions.
            num_outputs: 1, or the number of actions.
            hidden_sizes: Units of each hidden layer of each critic.
            activation: Between them.
            normalizer: The policy's, shared, so that both see the same observations.
            images: The kind of their encoder.
        """
        super().__init__()
        layout = ObservationLayout(observation_space)
        self.encoder = ObservationEncoder(layout, normalize=False, orthogonal=False, images=images)
        self.encoder.normalizer = normalizer
        sizes = (self.encoder.num_outputs + num_inputs, *hidden_sizes, num_outputs)
        self.activation = ACTIVATIONS[activation]()
        self.weights, self.biases = nn.ParameterList(), nn.ParameterList()
        for inputs, outputs in itertools.pairwise(sizes):
            bound = 1 / math.sqrt(inputs)
            self.weights.append(torch.empty(2, inputs, outputs).uniform_(-bound, bound))
            self.biases.append(torch.empty(2, 1, outputs).uniform_(-bound, bound))

    def forward(self, observations: TensorTree, actions: Tensor | None = None) -> Tensor:
        """Values [2, M, outputs] of observations [M, *obs], with actions [M, inputs] if any."""
        features = self.encoder(observations)
        if actions is not None:
            features = torch.cat((features, actions), -1)
        hidden: Tensor = features.expand(2, *features.shape)
        last = len(self.weights) - 1
        for index, (weight, bias) in enumerate(zip(self.weights, self.biases, strict=True)):
            hidden = torch.baddbmm(bias, hidden, weight)
            if index < last:
                hidden = self.activation(hidden)
        return hidden

    def first(self, observations: TensorTree, actions: Tensor) -> Tensor:
        """What `forward` gives of Q1, [M, outputs], at half the cost."""
        hidden = torch.cat((self.encoder(observations), actions), -1)
        last = len(self.weights) - 1
        for index, (weight, bias) in enumerate(zip(self.weights, self.biases, strict=True)):
            hidden = torch.addmm(bias[0], hidden, weight[0])
            if index < last:
                hidden = self.activation(hidden)
        return hidden
