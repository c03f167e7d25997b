"""What an environment's spaces mean as arrays: leaves of observations, heads of actions.

A nested Dict or Tuple observation is flattened into leaves, each an array of its own dtype. An
action of any structure is flattened into heads that share one row of columns, and is put together
again for the environment.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from gymnasium import spaces

from rl.core.data.tree import Array, Tree, X
from rl.errors import UsageError

__all__ = ["MASK", "ActionLayout", "FrameStack", "Head", "Leaf", "ObservationLayout", "Spaces"]

LeafKind = Literal["vector", "image", "discrete", "multi_discrete", "multi_binary", "mask"]
HeadKind = Literal["categorical", "bernoulli", "gaussian"]

KIND_NAMES = (
    (spaces.Discrete, "discrete"),
    (spaces.MultiDiscrete, "multi_discrete"),
    (spaces.MultiBinary, "multi_binary"),
    (spaces.Box, "box"),
    (spaces.Dict, "dict"),
    (spaces.Tuple, "tuple"),
)

MASK = "action_mask"
"""Key of a Dict observation whose part says which actions are allowed: `rl.core.data.masks`."""

SMALLEST_IMAGE = 36
"""Pixels: the convolutions of NatureCNN leave nothing of a smaller side."""


@dataclass(frozen=True)
class Leaf:
    """One array of an observation."""

    path: str
    """Keys joined by `/`; empty for an observation that is one array."""
    kind: LeafKind
    shape: tuple[int, ...]
    dtype: np.dtype[Any]
    """As stored: the space's own, but float64 becomes float32 and every integer category int64."""
    sizes: tuple[int, ...] = ()
    """Number of values of each category, for the discrete kinds."""
    starts: tuple[int, ...] = ()
    """Smallest value of each category."""

    @property
    def num_features(self) -> int:
        """Length of the leaf as a vector: categories are one-hot."""
        return sum(self.sizes) if self.sizes else int(np.prod(self.shape))

    @property
    def channels_last(self) -> bool:
        """Whether an image is laid out [H, W, C]; the shortest axis is the channel."""
        return len(self.shape) == 3 and self.shape[2] < self.shape[0]


def _keys(space: spaces.Space[Any]) -> Iterator[tuple[Any, str, spaces.Space[Any]]]:
    """Yields (index into the value, name, space) of the parts of a composite space."""
    if isinstance(space, spaces.Dict):
        for key, part in space.spaces.items():
            yield key, str(key), part
    elif isinstance(space, spaces.Tuple):
        for index, part in enumerate(space.spaces):
            yield index, str(index), part


def _join(path: str, name: str) -> str:
    return f"{path}/{name}" if path else name


def _box_leaf(space: spaces.Box, path: str) -> Leaf:
    dtype = np.dtype(np.float32) if space.dtype == np.float64 else np.dtype(space.dtype)
    sides = sorted(space.shape)[-2:]
    image = len(space.shape) in (2, 3) and len(sides) == 2 and sides[0] >= SMALLEST_IMAGE
    if image and len(space.shape) == 2 and space.dtype != np.uint8:
        image = False  # a matrix of measurements, not a grey picture
    return Leaf(path, "image" if image else "vector", space.shape, dtype)


def _leaf(space: spaces.Space[Any], path: str) -> Leaf:
    integer = np.dtype(np.int64)
    if path == MASK and isinstance(space, spaces.Box | spaces.MultiBinary | spaces.MultiDiscrete):
        return Leaf(path, "mask", space.shape or (), np.dtype(np.bool_))
    if isinstance(space, spaces.Box):
        return _box_leaf(space, path)
    if isinstance(space, spaces.Discrete):
        return Leaf(path, "discrete", (), integer, (int(space.n),), (int(space.start),))
    if isinstance(space, spaces.MultiDiscrete):
        sizes = tuple(int(n) for n in space.nvec.ravel())
        starts = tuple(int(n) for n in np.broadcast_to(space.start, space.nvec.shape).ravel())
        return Leaf(path, "multi_discrete", space.shape or (), integer, sizes, starts)
    if isinstance(space, spaces.MultiBinary):
        return Leaf(path, "multi_binary", space.shape or (), np.dtype(np.int8))
    where = f" at {path!r}" if path else ""
    raise UsageError(
        f"the observation space{where} is {space}: Box, Discrete, MultiDiscrete, MultiBinary and"
        " Dict or Tuple of them can be learnt from; wrap the environment so that it gives one"
    )


