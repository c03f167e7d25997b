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
from rl.core.kernels.adam import CompiledAdam
from rl.core.learning.ranks import Ranks
from rl.errors import Diverged

__all__ = ["FlatParameters", "become_views", "frozen_copy"]

ModuleT = TypeVar("ModuleT", bound=nn.Module)
BETAS = (0.9, 0.999)
"""Of Adam, as torch has them."""
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
        become_views(views, self.vector)
        offset = 0
        for parameter in views:
            part = slice(offset, offset + parameter.numel())
            parameter.grad = self.gradient[part].view_as(parameter)
            offset = part.stop
        self.learning_rate = learning_rate
        """Of the next step."""
        self._epsilon = epsilon
        self._moments: dict[str, Tensor] = {}  # of Adam on the CPU, from its first step on
        self._adam: CompiledAdam | None = None
        # On the CPU `_descend` does without: to make one costs two seconds of imports.
        self._optimizer = self._torch_optimizer() if self.vector.is_cuda else None
        self.ranks = Ranks()
        """With whom `agree` makes the gradient that of the whole batch."""
        self.skipped = 0
        """Steps not taken, because loss or gradient was not finite."""
        self.skipped_in_a_row = 0
        """Of them those since the last step that was taken."""
        self.compiled = False
        """Whether `step_array` takes the compiled Adam; torch's differs in the last bits."""
        self._norms: list[Tensor] = []  # on the GPU: of the steps that are not counted yet
        if not self.vector.is_cuda:
            self.array: Array = self.vector.numpy()
            """`vector` as numpy sees it: the same memory. On the CPU only."""
            self.gradient_array: Array = self.gradient.numpy()
            """`gradient` as numpy sees it."""

    def set_learning_rate(self, rate: float) -> None:
        """Of the steps from now on."""
        self.learning_rate = rate
        if self._optimizer is not None:
            self._optimizer.param_groups[0]["lr"] = rate

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
        if self._optimizer is not None:
            self._norms.append(norm)
            # The optimizer leaves everything as it is where this is 1; nobody waits to see it.
            self._optimizer.found_inf = norm.isfinite().logical_not().to(torch.float32)  # type: ignore[attr-defined]
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
        scale = 1.0 if max_norm is None or norm <= max_norm else max_norm / (norm + 1e-6)
        if self.compiled:
            self._descend_compiled(scale)
            return norm
        if scale != 1.0:
            gradient *= np.float32(scale)
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

    def _torch_optimizer(self) -> torch.optim.Adam:
        self._leaf = nn.Parameter(self.vector)  # shares the memory of `vector`
        self._leaf.grad = self.gradient
        return torch.optim.Adam([self._leaf], lr=self.learning_rate, eps=self._epsilon, fused=True)

    def _descend(self) -> None:
        """A step of Adam (Kingma & Ba 2015, arXiv:1412.6980, algorithm 1)."""
        if self._optimizer is not None:
            self._optimizer.step()
            return
        self._count_step()
        moments = self._moments
        torch._fused_adam_(  # what torch's optimizer calls; a test holds them to the same bits
            [self.vector],
            [self.gradient],
            [moments["exp_avg"]],
            [moments["exp_avg_sq"]],
            [],
            [moments["step"]],
            lr=self.learning_rate,
            beta1=BETAS[0],
            beta2=BETAS[1],
            weight_decay=0.0,
            eps=self._epsilon,
            amsgrad=False,
            maximize=False,
        )

    def _descend_compiled(self, scale: float) -> None:
        """The same on numpy's side, with the gradient times `scale`."""
        self._count_step()
        if self._adam is None:
            mean, square = (self._moments[name].numpy() for name in ("exp_avg", "exp_avg_sq"))
            self._adam = CompiledAdam(
                self.array, self.gradient_array, mean, square, BETAS, self._epsilon
            )
        self._adam.step(float(self._count), self.learning_rate, scale)

    def _count_step(self) -> None:
        if not self._moments:
            self._set_moments(
                {
                    "step": torch.zeros(()),
                    "exp_avg": torch.zeros_like(self.vector),
                    "exp_avg_sq": torch.zeros_like(self.vector),
                }
            )
        self._count += 1  # the memory of the step

    def _set_moments(self, moments: dict[str, Tensor]) -> None:
        self._moments, self._adam = moments, None
        if moments:
            self._count = moments["step"].numpy()

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
        if self._optimizer is not None:
            return dict(self._optimizer.state.get(self._leaf, {}))
        return dict(self._moments)

    def set_optimizer_state(self, state: Mapping[str, Array]) -> None:
        """Goes on from what `optimizer_state` gave."""
        # The fused optimizer keeps its step count beside the parameters.
        moments = {k: torch.tensor(v).to(self.vector.device) for k, v in state.items()}
        if self._optimizer is None:
            self._set_moments(moments)
            return
        self._optimizer.state.clear()  # none in the state: no step had been made
        if moments:
            self._optimizer.state[self._leaf] = moments

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
