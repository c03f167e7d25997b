"""A process that hosts several runners: they come, sample together, and move on."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from rl.core.data.rollout import Rollout
from rl.core.data.weights import Weights
from rl.env_runners.chorus import sample_all
from rl.env_runners.env_runner import EnvRunner, OutOfStep
from rl.env_runners.runner_state import RunnerState

__all__ = ["RunnerHost"]


class RunnerHost:
    """Some of the runners of a run, in one process."""

    def __init__(self, make_runner: Callable[[int], EnvRunner]) -> None:
        """Holds none yet; `make_runner(index)` makes one."""
        self._make_runner = make_runner
        self._runners: dict[int, EnvRunner] = {}

    def ready(self) -> None:
        """Answers as soon as the process is there."""

    def take(self, index: int, state: RunnerState) -> int:
        """Makes a runner and brings it to where it stood. Returns how many steps were lost."""
        self.drop(index)
        runner = self._runners[index] = self._make_runner(index)
        return runner.set_state(state)

    def sample(
        self, num_steps: int, weights: Weights | None, fragments: Sequence[tuple[int, int]]
    ) -> list[Rollout]:
        """See `sample_all`; `fragments` are pairs of a runner's index and its fragment's number.

        Raises `OutOfStep` where a runner is not here.
        """
        for index, _ in fragments:
            if index not in self._runners:  # it was taken by this process's predecessor
                raise OutOfStep(f"runner {index} is not here any more")
        runners = [self._runners[index] for index, _ in fragments]
        return sample_all(runners, num_steps, weights, [number for _, number in fragments])

    def drop(self, index: int) -> None:
        """Closes a runner that lives elsewhere from now on."""
        runner = self._runners.pop(index, None)
        if runner is not None:
            runner.close()

    def close(self) -> None:
        """Closes every runner."""
        for index in list(self._runners):
            self.drop(index)