class ObservationLayout:
    """How observations of a space lie in arrays."""

    def __init__(self, space: spaces.Space[Any]) -> None:
        self.space = space
        self.nested = isinstance(space, spaces.Dict | spaces.Tuple)
        self._getters: list[tuple[Any, ...]] = []
        self.leaves = tuple(self._walk(space, "", ()))
        self.mask = next((leaf for leaf in self.leaves if leaf.kind == "mask"), None)
        """The part that tells which actions are allowed; no feature."""
        self.features = tuple(leaf for leaf in self.leaves if leaf.kind != "mask")
        """What a network looks at."""
        paths = {leaf.path for leaf in self.leaves}
        if len(paths) < len(self.leaves) or not self.features:
            raise UsageError(
                f"the observation space is {space}, whose {len(self.leaves)} parts have"
                f" {len(paths)} names between them (keys joined by '/'): it must have a part"
                " besides an action mask, and no two may share a name"
            )

    def _walk(self, space: spaces.Space[Any], path: str, keys: tuple[Any, ...]) -> Iterator[Leaf]:
        if isinstance(space, spaces.Dict | spaces.Tuple):
            for key, name, part in _keys(space):
                yield from self._walk(part, _join(path, name), (*keys, key))
        else:
            self._getters.append(keys)
            yield _leaf(space, path)

    @property
    def has_images(self) -> bool:
        """Whether any leaf needs convolutions."""
        return any(leaf.kind == "image" for leaf in self.leaves)

    @property
    def num_features(self) -> int:
        """Length of all features but images as one vector."""
        return sum(leaf.num_features for leaf in self.features if leaf.kind != "image")

    @property
    def num_bytes(self) -> int:
        """Memory of one observation."""
        return sum(leaf.dtype.itemsize * math.prod(leaf.shape) for leaf in self.leaves)

    def mask_of(self, observations: X | dict[str, X]) -> X | None:
        """Which actions are allowed [..., choices], where these observations tell."""
        return observations[MASK] if self.mask and isinstance(observations, dict) else None

    def allocate(self, *leading: int) -> Tree:
        """Zeroed arrays [*leading, *leaf.shape]."""
        if not self.nested:
            return np.zeros((*leading, *self.leaves[0].shape), self.leaves[0].dtype)
        return {leaf.path: np.zeros((*leading, *leaf.shape), leaf.dtype) for leaf in self.leaves}

    def split(self, observation: Any) -> list[Any]:
        """The leaves of one observation as the environment returned it, in the order of `leaves`.

        Raises:
            KeyError, IndexError, TypeError: It lacks a part.
        """
        if not self.nested:
            return [observation]
        parts = []
        for keys in self._getters:
            part = observation
            for key in keys:
                part = part[key]
            parts.append(part)
        return parts

    def stack(self, observations: list[Any]) -> Tree:
        """Puts observations of several environments side by side, [B, *leaf.shape]."""
        batch = self.allocate(len(observations))
        rows = [batch] if not isinstance(batch, dict) else list(batch.values())
        for index, observation in enumerate(observations):
            for row, part in zip(rows, self.split(observation), strict=True):
                row[index] = part
        return batch


@dataclass(frozen=True)
class Head:
    """One independent part of an action and where it lies."""

    path: str
    kind: HeadKind
    columns: slice
    """Its columns in an action row."""
    parameters: slice
    """Its part of the policy network's output: logits or means."""


