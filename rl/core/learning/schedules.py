"""Schedules: functions of environment steps, so that they survive a resume."""

from __future__ import annotations

__all__ = ["linear"]


def linear(initial: float, final: float | None, env_steps: int, span: int) -> float:
    """Goes straight from `initial` at step 0 to `final` at step `span`, exactly, and stays there.

    `final=None` means constant.
    """
    if final is None:
        return initial
    if env_steps >= span:
        return final
    return initial + (final - initial) * (env_steps / span)
