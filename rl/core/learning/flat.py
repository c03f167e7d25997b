"""Parameters as one vector: clipping, the optimizer step and publishing are one operation each."""

from __future__ import annotations

import copy
import math
from collections.abc import Iterable, Mapping
from functools import cached_property
from typing import TYPE_CHECKING, TypeVar

import numpy as np

from rl.core.data.tree import Array
from rl.core.kernels.adam import CompiledAdam
from rl.core.lazy import torch
from rl.core.learning.adam import NumpyAdam
from rl.core.learning.ranks import Ranks
from rl.core.models.plain import become_views
from rl.errors import Diverged

if TYPE_CHECKING:
    from torch import Tensor, nn

__all__ = ["FlatParameters", "become_views", "frozen_copy"]

ModuleT = TypeVar("ModuleT", bound="nn.Module")
BETAS = (0.9, 0.999)
"""Of Adam, as torch has them."""
MAX_SKIPS = 3
"""Steps in a row without a number to go by; they are not bad luck any more."""


class FlatParameters:
    """Parameters that live in one float32 vector, their gradients in another, and their Adam.

    A learner owns one of its module, and another of each network that is trained apart from it. Who
    computes gradients without torch writes them into `gradient_array` and calls `step_array`. On
    the CPU all of it is arrays; torch sees the same memory, where somebody asks for its tensors.
    """

    def __init__(
        self,
        parameters: Iterable[nn.Parameter] | Array,
        learning_rate: float,
        epsilon: float = 1e-8,
    ) -> None:
        """Moves the parameters into a vector of their device, one behind the other.

        Args:
            parameters: In the order of the vector; or a vector [P] that they lie in already.
            learning_rate: Of Adam.
            epsilon: Of Adam.
        """
        self.learning_rate = learning_rate
        """Of the next step."""
        self._epsilon = epsilon
        self._moments: dict[str, Array] = {}  # of Adam on the CPU, from its first step on
        self._adam: CompiledAdam | NumpyAdam | None = None
        self.ranks = Ranks()
        """With whom `agree` makes the gradient that of the whole batch."""
        self.skipped = 0
        """Steps not taken, because loss or gradient was not finite."""
        self.skipped_in_a_row = 0
        """Of them those since the last step that was taken."""
        self._compiled = False
        self._norms: list[Tensor] = []  # on the GPU: of the steps that are not counted yet
        # On the CPU `_descend` does without: to make one costs two seconds of imports.
        self._optimizer: torch.optim.Adam | None = None
        if isinstance(parameters, np.ndarray):
            self.array: Array = parameters
            """`vector` as numpy sees it: the same memory. On the CPU only."""
            self.gradient_array: Array = np.zeros_like(parameters)
            """`gradient` as numpy sees it."""
        else:
            self._move(list(parameters))

    def _move(self, parameters: list[nn.Parameter]) -> None:
        vector = torch.cat([p.detach().reshape(-1) for p in parameters])
        if vector.is_cuda:
            self.vector, self.gradient = vector, torch.zeros_like(vector)
            self._optimizer = self._torch_optimizer()
        else:
            self.array = vector.numpy()
            self.gradient_array = np.zeros_like(self.array)
        self.adopt(parameters)

    def adopt(self, parameters: list[nn.Parameter]) -> None:
        """Lets parameters, and their gradients, be views of the vectors."""
        become_views(parameters, self.vector)
        offset = 0
        for parameter in parameters:
            part = slice(offset, offset + parameter.numel())
            parameter.grad = self.gradient[part].view_as(parameter)
            offset = part.stop

    @cached_property
    def vector(self) -> Tensor:
        """All values, [P]; the parameters are views of it. Change it in place only."""
        return torch.from_numpy(self.array)

    @cached_property
    def gradient(self) -> Tensor:
        """[P]; the gradients of the parameters are views of it."""
        return torch.from_numpy(self.gradient_array)

    @property
    def on_host(self) -> bool:
        """Whether they are arrays, on the CPU."""
        return self._optimizer is None

    @property
    def compiled(self) -> bool:
        """Whether `step_array` takes the compiled Adam; numpy's differs in the last bits."""
        return self._compiled

    @compiled.setter
    def compiled(self, compiled: bool) -> None:
        self._compiled, self._adam = compiled, None

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
        if self._optimizer is None:
            self.ranks.average_(self.gradient_array)
        else:
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
        self._descend_array(scale)
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
        self._leaf = torch.nn.Parameter(self.vector)  # shares the memory of `vector`
        self._leaf.grad = self.gradient
        return torch.optim.Adam([self._leaf], lr=self.learning_rate, eps=self._epsilon, fused=True)

    def _descend(self) -> None:
        """A step of Adam (Kingma & Ba 2015, arXiv:1412.6980, algorithm 1)."""
        if self._optimizer is not None:
            self._optimizer.step()
            return
        self._count_step()
        moments = {name: torch.from_numpy(array) for name, array in self._moments.items()}
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

    def _descend_array(self, scale: float) -> None:
        """The same on numpy's side, with the gradient times `scale`."""
        self._count_step()
        if self._adam is None:
            kind = CompiledAdam if self.compiled else NumpyAdam
            mean, square = (self._moments[name] for name in ("exp_avg", "exp_avg_sq"))
            self._adam = kind(self.array, self.gradient_array, mean, square, BETAS, self._epsilon)
        self._adam.step(float(self._count), self.learning_rate, scale)

    def _count_step(self) -> None:
        if not self._moments:
            self._set_moments(
                {
                    "step": np.zeros((), np.float32),
                    "exp_avg": np.zeros_like(self.array),
                    "exp_avg_sq": np.zeros_like(self.array),
                }
            )
        self._count += 1  # in the memory of the moments

    def _set_moments(self, moments: dict[str, Array]) -> None:
        self._moments, self._adam = moments, None
        if moments:
            self._count = moments["step"]

    def is_finite(self) -> bool:
        """Whether every value is a number."""
        if self._optimizer is not None:
            return bool(torch.isfinite(self.vector).all())
        with np.errstate(all="ignore"):
            # A sum of squares shows at a tenth of the cost that all are.
            squares = self.array.dot(self.array)
        return math.isfinite(squares) or bool(np.isfinite(self.array).all())

    def copied(self) -> Array:
        """All values, [P], on the host."""
        return self.array.copy() if self._optimizer is None else self.vector.numpy(force=True)

    def optimizer_state(self) -> dict[str, Array]:
        """Adam's moments and step count by name, on the host; nothing before the first step."""
        if self._optimizer is None:
            return dict(self._moments)
        state = self._optimizer.state.get(self._leaf, {})
        return {name: tensor.numpy(force=True) for name, tensor in state.items()}

    def set_optimizer_state(self, state: Mapping[str, Array]) -> None:
        """Goes on from what `optimizer_state` gave."""
        if self._optimizer is None:
            self._set_moments({name: np.array(values) for name, values in state.items()})
            return
        self._optimizer.state.clear()  # none in the state: no step had been made
        if state:
            # The fused optimizer keeps its step count beside the parameters.
            place = self.vector.device
            self._optimizer.state[self._leaf] = {
                name: torch.tensor(values).to(place) for name, values in state.items()
            }

    def state(self) -> dict[str, Array]:
        """Values and optimizer by name, for networks that no module's state holds."""
        return {"vector": self.copied(), **self.optimizer_state()}

    def set_state(self, state: Mapping[str, Array]) -> None:
        """Goes on from what `state` gave; `KeyError` or `ValueError` when it does not fit."""
        values = state["vector"]
        size = self.array.size if self._optimizer is None else self.vector.numel()
        if values.shape != (size,):
            raise ValueError(f"{values.shape[0]} parameters instead of {size}")
        if self._optimizer is None:
            self.array[...] = values
        else:
            self.vector.copy_(torch.tensor(values))
        self.set_optimizer_state({k: v for k, v in state.items() if k != "vector"})


def frozen_copy(module: ModuleT, vector: Tensor) -> ModuleT:
    """A copy of a module that wants no gradients, with other parameters.

    Its buffers are the module's own: statistics are the same for both.

    Args:
        module: What is copied.
        vector: Parameters of the copy, [P]; they become views of it.
    """
    target = copy.deepcopy(module)
    become_views(list(target.parameters()), vector)
    for name, buffer in module.named_buffers():
        owner, _, attribute = name.rpartition(".")
        setattr(target.get_submodule(owner), attribute, buffer)
    target.requires_grad_(False).zero_grad()
    return target
