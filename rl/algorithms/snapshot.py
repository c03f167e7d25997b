"""What a checkpoint of an algorithm holds, as files, and back again.

config.yaml                       every setting
counters.json                     steps, iterations, the window of episodes
policy/policy.json, weights       the module: what acts, loadable on its own
learner.safetensors               optimizer, generator, what else learning needs
replay/state, replay/rows_*       experience that is learnt from again, where there is any, in
                                  blocks of rows: later checkpoints share them
runners.json, runners.safetensors where each environment stands: its episode, the actions
since, and what the policy remembers of it
"""

from __future__ import annotations

import json
import logging
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np

from rl.configs.algorithm_config import AlgorithmConfig
from rl.configs.references import name_of
from rl.core.data.blocks import STATE, Part
from rl.core.data.tree import Array
from rl.core.data.weights import Weights
from rl.core.learning.learner_actors import LearnerActors
from rl.core.learning.learner_group import LearnerGroup
from rl.core.models.plain import PlainNetwork
from rl.core.models.policy import policy_files
from rl.core.records.checkpoint import Checkpoint, Content, read_checkpoint
from rl.core.records.checkpoint_store import CheckpointStore
from rl.core.records.frozen import Frozen
from rl.env_runners.runner_state import LaneState, RunnerState

if TYPE_CHECKING:
    from rl.core.models.modules import Module

__all__ = [
    "MALFORMED",
    "Memory",
    "acting_files",
    "acting_weights",
    "files_of",
    "learner_state",
    "newest_checkpoint",
    "portable",
    "runner_states",
]

ConfigT = TypeVar("ConfigT", bound=AlgorithmConfig)
POLICY_WEIGHTS = "policy/weights.safetensors"
MODULE = "module."
ACTING, BUFFER = "acting.safetensors", "buffer."
MEMORY, ARRAYS = "replay/", ".safetensors"
MALFORMED = (ArithmeticError, AssertionError, AttributeError, LookupError, TypeError, ValueError)
"""What reading a checkpoint raises that is sound as a file and holds something else."""

logger = logging.getLogger(__name__)


def newest_checkpoint(path: Path) -> Checkpoint:
    """A checkpoint, or the newest valid one of a run. Raises `CheckpointError`."""
    store = CheckpointStore(path / "checkpoints")
    if not store.directory.is_dir():
        return read_checkpoint(path)
    checkpoint, skipped = store.newest_valid()
    for reason in skipped:
        logger.warning("%s; %s, which is older, is used instead", reason, checkpoint.path.name)
    return checkpoint


def portable(config: ConfigT) -> ConfigT:
    """The config as a file can hold it: an environment that is a callable is only named.

    So is the class of an encoder that is in no module.
    """
    if isinstance(config.encoder, type) and "<locals>" in config.encoder.__qualname__:
        config = replace(config, encoder=name_of(config.encoder))
    return config if isinstance(config.env, str) else replace(config, env=config.env_id)


def files_of(
    config: AlgorithmConfig,
    config_text: bytes,
    network: PlainNetwork | Module,
    learner: Mapping[str, Array],
    memory: Mapping[str, Content],
    runners: Sequence[RunnerState],
    counters: Mapping[str, Any],
    learning_engine: str,
    unrestorable: str,
) -> tuple[dict[str, Any], dict[str, Any]]:
    """Files by name and the manifest's words, as `write_checkpoint` takes them."""
    heads, arrays = _runner_files(runners)
    files: dict[str, Any] = {
        "config.yaml": config_text,
        "counters.json": _json(counters),
        "learner.safetensors": {k: v for k, v in learner.items() if not k.startswith(MODULE)},
        "runners.json": _json(heads),
        "runners.safetensors": arrays,
    }
    files |= memory
    files |= {f"policy/{name}": content for name, content in policy_files(network).items()}
    forgotten = [
        f"runner {runner}, environment {b}"
        for runner, state in enumerate(runners)
        for b, lane in enumerate(state.lanes)
        if lane.pieces is None
    ]
    meta: dict[str, Any] = {
        "algorithm": config.reference(),
        "env": config.env_id,
        "env_is_callable": not isinstance(config.env, str),
        "env_steps": counters["env_steps"],
        "learning_engine": learning_engine,
        "exact_resume": not forgotten,
    }
    if forgotten:
        why = unrestorable or "too long an episode to play again"
        meta["exact_resume_why"] = f"{why}: {', '.join(forgotten)}"
    return files, meta


def _json(value: Any) -> bytes:
    return json.dumps(value, allow_nan=False).encode()