class ActionLayout:
    """How actions of a space lie in arrays, and how the environment gets them back.

    A row has one column per category, bit or dimension. Stored rows are as sampled: categories
    count from 0, whatever the space's start, and continuous values are not clipped. One Discrete
    action is a scalar per row; everything else is [columns]. Rows are int64, or float32 when any
    part is continuous.
    """

    def __init__(self, space: spaces.Space[Any]) -> None:
        self.space = space
        self.heads: tuple[Head, ...] = ()
        self.num_columns = 0
        self.num_parameters = 0
        self._decode = self._walk(space, "")
        self.continuous = self.num_gaussian > 0
        self.dtype: np.dtype[Any] = np.dtype(np.float32 if self.continuous else np.int64)
        self.shape: tuple[int, ...] = (
            () if isinstance(space, spaces.Discrete) else (self.num_columns,)
        )
        if not self.num_columns:
            raise UsageError(f"the action space is {space}, which leaves nothing to choose")

    def __reduce__(self) -> tuple[type[ActionLayout], tuple[spaces.Space[Any]]]:
        return ActionLayout, (self.space,)  # the decoders are closures; a copy makes its own

    @property
    def num_gaussian(self) -> int:
        """Continuous dimensions, each with a standard deviation."""
        return sum(h.columns.stop - h.columns.start for h in self.heads if h.kind == "gaussian")

    @property
    def categorical(self) -> bool:
        """Whether all there is to choose are categories, which a mask can forbid one by one."""
        return all(head.kind == "categorical" for head in self.heads)

    @property
    def kind(self) -> str:
        """Name of the outermost space, as `supported_actions` of a config spells it."""
        return next(name for kind, name in KIND_NAMES if isinstance(self.space, kind))

    def _add(self, path: str, kind: HeadKind, columns: int, parameters: int) -> slice:
        head = Head(
            path,
            kind,
            slice(self.num_columns, self.num_columns + columns),
            slice(self.num_parameters, self.num_parameters + parameters),
        )
        self.heads += (head,)
        self.num_columns += columns
        self.num_parameters += parameters
        return head.columns

    def _walk(self, space: spaces.Space[Any], path: str) -> Callable[[Array], Any]:
        """Registers the heads of a space; returns what turns a row of columns into its value."""
        if isinstance(space, spaces.Discrete):
            at, start = self._add(path, "categorical", 1, int(space.n)).start, space.start
            return lambda row: np.int64(row[at]) + start
        if isinstance(space, spaces.Dict):
            named = {key: self._walk(part, _join(path, name)) for key, name, part in _keys(space)}
            return lambda row: {key: decode(row) for key, decode in named.items()}
        if isinstance(space, spaces.Tuple):
            parts = [self._walk(part, _join(path, name)) for _, name, part in _keys(space)]
            return lambda row: tuple(decode(row) for decode in parts)
        return self._walk_array(space, path)

    def _walk_array(self, space: spaces.Space[Any], path: str) -> Callable[[Array], Any]:
        if isinstance(space, spaces.MultiDiscrete):
            begin = self.num_columns
            for index, size in enumerate(space.nvec.ravel()):
                self._add(_join(path, str(index)), "categorical", 1, int(size))
            block, starts, shape = slice(begin, self.num_columns), space.start, space.nvec.shape
            return lambda row: (row[block].reshape(shape) + starts).astype(space.dtype)
        if isinstance(space, spaces.MultiBinary):
            size = int(np.prod(space.shape))
            bits = self._add(path, "bernoulli", size, size)
            return lambda row: row[bits].reshape(space.shape).astype(space.dtype)
        if isinstance(space, spaces.Box) and np.issubdtype(space.dtype, np.floating):
            size = int(np.prod(space.shape))
            dims = self._add(path, "gaussian", size, size)
            return lambda row: np.clip(
                row[dims].reshape(space.shape), space.low, space.high
            ).astype(space.dtype)
        raise UsageError(
            f"the action space{f' at {path!r}' if path else ''} is {space}: Box of floats,"
            " Discrete, MultiDiscrete, MultiBinary and Dict or Tuple of them can be acted in; wrap"
            " the environment"
        )

    def decode(self, actions: Array) -> list[Any]:
        """Turns stored rows [B, *shape] into what each environment's `step` takes.

        Continuous values are clipped to the space here, and only here.
        """
        space = self.space
        if isinstance(space, spaces.Discrete):
            return list(actions + space.start if space.start else actions)
        if isinstance(space, spaces.Box) and self.heads[0].kind == "gaussian":
            rows = actions.reshape(len(actions), *space.shape)  # all at once: a clip costs 5 us
            return list(rows.clip(space.low, space.high).astype(space.dtype))
        return [self._decode(row) for row in actions]


@dataclass(frozen=True)
class FrameStack:
    """What it means that an observation is a stack of the last frames, [size, *frame].

    The newest is last. At the start of an episode, where there are not enough, the first frame
    stands in for those before it, or zeros do.
    """

    size: int
    padding: Literal["first", "zero"] = "first"


@dataclass(frozen=True)
class Spaces:
    """The two spaces of an environment, picklable."""

    observation: spaces.Space[Any]
    action: spaces.Space[Any]
    stack: FrameStack | None = None
    """Of all leaves of the observation; None: each observation stands for itself."""
    mask_in_info: bool = False
    """The environment tells in `info` what is allowed; `observation` is with the mask put in."""
    unrestorable: str = ""
    """Why seeds and actions cannot bring an episode back, where that is known beforehand."""
