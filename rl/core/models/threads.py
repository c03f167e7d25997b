"""How many threads torch computes with, for the length of a block: its bits depend on it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext

from rl.core.lazy import torch, torch_is_loaded

__all__ = ["torch_threads", "torch_threads_if_loaded"]


def torch_threads_if_loaded(count: int) -> AbstractContextManager[None]:
    """`torch_threads` for a block that may do without torch, and does not import it for this."""
    return torch_threads(count) if torch_is_loaded() else nullcontext()


@contextmanager
def torch_threads(count: int) -> Iterator[None]:
    """Sets torch's intra-op threads and puts the caller's number back."""
    before = torch.get_num_threads()
    if before == count:
        yield
        return
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)
