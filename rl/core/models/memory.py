"""Memory: a GRU or LSTM between the encoder and hidden layers.

Steps come packed, as `torch.nn.utils.rnn.PackedSequence` has them: of P sequences, the longest
first, the first steps of all, then the second steps of those that have one, and so on. Nothing is
padded, so that nothing has to be kept out of a mean. No sequence goes beyond the end of an episode.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import PackedSequence

from rl.core.models.spec import MemoryKind

__all__ = ["Memory", "Packed"]


class Packed(NamedTuple):
    """How n packed steps follow each other, and what was remembered before the first of them."""

    batch_sizes: Tensor  # [longest] int64 on the CPU: how many sequences have a step t
    states: Tensor  # [P, S]; zero where an episode begins

    @staticmethod
    def single(states: Tensor) -> Packed:
        """One step of each sequence."""
        return Packed(torch.tensor([len(states)]), states)


class Memory(nn.Module):
    """Cho et al. 2014 (arXiv:1406.1078) or Hochreiter & Schmidhuber 1997, H units.

    A state is one row of S numbers: the outputs h, and behind them the cells c of an LSTM.
    """

    def __init__(self, kind: MemoryKind, num_inputs: int, size: int, orthogonal: bool) -> None:
        super().__init__()
        self.size = size
        self.cell = (nn.GRU if kind == "gru" else nn.LSTM)(num_inputs, size)
        if orthogonal:
            self._initialize(kind)

    @torch.no_grad()
    def _initialize(self, kind: MemoryKind) -> None:
        """Orthogonal weights for each gate, zero biases; an LSTM begins by not forgetting."""
        for name, parameter in self.cell.named_parameters():
            for index, gate in enumerate(torch.split(parameter, self.size)):
                if gate.dim() == 2:
                    nn.init.orthogonal_(gate)
                else:  # of an LSTM the gates are input, forget, cell, output
                    gate.fill_(float(kind == "lstm" and name == "bias_ih_l0" and index == 1))

    def forward(self, features: Tensor, packed: Packed) -> tuple[Tensor, Tensor]:
        """Goes through packed steps.

        Args:
            features: [n, F].
            packed: How they follow each other.

        Returns:
            Outputs [n, H], and the state after each sequence [P, S].
        """
        steps = PackedSequence(features, packed.batch_sizes)
        states = packed.states.unsqueeze(0)
        if isinstance(self.cell, nn.GRU):
            outputs, after = self.cell(steps, states.contiguous())
            return outputs.data, after.squeeze(0)
        hidden, cells = (part.contiguous() for part in states.chunk(2, -1))
        outputs, (hidden, cells) = self.cell(steps, (hidden, cells))
        return outputs.data, torch.cat((hidden, cells), -1).squeeze(0)
