from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np
import pytest
import torch
from torch import Tensor

from rl.core.data import batch
from rl.core.data.batch import TensorBatch, to_tensor


@dataclass(frozen=True)
class Sample(TensorBatch):
    observations: dict[str, Tensor]
    rewards: Tensor
    weights: Tensor | None = None


def ten() -> Sample:
    rows = torch.arange(10)
    return Sample({"a": rows.unsqueeze(1) * 2, "b": rows * 3}, rows.float())


def test_rows_are_taken_from_every_column_alike() -> None:
    part = ten().take(torch.tensor([3, 9, 3]))
    assert len(part) == 3
    assert part.observations["a"].tolist() == [[6], [18], [6]]
    assert part.observations["b"].tolist() == [9, 27, 9]
    assert part.rewards.tolist() == [3.0, 9.0, 3.0]
    assert part.weights is None


def test_minibatches_cover_every_row_once_and_the_last_may_be_short() -> None:
    parts = list(ten().minibatches(4))
    assert [len(part) for part in parts] == [4, 4, 2]
    assert torch.cat([part.rewards for part in parts]).tolist() == list(range(10))


def test_a_read_only_array_is_copied_and_others_are_shared() -> None:
    array = np.zeros(3, np.float32)
    shared = to_tensor(array)
    array[0] = 1
    assert shared[0] == 1
    array.setflags(write=False)
    copied = to_tensor(array)
    copied[0] = 5
    assert array[0] == 1


class Stream:
    """Notes who waits for it."""

    def __init__(self, name: str, log: list[str]) -> None:
        self.name, self.log = name, log

    def wait_stream(self, other: "Stream") -> None:
        self.log.append(f"{self.name} waits for {other.name}")


def test_a_gpu_copies_beside_what_it_computes(monkeypatch: pytest.MonkeyPatch) -> None:
    """In which order the copy is asked for, with a CPU in the place of the GPU."""
    log: list[str] = []
    computing, beside = Stream("computing", log), Stream("beside", log)

    @contextmanager
    def on(stream: Stream) -> Iterator[None]:
        log.append(f"on {stream.name}")
        yield
        log.append("off")

    def pinned(self: Tensor) -> Tensor:
        log.append("pinned")
        return self.clone()

    monkeypatch.setattr(batch, "_copy_stream", lambda device: beside)
    monkeypatch.setattr(torch.cuda, "current_stream", lambda device: computing)
    monkeypatch.setattr(torch.cuda, "stream", on)
    monkeypatch.setattr(Tensor, "pin_memory", pinned)
    monkeypatch.setattr(Tensor, "record_stream", lambda _, s: log.append(f"kept for {s.name}"))
    source = torch.arange(5)
    copy = batch._copied_beside(source, torch.device("cpu"))
    assert torch.equal(copy, source)
    expected = ["pinned", "on beside", "off", "computing waits for beside", "kept for computing"]
    assert log == expected


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_a_gpu_gets_what_was_there_when_it_was_asked() -> None:
    array = np.zeros(batch.SMALLEST_PINNED, np.uint8)
    copies = []
    for number in range(30):
        array.fill(number)
        copies.append(to_tensor(array, "cuda"))
    for number, copy in enumerate(copies):
        assert (copy == number).all()
