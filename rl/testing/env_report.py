"""What was found out about an environment, and the asking that finds it out."""

from __future__ import annotations

import traceback
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from gymnasium import spaces

from rl.core.data.masks import check_mask
from rl.core.data.spaces import ActionLayout, ObservationLayout
from rl.errors import RLError, UsageError

__all__ = ["EnvironmentReport", "Inspection", "StoppedError"]

LONGEST_SPACE = 160
"""Characters a space is described with."""


@dataclass
class EnvironmentReport:
    """What was found out about an environment."""

    name: str
    facts: dict[str, str] = field(default_factory=dict)
    problems: list[str] = field(default_factory=list)
    """Each says what is wrong, where, and how to mend it."""
    notes: list[str] = field(default_factory=list)
    traceback: str = ""
    """Of the first error the environment raised."""

    @property
    def sound(self) -> bool:
        """Whether nothing was found that a run would stumble over."""
        return not self.problems

    def __str__(self) -> str:
        found = len(self.problems)
        verdict = "sound" if self.sound else f"{found} problem{'s' if found > 1 else ''}"
        lines = [f"{self.name}: {verdict}"]
        lines += [f"  {name:<13}{value}" for name, value in self.facts.items()]
        lines += [f"  problem: {text}" for text in self.problems]
        lines += [f"  note: {text}" for text in self.notes]
        return "\n".join(lines) + (f"\n\n{self.traceback}" if self.traceback else "")


class StoppedError(Exception):
    """The environment can be asked no further; the report says why."""


class Inspection:
    """Asks an environment and fills its report; a kind of problem is told once."""

    def __init__(self, make_env: Callable[[], Any], report: EnvironmentReport) -> None:
        self.report = report
        self._make_env = make_env
        self._told: set[str] = set()

    def problem(self, kind: str, text: str) -> None:
        """Reports a kind of problem where it is first met."""
        if kind not in self._told:
            self._told.add(kind)
            self.report.problems.append(text)

    def note(self, kind: str, text: str) -> None:
        """Notes an oddity where it is first met."""
        if kind not in self._told:
            self._told.add(kind)
            self.report.notes.append(text)

    def call(self, what: str, function: Callable[..., Any], *args: Any, **named: Any) -> Any:
        """Calls a method of the environment; what it raises ends the inspection."""
        try:
            return function(*args, **named)
        except UsageError:
            raise
        except Exception as error:
            text = str(error) if isinstance(error, RLError) else f"{type(error).__name__}: {error}"
            self.problem(f"{what} raised", f"{what} raised {text}; the traceback is below")
            if not self.report.traceback:
                cause = error.__cause__ if isinstance(error, RLError) else error
                self.report.traceback = "".join(traceback.format_exception(cause or error))
            raise StoppedError from error

    def make(self) -> Any:
        """A fresh environment."""
        return self.call("the constructor", self._make_env)

    def layouts(self, env: Any, which: str = "") -> tuple[ObservationLayout, ActionLayout]:
        """Reads the spaces of an environment; `which` is "single_" where it holds several."""
        made: list[Any] = []
        for kind, layout in (("observation", ObservationLayout), ("action", ActionLayout)):
            name = f"{which}{kind}_space"
            space = getattr(env, name, None)
            if not isinstance(space, spaces.Space):
                self.problem(
                    name,
                    f"{name} is {space!r}, not a gymnasium.spaces.Space; set self.{name} in the"
                    " constructor",
                )
                continue
            self.report.facts[f"{kind}s"] = _line(space)
            try:
                made.append(layout(space))
            except UsageError as error:
                self.problem(name, str(error))
        if len(made) < 2:
            raise StoppedError
        try:
            check_mask(made[0], made[1])
        except UsageError as error:
            self.problem("mask", str(error))
            raise StoppedError from error
        return made[0], made[1]


def _line(space: spaces.Space[Any]) -> str:
    text = " ".join(str(space).split())
    return text if len(text) <= LONGEST_SPACE else f"{text[: LONGEST_SPACE - 3]}..."
