"""Functions as CUDA graphs. Where there is no GPU, a stand-in plays by calling the function again
with the places that were recorded, and looks whether it does what a recording cannot hold."""

from collections.abc import Callable
from typing import Any
from unittest import mock

import pytest
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from rl.core.learning.recorded import MOST_SHAPES, Recorded

CPU = torch.device("cpu")
HOST = {"_local_scalar_dense", "nonzero", "masked_select", "is_nonzero", "equal", "lift_fresh"}
"""Operations that read a number of the device, or bring one there."""
RANDOM = {"randn", "rand", "normal_", "uniform_", "bernoulli_", "random_", "randint", "randperm"}


class NoHost(TorchDispatchMode):
    """Raises where a GPU would have to be waited for."""

    def __torch_dispatch__(
        self, function: Any, types: Any, args: Any = (), kwargs: Any = None
    ) -> Any:
        name = function.overloadpacket.__name__
        by_mask = name.startswith("index") and any(
            isinstance(index, Tensor) and index.dtype == torch.bool
            for index in (args[1] if len(args) > 1 and isinstance(args[1], list | tuple) else ())
        )
        if name in HOST | RANDOM or by_mask:
            raise RuntimeError(f"{name} cannot be recorded")
        return function(*args, **(kwargs or {}))


def one_hot(categories: Tensor, count: int) -> Tensor:
    """As torch has it for GPUs; for a CPU it looks whether all are below the count."""
    zeros = torch.zeros(*categories.shape, count, dtype=torch.int64)
    return zeros.scatter_(-1, categories.unsqueeze(-1), 1)


def record_on_cpu(work: Callable[[], None]) -> Callable[[], object]:
    """Plays by calling again, with the inputs where they lay first."""

    def play() -> None:
        with NoHost(), mock.patch.object(torch.nn.functional, "one_hot", one_hot):
            work()

    play()
    return play


def test_every_call_sees_its_own_inputs_and_numbers() -> None:
    weight = torch.tensor([1.0, 2.0])

    def function(inputs: list[Any], scale: Tensor) -> dict[str, Tensor]:
        x, tree, nothing = inputs
        assert nothing is None
        return {"sum": (x * weight).sum() * scale + tree["a"].sum()}

    recorded = Recorded(function, CPU, record_on_cpu)
    for rows in (3, 2, 3, 3):
        x, a, scale = torch.randn(rows, 2), torch.randn(4), float(torch.rand(()))
        found = recorded([x, {"a": a}, None], scale)["sum"]
        torch.testing.assert_close(found, ((x * weight).sum() * scale + a.sum()).to(found.dtype))
        weight += 1  # in place, as an optimizer does


def test_a_shape_is_recorded_once_and_few_are_kept() -> None:
    recordings = []

    def record(work: Callable[[], None]) -> Callable[[], object]:
        recordings.append(work)
        return record_on_cpu(work)

    recorded = Recorded(lambda inputs: {"twice": 2 * inputs[0]}, CPU, record)
    for _ in range(3):
        for rows in range(1, MOST_SHAPES + 1):
            assert recorded([torch.ones(rows)])["twice"].tolist() == [2.0] * rows
    assert len(recordings) == MOST_SHAPES
    recorded([torch.ones(1, dtype=torch.float64)])  # another kind of the same shape
    assert len(recordings) == MOST_SHAPES + 1


def test_the_inputs_of_the_caller_are_not_kept() -> None:
    recorded = Recorded(lambda inputs: {"same": inputs[0] + 0}, CPU, record_on_cpu)
    first = torch.ones(2)
    recorded([first])
    recorded([torch.zeros(2)])
    assert first.tolist() == [1.0, 1.0]


@pytest.mark.parametrize(
    "looks",
    [
        lambda x: x * x.sum().item(),
        lambda x: x[x > 0],
        lambda x: x + torch.tensor(1.0),
        lambda x: x + torch.randn(3),
        lambda x: x if x.sum() > 0 else -x,
    ],
)
def test_the_stand_in_refuses_what_a_graph_could_not_hold(looks: Callable[[Tensor], Any]) -> None:
    with pytest.raises(RuntimeError, match="cannot be recorded"):
        Recorded(lambda inputs: {"x": looks(inputs[0])}, CPU, record_on_cpu)([torch.ones(3)])


def test_graphs_are_recorded_on_the_device_of_their_inputs(monkeypatch: Any) -> None:
    asked: list[torch.device] = []

    def record(device: torch.device, work: Callable[[], None]) -> Callable[[], object]:
        asked.append(device)
        return record_on_cpu(work)

    monkeypatch.setattr("rl.core.learning.recorded.record_on_gpu", record)
    second = torch.device("cuda:1")
    Recorded(lambda inputs: {"same": inputs[0] + 0}, second)([torch.ones(3)])
    assert asked == [second]


@pytest.mark.skipif(torch.cuda.device_count() < 2, reason="needs two GPUs")
def test_a_graph_plays_on_a_gpu_that_is_not_the_first() -> None:
    device = torch.device("cuda:1")
    recorded = Recorded(lambda inputs: {"twice": 2 * inputs[0]}, device)
    for number in (1.0, 3.0):
        twice = recorded([torch.full((3,), number, device=device)])["twice"]
        assert twice.device == device
        assert twice.tolist() == [2 * number] * 3


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_a_graph_gives_what_the_function_gives() -> None:
    device = torch.device("cuda")
    layer = torch.nn.Linear(5, 3).to(device)

    def function(inputs: list[Any], scale: Tensor) -> dict[str, Tensor]:
        layer.zero_grad(set_to_none=False)
        loss = (layer(inputs[0]).square().mean() * scale).float()
        loss.backward()
        return {"loss": loss}

    recorded = Recorded(function, device)
    for rows in (4, 7, 4, 4):
        x, scale = torch.randn(rows, 5, device=device), torch.rand(()).item()
        loss = recorded([x], scale)["loss"].clone()
        assert layer.weight.grad is not None
        gradient = layer.weight.grad.clone()
        number = torch.tensor(scale, dtype=torch.float64, device=device)
        torch.testing.assert_close(loss, function([x], number)["loss"])
        torch.testing.assert_close(gradient, layer.weight.grad)
        with torch.no_grad():
            layer.weight.add_(0.1)
