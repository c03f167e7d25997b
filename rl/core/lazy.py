"""Modules that are imported at the first look at one of their names.

To import torch takes two seconds, and a run of plain networks needs none of it: who can do without
writes `from rl.core.lazy import torch`. To the type checker it is the module itself.
"""

from __future__ import annotations

import importlib
import sys
from types import ModuleType
from typing import TYPE_CHECKING, Any

__all__ = ["LazyModule", "torch", "torch_is_loaded"]


class LazyModule(ModuleType):
    """Stands for a module that may never be needed."""

    def __getattr__(self, name: str) -> Any:
        return getattr(importlib.import_module(self.__name__), name)


def torch_is_loaded() -> bool:
    """Whether anybody has imported torch."""
    return "torch" in sys.modules


if TYPE_CHECKING:
    import torch
else:
    torch = LazyModule("torch")
