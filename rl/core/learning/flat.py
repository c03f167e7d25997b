"""Parameters as one vector: clipping, the optimizer step and publishing are one operation each."""

from __future__ import annotations

import copy
import math
from collections.abc import Iterable, Mapping, Sequence
from typing import TypeVar

import numpy as np
import torch
from torch import Tensor, nn

from rl.core.data.batch import to_tensor
from rl.core.data.tree import Array
from rl.core.learning.ranks import Ranks
from rl.errors import Diverged

__all__ = ["FlatParameters", "become_views", "frozen_copy"]

ModuleT = TypeVar("ModuleT", bound=nn.Module)
MAX_SKIPS = 3
"""Steps in a row without a number to go by; they are not bad luck any more."""


class FlatParameters:
    """Parameters that live in one float32 vector, their gradients in another, and their Adam.

    A learner owns one of its module, and another of each network that is trained apart from it. Who
    computes gradients without torch writes them into `gradient` and calls `step`.
    """

    def __init__(
        self, parameters: Iterable[nn.Parameter], learning_rate: float, epsilon: float = 1e-8
    ) -> None:
        """Moves the parameters into a vector of their device, one behind the other.

        Args:
            parameters: In the order of the vector.
            learning_rate: Of Adam.
            epsilon: Of Adam.
        """
        views = list(parameters)
        self.vector = torch.cat([p.detach().reshape(-1) for p in views])
        """All values, [P]; the parameters are views of it. Change it in place only."""
        self.gradient = torch.zeros_like(self.vector)
        """[P]; the gradients of the parameters are views of it."""
        self._leaf = nn.Parameter(self.vector)  # shares the memory of `vector`
        self._leaf.grad = self.gradient
        become_views(views, self.vector)
        offset = 0
        for parameter in views:
            part = slice(offset, offset + parameter.numel())
            parameter.grad = self.gradient[part].view_as(parameter)
            offset = part.stop
        self.optimizer = torch.optim.Adam([self._leaf], lr=learning_rate, eps=epsilon, fused=True)
        self.ranks = Ranks()
        """With whom `agree` makes the gradient that of the whole batch."""
        self.skipped = 0
        """Steps not taken, because loss or gradient was not finite."""
        self.skipped_in_a_row = 0
        """Of them those since the last step that was taken."""
        self._norms: list[Tensor] = []  # on the GPU: of the steps that are not counted yet
        self._moments: tuple[list[Tensor], ...] | None = None  # of the optimizer, once it has any
        if not self.vector.is_cuda:
            self.array: Array = self.vector.numpy()
            """`vector` as numpy sees it: the same memory. On the CPU only."""
            self.gradient_array: Array = self.gradient.numpy()
            """`gradient` as numpy sees it."""

    def set_learning_rate(self, rate: float) -> None:
        """Of the steps from now on."""
        self.optimizer.param_groups[0]["lr"] = rate

    def backward(self, loss: Tensor) -> None:
        """Leaves the gradient of a scalar loss in `gradient`; of one that is not finite, none."""
        self.gradient.zero_()
        loss.backward()  # type: ignore[no-untyped-call]
        self.gradient[:1] += 0 * loss.detach()  # NaN without a look, which a GPU would wait for

    def agree(self) -> None:
        """Makes `gradient`, the mean over this rank's rows, that of the whole batch.

        It stands between gradient and optimizer, whoever computed the gradient.
        """
        self.ranks.average_(self.gradient)

    def step(self, max_norm: float | None) -> Tensor:
        """One step of Adam along what all ranks agree on, scaled to a norm of at most `max_norm`.

        It is skipped, and counted, where that norm is not finite.

        Returns:
            The norm before clipping, a scalar on the device.

        Raises:
            Diverged: Three were skipped in a row. On a GPU `count_skipped` does that.
        """
        self.agree()
        norm: Tensor = torch.linalg.vector_norm(self.gradient)
        if self.vector.is_cuda:
            self._norms.append(norm)
            # The optimizer leaves everything as it is where this is 1; nobody waits to see it.
            self.optimizer.found_inf = norm.isfinite().logical_not().to(torch.float32)  # type: ignore[attr-defined]
        elif self._skips(norm.item()):
            return norm
        if max_norm is not None:
            self.gradient.mul_((max_norm / (norm + 1e-6)).clamp(max=1.0))
        self._descend()
        return norm

    def step_array(self, max_norm: float | None, loss: float = 0.0) -> float:
        """`step` for a gradient that numpy wrote: the same but for the last bits of the norm.

        Args:
            max_norm: As with `step`.
            loss: Whose gradient it is; where that is not finite the step is skipped, too.
        """
        gradient = self.gradient_array
        if not math.isfinite(loss):
            gradient[0] = np.nan  # before they agree: all ranks skip, or none
        self.agree()
        norm = math.sqrt(gradient.dot(gradient))
        if self._skips(norm):
            return norm
        if max_norm is not None and norm > max_norm:
            gradient *= np.float32(max_norm / (norm + 1e-6))
        self._descend()
        return norm

    def count_skipped(self) -> None:
        """Counts what was skipped on a GPU since the last call; elsewhere it is counted at once.

        Raises:
            Diverged: Three were skipped in a row.
        """
        if self._norms:
            norms, self._norms = torch.stack(self._norms).tolist(), []
            for norm in norms:
                self._skips(norm)

    def _skips(self, norm: float) -> bool:
        """Whether a step along a gradient of this norm is skipped; counts it."""
        if math.isfinite(norm):
            self.skipped_in_a_row = 0
            return False
        self.skipped += 1
        self.skipped_in_a_row += 1
        if self.skipped_in_a_row >= MAX_SKIPS:
            raise Diverged(
                f"{self.skipped_in_a_row} updates in a row had a loss or a gradient that is not"
                " finite, and were skipped; lower learning_rate or max_grad_norm, or look for"
                " rewards that explode"
            )
        return True

    def _descend(self) -> None:
        """`optimizer.step()`; on the CPU without the 50 us it takes to look around first."""
        if self._moments is None or self.vector.is_cuda:
            self.optimizer.step()
            state = self.optimizer.state[self._leaf]
            self._moments = [state["exp_avg"]], [state["exp_avg_sq"]], [state["step"]]
            self._count = state["step"].cpu().numpy()
            return
        settings = self.optimizer.param_groups[0]
        averages, squares, steps = self._moments
        beta1, beta2 = settings["betas"]
        self._count += 1  # the memory of `steps`
        torch._fused_adam_(  # what the optimizer itself calls; a test holds them to the same bits
            [self.vector],
            [self.gradient],
            averages,
            squares,
            [],
            steps,
            lr=settings["lr"],
            beta1=beta1,
            beta2=beta2,
            weight_decay=0.0,
            eps=settings["eps"],
            amsgrad=False,
            maximize=False,
        )

    def is_finite(self) -> bool:
        """Whether every value is a number."""
        if not self.vector.is_cuda:
            with np.errstate(all="ignore"):
                # A sum of squares shows at a tenth of the cost that all are.
                squares = self.array.dot(self.array)
            if math.isfinite(squares):
                return True
        return bool(torch.isfinite(self.vector).all())

    def optimizer_state(self) -> dict[str, Tensor]:
        """Adam's moments and step count by name; nothing before the first step."""
        return dict(self.optimizer.state.get(self._leaf, {}))

    def set_optimizer_state(self, state: Mapping[str, Array]) -> None:
        """Goes on from what `optimizer_state` gave."""
        # The fused optimizer keeps its step count beside the parameters.
        moments = {k: torch.tensor(v).to(self.vector.device) for k, v in state.items()}
        self._moments = None
        self.optimizer.state.clear()  # none in the state: no step had been made
        if moments:
            self.optimizer.state[self._leaf] = moments

    def state(self) -> dict[str, Tensor]:
        """Values and optimizer by name, for networks that no module's state holds."""
        return {"vector": self.vector, **self.optimizer_state()}

    def set_state(self, state: Mapping[str, Array]) -> None:
        """Goes on from what `state` gave; `KeyError` or `ValueError` when it does not fit."""
        values = state["vector"]
        if values.shape != tuple(self.vector.shape):
            raise ValueError(f"{values.shape[0]} parameters instead of {self.vector.numel()}")
        self.vector.copy_(to_tensor(values))
        self.set_optimizer_state({k: v for k, v in state.items() if k != "vector"})


def become_views(parameters: Sequence[nn.Parameter], vector: Tensor) -> None:
    """Lets parameters live in a vector, one behind the other; their values become its."""
    offset = 0
    for parameter in parameters:
        part = slice(offset, offset + parameter.numel())
        parameter.data = vector[part].view_as(parameter)
        offset = part.stop


def frozen_copy(module: ModuleT, vector: Tensor) -> tuple[ModuleT, Tensor]:
    """A copy of a module for a target network, and the flat vector of its parameters.

    It wants no gradients, and its buffers are the module's own: statistics are the same for both.

    Args:
        module: What is copied.
        vector: The values of its parameters, [P].
    """
    target, values = copy.deepcopy(module), vector.clone()
    become_views(list(target.parameters()), values)
    for name, buffer in module.named_buffers():
        owner, _, attribute = name.rpartition(".")
        setattr(target.get_submodule(owner), attribute, buffer)
    target.requires_grad_(False).zero_grad()
    return target, values
