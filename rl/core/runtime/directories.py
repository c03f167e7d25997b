"""Where the workers of a runtime stand."""

from __future__ import annotations

from pathlib import Path

__all__ = ["current_directory"]


def current_directory() -> str:
    """Where the driver stands; empty when that was deleted: workers then stay where they are."""
    try:
        return str(Path.cwd())
    except FileNotFoundError:
        return ""
