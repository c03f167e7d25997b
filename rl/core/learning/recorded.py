"""Gradients as CUDA graphs: a GPU is told once what to do, then only to do it again.

A minibatch of a small network is a hundred kernels of a few microseconds each, and telling a GPU of
them takes longer than they do; a graph tells it of all at once. What is recorded reads and writes
fixed places: inputs are copied there, parameters and gradients lie in vectors that never move. It
must not look at a number of the GPU, for while it is recorded there is none.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any

from rl.core.data.tree import tree_map
from rl.core.lazy import torch

if TYPE_CHECKING:
    from torch import Tensor

    from rl.core.models.modules import TensorTree

__all__ = ["Recorded", "record_on_gpu"]

Terms = dict[str, "Tensor"]
Play = Callable[[], object]

WARM_UPS = 3
"""Calls before recording, in which libraries choose their kernels and make room."""
MOST_SHAPES = 4
"""Of inputs; each graph holds memory of its own. PPO has two: whole minibatches and the last."""


class Recorded:
    """A function of tensors and some numbers, played from a graph for each shape of its inputs."""

    def __init__(
        self,
        function: Callable[..., Terms],
        device: torch.device,
        record: Callable[[Callable[[], None]], Play] | None = None,
    ) -> None:
        """Records nothing yet.

        Args:
            function: Called with a list of inputs and with scalar tensors, float64; returns tensors
                by name. What it changes, its next call overwrites: it runs a few times more.
            device: Of the inputs.
            record: Takes work, returns what repeats it; none: `record_on_gpu` on that device.
        """
        self._function, self._device = function, device
        self._record = record or partial(record_on_gpu, device)
        self._known: dict[tuple[Any, ...], _Recording] = {}

    def __call__(self, inputs: Sequence[TensorTree | None], *numbers: float) -> Terms:
        """What the function returns, valid until the next call with inputs of these shapes."""
        shapes = tuple((leaf.shape, leaf.dtype) for leaf in _leaves(inputs))
        known = self._known.get(shapes)
        if known is None:
            if len(self._known) >= MOST_SHAPES:
                self._known.clear()
            known = self._known[shapes] = self._make(inputs, numbers)
        else:
            for place, leaf in zip(_leaves(known.inputs), _leaves(inputs), strict=True):
                place.copy_(leaf)
            for scalar, number in zip(known.scalars, numbers, strict=True):
                scalar.fill_(number)
        known.play()
        return known.terms

    def _make(self, inputs: Sequence[TensorTree | None], numbers: Sequence[float]) -> _Recording:
        made = _Recording(
            [None if tree is None else tree_map(torch.clone, tree) for tree in inputs],
            [torch.full((), n, dtype=torch.float64, device=self._device) for n in numbers],
        )

        def work() -> None:
            terms = self._function(made.inputs, *made.scalars)
            made.terms = {name: term.detach() for name, term in terms.items()}

        made.play = self._record(work)
        return made


class _Recording:
    """One graph, and where its inputs and outputs lie."""

    def __init__(self, inputs: list[TensorTree | None], scalars: list[Tensor]) -> None:
        self.inputs, self.scalars = inputs, scalars
        self.terms: Terms = {}
        self.play: Play = lambda: None


def _leaves(trees: Sequence[TensorTree | None]) -> Iterator[Tensor]:
    for tree in trees:
        if isinstance(tree, dict):
            yield from tree.values()
        elif tree is not None:
            yield tree


def record_on_gpu(device: torch.device, work: Callable[[], None]) -> Play:
    """Runs `work` a few times, records it on that GPU, returns what plays it.

    Raises:
        RuntimeError: It did something that cannot be recorded, such as looking at a number.
    """
    with torch.cuda.device(device):  # streams and graphs belong to the current one
        return _record_here(work)


def _record_here(work: Callable[[], None]) -> Play:
    beside = torch.cuda.Stream()  # type: ignore[no-untyped-call]
    beside.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(beside):  # autograd's accumulators must not belong to the main stream
        for _ in range(WARM_UPS):
            work()
    torch.cuda.current_stream().wait_stream(beside)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        work()
    return graph.replay
