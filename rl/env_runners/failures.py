"""What becomes of environments that raised and were made anew: told, counted, at last an error."""

from __future__ import annotations

import logging
from collections.abc import Sequence

from rl.core.data.rollout import Rollout
from rl.core.runtime.failures import RemoteTraceback
from rl.env_runners.runner_state import RunnerState
from rl.errors import EnvironmentFault

__all__ = ["FailureBudget"]

logger = logging.getLogger(__name__)


class FailureBudget:
    """How often the environments of a run may raise."""

    def __init__(self, allowed: int) -> None:
        """`allowed` is `env_runners.max_env_failures`."""
        self._allowed = allowed
        self._told: set[str] = set()

    def check(self, rollouts: Sequence[Rollout], states: Sequence[RunnerState]) -> None:
        """Warns of the failures in rollouts, which `states` have counted already.

        Raises:
            EnvironmentFault: There were more than are allowed.
        """
        new = [failure for rollout in rollouts for failure in rollout.failures]
        count = sum(state.failures for state in states) - len(new)
        for failure in new:
            count += 1
            if count > self._allowed:
                self._refuse(failure.text, failure.traceback)
            logger.warning(
                "%s. Its episode ends there, and it is made anew: failure %d of the %d that"
                " env_runners.max_env_failures allows.%s",
                failure.text,
                count,
                self._allowed,
                self._once(failure.traceback),
            )

    def _once(self, traceback: str) -> str:
        """The traceback, unless one from the same place was told before."""
        place = "".join(traceback.splitlines(keepends=True)[:-1])  # the last line is the message
        if place in self._told:
            return ""
        self._told.add(place)
        return f"\n{traceback.rstrip()}"

    def _refuse(self, text: str, traceback: str) -> None:
        fault = EnvironmentFault(
            f"{text}; environments have raised more often than the {self._allowed} times that"
            " env_runners.max_env_failures allows: mend the environment, or raise that if it is"
            " known to fail now and then"
        )
        fault.user_traceback = traceback
        raise fault from RemoteTraceback(traceback)
