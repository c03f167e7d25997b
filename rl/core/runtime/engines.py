"""The engines by name."""

from __future__ import annotations

import importlib
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from rl.errors import UsageError

if TYPE_CHECKING:
    from rl.core.runtime.base import Engine

__all__ = ["ENGINES", "check_timeout", "make_engine"]

ENGINES = {
    "inline": "rl.core.runtime.inline:InlineEngine",
    "process": "rl.core.runtime.process:ProcessEngine",
    "ray": "rl.core.runtime.ray_engine:RayEngine",
}
"""Import path of each engine; imported when asked for: `inline` never loads a transport."""


def make_engine(
    name: str,
    resources: Mapping[str, float],
    step_timeout: float | None,
    options: Mapping[str, Any],
) -> Engine:
    """The engine of that name. Raises `UsageError`: there is none, or it has no such option."""
    if name not in ENGINES:
        raise UsageError(
            f"runtime engine {name!r} does not exist. Use one of: {', '.join(sorted(ENGINES))}."
        )
    check_timeout(step_timeout)
    module, _, attribute = ENGINES[name].partition(":")
    engine_class = getattr(importlib.import_module(module), attribute)
    unknown = sorted(set(options) - set(engine_class.options))
    if unknown:
        has = ", ".join(engine_class.options) or "none"
        raise UsageError(
            f"Runtime({name!r}): the engine has no option {', '.join(unknown)}; it has {has}."
        )
    engine: Engine = engine_class(resources=resources, step_timeout=step_timeout, **options)
    return engine


def check_timeout(step_timeout: float | None) -> None:
    """Raises `UsageError` for a timeout that makes no sense."""
    if step_timeout is not None and not step_timeout > 0:
        raise UsageError(
            f"step_timeout is {step_timeout}; it must be a number of seconds above 0, or None."
        )
