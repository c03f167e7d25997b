"""Learning a network with memory from rollouts: whole sequences, from the states that acted.

Shapes: T steps, B environments, K episode ends, n steps of which P sequences are made, S numbers
that are remembered.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

import numpy as np
import torch
from torch import Tensor

from rl.core.data.batch import to_tensor
from rl.core.data.rollout import Rollout
from rl.core.data.sequences import Sequences
from rl.core.data.tree import Array
from rl.core.learning.ranks import Ranks
from rl.core.models.memory import Packed
from rl.core.models.modules import ActorCritic

__all__ = ["RecurrentSteps"]


class RecurrentSteps:
    """The steps of a rollout as sequences of at most L steps, each within one episode.

    A chunk, L steps of one environment, begins with the state that its runner stored; an episode
    that begins inside it, with zeros. No gradient goes back beyond that.
    """

    def __init__(self, rollout: Rollout, length: int, device: torch.device) -> None:
        """Cuts a rollout.

        Args:
            rollout: With what was remembered at each of its steps.
            length: L.
            device: Of the learner.
        """
        memory = rollout.memory
        assert memory is not None, "sampled by a network without memory"
        self._rollout, self._device = rollout, device
        self._shape = rollout.length, rollout.num_environments
        self._sequences = Sequences.cut(
            rollout.terminated | rollout.truncated, rollout.valid, length
        )
        rows = self._sequences.rows[self._sequences.first]
        self._states = self._tensor(memory.reshape(-1, memory.shape[-1])[rows])  # [P, S]
        self._last = self._tensor(memory[-1])  # [B, S]
        self.rows = self._tensor(self._sequences.rows)
        """Of each of n steps its row t * B + b, environment by environment."""

    def _tensor(self, array: Array) -> Tensor:
        return to_tensor(array, self._device)

    def _packed(self, chunks: Array) -> tuple[Tensor, Packed, Array]:
        """Numbers [m] of the steps of some chunks, as the network takes them; the sequences'."""
        steps, batch_sizes, sequences = self._sequences.pack(chunks)
        packed = Packed(torch.from_numpy(batch_sizes), self._states[self._tensor(sequences)])
        return self._tensor(steps), packed, sequences

    def values(
        self, module: ActorCritic, features: Tensor, final_features: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Every value that advantages are made of.

        Args:
            module: Whose values.
            features: What its encoder makes of observations, [T+1, B, F].
            final_features: And of final observations, [K, F].

        Returns:
            V(observations) [T+1, B], 0 for rows that are no steps, and V(final_observations) [K],
            each given all that was seen before it in its episode.
        """
        (time, width), sequences = self._shape, self._sequences
        steps, packed, order = self._packed(np.arange(sequences.num_chunks))
        rows = self.rows[steps]
        outputs, after = module.remember(features[:-1].flatten(0, 1)[rows], packed)
        values = features.new_zeros(time * width)
        values[rows] = module.value_of(outputs)
        last, _ = module.remember(features[-1], Packed.single(self._last))
        # An episode ended on the observation behind its last step: seen with the state after it.
        owner = np.zeros(time * width, np.int64)
        owner[sequences.rows[sequences.last[order]]] = np.arange(len(order))
        t, b = self._rollout.final_steps.T
        states = after[self._tensor(owner[t * width + b])]
        finals, _ = module.remember(final_features, Packed.single(states))
        every = torch.cat((values.view(time, width), module.value_of(last)[None]))
        return every, module.value_of(finals)

    def minibatches(
        self,
        num_chunks: int,
        generator: torch.Generator,
        ranks: Ranks,
        advantages: Tensor,
        scaled: Callable[[Tensor], Tensor],
    ) -> Iterator[tuple[Tensor, Packed, Tensor]]:
        """An epoch of minibatches of whole chunks in random order; of each, this rank's chunks.

        Args:
            num_chunks: In a minibatch.
            generator: Of the order.
            ranks: Who shares the minibatches; a rank weighs as much as it has steps.
            advantages: Of all steps, [n].
            scaled: What the advantages of a minibatch become.

        Yields:
            Numbers of the steps [m], how they are packed, and their advantages [m].
        """
        sequences = self._sequences
        order = torch.randperm(sequences.num_chunks, generator=generator).numpy()
        taken = torch.empty_like(advantages)
        for start in range(0, len(order), num_chunks):
            chunks = order[start : start + num_chunks]
            whole = self._tensor(sequences.steps_of(chunks))
            taken[whole] = scaled(advantages[whole])
            steps, packed, _ = self._packed(chunks[ranks.part(len(chunks))])
            if ranks.share > 0:
                ranks.share = len(steps) / len(whole)
            yield steps, packed, taken[steps]
