"""Several runners of one process, sampled side by side: one act chooses the actions of all.

A network costs less for many observations at once than for as many in turn. What each runner
samples stays what it would by itself, to the bit: its environments, its noise and its arrays are
its own, and only actors join that say of themselves that no row depends on the rows beside it.
"""

from __future__ import annotations

import time
from collections.abc import Sequence

import numpy as np

from rl.core.data.rollout import Rollout
from rl.core.data.tree import concatenate_trees
from rl.core.data.weights import Weights
from rl.core.models.actor import Actor, acts_row_by_row
from rl.env_runners.env_runner import EnvRunner
from rl.env_runners.fragment import TIMED_ROWS, Fragment

__all__ = ["sample_all"]


def sample_all(
    runners: Sequence[EnvRunner],
    num_steps: int,
    weights: Weights | None,
    fragments: Sequence[int],
) -> list[Rollout]:
    """What `EnvRunner.sample` gives of each.

    Args:
        runners: One at least, of the same run.
        num_steps: T.
        weights: To act with, in place of those they have.
        fragments: Number of the fragment that is meant, of each runner.

    Raises:
        EnvironmentFault: As of `EnvRunner.sample`.
        OutOfStep: As there; then nothing was sampled.
    """
    for runner, fragment in zip(runners, fragments, strict=True):
        runner.check_next(fragment)
    if len(runners) == 1 or not all(_joins(runner) for runner in runners):
        return [runner.sample(num_steps, weights) for runner in runners]
    with runners[0].alone():
        begun = [runner.begin(num_steps, weights) for runner in runners]
        act_share = _fill(begun, runners[0].actor)  # all have the same weights
        sealed = [fragment.seal(act_share) for fragment in begun]
    return [runner.end(rollout) for runner, rollout in zip(runners, sealed, strict=True)]


def _joins(runner: EnvRunner) -> bool:
    # A row that is alone may be computed in another way than one of several.
    return runner.width > 1 and acts_row_by_row(runner.actor)


def _fill(fragments: Sequence[Fragment], actor: Actor) -> float:
    """Samples every row of each; returns the part of the time that went into choosing actions."""
    ends = np.cumsum([fragment.width for fragment in fragments]).tolist()
    parts = [slice(end - f.width, end) for f, end in zip(fragments, ends, strict=True)]
    acting = taken = 0.0
    for t in range(fragments[0].length):
        timed = t % TIMED_ROWS == 0
        began = time.perf_counter() if timed else 0.0
        try:
            _act(t, fragments, parts, actor)
        except Exception:
            for fragment in fragments:
                fragment.check_finite(t)  # a policy may choke on a NaN
            raise
        acted = time.perf_counter() if timed else 0.0
        for fragment in fragments:
            fragment.step(t)
        if timed:
            acting += acted - began
            taken += time.perf_counter() - began
    return acting / taken if taken else 0.0


def _act(t: int, fragments: Sequence[Fragment], parts: Sequence[slice], actor: Actor) -> None:
    """Chooses the actions of row t; `parts` says which of all rows are each fragment's."""
    seen = [fragment.look(t) for fragment in fragments]
    observations = concatenate_trees([row for row, _ in seen], axis=0)
    actions, extras = actor.act(observations, np.concatenate([noise for _, noise in seen]))
    for fragment, part in zip(fragments, parts, strict=True):
        fragment.put(t, actions[part], {name: values[part] for name, values in extras.items()})