def _runner_files(runners: Sequence[RunnerState]) -> tuple[list[Any], dict[str, Array]]:
    heads: list[Any] = []
    arrays: dict[str, Array] = {}
    for runner, state in enumerate(runners):
        lanes = []
        for b, lane in enumerate(state.lanes):
            at = f"{runner}/{b}"
            actions = lane.actions
            if actions is not None:
                arrays[f"{at}/actions"] = actions
            for index, leaf in enumerate(lane.observation):
                arrays[f"{at}/observation/{index}"] = np.asarray(leaf)
            if lane.memory is not None:
                arrays[f"{at}/memory"] = lane.memory
            lanes.append(
                {
                    "episode": lane.episode,
                    "steps": lane.steps,
                    "replayable": actions is not None,
                    "leaves": len(lane.observation),
                }
            )
        heads.append({"fragment": state.fragment, "failures": state.failures, "lanes": lanes})
    return heads, arrays


def learner_state(checkpoint: Checkpoint) -> dict[str, Array]:
    """The state of the learner, its module taken from the policy."""
    policy = checkpoint.arrays(POLICY_WEIGHTS)
    return {
        **checkpoint.arrays("learner.safetensors"),
        **{MODULE + k: v for k, v in policy.items()},
    }


def acting_files(weights: Weights) -> dict[str, dict[str, Array]]:
    """The weights that runners act with, where they are not the learner's newest."""
    arrays = {BUFFER + name: array for name, array in weights.buffers.items()}
    own = {"version": np.array(weights.version), "parameters": weights.parameters}
    return {ACTING: own | arrays}


def acting_weights(checkpoint: Checkpoint, like: Weights) -> Weights:
    """What `acting_files` wrote; arrays of the same names and shapes as those of `like`."""
    arrays = checkpoint.arrays(ACTING)
    expected = acting_files(like)[ACTING]
    for name in expected.keys() | arrays.keys():
        found, wanted = arrays[name], expected[name]
        if (found.shape, found.dtype) != (wanted.shape, wanted.dtype):
            raise ValueError(f"{ACTING}: {name} is {found.dtype} {found.shape}")
    buffers = {k.removeprefix(BUFFER): v for k, v in arrays.items() if k.startswith(BUFFER)}
    return Weights(int(arrays["version"]), arrays["parameters"], buffers)


def runner_states(checkpoint: Checkpoint) -> list[RunnerState]:
    """The states of the runners, in their order."""
    heads: Any = checkpoint.json("runners.json")
    arrays = checkpoint.arrays("runners.safetensors")
    return [
        RunnerState(
            int(head["fragment"]),
            tuple(
                LaneState(
                    int(lane["episode"]),
                    int(lane["steps"]),
                    (arrays[f"{runner}/{b}/actions"],) if lane["replayable"] else None,
                    tuple(arrays[f"{runner}/{b}/observation/{i}"] for i in range(lane["leaves"])),
                    arrays.get(f"{runner}/{b}/memory"),
                )
                for b, lane in enumerate(head["lanes"])
            ),
            int(head["failures"]),
        )
        for runner, head in enumerate(heads)
    ]


class Memory:
    """What a learner remembers, from checkpoint to checkpoint: blocks are written only once."""

    def __init__(self) -> None:
        self._blocks: dict[str, Frozen] = {}

    def files(self, learners: LearnerGroup | LearnerActors) -> dict[str, Content]:
        """The files of a checkpoint; what earlier ones hold is not even copied."""
        held = [name for name, block in self._blocks.items() if block.held()]
        files: dict[str, Content] = {}
        blocks = {}
        for name, part in learners.get_memory(held).items():
            if name == STATE:
                assert part is not None
                files[MEMORY + name + ARRAYS] = part
            else:
                blocks[name] = self._blocks[name] if part is None else Frozen(part)
                files[MEMORY + name + ARRAYS] = blocks[name]
        self._blocks = blocks
        return files

    def restore(self, checkpoint: Checkpoint, learners: LearnerGroup | LearnerActors) -> None:
        """Gives the learner back what it remembered, a block at a time."""
        stored = _StoredParts(checkpoint)
        learners.set_memory(stored)
        self._blocks = {
            name: checkpoint.frozen(MEMORY + name + ARRAYS) for name in stored if name != STATE
        }


class _StoredParts(Mapping[str, Part]):
    """The parts in a checkpoint, each read when it is asked for."""

    def __init__(self, checkpoint: Checkpoint) -> None:
        self._checkpoint = checkpoint
        self._names = [
            name.removeprefix(MEMORY).removesuffix(ARRAYS)
            for name in checkpoint.files
            if name.startswith(MEMORY)
        ]

    def __getitem__(self, name: str) -> Part:
        if name not in self._names:
            raise KeyError(name)
        return self._checkpoint.arrays(MEMORY + name + ARRAYS)

    def __iter__(self) -> Iterator[str]:
        return iter(self._names)

    def __len__(self) -> int:
        return len(self._names)
