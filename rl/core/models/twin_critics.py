"""Two critics as one network: every layer is one batched product over both."""

from __future__ import annotations

import itertools
import math

import torch
from torch import Tensor, nn

from rl.core.models.encoders import TensorTree, make_encoder
from rl.core.models.layers import ACTIVATIONS
from rl.core.models.normalizer import Normalizer
from rl.core.models.spec import PolicySpec

__all__ = ["TwinCritics"]


class TwinCritics(nn.Module):
    """Q1 and Q2 of observations and actions, or of observations for each action.

    They share nothing but the convolutions of images. Weights are [2, inputs, outputs] and begin as
    those of torch's Linear, biases are [2, 1, outputs].
    """

    def __init__(
        self,
        spec: PolicySpec,
        num_inputs: int,
        num_outputs: int,
        normalizer: Normalizer | None,
    ) -> None:
        """Makes both.

        Args:
            spec: Of the policy, whose encoder and hidden layers each critic has, too.
            num_inputs: Numbers of an action, or 0 where the outputs stand for the actions.
            num_outputs: 1, or the number of actions.
            normalizer: The policy's, shared, so that both see the same observations.
        """
        super().__init__()
        self.encoder = make_encoder(spec, orthogonal=False, normalize=False)
        self.encoder.normalizer = normalizer
        sizes = (self.encoder.num_outputs + num_inputs, *spec.hidden_sizes, num_outputs)
        self.activation = ACTIVATIONS[spec.activation]()
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
