"""The one place that states the version; the build, `rl.__version__` and checkpoints read it."""

from __future__ import annotations

__all__ = ["__version__"]

__version__ = "0.1.0"
