"""What an encoder of the user's own must do, looked at before anything runs."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, Mapping
from typing import TYPE_CHECKING, Any

from rl.configs.algorithm_config import AlgorithmConfig
from rl.core.data.spaces import ObservationLayout, Spaces
from rl.core.data.tree import tree_map
from rl.core.lazy import LazyModule, torch
from rl.errors import ConfigError, Problem, UsageError

if TYPE_CHECKING:
    from torch import Tensor, nn

    from rl.core.models import encoders
    from rl.core.models.encoders import TensorTree
else:
    encoders = LazyModule("rl.core.models.encoders")

__all__ = ["check_encoder", "encoder_problems"]

ROWS = 4
TOLERANCE = 1e-4
"""Within which features are the same; products of other sizes are rounded otherwise."""


def check_encoder(config: AlgorithmConfig, spaces: Spaces) -> None:
    """Raises `ConfigError` with all that is wrong with the encoder of a config, if it has one."""
    if config.encoder is None:
        return
    layout = ObservationLayout(spaces.observation)
    try:
        kind = encoders.encoder_class(config.encoder)
    except UsageError as error:
        if getattr(error, "shows_cause", False):
            raise
        raise ConfigError(config.label(), [Problem("encoder", str(error))]) from None
    found = encoder_problems(lambda: kind(layout.space, **config.encoder_kwargs), layout)
    problems = [Problem("encoder", f"{kind.__name__} {text}") for text in found]
    if problems:
        raise ConfigError(config.label(), problems)


def encoder_problems(make: Callable[[], nn.Module], layout: ObservationLayout) -> list[str]:
    """Every rule that an encoder breaks, in words that follow its name; tried on random rows.

    Torch's generator is left as it was.
    """
    with torch.random.fork_rng(devices=[]), torch.no_grad():
        torch.manual_seed(0)
        space = copy.deepcopy(layout.space)
        space.seed(0)
        rows: Any = layout.stack([space.sample() for _ in range(ROWS)])
        if isinstance(rows, dict):
            rows = {leaf.path: rows[leaf.path] for leaf in layout.features}
        inputs: TensorTree = tree_map(torch.tensor, rows)
        shown = f"forward was given {_shown(inputs)}, and"
        try:
            module = make()
        except Exception as error:
            return [
                f"cannot be made from the observation space and encoder_kwargs:"
                f" {type(error).__name__}: {error}"
            ]
        try:
            features: Any = module.eval()(_copied(inputs))
        except Exception as error:
            return [f"{shown} raised {type(error).__name__}: {error}"]
        if not isinstance(features, torch.Tensor):
            return [f"{shown} returned a {type(features).__name__}; return one tensor"]
        if features.dim() != 2 or len(features) != ROWS or not features.shape[1]:
            return [
                f"{shown} returned a tensor of shape {tuple(features.shape)}; return a row of"
                f" features for each observation, [{ROWS}, features]"
            ]
        return [*_rules(make, module, inputs, features)]


def _rules(
    make: Callable[[], nn.Module], module: nn.Module, inputs: TensorTree, features: Tensor
) -> Iterator[str]:
    for name, parameter in module.named_parameters():
        if parameter.dtype != torch.float32:
            yield f"has the parameter {name} of {parameter.dtype}; make it float32"
    if features.dtype != torch.float32:
        yield f"gives features of {features.dtype}; give float32"
        return
    if not features.isfinite().all():
        yield "gives features that are not finite for observations of the space; scale them"
        return
    given = _copied(inputs)
    again = module(given)
    if not _same(given, inputs):
        yield "changes the observations it is given; work on a copy of them"
    if not _same(again, features):
        yield (
            "gives other features for the same observations in eval(); draw no random numbers in"
            " forward, and keep nothing from call to call"
        )
        return
    if not _same(module(_row(inputs, ROWS - 1)), features[-1:]):
        yield (
            "gives a row other features when it stands alone; rows of a batch must not see each"
            " other"
        )
    if not _same(copy.deepcopy(module).train()(_copied(inputs)), features):
        yield (
            "computes otherwise in train() than in eval(), as BatchNorm and Dropout do: what is"
            " learnt would not be what acted; use LayerNorm, or nothing"
        )
    yield from _state_rules(make, module, inputs, features)


def _state_rules(
    make: Callable[[], nn.Module], module: nn.Module, inputs: TensorTree, features: Tensor
) -> Iterator[str]:
    try:
        fresh = make().eval()
        fresh(_copied(inputs))  # lazy layers get their shapes
        fresh.load_state_dict(module.state_dict())
        if not _same(fresh(_copied(inputs)), features):
            yield (
                "computes with something that is not in its state_dict, so that no file holds it;"
                " make it a parameter, or self.register_buffer"
            )
    except Exception as error:
        yield f"does not take its own state_dict back: {type(error).__name__}: {error}"


def _same(one: TensorTree, other: TensorTree) -> bool:
    if isinstance(one, torch.Tensor) and isinstance(other, torch.Tensor):
        if one.shape != other.shape:
            return False
        close = torch.isclose(one.double(), other.double(), TOLERANCE, TOLERANCE, equal_nan=True)
        return bool(close.all())
    assert isinstance(one, Mapping)
    assert isinstance(other, Mapping)
    return one.keys() == other.keys() and all(_same(one[key], other[key]) for key in one)


def _copied(inputs: TensorTree) -> Any:
    return tree_map(torch.clone, inputs)


def _row(inputs: TensorTree, row: int) -> Any:
    return tree_map(lambda leaf: leaf[row : row + 1].clone(), inputs)


def _shown(inputs: TensorTree) -> str:
    if isinstance(inputs, torch.Tensor):
        return f"a {inputs.dtype} tensor of shape {tuple(inputs.shape)}"
    parts = [f"{key!r}: {leaf.dtype} {tuple(leaf.shape)}" for key, leaf in inputs.items()]
    return f"a dictionary of tensors {{{', '.join(parts)}}}"
